"""Solvers against the exact flow of a Gaussian target, and against torchdiffeq."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from flowkit.components import choose, find, names
from flowkit.errors import UserError
from flowkit.flow.objective import FlowObjective
from flowkit.flow.paths import expand
from flowkit.flow.solvers import integrate
from flowkit.flow.solvers.fixed import RungeKutta
from flowkit.recipe.flow import Flow
from flowkit.recipe.sample import SampleSettings
from flowkit.sampling.model import SamplingModel

MEAN, STD = torch.tensor([1.5, -0.5], dtype=torch.float64), torch.tensor([0.3, 2.0], dtype=torch.float64)
ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}
CALLS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}

FIXED = [name for name in names("solver") if issubclass(find("solver", name), RungeKutta)]


def gaussian_velocity(x, t):
    """The marginal velocity of N(0, 1) -> N(MEAN, STD^2) on the linear path: x_t ~ N(t m, (1-t)^2 + t^2 s^2)."""
    t = expand(t, x)
    variance = (1 - t) ** 2 + (t * STD) ** 2
    return MEAN + (t * STD**2 - (1 - t)) / variance * (x - t * MEAN)


def noise(rows=16):
    return torch.randn(rows, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("solver", FIXED)
def test_order_of_convergence(solver):
    """dx/dt = x^2 cos t has x = 1 / (1 / x(0) - sin t). (On the Gaussian below the midpoint rule gains an order.)"""
    x = torch.linspace(0.2, 0.8, 7, dtype=torch.float64)[:, None]
    exact = 1 / (1 / x - math.sin(1.0))
    coarse, fine = (
        (integrate(lambda x, t: x**2 * expand(t, x).cos(), x, solver=solver, steps=n)[0] - exact).norm()
        for n in (80, 160)
    )
    assert math.log2(coarse / fine) == pytest.approx(ORDERS[solver], abs=0.15)


@pytest.mark.parametrize("solver", FIXED)
def test_reaches_the_gaussian(solver):
    x = noise()
    out, _ = integrate(gaussian_velocity, x, solver=solver, steps=100)
    exact = MEAN + STD * x  # the flow is affine and keeps every quantile
    assert (out - exact).abs().max() < {1: 0.1, 2: 0.005, 4: 1e-5}[ORDERS[solver]]


@pytest.mark.parametrize("solver", FIXED)
def test_backward_inverts_forward(solver):
    x = noise()
    there, _ = integrate(gaussian_velocity, x, solver=solver, steps=400)
    back, _ = integrate(gaussian_velocity, there, solver=solver, steps=400, t0=1.0, t1=0.0)
    assert (back - x).abs().max() < {1: 0.1, 2: 1e-3, 4: 1e-6}[ORDERS[solver]]


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun"])
def test_agrees_with_torchdiffeq(solver):
    torchdiffeq = pytest.importorskip("torchdiffeq")
    x = noise()
    method = {"heun": "heun2"}.get(solver, solver)
    grid = torch.linspace(0.2, 0.9, 8, dtype=torch.float64)
    field = lambda t, x: gaussian_velocity(x, t.expand(len(x)))  # noqa: E731
    theirs = torchdiffeq.odeint(field, x, grid, method=method)[-1]
    ours, _ = integrate(gaussian_velocity, x, solver=solver, steps=7, t0=0.2, t1=0.9)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_rk4_agrees_with_an_adaptive_solver():
    torchdiffeq = pytest.importorskip("torchdiffeq")  # its own "rk4" is the 3/8 rule, another method
    x = noise()
    field = lambda t, x: gaussian_velocity(x, t.expand(len(x)))  # noqa: E731
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    theirs = torchdiffeq.odeint(field, x, ends, method="dopri5", rtol=1e-11, atol=1e-11)[-1]
    ours, _ = integrate(gaussian_velocity, x, solver="rk4", steps=400)
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("solver", FIXED)
def test_nfe_times_and_steps(solver):
    seen, done = [], []

    def velocity(x, t):
        assert t.shape == (3,) and t.dtype == x.dtype and (t == t[0]).all()
        seen.append(t[0].item())
        return torch.ones_like(x)

    x, nfe = integrate(velocity, torch.zeros(3, 2), solver=solver, steps=7, on_step=lambda n, x: done.append((n, x)))
    assert nfe.tolist() == [len(seen)] * 3 == [7 * CALLS[solver]] * 3
    assert [n for n, _ in done] == list(range(1, 8)) and torch.equal(done[-1][1], x)
    assert min(seen) == 0 and max(seen) <= 1
    if solver in ("heun", "rk4"):
        assert max(seen) == 1  # exactly: models are never evaluated outside [0, 1]
    torch.testing.assert_close(x, torch.ones(3, 2))
    torch.testing.assert_close(done[2][1], torch.full((3, 2), 3 / 7))


def test_counts_the_evaluations_that_the_velocity_claims():
    class Twice:
        evaluations = 2

        def __call__(self, x, t):
            return x

    assert integrate(Twice(), torch.zeros(1, 2), solver="rk4", steps=3).nfe.tolist() == [24]


@pytest.mark.parametrize("produced", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    ("given", "kept"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)],
)
def test_precision_of_the_state(given, kept, produced):
    dtypes = set()

    def velocity(x, t):
        dtypes.update((x.dtype, t.dtype))
        return torch.ones_like(x, dtype=produced)

    x, _ = integrate(velocity, torch.ones(2, 3, dtype=given), steps=4)
    assert dtypes == {kept} and x.dtype == kept


def test_does_not_change_its_input_and_carries_gradients():
    x = noise().requires_grad_()
    before = x.detach().clone()
    out, _ = integrate(gaussian_velocity, x, solver="rk4", steps=40)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient, STD.expand_as(x), rtol=1e-3, atol=1e-3)
    assert torch.equal(x.detach(), before)


ATOMS = torch.tensor([[-2.0, 1.0], [2.0, 2.0], [0.5, -2.5]])
PLAIN = choose("normalizer", "none").fit(ATOMS.numpy(), np.arange(3))


class Perfect(nn.Module):
    """E[x1 | x_t] or E[x0 | x_t] of data that are ATOMS, equally often."""

    def __init__(self, path, prediction):
        super().__init__()
        self.path, self.prediction, self.unused = path, prediction, nn.Parameter(torch.zeros(()))

    def forward(self, x, t):
        alpha, sigma = self.path.alpha(t)[:, None], self.path.sigma(t)[:, None].clamp_min(1e-4)
        squares = (x[:, None] - alpha[..., None] * ATOMS).square().sum(-1)
        data = torch.softmax(-squares / (2 * sigma**2), dim=1) @ ATOMS
        return data if self.prediction == "data" else (x - alpha * data) / sigma


def perfect(path, prediction, numerics=2):
    info = {"kind": "points", "shape": [2], "flow": {"path": path, "prediction": prediction}, "numerics": numerics}
    flow = Flow(path=choose("path", path), prediction=prediction)
    return SamplingModel(Perfect(flow.path, prediction), info, flow, SampleSettings(), PLAIN)


def residual(path, prediction, solver, **settings):
    """Root mean square of what is between 100 samples and the atoms nearest to them."""
    x = perfect(path, prediction).sample(100, solver=solver, **settings).x
    return np.square(x[:, None] - ATOMS.numpy()).mean(2).min(1).mean() ** 0.5


@pytest.mark.parametrize("solver", [*FIXED, "dopri5", "sde"])
@pytest.mark.parametrize("prediction", ["data", "noise"])
@pytest.mark.parametrize("path", ["linear", "cosine", "vp"])
def test_perfect_network_leaves_no_noise(path, prediction, solver):
    assert residual(path, prediction, solver, steps=25) < 1e-5


@pytest.mark.parametrize(
    ("grid", "steps", "solver"), [("shifted", 8, "heun"), ({"name": "power", "exponent": 0.5}, 8, "euler")]
)
def test_perfect_network_leaves_no_noise_on_other_grids(grid, steps, solver):
    assert residual("linear", "data", solver, steps=steps, grid=grid) < 1e-5


@pytest.mark.parametrize("prediction", ["data", "noise"])
@pytest.mark.parametrize("path", ["linear", "cosine", "vp"])
def test_euler_step_is_exact_for_a_constant_prediction(path, prediction):
    """x_s = (sigma_s / sigma_t) x + (alpha_s - alpha_t sigma_s / sigma_t) x1, of a network that is no posterior's mean."""
    path = choose("path", path)
    objective = FlowObjective(path, prediction).exact
    network = lambda x, t: torch.tanh(3 * x + expand(t, x))  # noqa: E731
    field = lambda x, t: objective.to_velocity(network(x, t), x, t)  # noqa: E731
    x = start = noise()
    done = []
    edges = [0.1, 0.3, 0.7, 1.0]
    for a, b in pairwise(edges):
        t, s = (torch.full((len(x),), time, dtype=x.dtype) for time in (a, b))
        alpha_t, alpha_s, sigma_t, sigma_s = (f(time)[:, None] for f in (path.alpha, path.sigma) for time in (t, s))
        said = network(x, t)
        data = said if prediction == "data" else (x - sigma_t * said) / alpha_t
        x = sigma_s / sigma_t * x + (alpha_s - alpha_t * sigma_s / sigma_t) * data
    grid = {"name": "custom", "times": [0.0, 2 / 9, 2 / 3, 1.0]}  # of the part from 0.1 on
    found, nfe = integrate(field, start, solver="euler", grid=grid, t0=0.1, path=path, straight=True,
                           on_step=lambda step, x: done.append(step))  # fmt: skip
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)
    assert nfe.tolist() == [3] * len(x) and done == [1, 2, 3]


@pytest.mark.parametrize("prediction", ["data", "noise"])
@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("solver", FIXED)
def test_the_order_of_straight_solutions(path, prediction, solver):
    """For N(1.5, 0.3^2), whose flow keeps every quantile: the last step, which is Euler's, costs no order up to 2."""
    path, mean, std = choose("path", path), 1.5, 0.3
    objective = FlowObjective(path, prediction).exact

    def field(x, t):
        alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
        weighed = (x - alpha * mean) / (sigma**2 + (alpha * std) ** 2)
        said = mean + alpha * std**2 * weighed if prediction == "data" else sigma * weighed
        return objective.to_velocity(said, x, t)

    x = noise()
    # From 0.05 on, for at t = 0 nothing of the data is known from the noise: a prediction of it implies the mean 0 there.
    t0 = torch.tensor([0.05], dtype=x.dtype)
    start = path.alpha(t0) * mean + (path.sigma(t0) ** 2 + (path.alpha(t0) * std) ** 2).sqrt() * x
    coarse, fine = (
        (integrate(field, start, solver=solver, steps=n, t0=0.05, path=path, straight=True).x - mean - std * x).norm()
        for n in (40, 80)
    )
    assert math.log2(coarse / fine) > min(2, ORDERS[solver]) - 0.15
    adaptive = integrate(field, start, solver="dopri5", t0=0.05, path=path, straight=True)
    torch.testing.assert_close(adaptive.x, mean + std * x, rtol=0, atol=5e-4)


def test_adaptive_solver_never_steps_back():
    """Where the velocity jumps at t > 1 - LAST, what is left is shorter than the step of Euler's that ends it."""

    class Jumping:
        breaks = (0.9995,)

        def __init__(self):
            self.seen: list[tuple[float, float]] = []

        def between(self, low, high):
            def field(x, t):
                self.seen.append((low, t[0].item()))
                return -x

            return field

        def __call__(self, x, t):
            raise AssertionError("the pieces are asked")

    for prediction in (False, True):
        velocity = Jumping()
        integrate(velocity, noise(), solver="dopri5", path=choose("path", "linear"), straight=prediction)
        assert all(t >= low - 1e-6 for low, t in velocity.seen) and velocity.seen[-1][1] < 1 + 1e-6


def test_checkpoints_of_the_first_version_are_sampled_with_the_clip():
    """Euler's steps by hand, of version 1: dx/dt = -x / s + (1 + t / s) x1 on the linear path, with s = max(1 - t, 0.05)."""
    model = perfect("linear", "data", numerics=1)
    drawn = model.sample(5, solver="euler", steps=40, pairs=True)
    x = torch.from_numpy(drawn.noise)
    for step in range(40):
        t = torch.full((5,), step / 40)
        sigma = max(1 - step / 40, 0.05)
        with torch.no_grad():
            data = model.model(x, t)
        x = x + (data + step / 40 / sigma * data - x / sigma) / 40
    np.testing.assert_allclose(drawn.x, x, rtol=1e-4, atol=1e-5)
    assert np.square(drawn.x[:, None] - ATOMS.numpy()).mean(2).min(1).mean() ** 0.5 > 1e-3


def test_bad_arguments():
    with pytest.raises(UserError, match="did you mean 'euler'"):
        integrate(gaussian_velocity, noise(), solver="eulr")
    with pytest.raises(UserError, match="at least 1"):
        integrate(gaussian_velocity, noise(), steps=0)
