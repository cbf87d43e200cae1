"""Sampling from a checkpoint: repeatable, guided, from the EMA, and refused where the model cannot do it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import flowkit
from flowkit.errors import UserError
from flowkit.recipe.sample import Sample, SampleSettings
from tests.conftest import sketch_rows


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A class-only model, trained long enough to have a class: 400 updates of a small DiT on three clusters."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = {
        "run": {"name": "clusters", "dir": str(folder)},
        "model": {"arch": "bezier_sketch_dit", "embed_dim": 32, "num_layers": 2, "num_heads": 4},
        "optim": {"lr": 3e-3},
        "ema": {"decay": 0.99},
        "flow": {"cond_drop": 0.2},
        "train": {"steps": 400, "batch_size": 32, "val_every": "never", "save_every": "never"},
        "sample": {"every": "never", "steps": 8},
    }
    flowkit.train(recipe, data=sketch_rows())
    return folder / "clusters"


def test_the_same_seed_gives_the_same_samples_whatever_the_batch(run_dir):
    model = flowkit.load(run_dir)
    whole = model.sample(7, class_label="boat", seed=5)
    for batch_size in (1, 3):
        np.testing.assert_allclose(
            model.sample(7, class_label="boat", seed=5, batch_size=batch_size).x, whole.x, atol=1e-5
        )
    np.testing.assert_allclose(model.sample(3, class_label="boat", seed=5).x, whole.x[:3], atol=1e-5)
    assert np.abs(model.sample(7, class_label="boat", seed=6).x - whole.x).mean() > 0.01
    assert np.abs(whole.x[0] - whole.x[1]).mean() > 0.01


def test_guidance_changes_what_a_class_only_model_draws(run_dir):
    model, centers = flowkit.load(run_dir), _centers()
    drawn = {w: model.sample(96, class_label="cat", seed=0, guidance_scale=w) for w in (0.0, 1.0, 3.0)}
    for a, b in ((0.0, 1.0), (1.0, 3.0), (0.0, 3.0)):
        assert np.abs(drawn[a].x - drawn[b].x).mean() > 0.01, (a, b)
    nearest = {w: _nearest(samples.x, centers) for w, samples in drawn.items()}
    assert (nearest[1.0] == 2).mean() > 0.9  # conditioned: the requested class
    assert (nearest[0.0] == 2).mean() < 0.7  # the null condition: any of the three
    assert {w: samples.info["nfe"] for w, samples in drawn.items()} == {0.0: 16, 1.0: 16, 3.0: 32}


def test_guidance_is_what_its_formula_says(run_dir):
    """One Euler step from the noise is linear in w: x(w) = x(0) + w (x(1) - x(0))."""
    model = flowkit.load(run_dir)
    x0, x1, x3 = (model.sample(5, class_label=0, guidance_scale=w, solver="euler", steps=1).x for w in (0.0, 1.0, 3.0))
    np.testing.assert_allclose(x3, x0 + 3 * (x1 - x0), atol=1e-4)


def test_labels_by_name_number_list_and_all(run_dir):
    model = flowkit.load(run_dir)
    assert model.sample(4, class_label="boat", steps=1).class_label.tolist() == [1] * 4
    assert model.sample(2, class_label=2, steps=1).class_label.tolist() == [2, 2]
    assert model.sample(4, class_label=["cat", "0"], steps=1).class_label.tolist() == [2, 2, 0, 0]
    for every in (None, "all"):
        assert model.sample(6, class_label=every, steps=1).class_label.tolist() == [0, 0, 1, 1, 2, 2]
    for every in (np.array([2, 0]), torch.tensor([2, 0])):
        assert model.sample(2, class_label=every, steps=1).class_label.tolist() == [2, 0]
    assert model.sample(2, class_label=np.int64(1), steps=1).class_label.tolist() == [1, 1]
    with pytest.raises(UserError, match=r"unknown class 'bat'; .*did you mean 'boat' or 'cat'\?"):
        model.sample(1, class_label="bat")
    for label in (3, -1, "3", "²"):
        with pytest.raises(UserError, match="anchor, boat, cat"):
            model.sample(1, class_label=label)


def test_samples_come_from_the_ema_unless_asked_otherwise(run_dir):
    latest = run_dir / "checkpoints" / "latest"
    for which, file in (("ema", "ema"), ("raw", "model")):
        loaded = flowkit.load(run_dir, weights=which)
        stored = load_file(latest / f"{file}.safetensors")
        assert all(torch.equal(tensor, stored[name]) for name, tensor in loaded.model.state_dict().items())
        assert loaded.sample(1, steps=1).info["weights"] == which
    assert flowkit.load(latest / "model.safetensors").weights == "raw"  # regardless of the request
    with pytest.raises(UserError, match="expected 'ema' or 'raw'"):
        flowkit.load(run_dir, weights="best")


def test_pairs_keep_the_noise_that_samples_came_from(run_dir, tmp_path):
    """Carrying the pair's noise along the same field by hand gives its sample."""
    model = flowkit.load(run_dir)
    samples = model.sample(3, class_label="boat", seed=2, solver="euler", steps=1, pairs=True)
    assert samples.noise.dtype == np.float32 and samples.noise.shape == (3, *model.latent_shape)
    noise = torch.from_numpy(samples.noise)
    with torch.no_grad():
        there = noise + model.model(noise, torch.zeros(3), torch.full((3,), 1))
    np.testing.assert_allclose(model.normalizer.denormalize(there).numpy(), samples.x, atol=1e-5)
    assert model.sample(1, steps=1).noise is None


def test_recipe_settings_are_the_default(run_dir):
    info = flowkit.load(run_dir).sample(1).info
    assert (info["solver"], info["steps"], info["guidance_scale"], info["nfe"]) == ("midpoint", 8, 1.0, 16)


def test_the_solver_of_a_checkpoint_is_that_of_its_version(run_dir, tmp_path):
    """What a sidecar names holds. Where it names none, as the first version's may, it is Heun's, and the midpoint rule since."""
    shutil.copytree(run_dir / "checkpoints" / "latest", tmp_path / "a")
    sidecar = tmp_path / "a" / "model.json"
    content = json.loads(sidecar.read_text())
    (tmp_path / "a" / "checksums.json").unlink()
    for numerics, sampling, solver in (
        (1, {}, "heun"), (2, {}, "midpoint"), (1, {"solver": "euler"}, "euler"), (1, {"solver": "midpoint"}, "midpoint"),
        (2, {"solver": "heun"}, "heun"),
    ):  # fmt: skip
        sidecar.write_text(json.dumps({**content, "numerics": numerics, "sampling": sampling}))
        assert flowkit.load(tmp_path / "a").sample(1, steps=1).info["solver"] == solver
    for solver, steps in (("sde", 30), ("mean_flow", 1)):  # these cannot integrate in both directions
        assert SampleSettings.of({"solver": solver, "steps": steps}).of_ode["solver"].tag() == "midpoint"
    assert SampleSettings().solver.tag() == "midpoint" == Sample().solver.tag()


def test_every_way_to_name_a_checkpoint(run_dir, tmp_path):
    checkpoint = (run_dir / "checkpoints" / "latest").resolve()
    wanted = flowkit.load(run_dir).sample(2, steps=1).x
    lone = tmp_path / "shared.safetensors"
    shutil.copy(checkpoint / "ema.safetensors", lone)
    shutil.copy(checkpoint / "model.json", lone.with_suffix(".json"))
    for path in (checkpoint, run_dir / "checkpoints" / "latest", checkpoint / "ema.safetensors", lone):
        np.testing.assert_array_equal(flowkit.load(path).sample(2, steps=1).x, wanted)


def test_bad_checkpoints_are_told_apart(run_dir, tmp_path):
    def broken(change):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree((run_dir / "checkpoints" / "latest").resolve(), copy)
        (copy / "checksums.json").unlink()  # which would tell of any change before it is looked at
        change(copy)
        return copy

    def edit(**changes):
        def change(folder):
            info = json.loads((folder / "model.json").read_text())
            info.update(changes)
            (folder / "model.json").write_text(json.dumps(info))

        return change

    def cut(folder):
        (folder / "ema.safetensors").write_bytes((folder / "ema.safetensors").read_bytes()[:-10])

    def rename(folder):
        tensors = load_file(folder / "ema.safetensors")
        tensors["other"] = tensors.pop(next(iter(tensors)))
        save_file(tensors, folder / "ema.safetensors")

    args = flowkit.load(run_dir).info["model_args"]
    cases = [
        (cut, "not a valid safetensors file"),
        (rename, "1 tensors are missing .* 1 tensors are unexpected"),
        (edit(architecture="bezier_sketch_dot"), "did you mean 'bezier_sketch_dit'"),
        (edit(model_args={**args, "embed_dim": 64}), r"does not fit the architecture: \d+ shapes differ"),
        (edit(model_args={**args, "width": 1}), "width"),
        (edit(format=7), "upgrade flowkit"),
        (edit(normalizer={"name": "global"}), "its normalizer is not valid"),
        (edit(normalizer={"name": "global", "shift": 0, "scale": 0}), "scale positive"),
        (edit(kind="song"), "unknown kind of data 'song'"),
        (edit(flow={}), "'flow' is not valid"),
        (edit(shape=None), "'shape' is not a list of sizes"),
        (lambda folder: (folder / "model.json").unlink(), "model.json: no such file"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
    ]
    for change, says in cases:
        with pytest.raises(UserError, match=says):
            flowkit.load(broken(change))
    with pytest.raises(UserError, match="did you mean 'clusters'"):
        flowkit.load(run_dir.with_name("cluster"))
    with pytest.raises(UserError, match="no such file"):
        flowkit.load(tmp_path / "none.safetensors")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="has no checkpoint yet"):
        flowkit.load(tmp_path / "run")


def test_unsupported_conditions_and_guidance(run_dir):
    model = flowkit.load(run_dir)
    with pytest.raises(UserError, match="without condition vectors"):
        model.sample(1, condition=np.zeros(3))
    with pytest.raises(UserError, match="expected at least 1"):
        model.sample(0)
    with pytest.raises(UserError, match=r'solver: expected "euler", .*, found "huen"; did you mean .heun.'):
        model.sample(1, solver="huen")
    model.flow = model.flow.model_copy(update={"cond_drop": 0.0})
    with pytest.raises(UserError, match="never saw dropped conditions"):
        model.sample(1, guidance_scale=2.0)
    with pytest.raises(UserError, match="device: 'gpu' is not available"):
        flowkit.load(run_dir, device="gpu")


@pytest.mark.parametrize("shape", [(5,), (4, 5)])
def test_condition_vectors_are_learned_and_sampled(tmp_path, tiny, shape):
    rows = sketch_rows()
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((3, *shape)).astype(np.float32)
    rows["condition"] = codes[rows.pop("class_label")]
    tiny["train"].update(steps=300, batch_size=32)
    tiny["optim"]["lr"] = 3e-3
    tiny["ema"] = {"decay": 0.99}
    model = flowkit.train(tiny, data=rows)
    for label, code in enumerate(codes):
        samples = model.sample(24, condition=code, solver="heun", steps=8)
        assert (_nearest(samples.x, _centers()) == label).mean() > 0.8
        assert samples.condition.shape == (24, *shape) and samples.class_label is None
    with pytest.raises(UserError, match="expected"):
        model.sample(2, condition=np.zeros((3, *shape)))
    with pytest.raises(UserError, match="has no classes"):
        model.sample(1, class_label="cat", condition=codes[0])
    with pytest.raises(UserError, match="2 needs a condition, but none is given"):
        model.sample(1, guidance_scale=2.0)


def _centers() -> np.ndarray:
    rows = sketch_rows()
    return np.stack([rows["x"][rows["class_label"] == c].mean(0) for c in range(3)])


def _nearest(x: np.ndarray, centers: np.ndarray) -> np.ndarray:
    return ((x[:, None] - centers) ** 2).sum((2, 3)).argmin(1)


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ("custom", "grid.times: missing; expected a list of rising numbers"),
        (
            {"name": "custom", "times": "abc"},
            'grid.times: expected a list of rising numbers from 0.0 to 1.0, found "abc"',
        ),
        ({"name": "custom", "times": [0, "a", 1]}, "grid.times: expected a list of rising numbers"),
        ({"name": "custom", "times": [1.0]}, "grid.times: expected a list of rising numbers"),
        ({"name": "custom", "times": [0.0, 0.5]}, "grid.times: [0.0, 0.5] must rise from 0.0 to 1.0"),
        ({"name": "shifted", "shift": "x"}, 'grid.shift: expected a number > 0, found "x"'),
        ({"name": "power", "exponent": True}, "grid.exponent: expected a number > 0, found true"),
    ],
)
def test_settings_of_a_table_that_are_missing_or_no_numbers(grid, said):
    with pytest.raises(UserError) as told:
        SampleSettings.of({"grid": grid})
    assert said in str(told.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"solver": {"name": "sde", "scale": "x"}}, 'solver.scale: expected a number >= 0, found "x"'),
        ({"solver": {"name": "dopri5", "rtol": "a"}}, 'solver.rtol: expected a number > 0, found "a"'),
        (
            {"guidance": {"name": "cfg_zero", "zero_init": "x"}},
            'guidance.zero_init: expected a number >= 0 and < 1, found "x"',
        ),
        ({"guidance": {"name": "autoguidance", "ckpt": 3}}, "guidance.ckpt: expected text, found 3"),
    ],
)
def test_settings_of_solver_and_guidance_that_are_no_numbers(given, said):
    with pytest.raises(UserError) as told:
        SampleSettings.of(given)
    assert said in str(told.value)


def test_the_steps_of_a_custom_grid_are_its_own():
    """They are what is said and kept, and no other number is silently left aside."""
    recipe = {"steps": 25, "grid": {"name": "custom", "times": [0.0, 0.1, 0.4, 1.0]}}
    settings = SampleSettings.of(recipe)
    assert settings.steps == 3 and "3 steps on the custom grid" in settings.words and settings.to_info()["steps"] == 3
    assert SampleSettings.of(recipe, steps=3) == settings
    assert SampleSettings.of(recipe, steps=7, grid="uniform").steps == 7
    with pytest.raises(UserError, match="steps: 7, but the custom grid has 3 steps"):
        SampleSettings.of(recipe, steps=7)
    assert "1 step," in SampleSettings(steps=1).words
