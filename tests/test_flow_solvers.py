"""Solvers against the exact flow of a Gaussian target, and against torchdiffeq."""

import math

import pytest
import torch

from flowkit.errors import UserError
from flowkit.flow.objective import FlowObjective
from flowkit.flow.paths import expand, get_path
from flowkit.flow.solvers import FIXED, integrate

MEAN, STD = torch.tensor([1.5, -0.5], dtype=torch.float64), torch.tensor([0.3, 2.0], dtype=torch.float64)
ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}
CALLS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}


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
def test_backward_undoes_forward(solver):
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
        assert max(seen) == 1  # exactly: models are asked for no time outside [0, 1]
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


def test_data_prediction_samples_the_gaussian_too():
    """Through the clipped division: N(1.5, 0.3^2) comes out with its mean, and a little wider than it should."""
    objective = FlowObjective(get_path("linear"), "data")
    mean, std = 1.5, 0.3

    def velocity(x, t):
        s = expand(t, x)
        posterior = mean + s * std**2 / ((1 - s) ** 2 + (s * std) ** 2) * (x - s * mean)
        return objective.to_velocity(posterior, x, t)

    x = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    for solver in ("euler", "heun"):
        out, _ = integrate(velocity, x, solver=solver, steps=25)
        assert out.mean().item() == pytest.approx(mean, abs=0.02)
        assert out.std().item() == pytest.approx(std, rel=0.08)


def test_bad_arguments():
    with pytest.raises(UserError, match="did you mean 'euler'"):
        integrate(gaussian_velocity, noise(), solver="eulr")
    with pytest.raises(UserError, match="at least 1"):
        integrate(gaussian_velocity, noise(), steps=0)
