"""Guidance against formulas on analytic networks, and every way to set it on small trained models."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import flowkit
from flowkit.cli import app
from flowkit.components import choose
from flowkit.conditions import Conditions
from flowkit.errors import UserError
from flowkit.flow.guidance import CFGZero, GradientGuidance, best_factor, guided, rescaled
from flowkit.flow.mean_flow import MeanFlow
from flowkit.flow.objective import FlowObjective
from flowkit.flow.solvers import integrate
from flowkit.recipe.sample import SampleSettings
from tests.conftest import sketch_rows

VELOCITY = FlowObjective(choose("path", "linear"))
NUMBER = torch.arange(4)
LABEL = Conditions(NUMBER)
X = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
T = torch.tensor([0.0, 0.3, 0.6, 1.0], dtype=torch.float64)


class Network:
    """v = (label + 1) sin x + t with a condition, cos x - t without; counts the rows it receives."""

    def __init__(self):
        self.rows = 0

    def __call__(self, x, t, told):
        self.rows += len(x)
        given = (told.class_label[:, None] + 1) * x.sin() + t[:, None]
        return given if told.dropped is None else torch.where(told.dropped[:, None], x.cos() - t[:, None], given)


def both():
    return (NUMBER[:, None] + 1) * X.sin() + T[:, None], X.cos() - T[:, None]


def test_guidance_only_within_the_interval():
    network = Network()
    velocity = guided(network, VELOCITY, LABEL, scale=3.0, interval=(0.3, 0.7))
    v, null = both()
    wanted = torch.where(torch.tensor([0, 1, 1, 0], dtype=torch.bool)[:, None], null + 3 * (v - null), v)
    torch.testing.assert_close(velocity(X, T), wanted)
    assert network.rows == 6 and velocity.evaluations(T).tolist() == [1, 2, 2, 1]
    network.rows = 0
    found = integrate(velocity, X, solver="euler", steps=10)  # four of ten steps lie within
    assert found.nfe.tolist() == [14] * 4 and network.rows == 14 * 4
    network.rows = 0
    found = integrate(velocity, X, solver="dopri5")
    assert network.rows == found.nfe.sum()


def by_pieces(velocity, solver, x, *times):
    """The solver's own, from each time to the next, with what is guided there and what is not."""
    nfe = 0
    for (a, b), piece in zip(pairwise(times), velocity, strict=True):
        x, spent = integrate(piece, x, solver=solver, steps=1, t0=a, t1=b)
        nfe += int(spent[0])
    return x, nfe


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun", "rk4"])
def test_steps_are_cut_at_the_ends_of_the_interval(solver):
    """Both stages of a step are guided or neither is: by hand, on a grid of four steps, with an end on it and one between."""
    plain, led = guided(Network(), VELOCITY, LABEL), guided(Network(), VELOCITY, LABEL, scale=3.0)
    velocity = guided(Network(), VELOCITY, LABEL, scale=3.0, interval=(0.25, 0.6))
    seen = []
    found = integrate(velocity, X, solver=solver, steps=4, on_step=lambda step, x: seen.append(step))
    wanted, nfe = by_pieces([plain, led, led, plain, plain], solver, X, 0.0, 0.25, 0.5, 0.6, 0.75, 1.0)
    torch.testing.assert_close(found.x, wanted)
    assert found.nfe.tolist() == [nfe] * 4 and seen == [1, 2, 3, 4, 5]
    back = integrate(velocity, X, solver=solver, steps=4, t0=1.0, t1=0.0).x
    torch.testing.assert_close(
        back, by_pieces([plain, plain, led, led, plain], solver, X, 1.0, 0.75, 0.6, 0.5, 0.25, 0.0)[0]
    )


@pytest.mark.parametrize("solver", ["midpoint", "ab2", "sde"])
@pytest.mark.parametrize("numerics", [1, 3])
def test_the_host_decides_which_steps_are_guided(monkeypatch, solver, numerics):
    """Version 1 asks the device at every call, for the rows to guide; on a GPU that waits for all work before it."""
    waits, nonzero = [], torch.Tensor.nonzero
    monkeypatch.setattr(torch.Tensor, "nonzero", lambda *given, **more: waits.append(1) or nonzero(*given, **more))
    more = {"path": choose("path", "linear"), "noise": lambda step: torch.zeros_like(X)} if solver == "sde" else {}
    for settings in ({"interval": (0.25, 0.6)}, {"guidance": CFGZero(zero_init=0.3)}):
        velocity = guided(Network(), VELOCITY, LABEL, scale=3.0, numerics=numerics, **settings)
        integrate(velocity, X, solver=solver, steps=4, **more)
    assert bool(waits) == (numerics == 1)


@pytest.mark.parametrize("interval", [(0.2, 0.7), (0.0, 0.5), (0.35, 1.0), (0.0, 1.0)])
def test_adaptive_solver_restarts_at_the_interval_ends(interval):
    """Across a jump it would halve its steps to nothing: 2.5 to 3 times the evaluations, and a larger error."""
    tight = {"name": "dopri5", "rtol": 1e-8, "atol": 1e-8}
    velocity = guided(Network(), VELOCITY, LABEL, scale=3.0, interval=interval)
    found = integrate(velocity, X, solver=tight)
    times = sorted({0.0, 1.0, *interval})
    parts = [
        guided(Network(), VELOCITY, LABEL, scale=3.0 if interval[0] <= a < interval[1] else 1.0) for a in times[:-1]
    ]
    x, nfe = X, 0
    for part, (a, b) in zip(parts, pairwise(times), strict=True):
        x, spent = integrate(part, x, solver=tight, t0=a, t1=b)
        nfe = nfe + spent
    torch.testing.assert_close(found.x, x, rtol=0, atol=1e-12)
    assert found.nfe.tolist() == nfe.tolist()
    exact = integrate(velocity, X, solver="rk4", steps=2000).x
    torch.testing.assert_close(found.x, exact, rtol=0, atol=1e-7)
    if interval[0] > 0 and interval[1] < 1:
        uncut = guided(Network(), VELOCITY, LABEL, scale=3.0, interval=interval, numerics=1)
        assert (nfe < 0.6 * integrate(uncut, X, solver=tight).nfe).all()


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun", "rk4", "dopri5"])
@pytest.mark.parametrize(("zero_init", "begins"), [(0.04, 0.25), (0.25, 0.25), (0.3, 0.5), (0.9, 0.75)])
def test_zero_init_keeps_x_in_the_first_steps(solver, zero_init, begins):
    """In all stages of the steps that begin below zero_init, except the last step; dopri5 starts there."""
    network = Network()
    velocity = guided(network, VELOCITY, LABEL, scale=2.0, guidance=CFGZero(zero_init=zero_init))
    states = []
    found = integrate(velocity, X, solver=solver, steps=4, on_step=lambda step, x: states.append(x))
    moving = guided(Network(), VELOCITY, LABEL, scale=2.0, guidance=CFGZero(zero_init=0.0))
    begins = zero_init if solver == "dopri5" else begins
    wanted = integrate(moving, X, solver=solver, steps=max(1, round(4 * (1 - begins))), t0=begins)
    torch.testing.assert_close(found.x, wanted.x)
    assert found.nfe.tolist() == wanted.nfe.tolist() and network.rows == found.nfe.sum()
    assert solver == "dopri5" or len(states) == round(4 * (1 - begins))


def test_a_single_step_moves():
    moving = guided(Network(), VELOCITY, LABEL, scale=2.0, guidance=CFGZero(zero_init=0.0))
    still = guided(Network(), VELOCITY, LABEL, scale=2.0, guidance=CFGZero(zero_init=0.04))
    assert torch.equal(integrate(still, X, solver="euler", steps=1).x, integrate(moving, X, solver="euler", steps=1).x)
    unguided = integrate(
        guided(Network(), VELOCITY, LABEL, guidance=CFGZero(zero_init=0.3)), X, solver="heun", steps=10
    )
    later = integrate(guided(Network(), VELOCITY, LABEL), X, solver="heun", steps=7, t0=0.3)
    torch.testing.assert_close(unguided.x, later.x)


def test_version_1_checkpoints_keep_their_stages():
    """A Heun step that begins below zero_init moved by half of its second stage, and no step was cut."""
    old = dict(guidance=CFGZero(zero_init=0.04), numerics=1)
    velocity = guided(Network(), VELOCITY, LABEL, scale=2.0, **old)
    slope = guided(Network(), VELOCITY, LABEL, scale=2.0, guidance=CFGZero(zero_init=0.0))(
        X, torch.full((4,), 0.5, dtype=X.dtype)
    )
    found = []
    integrate(velocity, X, solver="heun", steps=2, on_step=lambda step, x: found.append(x))
    torch.testing.assert_close(found[0], X + 0.25 * slope)
    cut = guided(Network(), VELOCITY, LABEL, scale=3.0, interval=(0.3, 0.7), numerics=1)
    assert integrate(cut, X, solver="euler", steps=10).nfe.tolist() == [15] * 4
    pair = torch.tensor([[1.0, 1.1]]), torch.tensor([[3.0, -1.0]])
    torch.testing.assert_close(rescaled(*pair, 1.0, few=0), pair[0] * 2.0 / 0.05)


def test_rescale_restores_the_standard_deviation():
    v, null = both()
    led = null + 4 * (v - null)
    found = guided(Network(), VELOCITY, LABEL, scale=4.0, rescale=1.0)(X, T)
    torch.testing.assert_close(found.std(1), v.std(1))
    part = guided(Network(), VELOCITY, LABEL, scale=4.0, rescale=0.7)(X, T)
    torch.testing.assert_close(part, 0.7 * led * (v.std(1) / led.std(1))[:, None] + 0.3 * led)


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_rescaling_short_rows_never_enlarges_them_beyond_the_conditional_ones(dim):
    """Two numbers that are nearly alike have next to no deviation: by it, factors reach 1e5 in the plane."""
    generator = torch.Generator().manual_seed(0)
    v, null = torch.randn(2, 100_000, dim, dtype=torch.float64, generator=generator)
    led = null + 3 * (v - null)
    found = rescaled(led, v, 1.0)
    torch.testing.assert_close(found.norm(dim=1), v.norm(dim=1))
    part = rescaled(led, v, 0.6)
    assert (part.norm(dim=1) <= torch.maximum(led.norm(dim=1), v.norm(dim=1)) + 1e-9).all()
    torch.testing.assert_close(part / part.norm(dim=1, keepdim=True), led / led.norm(dim=1, keepdim=True))
    if dim == 2:
        assert (v.std(1) / led.std(1)).max() > 1e3  # what it would have been
    assert torch.equal(rescaled(torch.zeros(1, dim), torch.ones(1, dim), 1.0), torch.zeros(1, dim))


@pytest.mark.parametrize("shape", [(5,), (256,), (32, 8)])
def test_rescaling_long_rows_is_the_papers(shape):
    """arXiv 2305.08891, algorithm 2: standard deviations over a row's elements, means and all."""
    v, led = 3 + torch.randn(2, 6, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ratio = v.flatten(1).std(1) / led.flatten(1).std(1)
    wanted = 0.7 * led * ratio.view(-1, *(1,) * len(shape)) + 0.3 * led
    torch.testing.assert_close(rescaled(led, v, 0.7), wanted)


def test_cfg_zero_star():
    v, null = both()
    factor = torch.stack([torch.linalg.lstsq(null[i][:, None], v[i][:, None]).solution[0, 0] for i in range(4)])
    torch.testing.assert_close(best_factor(v, null), factor)
    found = guided(Network(), VELOCITY, LABEL, scale=2.0, guidance=CFGZero(zero_init=0.0))(X, T)
    torch.testing.assert_close(found, (1 - 2.0) * factor[:, None] * null + 2.0 * v)
    network = Network()
    velocity = guided(network, VELOCITY, LABEL, scale=2.0, guidance=CFGZero(zero_init=0.3))
    zeroed = velocity(X, T)
    assert zeroed[0].abs().max() == 0 and network.rows == 6
    torch.testing.assert_close(zeroed[1:], found[1:])
    assert best_factor(v, torch.zeros_like(v)).abs().max() == 0


def test_autoguidance_guides_away_from_the_weaker_network():
    weak = lambda x, t, told: x * (told.class_label[:, None] + 2)  # noqa: E731
    found = guided(Network(), VELOCITY, LABEL, scale=2.5, weak=(weak, VELOCITY))(X, T)
    other = X * (NUMBER[:, None] + 2)
    torch.testing.assert_close(found, other + 2.5 * (both()[0] - other))
    plain = guided(lambda x, t, *_: x.sin(), VELOCITY, scale=2.0, weak=(lambda x, t, *_: x.cos(), VELOCITY))
    torch.testing.assert_close(plain(X, T), 2 * X.sin() - X.cos())  # without any condition, too


def gaussian(path, mean, covariance):
    """The exact velocity from unit noise to N(mean, covariance) on a Gaussian path."""

    def velocity(x, t):
        alpha, sigma = path.alpha(t[:1]), path.sigma(t[:1])
        total = alpha**2 * covariance + sigma**2 * torch.eye(len(mean), dtype=x.dtype)
        x1 = mean + alpha * (x - alpha * mean) @ torch.linalg.solve(total, covariance)
        return path.convert(x1, x, t, "data", "velocity", 1e-9)

    return velocity


def tilted(path, mean, covariance, f, scale=1.0, rows=4000, steps=100, solver="midpoint"):
    """Mean and covariance of samples guided by f, from noise with exactly unit moments."""
    noise = torch.randn(rows, len(mean), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = noise - noise.mean(0)
    noise = noise @ torch.linalg.inv(torch.linalg.cholesky(noise.T @ noise / rows)).T
    x = integrate(
        GradientGuidance(gaussian(path, mean, covariance), f, path, scale), noise, solver=solver, steps=steps
    ).x
    return x.mean(0), torch.cov(x.T, correction=0)


ONE = torch.ones(1, dtype=torch.float64)


@pytest.mark.parametrize("path", ["linear", "cosine", "vp", {"name": "linear", "sigma_min": 0.01}])
@pytest.mark.parametrize(("mean", "variance", "sharp", "center"), [
    (0.0, 1.0, 10.0, 3.0), (0.0, 0.25, 10.0, 3.0), (-1.0, 4.0, 1.0, 2.0), (0.5, 1.0, 0.0, 0.0),
])  # fmt: skip
def test_quadratic_guide_samples_from_p_exp_f(path, mean, variance, sharp, center):
    """N(m, s^2) exp(-k (x - c)^2 / 2): precision 1 / s^2 + k. N(0, 1) and -5 (x - 3)^2 have mean 2.73, variance .091."""
    found = tilted(
        choose("path", path), mean * ONE, variance * ONE[None], lambda x: -sharp / 2 * (x[:, 0] - center) ** 2
    )
    precision = 1 / variance + sharp
    # Where alpha < 0.05 the variance is taken to be 1, which shows where it is 4.
    assert found[0].item() == pytest.approx(
        (mean / variance + sharp * center) / precision, abs=0.01 if variance == 1 else 0.05
    )
    assert found[1].item() == pytest.approx(1 / precision, rel=0.06)


def test_guide_in_one_direction_moves_correlated_ones():
    """Correlated numbers, f of one linear feature: a Kalman update, in closed form. And a linear f moves the mean alone."""
    path, mean = choose("path", "linear"), torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    factor = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [-0.5, 0.3, 0.7]], dtype=torch.float64)
    covariance, a = factor @ factor.T, torch.tensor([1.0, 0.5, -1.0], dtype=torch.float64)
    gain = covariance @ a / (a @ covariance @ a + 1 / 8)
    for f, wanted_mean, wanted_covariance in (
        (lambda x: -4 * (x @ a - 2) ** 2, mean + gain * (2 - a @ mean), covariance - torch.outer(gain, a @ covariance)),
        (lambda x: x @ a, mean + covariance @ a, covariance),
    ):
        found = tilted(path, mean, covariance, f, steps=200)
        torch.testing.assert_close(found[0], wanted_mean, rtol=0, atol=0.08)
        torch.testing.assert_close(found[1], wanted_covariance, rtol=0, atol=0.08)


def test_guide_scale_multiplies_f():
    path = choose("path", "linear")
    once = tilted(path, 0 * ONE, ONE[None], lambda x: -2 * (x[:, 0] - 1) ** 2)
    scaled = tilted(path, 0 * ONE, ONE[None], lambda x: -((x[:, 0] - 1) ** 2), scale=2.0)
    torch.testing.assert_close(once[0], scaled[0])
    assert tilted(path, 0 * ONE, ONE[None], lambda x: x[:, 0], scale=0.0)[0].abs() < 1e-3


@pytest.mark.parametrize(
    "f", [lambda x: 3 * x[:, 0].abs(), lambda x: x[:, 0] ** 2 / 4, lambda x: -(x[:, 0] - 1).relu()]
)
def test_functions_that_are_not_concave_or_not_smooth_stay_finite(f):
    mean, covariance = tilted(choose("path", "linear"), 0 * ONE, ONE[None], f, steps=25)
    assert mean.abs() < 1 and 0.2 < covariance.item() < 30


def test_guided_rows_are_independent_of_the_batch():
    path = choose("path", "linear")
    velocity = GradientGuidance(guided(Network(), VELOCITY, LABEL), lambda x: -((x - 1) ** 2).sum(1), path)
    with torch.inference_mode():
        whole = velocity(X, T)
        for row in range(4):
            pick = torch.tensor([row])
            torch.testing.assert_close(velocity.take(pick)(X[pick], T[pick]), whole[pick])
    torch.testing.assert_close(whole[3], both()[0][3])  # sigma is 0 at t = 1: nothing is left to lead


def test_invalid_guide_functions():
    velocity = guided(Network(), VELOCITY, LABEL)
    with pytest.raises(UserError, match=r"expected \(4,\)"):
        GradientGuidance(velocity, lambda x: x.sum(), choose("path", "linear"))(X, T)
    with pytest.raises(UserError, match="are not differentiable"):
        GradientGuidance(velocity, lambda x: x.detach().sum(1), choose("path", "linear"))(X, T)


@pytest.mark.parametrize(("given", "says"), [
    (dict(guidance_interval=(0.8, 0.2)), r"such as \[0.2, 0.8\]"), (dict(guidance_interval=(0.5, 1.5)), "from 0 to 1"),
    (dict(guidance_rescale=1.5), "guidance_rescale"), (dict(guidance={"name": "cfg_zero", "zero_init": 1.0}), "zero_init"),
    (dict(guidance_scale=float("nan")), "guidance_scale"), (dict(guidance_scale=float("inf")), "guidance_scale"),
])  # fmt: skip
def test_settings_out_of_range(given, says):
    with pytest.raises(UserError, match=says):
        SampleSettings.of(given)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name, width, classes in (("large", 32, 3), ("small", 16, 3), ("other", 16, 2)):
        recipe = {
            "run": {"name": name, "dir": str(folder)}, "data": {"normalizer": "global", "val_fraction": 0.25},
            "model": {"arch": "bezier_sketch_dit", "embed_dim": width, "num_layers": 1, "num_heads": 2},
            "optim": {"lr": 3e-3}, "ema": {"decay": 0},
            "train": {"steps": 12, "batch_size": 16, "val_every": "never", "save_every": "never"},
            "sample": {"every": "never", "steps": 4},
        }  # fmt: skip
        flowkit.train(recipe, data=sketch_rows(classes=classes))
    return folder


def test_every_choice_samples_and_says_so(runs):
    model = flowkit.load(runs / "large")
    draw = lambda **given: model.sample(6, seed=1, **given)  # noqa: E731
    plain = draw()
    seen = [plain.x]
    for given, nfe in (
        (dict(guidance_scale=3.0), 16), (dict(guidance_scale=3.0, guidance_interval=(0.4, 0.6)), 16),
        (dict(guidance_scale=3.0, guidance_rescale=0.9), 16), (dict(guidance_scale=3.0, guidance="cfg_zero"), 12),
        (dict(guidance_scale=3.0, guidance={"name": "autoguidance", "ckpt": str(runs / "small")}), 16),
        (dict(solver="sde"), 4), (dict(grid={"name": "power", "exponent": 1.5}), 8),
        (dict(guide=lambda x: -x.flatten(1).square().sum(1), guide_scale=0.5), 8),
    ):  # fmt: skip
        found = draw(**given)
        assert found.info["nfe"] == nfe, given
        shown = {name: value for name, value in given.items() if name != "guide"}
        assert {name: tuple(v) if isinstance(v, list) else v for name, v in found.info.items()}.items() >= shown.items()
        assert all(np.abs(found.x - other).max() > 1e-4 for other in seen), given
        seen.append(found.x)
    assert np.square(seen[-1]).mean() < np.square(plain.x).mean()  # the guide drew them together
    exact = draw(solver={"name": "dopri5", "rtol": 1e-6, "atol": 1e-6}, state="fp64")
    assert exact.info["nfe_max"] >= exact.info["nfe"] and "steps" not in exact.info
    np.testing.assert_allclose(draw(solver="rk4", steps=100).x, exact.x, atol=1e-3)


@pytest.mark.parametrize("given", [
    dict(solver="sde"), dict(guidance_scale=2.0, guidance_interval=(0.2, 0.7)),
    dict(guidance="cfg_zero", guidance_scale=2.0),
])  # fmt: skip
def test_samples_do_not_depend_on_the_batch(runs, given):
    """In double precision, to tell roundings from a real difference."""
    model = flowkit.load(runs / "large")
    model.model.double()
    whole = model.sample(5, class_label="boat", seed=3, state="fp64", **given)
    for batch_size in (1, 2):
        part = model.sample(5, class_label="boat", seed=3, state="fp64", batch_size=batch_size, **given)
        np.testing.assert_allclose(part.x, whole.x, atol=1e-6)
    first = model.sample(2, class_label="boat", seed=3, state="fp64", **given)
    np.testing.assert_allclose(first.x, whole.x[:2], atol=1e-6)


def test_version_1_checkpoint_keeps_its_numerics(runs):
    model = flowkit.load(runs / "large")
    found = {}
    for model.numerics in (1, 2):
        for name, given in (("interval", dict(guidance_interval=(0.4, 0.6))), ("zero", dict(guidance="cfg_zero"))):
            found[name, model.numerics] = model.sample(2, guidance_scale=3.0, solver="heun", steps=4, **given).info[
                "nfe"
            ]
    assert found == {("interval", 1): 10, ("zero", 1): 14, ("interval", 2): 16, ("zero", 2): 12}


def test_guide_requires_a_suitable_path(runs):
    model = flowkit.load(runs / "large")
    guide = lambda x: -x.flatten(1).square().sum(1)  # noqa: E731
    assert (
        model.sample(2, guide=guide, guidance_scale=2.0, guidance_interval=(0.2, 0.7), solver="euler").info["nfe"] == 9
    )  # six steps, three of them guided
    model.flow = model.flow.model_copy(update={"objective": MeanFlow()})
    with pytest.raises(UserError, match='guide: cannot be used with solver "mean_flow"'):
        model.sample(2, guide=guide, solver="mean_flow")
    for path in ("icfm", "spherical"):
        model.objective = FlowObjective(choose("path", path))
        with pytest.raises(UserError, match="can be guided by a function"):
            model.sample(2, guide=guide)


def test_impossible_settings(runs):
    model = flowkit.load(runs / "large")
    for given, says in (
        (dict(guidance={"name": "autoguidance", "ckpt": str(runs / "other")}), "has classes .*anchor, boat.*cat"),
        (dict(guidance="autoguidance"), "guidance.ckpt: missing"),
        (dict(guidance="cgf"), "guidance: expected .*did you mean"),
        (dict(guidance={"name": "cfg_zero", "zero": 0.1}), "guidance.zero: unknown key"), (dict(state="fp16"), "state"),
        (dict(guidance_interval=(0.8, 0.2)), "such as"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=says):
            model.sample(1, guidance_scale=2.0, **given)
    model.flow = model.flow.model_copy(update={"coupling": choose("coupling", "ot")})
    with pytest.raises(UserError, match="not independent"):
        model.sample(1, solver="sde")


@pytest.mark.parametrize("arguments", [
    ["--solver", "dopri5", "--rtol", "1e-3", "--guidance", "cfg_zero", "-w", "2"],
    ["--solver", "{name = 'sde', scale = 0.5}", "--grid", "shifted", "--guidance-rescale", "0.5", "-w", "2"],
    ["--grid", "{name = 'custom', times = [0.0, 0.3, 1.0]}", "--guidance-interval", "0.2", "0.8", "-w", "2", "--pairs"],
    ["--autoguidance", "small", "-w", "1.5", "--state", "fp64"],
])  # fmt: skip
def test_the_command(runs, tmp_path, arguments, monkeypatch):
    monkeypatch.chdir(runs)
    result = CliRunner().invoke(app, ["sample", "--ckpt", "large", "-n", "3", "--out", str(tmp_path), *arguments])
    assert result.exit_code == 0, result.output
    data = flowkit.data.dataset.read_dataset(tmp_path)
    assert len(data) == 3 and (data.noise is not None) == ("--pairs" in arguments)


def test_likelihood_by_the_command(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(runs)
    from flowkit.data.dataset import Dataset, write_dataset

    rows = sketch_rows()
    write_dataset(
        tmp_path / "rows",
        Dataset("sketch", rows["x"], rows["class_label"].astype(np.int64), class_names=rows["class_names"]),
    )
    result = CliRunner().invoke(app, [
        "evaluate", "--ckpt", "large", "--data", str(tmp_path / "rows"), "-n", "20", "--likelihood", "4", "--probes", "2",
        "--steps", "2", "--out", str(tmp_path / "out"), "--json",
    ])  # fmt: skip
    assert result.exit_code == 0, result.output
    assert '"bits_per_dim"' in result.output and "bits per dimension" in result.output
