"""Multistep solvers against the exact flow of Gaussian data: x_t = alpha m + sqrt(alpha^2 s^2 + sigma^2) x0."""

import math
from itertools import pairwise

import pytest
import torch

from flowkit.components import choose
from flowkit.errors import UserError
from flowkit.flow.solvers import integrate
from flowkit.recipe import recipe_from_dict
from flowkit.recipe.sample import SampleSettings

MEAN, STD = torch.tensor([1.5, -0.5], dtype=torch.float64), torch.tensor([0.3, 2.0], dtype=torch.float64)
PATHS = ["linear", {"name": "linear", "sigma_min": 0.1}, "cosine", "vp"]
GRIDS = ["uniform", {"name": "shifted", "shift": 2.0}, {"name": "power", "exponent": 1.5}]


class Field:
    """The exact velocity of Gaussian data; counts its calls."""

    def __init__(self, path):
        self.path, self.calls = choose("path", path), 0

    def __call__(self, x, t):
        self.calls += 1
        path = self.path
        alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
        spread = (alpha * STD).square() + sigma.square()
        data = MEAN + alpha * STD.square() / spread * (x - alpha * MEAN)
        noise = sigma / spread * (x - alpha * MEAN)
        return path.d_alpha(t)[:, None] * data + path.d_sigma(t)[:, None] * noise

    def exact(self, x, t0, t1):
        """The end at t1 of the trajectory through x at t0."""
        (a0, s0), (a1, s1) = (
            (self.path.alpha(t), self.path.sigma(t)) for t in (torch.tensor([t0]), torch.tensor([t1]))
        )
        scale = ((a1 * STD).square() + s1.square()).sqrt() / ((a0 * STD).square() + s0.square()).sqrt()
        return a1 * MEAN + scale * (x - a0 * MEAN)


def noise(rows: int = 64) -> torch.Tensor:
    return torch.randn(rows, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def error(solver: str, path, grid, steps: int, t0: float = 0.0, t1: float = 1.0) -> float:
    field, x = Field(path), noise()
    found = integrate(field, x, solver=solver, steps=steps, grid=grid, path=field.path, t0=t0, t1=t1)
    assert field.calls == steps and found.nfe.tolist() == [steps] * len(x)
    return (found.x - field.exact(x, t0, t1)).square().mean().sqrt().item()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("solver", ["ab2", "dpm"])
def test_second_order_away_from_the_ends(solver, path, grid):
    coarse, fine = (error(solver, path, grid, steps, 0.1, 0.9) for steps in (80, 160))
    assert math.log2(coarse / fine) == pytest.approx(2, abs=0.25)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_more_accurate_than_euler_at_equal_cost(path):
    for solver in ("ab2", "dpm"):
        if not (solver == "ab2" and path == "vp"):  # whose velocity has no bound at the data
            assert error(solver, path, "uniform", 20) < 0.9 * error("euler", path, "uniform", 20)


def test_backward_inverts_forward():
    field, x = Field("linear"), noise()
    there = integrate(field, x, solver="ab2", steps=200, t0=0.0, t1=1.0).x
    back = integrate(field, there, solver="ab2", steps=200, t0=1.0, t1=0.0).x
    assert (back - x).abs().max() < 1e-2


def test_one_step_is_eulers_and_the_predicted_data():
    field, x = Field("cosine"), noise()
    euler = integrate(field, x, solver="euler", steps=1).x
    torch.testing.assert_close(integrate(field, x, solver="ab2", steps=1).x, euler)
    t = torch.zeros(len(x), dtype=torch.float64)
    data = field.path.convert(field(x, t), x, t, "velocity", "data")
    torch.testing.assert_close(integrate(field, x, solver="dpm", steps=1, path=field.path).x, data)


def test_dpm_by_its_formula_over_the_logarithm_of_alpha_over_sigma():
    """Independently: the steps of arXiv 2211.01095, algorithm 2, in float64 between t = 0.2 and 0.8."""
    field, x = Field("cosine"), noise()
    edges = [0.2, 0.35, 0.45, 0.7, 0.8]
    grid = {"name": "custom", "times": [(t - 0.2) / 0.6 for t in edges[:-1]] + [1.0]}
    grid["times"][0] = 0.0
    found = integrate(field, x, solver="dpm", steps=4, grid=grid, path=field.path, t0=0.2, t1=0.8).x
    ours, earlier, h0 = x, None, 0.0
    for number, (a, b) in enumerate(pairwise(edges)):
        one = lambda t: torch.full((len(x),), t, dtype=torch.float64)  # noqa: E731
        alpha_a, alpha_b = (field.path.alpha(one(t))[:1].item() for t in (a, b))
        sigma_a, sigma_b = (field.path.sigma(one(t))[:1].item() for t in (a, b))
        h = math.log(alpha_b / sigma_b) - math.log(alpha_a / sigma_a)
        data = field.path.convert(field(ours, one(a)), ours, one(a), "velocity", "data")
        second = number in (1, 2)
        ahead = (1 + h / (2 * h0)) * data - h / (2 * h0) * earlier if second else data
        ours = sigma_b / sigma_a * ours - alpha_b * math.expm1(-h) * ahead
        earlier, h0 = data, h
    torch.testing.assert_close(found, ours, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", ["ab2", "dpm"])
def test_a_network_that_predicts_the_data_ends_in_it(solver):
    """As Euler's: the last step leaves no noise behind."""
    atoms = torch.tensor([[-2.0, 1.0], [2.0, 2.0]], dtype=torch.float64)
    path = choose("path", "linear")

    def velocity(x, t):
        alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None].clamp_min(1e-12)
        weights = (-(x[:, None] - alpha[..., None] * atoms).square().sum(2) / (2 * sigma.square())).softmax(1)
        data = weights @ atoms
        return path.d_alpha(t)[:, None] * data + path.d_sigma(t)[:, None] * (x - alpha * data) / sigma

    ends = integrate(velocity, noise(), solver=solver, steps=12, path=path, straight=True).x
    assert torch.cdist(ends, atoms).min(1).values.max() < 1e-6


def test_dpm_is_refused_where_it_does_not_apply():
    base = {"run": {"name": "a"}, "model": {"arch": "mlp"}, "train": {"steps": 1}}
    with pytest.raises(UserError, match=r'sample\.solver: "dpm" requires a Gaussian path'):
        recipe_from_dict({**base, "flow": {"path": "icfm"}, "sample": {"solver": "dpm"}})
    field = Field("linear")
    with pytest.raises(UserError, match="solver 'dpm': runs from noise to data only"):
        integrate(field, noise(), solver="dpm", path=field.path, t0=1.0, t1=0.0)
    with pytest.raises(UserError, match="solver 'dpm': requires a Gaussian path"):
        integrate(field, noise(), solver="dpm")
    assert SampleSettings.of({"solver": "dpm"}).of_ode["solver"].tag() == "midpoint"
    assert SampleSettings.of({"solver": "ab2"}).of_ode["solver"].tag() == "ab2"
