"""Dormand-Prince against the exact flow of a Gaussian target, torchdiffeq, and itself in other batches; and time grids."""

import math

import pytest
import torch

from flowkit.components import names
from flowkit.errors import UserError
from flowkit.flow.grids import grid_edges
from flowkit.flow.paths import expand
from flowkit.flow.solvers import integrate
from tests.test_flow_solvers import MEAN, ORDERS, STD, gaussian_velocity, noise


def dopri5(tolerance=1e-5, **settings):
    return {"name": "dopri5", "rtol": tolerance, "atol": tolerance, **settings}


def riccati(x, t):
    return x**2 * expand(t, x).cos()  # x = 1 / (1 / x(0) - sin t)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-7, 1e-10])
def test_error_is_about_the_tolerance(tolerance):
    x = torch.linspace(0.2, 0.7, 11, dtype=torch.float64)[:, None]
    found = integrate(riccati, x, solver=dopri5(tolerance))
    error = (found.x - 1 / (1 / x - math.sin(1.0))).abs().max()
    assert tolerance * 1e-3 < error < tolerance * 20
    assert (found.nfe % 6 == 2).all()  # first same as last: six a step, and two to begin


def test_fifth_order_convergence():
    """Steps shrink as the fifth root of the tolerance: 10^6 times finer takes 10^(6/5) as many."""
    x = torch.full((1, 1), 0.7, dtype=torch.float64)
    coarse, fine = (integrate(riccati, x, solver=dopri5(tolerance)).nfe.item() for tolerance in (1e-7, 1e-13))
    assert math.log10(fine / coarse) == pytest.approx(6 / 5, abs=0.12)


def test_agrees_with_torchdiffeq_and_the_closed_form():
    torchdiffeq = pytest.importorskip("torchdiffeq")
    x, calls = noise(), []

    def field(t, x):
        calls.append(t)
        return gaussian_velocity(x, t.expand(len(x)))

    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    theirs = torchdiffeq.odeint(field, x, ends, method="dopri5", rtol=1e-9, atol=1e-9)[-1]
    ours = integrate(gaussian_velocity, x, solver=dopri5(1e-9))
    torch.testing.assert_close(ours.x, theirs, rtol=0, atol=1e-7)
    torch.testing.assert_close(ours.x, MEAN + STD * x, rtol=0, atol=1e-7)
    assert ours.nfe.double().mean() < 1.25 * len(calls)


class Stiff:
    """Rows with rates of their own: dx/dt = -rate (x - cos t)."""

    def __init__(self, rate):
        self.rate, self.rows = rate, 0

    def __call__(self, x, t):
        self.rows += len(x)
        return -self.rate[:, None] * (x - expand(t, x).cos())

    def take(self, rows):
        return Part(self, rows)


class Part(Stiff):
    def __init__(self, whole, rows):
        self.whole, self.rate = whole, whole.rate[rows]

    def __call__(self, x, t):
        self.whole.rows += len(x)
        return -self.rate[:, None] * (x - expand(t, x).cos())


@pytest.mark.parametrize("can_be_taken", [True, False])
def test_solution_is_independent_of_the_batch(can_be_taken):
    rate = torch.tensor([1.0, 300.0, 2.0, 0.1], dtype=torch.float64)
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    field = Stiff(rate)
    together = integrate(field if can_be_taken else lambda x, t: Stiff(rate)(x, t), x, solver=dopri5())
    for i in range(4):
        alone = integrate(Stiff(rate[i : i + 1]), x[i : i + 1], solver=dopri5())
        torch.testing.assert_close(together.x[i], alone.x[0], rtol=0, atol=1e-12)
        assert together.nfe[i] == alone.nfe[0]
    assert together.nfe[1] > 3 * together.nfe[2]
    if can_be_taken:
        assert field.rows == together.nfe.sum()  # who has arrived is evaluated no more


def test_backward_inverts_forward():
    x = noise()
    there = integrate(gaussian_velocity, x, solver=dopri5(1e-10)).x
    back = integrate(gaussian_velocity, there, solver=dopri5(1e-10), t0=1.0, t1=0.0).x
    torch.testing.assert_close(back, x, rtol=0, atol=1e-8)


def test_times_stay_inside_and_reach_the_end():
    seen = []
    integrate(lambda x, t: seen.append(t) or gaussian_velocity(x, t), noise(), solver=dopri5())
    times = torch.cat(seen)
    assert times.min() == 0 and times.max() == 1


def test_unreachable_tolerances_are_relaxed_in_single_precision():
    x = noise().float()
    field = lambda x, t: gaussian_velocity(x.double(), t.double())  # noqa: E731
    found = integrate(field, x, solver=dopri5(1e-12))
    assert found.x.dtype == torch.float32 and found.nfe.max() < 2000
    torch.testing.assert_close(found.x.double(), MEAN + STD * x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_stops_if_the_velocity_is_not_finite(bad):
    calls = []

    def field(x, t):
        calls.append(1)
        return torch.where(expand(t, x) > 0.5, bad, torch.ones_like(x))

    with pytest.raises(UserError, match=r"are stuck \(the first at t = 0\.5"):
        integrate(field, noise(), solver=dopri5())
    assert len(calls) < 600
    with pytest.raises(UserError, match="not finite there"):
        integrate(lambda x, t: torch.full_like(x, bad), noise(), solver=dopri5())


def test_stops_after_max_steps():
    with pytest.raises(UserError, match=r"3 of 3 rows are not done after max_steps = 7 attempts"):
        integrate(lambda x, t: -1e5 * x, torch.ones(3, 1), solver=dopri5(1e-6, max_steps=7))


def test_settings_out_of_range():
    for table, says in (
        ({"name": "dopri5", "rtol": 0.0}, "rtol"),
        ({"name": "dopri5", "max_steps": 0}, "max_steps"),
        ({"name": "heun", "rtol": 1e-3}, "has no setting 'rtol'"),
        ({"name": "sde", "diffusion": "sigmas"}, "did you mean 'sigma'"),
        ("dopri", "did you mean 'dopri5'"),
    ):
        with pytest.raises(UserError, match=says):
            integrate(gaussian_velocity, noise(), solver=table)
    assert set(names("solver")) >= {"euler", "midpoint", "heun", "rk4", "dopri5", "sde"}


GRIDS = ["uniform", "shifted", {"name": "shifted", "shift": 0.5}, "power",
         {"name": "custom", "times": [t**1.5 for t in (0, 0.25, 0.5, 0.75, 1)]}]  # fmt: skip


@pytest.mark.parametrize("grid", GRIDS)
def test_grids_rise_from_0_to_1_and_reverse(grid):
    edges = grid_edges(grid, 4, 0.0, 1.0)
    assert len(edges) == 5 and edges[0] == 0 and edges[-1] == 1 and edges == sorted(set(edges))
    assert grid_edges(grid, 4, 1.0, 0.0) == edges[::-1]
    inner = grid_edges(grid, 4, 0.2, 0.9)
    assert inner[0] == 0.2 and inner[-1] == 0.9


def test_grids_match_their_formulas():
    assert grid_edges("power", 4, 0.0, 1.0) == [0, 1 / 16, 1 / 4, 9 / 16, 1]
    noise_levels = [3 * u / (1 + 2 * u) for u in (1, 0.5, 0)]  # as arXiv 2403.03206 has it, with 1 for noise
    assert grid_edges("shifted", 2, 0.0, 1.0) == pytest.approx([1 - u for u in noise_levels])
    for times in ([0.0, 0.5], [0.0, 0.7, 0.7, 1.0], [1.0, 0.0], [0.0]):
        with pytest.raises(UserError, match=r"times: expected a list of rising numbers|must rise from 0.0 to 1.0"):
            grid_edges({"name": "custom", "times": times}, 4, 0.0, 1.0)
    with pytest.raises(UserError, match=r"shift: expected a number > 0, found 0\.0"):
        grid_edges({"name": "shifted", "shift": 0.0}, 4, 0.0, 1.0)


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun", "rk4"])
def test_solvers_keep_their_order_on_other_grids(solver):
    x = torch.linspace(0.2, 0.8, 7, dtype=torch.float64)[:, None]
    exact = 1 / (1 / x - math.sin(1.0))
    coarse, fine = (
        (integrate(riccati, x, solver=solver, steps=n, grid="shifted").x - exact).norm() for n in (160, 320)
    )
    assert math.log2(coarse / fine) == pytest.approx(ORDERS[solver], abs=0.2)
