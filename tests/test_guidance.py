"""Guidance against formulas by hand on analytic networks; and, on small trained models, every way to ask for it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import flowkit
from flowkit.cli import app
from flowkit.errors import UserError
from flowkit.flow.guidance import Pushed, best_factor, guided
from flowkit.flow.objective import FlowObjective
from flowkit.flow.paths import get_path
from flowkit.flow.solvers import integrate
from tests.conftest import sketch_rows

VELOCITY = FlowObjective(get_path("linear"))
LABEL = torch.arange(4)
X = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
T = torch.tensor([0.0, 0.3, 0.6, 1.0], dtype=torch.float64)


class Network:
    """v = (label + 1) sin x + t where conditioned, cos x - t where not; counts the rows it is asked for."""

    def __init__(self):
        self.rows = 0

    def __call__(self, x, t, class_label=None, condition=None, cfg_mask=None):
        self.rows += len(x)
        given = (class_label[:, None] + 1) * x.sin() + t[:, None]
        return given if cfg_mask is None else torch.where(cfg_mask[:, None], x.cos() - t[:, None], given)


def both():
    return (LABEL[:, None] + 1) * X.sin() + T[:, None], X.cos() - T[:, None]


def test_only_within_the_interval():
    network = Network()
    velocity = guided(network, VELOCITY, LABEL, scale=3.0, interval=(0.3, 0.7))
    v, null = both()
    wanted = torch.where(torch.tensor([0, 1, 1, 0], dtype=torch.bool)[:, None], null + 3 * (v - null), v)
    torch.testing.assert_close(velocity(X, T), wanted)
    assert network.rows == 6 and velocity.evaluations(T).tolist() == [1, 2, 2, 1]
    network.rows = 0
    found = integrate(velocity, X, solver="euler", steps=10)  # at 0.3 to 0.7: five of ten are guided
    assert found.nfe.tolist() == [15] * 4 and network.rows == 15 * 4
    network.rows = 0
    found = integrate(velocity, X, solver="dopri5")
    assert network.rows == found.nfe.sum()


def test_rescale_brings_the_spread_back():
    v, null = both()
    led = null + 4 * (v - null)
    found = guided(Network(), VELOCITY, LABEL, scale=4.0, rescale=1.0)(X, T)
    torch.testing.assert_close(found.std(1), v.std(1))
    part = guided(Network(), VELOCITY, LABEL, scale=4.0, rescale=0.7)(X, T)
    torch.testing.assert_close(part, 0.7 * led * (v.std(1) / led.std(1))[:, None] + 0.3 * led)


def test_cfg_zero_star():
    v, null = both()
    factor = torch.stack([torch.linalg.lstsq(null[i][:, None], v[i][:, None]).solution[0, 0] for i in range(4)])
    torch.testing.assert_close(best_factor(v, null), factor)
    found = guided(Network(), VELOCITY, LABEL, scale=2.0, optimised=True)(X, T)
    torch.testing.assert_close(found, (1 - 2.0) * factor[:, None] * null + 2.0 * v)
    network = Network()
    velocity = guided(network, VELOCITY, LABEL, scale=2.0, optimised=True, zero_init=0.3)
    zeroed = velocity(X, T)
    assert zeroed[0].abs().max() == 0 and network.rows == 6
    torch.testing.assert_close(zeroed[1:], found[1:])
    assert best_factor(v, torch.zeros_like(v)).abs().max() == 0


def test_autoguidance_leads_away_from_another_network():
    weak = lambda x, t, label, condition, mask: x * (label[:, None] + 2)  # noqa: E731
    found = guided(Network(), VELOCITY, LABEL, scale=2.5, weak=(weak, VELOCITY))(X, T)
    other = X * (LABEL[:, None] + 2)
    torch.testing.assert_close(found, other + 2.5 * (both()[0] - other))
    plain = guided(lambda x, t, *_: x.sin(), VELOCITY, scale=2.0, weak=(lambda x, t, *_: x.cos(), VELOCITY))
    torch.testing.assert_close(plain(X, T), 2 * X.sin() - X.cos())  # without any condition, too


def test_a_functions_gradient_is_added():
    velocity = Pushed(guided(Network(), VELOCITY, LABEL), lambda x: (x**3).sum(1), 0.5)
    with torch.inference_mode():
        torch.testing.assert_close(velocity(X, T), both()[0] + 0.5 * 3 * X**2)
    with pytest.raises(UserError, match=r"expected \(4,\)"):
        Pushed(velocity, lambda x: x.sum())(X, T)
    with pytest.raises(UserError, match="do not depend on x"):
        Pushed(velocity, lambda x: x.detach().sum(1))(X, T)


@pytest.mark.parametrize(("given", "says"), [
    (dict(interval=(0.8, 0.2)), r"did you mean \[0.2, 0.8\]"), (dict(interval=(0.5, 1.5)), "no interval of t"),
    (dict(rescale=1.5), "guidance_rescale"), (dict(zero_init=1.0), "zero_init"),
])  # fmt: skip
def test_settings_out_of_range(given, says):
    with pytest.raises(UserError, match=says):
        guided(Network(), VELOCITY, LABEL, scale=2.0, **given)


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
        (dict(guidance_scale=3.0), 16), (dict(guidance_scale=3.0, guidance_interval=(0.4, 0.6)), 9),
        (dict(guidance_scale=3.0, guidance_rescale=0.9), 16), (dict(guidance_scale=3.0, guidance="cfg_zero"), 14),
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


def test_what_cannot_be(runs):
    model = flowkit.load(runs / "large")
    for given, says in (
        (dict(guidance={"name": "autoguidance", "ckpt": str(runs / "other")}), "has classes .*anchor, boat.*cat"),
        (dict(guidance="autoguidance"), "guidance.ckpt: missing"), (dict(guidance="cgf"), "unknown"),
        (dict(guidance={"name": "cfg_zero", "zero": 0.1}), "no setting zero"), (dict(state="fp16"), "state"),
        (dict(guidance_interval=(0.8, 0.2)), "did you mean"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=says):
            model.sample(1, guidance_scale=2.0, **given)
    model.info["flow"]["coupling"] = {"name": "ot", "block": 64}
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
    assert '"bits_per_dim"' in result.output and "bits a dimension" in result.output
