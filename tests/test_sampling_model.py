"""One sampler: a checkpoint's samples, those that are measured and those that a run draws of itself come of the same code."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
import torch

import flowkit
from flowkit import cli
from flowkit.data.dataset import read_dataset
from flowkit.evaluate import evaluate_checkpoint, training_data
from flowkit.metrics.comparison import choose_sides
from flowkit.recipe.sample import SampleSettings

PLAIN = {"solver": "euler", "steps": 3, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of labeled points: "large", and "small" as its weaker model. Half trained, so that all settings matter."""
    folder = tmp_path_factory.mktemp("runs")
    for name, steps in (("large", 40), ("small", 6)):
        flowkit.train({
            "run": {"name": name, "dir": str(folder), "device": "cpu"},
            "data": {"source": "moons-labelled", "num_samples": 200, "val_fraction": 0.2},
            "model": {"arch": "selu_mlp"}, "optim": {"lr": 2e-3}, "flow": {"cond_drop": 0.2},
            "train": {"steps": steps, "batch_size": 32, "val_every": "never"},
            "sample": {"every": "never", **PLAIN}, "ema": {"decay": 0.5},
        })  # fmt: skip
    return folder


def words(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["flowkit", *map(str, arguments)])
    status = 0
    try:
        cli.main()
    except SystemExit as left:
        status = int(left.code or 0)
    return status, capsys.readouterr().err


SETTINGS = {
    "--grid shifted": {"grid": "shifted"},
    "--grid \"{name = 'custom', times = [0.0, 0.6, 1.0]}\"": {"grid": {"name": "custom", "times": [0.0, 0.6, 1.0]}},
    "--state fp64": {"state": "fp64"},
    "--precision bf16": {"precision": "bf16"},
    "--precision bf16 --autoguidance small": {
        "precision": "bf16",
        "guidance": {"name": "autoguidance", "ckpt": "small"},
    },
    "--guidance cfg_zero": {"guidance": "cfg_zero"},
    "--guidance-interval 0.3 0.8": {"guidance_interval": (0.3, 0.8)},
    "--guidance-rescale 0.7 -w 3": {"guidance_rescale": 0.7, "guidance_scale": 3.0},
    "--autoguidance small": {"guidance": {"name": "autoguidance", "ckpt": "small"}},
    "--rtol 1e-2 --atol 0.1": {"solver": {"name": "dopri5", "rtol": 0.01, "atol": 0.1}},
}


@pytest.mark.parametrize("solver", ["midpoint", "dopri5"])
def test_bf16_is_the_precision_of_the_network_only(runs, solver):
    """Near the samples of float32, at the same cost; the state, its sums and the normalizer are not rounded."""
    model = flowkit.load(runs / "large", device="cpu")
    how = {"seed": 3, "solver": {"name": "dopri5", "rtol": 1e-2, "atol": 1e-2} if solver == "dopri5" else solver}
    exact, seen = model.sample(40, **how), []
    hook = model.model.register_forward_hook(lambda module, given, output: seen.append((given[0].dtype, output.dtype)))
    found = model.sample(40, precision="bf16", **how)
    hook.remove()
    assert set(seen) == {(torch.float32, torch.bfloat16)} and found.info["precision"] == "bf16"
    apart = np.abs(found.x - exact.x).max()
    assert 0 < apart < 0.05 * exact.x.std() and "precision" not in exact.info
    assert np.abs(found.x - torch.from_numpy(found.x).bfloat16().float().numpy()).max() > 0


def test_batches_are_halved_if_memory_runs_out(runs, monkeypatch):
    model, told, tried = flowkit.load(runs / "large", device="cpu"), [], []
    states: list[np.ndarray] = []
    whole = model.sample(100, seed=1, on_states=states.append)

    def forward(x, *given, forward=model.model.forward):
        tried.append(len(x))
        if len(x) > 30:
            raise torch.OutOfMemoryError
        return forward(x, *given)

    monkeypatch.setattr(model.model, "forward", forward)
    found = model.sample(100, seed=1, on_states=states.append, progress=lambda done, total: told.append(done))
    np.testing.assert_allclose(found.x, whole.x, rtol=0, atol=1e-5)
    np.testing.assert_allclose(states[1], states[0], rtol=0, atol=1e-5)
    assert tried[0] > 30 and max(tried[3:]) <= 30 and told[-1] == 100
    with pytest.raises(torch.OutOfMemoryError):  # the user's own batch size
        model.sample(100, batch_size=64)


@pytest.mark.parametrize("options", SETTINGS)
def test_evaluate_measures_what_sample_draws(runs, tmp_path, monkeypatch, capsys, options):
    monkeypatch.chdir(runs)
    monkeypatch.setattr("flowkit.metrics.resampling.REPEATS", 20)
    out = tmp_path / "out"
    evaluate = ["evaluate", "large", "-n", 20, "--seed", 5, "--batch-size", 7, "--out", out, "--device", "cpu"]
    assert words(monkeypatch, capsys, *evaluate, *shlex.split(options)) == (0, "")
    model, settings = flowkit.load("large", device="cpu"), SETTINGS[options]
    rows, _ = training_data(model)
    labels = rows.class_label[choose_sides(rows, None, 20, preferred=model.domain.compared_with).reference]
    drawn = model.sample(len(labels), class_label=labels, seed=5, **settings)
    measured = read_dataset(out / "samples.safetensors")
    np.testing.assert_array_equal(measured.x, drawn.x)
    np.testing.assert_array_equal(measured.class_label, labels)
    assert measured.info == json.loads(json.dumps(drawn.info))
    assert not np.array_equal(model.sample(len(labels), class_label=labels, seed=5).x, drawn.x)  # it does something
    asked = json.loads((out / "evaluation.json").read_text())["settings"]["asked"]["sampling"]
    assert asked == json.loads(json.dumps(model.settings(**settings).to_info()))


def test_results_of_different_settings_stand_side_by_side(runs, monkeypatch):
    monkeypatch.chdir(runs)
    monkeypatch.setattr("flowkit.points.evaluation.PointsEvaluator.figures", lambda self, tell: [])
    monkeypatch.setattr("flowkit.points.evaluation.PointsEvaluator.write", lambda self, out: ())
    name = "step-00000040-ema-euler3-w2"
    settings = {
        name: {},
        f"{name}-grid-shifted": {"grid": "shifted"},
        f"{name}-grid-shifted-shift2": {"grid": {"name": "shifted", "shift": 2.0}},
        f"{name}-grid-shifted-shift2.5-seed4": {"grid": {"name": "shifted", "shift": 2.5}, "seed": 4},
        f"{name}-state-fp64": {"state": "fp64"},
        f"{name}-guidance-cfg_zero": {"guidance": "cfg_zero"},
        f"{name}-interval-0.3-0.8": {"guidance_interval": (0.3, 0.8)},
        f"{name}-rescale-0.7": {"guidance_rescale": 0.7},
        f"{name}-guidance-autoguidance-ckptsmall": {"guidance": {"name": "autoguidance", "ckpt": "small"}},
        f"{name}-guidance-autoguidance-ckptsmall-2": {
            "guidance": {"name": "autoguidance", "ckpt": str(runs / "small")}
        },
        f"{name}-grid-custom": {"grid": {"name": "custom", "times": [0.0, 0.2, 0.5, 1.0]}},
        f"{name}-grid-custom-2": {"grid": {"name": "custom", "times": [0.0, 0.3, 0.5, 1.0]}},
        name.replace("euler3", "dopri5"): {"solver": "dopri5"},
    }
    for _ in range(2):  # the second time each finds its own again
        for given in settings.values():
            evaluate_checkpoint("large", device="cpu", **given)
        assert {path.name for path in (runs / "large" / "evaluation").iterdir()} == settings.keys()


WRONG = ["--grid shiftd", "--state fp16", "--guidance cfgzero", "--guidance-interval 0.8 0.2", "--guidance-rescale 2",
         "--autoguidance nowhere", "--autoguidance small --guidance cfg", "--grid '{name = 1'", "--solver rk5",
         "--rtol 1e-3 --solver heun"]  # fmt: skip


@pytest.mark.parametrize("options", WRONG)
def test_a_wrong_setting_has_the_same_message_in_both_commands(runs, tmp_path, monkeypatch, capsys, options):
    monkeypatch.chdir(runs)
    found = [words(monkeypatch, capsys, command, "large", "--device", "cpu", "-n", 20, "--out", tmp_path / "out",
                   *shlex.split(options)) for command in ("sample", "evaluate")]  # fmt: skip
    assert found[0] == found[1] and found[0][0] == 2 and found[0][1].startswith("error: "), found
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("given", ["labels", "both"])
def test_a_run_previews_what_its_checkpoint_draws(tiny, rows, tmp_path, given):
    if given == "both":
        rows["condition"] = np.random.default_rng(0).standard_normal((len(rows["x"]), 5)).astype(np.float32)
    tiny["flow"] = {**tiny.get("flow", {}), "cond_drop": 0.2}
    tiny["train"].update(steps=4, save_every=4)
    tiny["sample"] = {"every": 4, "num_samples": 7, "solver": "heun", "steps": 3, "grid": "power", "guidance_scale": 2.0,
                      "guidance_interval": [0.2, 0.7], "guidance_rescale": 0.5}  # fmt: skip
    flowkit.train(tiny, data=rows)
    preview = read_dataset(tmp_path / "runs" / "tiny" / "samples" / "step-00000004")
    model = flowkit.load(tmp_path / "runs" / "tiny", device="cpu")
    condition = None if preview.condition is None else np.array(preview.condition)
    drawn = model.sample(7, class_label=preview.class_label, condition=condition, seed=tiny["run"].get("seed", 0))
    np.testing.assert_array_equal(preview.x, drawn.x)
    np.testing.assert_array_equal(preview.class_label, drawn.class_label)
    assert (preview.condition is not None) == (given == "both") and preview.class_names == drawn.class_names
    of_checkpoint = {"checkpoint", "architecture", "weights"}
    assert preview.info == json.loads(json.dumps({k: v for k, v in drawn.info.items() if k not in of_checkpoint}))


@pytest.mark.parametrize(("changes", "told"), [
    ({"solver": "euler", "steps": 5}, [4, 8, 12, 16, 20, 20, 22, 24, 26, 28, 30, 30]),
    ({"solver": "heun", "steps": 2}, [10, 20, 20, 25, 30, 30]),
    ({"solver": "dopri5"}, [20, 30]),
])  # fmt: skip
def test_progress_moves_with_every_step_of_the_solver(runs, changes, told):
    """Forty samples are one batch: counted by batches, the bar would stand at 0 until the end."""
    found = []
    flowkit.load(runs / "small").sample(
        30, batch_size=20, progress=lambda done, total: found.append((done, total)), **changes
    )
    assert found == [(done, 30) for done in told]


def test_settings_go_as_one_value_or_one_by_one(runs):
    model = flowkit.load(runs / "large", device="cpu")
    whole = SampleSettings(solver="heun", steps=2, guidance_scale=1.5, guidance_interval=(0.1, 0.9))
    one_by_one = {"solver": "heun", "steps": 2, "guidance_scale": 1.5, "guidance_interval": (0.1, 0.9)}
    x = model.sample(5, settings=whole).x
    np.testing.assert_array_equal(x, model.sample(5, **one_by_one).x)
    changed = model.sample(5, settings=whole, steps=4, guidance_scale=None)
    assert changed.info["steps"] == 4 and changed.info["guidance_scale"] == 1.5 and changed.info["solver"] == "heun"
    np.testing.assert_array_equal(changed.x, model.sample(5, **{**one_by_one, "steps": 4}).x)
    assert not np.array_equal(x, changed.x)
    assert model.sample(5, settings=SampleSettings()).info["solver"] == "midpoint"  # replaces the recipe's
    for call in (model.sample, lambda n, **given: evaluate_checkpoint(runs / "large", num_samples=n, **given)):
        with pytest.raises(
            TypeError, match=r"'guidance_scal' is not a sampling setting.* did you mean 'guidance_scale'"
        ):
            call(2, guidance_scal=2.0)


def test_a_weaker_model_serves_with_a_guide_after_it_served_without(runs, monkeypatch):
    monkeypatch.chdir(runs)
    model = flowkit.load("large", device="cpu")
    led = {"guidance": {"name": "autoguidance", "ckpt": "small"}, "guidance_scale": 1.5}
    model.sample(3, **led)
    pushed = model.sample(3, guide=lambda x: -x.square().sum(1), **led).x
    again = flowkit.load("large", device="cpu").sample(3, guide=lambda x: -x.square().sum(1), **led).x
    np.testing.assert_array_equal(pushed, again)
    assert not any(parameter.is_inference() for parameter in model.model.parameters()) and torch.is_grad_enabled()
