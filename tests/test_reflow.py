"""Pairs of noise and sample are pairs under one normalizer, which travels with them."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import flowkit
from flowkit.components import choose
from flowkit.data.dataset import Dataset, read_dataset, write_dataset
from flowkit.data.header import read_header
from flowkit.errors import UserError
from flowkit.events import Notice, Validated
from tests.conftest import Recorder

ANGLE = 0.7
CHOICES = ["global", "zscore", "robust", "whitening", {"name": "whitening", "components": 5}]


class Turning(nn.Module):
    """A velocity that turns neighboring numbers of a row: x1 = R x0 by `angle`, whatever the data."""

    def __init__(self, angle: float = 0.0):
        super().__init__()
        self.angle, self.unused = angle, nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        first, second = x.unflatten(-1, (-1, 2)).unbind(-1) if x.shape[-1] % 2 == 0 else (x, x)
        turned = torch.stack((-second, first), -1).flatten(-2) if x.shape[-1] % 2 == 0 else 0 * x
        return self.angle * turned + 0 * self.unused


def rows(dim: int, count: int = 400) -> np.ndarray:
    rng = np.random.default_rng(dim)
    return (3 + rng.standard_normal((count, dim)) @ rng.standard_normal((dim, dim))).astype(np.float32)


def recipe(folder: Path, name: str, normalizer, **flow):
    return {
        "run": {"name": name, "dir": str(folder)}, "model": {"arch": "custom"}, "optim": {"lr": 1e-12}, "flow": flow,
        "data": {"normalizer": normalizer, "val_fraction": 0.5}, "ema": {"decay": 0},
        "train": {"steps": 1, "batch_size": 32, "val_every": 1, "save_every": "never"},
        "sample": {"every": "never", "solver": "rk4", "steps": 8},
    }  # fmt: skip


def pairs(folder: Path, normalizer, dim: int = 8, angle: float = 0.0, count: int = 80) -> Dataset:
    model = flowkit.train(recipe(folder, "first", normalizer), model=Turning(angle), data=rows(dim), overwrite=True)
    return model.sample(count, seed=4, pairs=True)


def reflowed(folder: Path, data: Dataset, normalizer="auto", **given):
    """The recorder's validation and notices, and the model."""
    recorder = Recorder()
    model = flowkit.train(recipe(folder, "second", normalizer, coupling="paired"), model=Turning(), data=data, overwrite=True,
                          listeners=lambda: [recorder], **given)  # fmt: skip
    (event,) = recorder.of(Validated)
    return event.zero_loss, [notice.text for notice in recorder.of(Notice)], model


@pytest.mark.parametrize("choice", CHOICES)
def test_identity_pairs_are_no_distance_apart(tmp_path, choice):
    """Through a file. Whitening fitted on the samples again would rotate 8 numbers relative to their noise."""
    made = pairs(tmp_path, choice)
    write_dataset(tmp_path / "pairs", made)
    data = read_dataset(tmp_path / "pairs")
    assert data.normalizer is not None and data.normalizer.same_as(made.normalizer, (8,))
    assert "normalizer" not in data.info
    distance, notices, model = reflowed(tmp_path, data, choice if choice in ("zscore", CHOICES[-1]) else "auto")
    assert distance < 1e-9 and not notices
    assert model.normalizer.same_as(made.normalizer, (8,))


def test_pairs_of_64_dimensions(tmp_path):
    assert reflowed(tmp_path, pairs(tmp_path, "whitening", 64, count=120))[0] < 1e-9


def test_noise_integrates_to_the_row_that_training_sees(tmp_path):
    """A turn by ANGLE in the plane: its pairs' squared distance is |R - I|^2 = 2 (1 - cos) of the noise's."""
    data = pairs(tmp_path, "whitening", 2, ANGLE)
    normalized = data.normalizer.normalize(torch.from_numpy(data.x)).numpy()
    turn = np.array([[math.cos(ANGLE), -math.sin(ANGLE)], [math.sin(ANGLE), math.cos(ANGLE)]])
    np.testing.assert_allclose(normalized, data.noise @ turn.T, atol=1e-4)
    distance, *_ = reflowed(tmp_path, data)
    held_out = flowkit.data_source.with_split(data, 0.5, None, 0, "pairs").rows("validation")
    assert distance == pytest.approx(2 * (1 - math.cos(ANGLE)) * np.square(data.noise[held_out]).mean(), rel=1e-3)


def test_rows_of_pairs_keep_their_normalizer(tmp_path):
    data = pairs(tmp_path, "whitening")
    write_dataset(tmp_path / "some", data, np.array([7, 3, 5]))
    some = read_dataset(tmp_path / "some")
    np.testing.assert_array_equal(some.noise, data.noise[[7, 3, 5]])
    assert some.normalizer.same_as(data.normalizer, (8,)) and some.take(np.array([0])).normalizer is some.normalizer
    assert {"normalizer.mean", "normalizer.basis", "normalizer.scale"} < read_header(
        tmp_path / "some.safetensors"
    ).keys()
    assert not {"normalizer.basis"} & read_header(write_dataset(tmp_path / "x", Dataset("array", data.x))).keys()


@pytest.mark.parametrize(("kept", "asked"), [
    ("whitening", "zscore"), ("global", "whitening"), ("none", "global"), ("whitening", {"name": "whitening", "components": 3}),
    ({"name": "whitening", "components": 5}, "whitening"),
])  # fmt: skip
def test_another_normalizer_is_refused(tmp_path, kept, asked):
    with pytest.raises(UserError, match=r'these pairs were drawn with .*; set data.normalizer = "auto"'):
        reflowed(tmp_path, pairs(tmp_path, kept), asked)


def test_weights_of_another_normalizer_are_refused(tmp_path):
    data = pairs(tmp_path, "whitening")
    assert reflowed(tmp_path, data, init_from=tmp_path / "first")[0] < 1e-9
    flowkit.train(recipe(tmp_path, "other", "whitening"), model=Turning(), data=rows(8)[:200])
    with pytest.raises(UserError, match="another normalizer than the model that these pairs came from"):
        reflowed(tmp_path, data, init_from=tmp_path / "other")


def test_pairs_from_before_take_that_of_the_checkpoint_they_name(tmp_path):
    data = pairs(tmp_path, "whitening")
    data.normalizer = None
    distance, notices, _ = reflowed(tmp_path, data)
    assert distance < 1e-9 and not notices
    shutil.rmtree(tmp_path / "first")
    distance, notices, _ = reflowed(tmp_path, data, "whitening")
    assert distance > 0.5 and "do not contain the normalizer" in notices[0]
    plain = pairs(tmp_path, "none")
    plain.normalizer = None
    shutil.rmtree(tmp_path / "first")
    assert reflowed(tmp_path, plain, "none")[:2] == (0.0, [])  # there is nothing to be unsure of


def test_a_damaged_normalizer_is_one_message(tmp_path):
    write_dataset(tmp_path / "pairs", pairs(tmp_path, "whitening"))
    sidecar = json.loads((tmp_path / "pairs.json").read_text())
    for table in ({"name": "whitened"}, {"name": "whitening"}, {**sidecar["normalizer"], "components": 3}, [], {"name": "global"},
                  {"name": "zscore", "shift": [0, 1], "scale": [1, 1]}):  # fmt: skip
        (tmp_path / "pairs.json").write_text(json.dumps({**sidecar, "normalizer": table}))
        with pytest.raises(UserError, match=r"pairs.json: its normalizer is not valid"):
            read_dataset(tmp_path / "pairs")


@pytest.mark.parametrize("solver", ["sde", {"name": "sde", "scale": 0.5}])
def test_sde_samples_cannot_be_pairs(tmp_path, solver):
    model = flowkit.train(recipe(tmp_path, "first", "none"), model=Turning(), data=rows(2))
    with pytest.raises(UserError, match="are not a function of their noise"):
        model.sample(2, pairs=True, solver=solver)
    assert model.sample(2, solver=solver).noise is None


@pytest.mark.parametrize("choice", CHOICES)
def test_normalizers_are_compared_by_their_maps(choice):
    x = rows(8)
    own = choose("normalizer", choice).fit(x, np.arange(400))
    assert own.same_as(choose("normalizer", choice).fit(x[::-1].copy(), np.arange(400)), (8,))
    assert not own.same_as(choose("normalizer", choice).fit(x, np.arange(200)), (8,))
    others = [choose("normalizer", other).fit(x, np.arange(400)) for other in CHOICES if other != choice]
    assert not any(own.same_as(other, (8,)) or other.same_as(own, (8,)) for other in others)
    moved = x.copy()
    moved[:, 0] *= 1.01
    assert not own.same_as(choose("normalizer", choice).fit(moved, np.arange(400)), (8,))


@pytest.mark.parametrize("choice", ["whitening", "zscore"])
def test_autoguidance_takes_models_of_one_normalizer_only(tmp_path, choice):
    """The JSON of the first and the last differs only in a fraction: whitening's mean, basis and scale are tensors."""
    for name, count in (("strong", 400), ("weak", 400), ("other", 200)):
        small = {**recipe(tmp_path, name, choice), "model": {"arch": "selu_mlp", "hidden_dim": 4, "num_layers": 1}}
        flowkit.train({**small, "train": {**small["train"], "val_every": "never"}}, data=points(count))
    strong = flowkit.load(tmp_path / "strong")
    ask = lambda name: {"name": "autoguidance", "ckpt": str(tmp_path / name)}  # noqa: E731
    assert len(strong.sample(2, guidance=ask("weak"), guidance_scale=2.0)) == 2
    with pytest.raises(UserError, match=r"guidance.ckpt: .*other has another normalizer .*same data, split"):
        strong.sample(2, guidance=ask("other"), guidance_scale=2.0)


def points(count: int) -> Dataset:
    return Dataset("points", rows(2)[:count])
