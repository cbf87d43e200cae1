"""Rows without a class: densities and samples of the null class, in closed form, and that it is not taken for all classes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import flowkit
from flowkit.cli import app
from flowkit.components import choose
from flowkit.data.dataset import Dataset, read_dataset, write_dataset
from flowkit.errors import UserError
from flowkit.sampling.likelihood import likelihood_figures

CENTERS, STD = torch.tensor([[-3.0, 0.0], [0.0, 2.0], [4.0, -1.0]]), 0.5
LABELS = np.array([2, 0, 1, 1, 2, 0, 0])
ROWS = (CENTERS.numpy()[LABELS] + STD * np.random.default_rng(0).standard_normal((7, 2))).astype(np.float32)


class Exact(nn.Module):
    """The velocity to N(center of the class, STD^2), and without a class to the even mixture of all."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, t: Tensor, label: Tensor, condition=None, drop: Tensor | None = None) -> Tensor:
        t = t[:, None, None]
        variance = (t * STD) ** 2 + (1 - t) ** 2
        gap = x[:, None] - t * CENTERS.to(x)
        weights = (-gap.square().sum(-1, keepdim=True) / (2 * variance)).softmax(1)
        own = torch.nn.functional.one_hot(label, 3)[..., None].to(x)
        weights = own if drop is None else torch.where(drop[:, None, None], weights, own)
        slope = (t * STD**2 - (1 - t)) / variance
        return (weights * (CENTERS.to(x) + slope * gap)).sum(1) + 0 * self.unused


def trained(folder: Path, names=("left", "top", "right"), **flow):
    recipe = {
        "run": {"name": "exact", "dir": str(folder)}, "model": {"arch": "custom"}, "optim": {"lr": 1e-12},
        "data": {"normalizer": "none", "val_fraction": 0.5}, "ema": {"decay": 0}, "flow": flow,
        "train": {"steps": 1, "batch_size": 16, "val_every": "never", "save_every": "never"},
        "sample": {"every": "never", "steps": 20},
    }  # fmt: skip
    return flowkit.train(recipe, model=Exact(), data=data(names, 64))


def data(names=("left", "top", "right"), count=64):
    labels = np.arange(count) % 3
    x = CENTERS.numpy()[labels] + STD * np.random.default_rng(1).standard_normal((count, 2))
    return Dataset("points", x.astype(np.float32), labels, class_names=names)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs"))


def log_normal(label=None):
    """By rows: of the class, or of the mixture."""
    gap = ROWS[:, None] - CENTERS.numpy()
    each = -np.square(gap).sum(-1) / (2 * STD**2) - math.log(2 * math.pi * STD**2)
    return np.log(np.exp(each).mean(1)) if label is None else each[np.arange(len(ROWS)), label]


@pytest.mark.parametrize("label", [None, "all"])
def test_likelihood_requires_a_label_per_row_or_one_class(model, label):
    with pytest.raises(UserError, match=r'each row.s label .*of 7.*one class for all rows, or "null"'):
        model.log_likelihood(ROWS, class_label=label)


def test_densities_by_class_and_without(model):
    for given, wanted in (
        (LABELS, log_normal(LABELS)), (["right", "left", "top", 1, 2, "0", "left"], log_normal(LABELS)),
        ("top", log_normal(np.full(7, 1))), ([1], log_normal(np.full(7, 1))), ("null", log_normal()),
        (["null", *LABELS[1:].tolist()], np.r_[log_normal()[:1], log_normal(LABELS)[1:]]),
    ):  # fmt: skip
        np.testing.assert_allclose(model.log_likelihood(ROWS, class_label=given, batch_size=3).log_p, wanted, atol=2e-3)
    order = np.random.default_rng(0).permutation(7)
    found = model.log_likelihood(ROWS[order], class_label=LABELS[order]).log_p
    np.testing.assert_allclose(found, log_normal(LABELS)[order], atol=2e-3)
    for few in (["left", "top"], LABELS[:3], np.r_[LABELS, LABELS]):
        with pytest.raises(UserError, match=rf"{len(few)} labels for 7 rows"):
            model.log_likelihood(ROWS, class_label=few)


def test_samples_of_the_null_class_are_of_the_whole(model):
    x = model.sample(3000, class_label="null", seed=1)
    assert x.class_label is None and x.class_names == ()
    nearest = np.square(x.x[:, None] - CENTERS.numpy()).sum(-1).argmin(1)
    np.testing.assert_allclose(np.bincount(nearest) / 3000, 1 / 3, atol=0.03)
    np.testing.assert_allclose((x.x - CENTERS.numpy()[nearest]).std(), STD, rtol=0.05)


@pytest.mark.parametrize("given", [
    {}, {"guidance_scale": 3.0}, {"guidance_scale": 3.0, "guidance_interval": (0.3, 0.6)}, {"solver": "dopri5"},
])  # fmt: skip
def test_null_rows_are_independent_of_the_batch(model, given):
    mixed = model.sample(6, class_label=["null", "left", "null", "right", 1, "null"], seed=2, **given)
    assert mixed.class_names == ("left", "top", "right", "null") and mixed.class_label.tolist() == [3, 0, 3, 2, 1, 3]
    plain = {name: value for name, value in given.items() if not name.startswith("guidance")}
    alone = model.sample(6, class_label="null", seed=2, **plain).x  # guidance has no effect
    np.testing.assert_allclose(mixed.x[[0, 2, 5]], alone[[0, 2, 5]], atol=1e-5)
    np.testing.assert_allclose(mixed.x[1], model.sample(2, class_label="left", seed=2, **given).x[1], atol=1e-5)
    same = model.sample(6, class_label="null", seed=2, **given)
    np.testing.assert_array_equal(same.x, alone)


def test_a_class_of_that_name_keeps_it(tmp_path):
    model = trained(tmp_path, ("null", "top", "right"))
    np.testing.assert_allclose(
        model.log_likelihood(ROWS, class_label="null").log_p, log_normal(np.zeros(7, int)), rtol=1e-4
    )
    np.testing.assert_allclose(model.log_likelihood(ROWS, class_label="<null>").log_p, log_normal(), rtol=1e-4)
    mixed = model.sample(2, class_label=["null", "<null>"])
    assert mixed.titles() == ["null", "<null>"]
    with pytest.raises(UserError, match="<null>"):
        model.log_likelihood(ROWS)


def test_untrained_null_class_is_refused(tmp_path):
    model = trained(tmp_path, cond_drop=0.0)
    for label in ("null", ["null", "top"]):
        with pytest.raises(UserError, match="never saw a row without its class"):
            model.sample(2, class_label=label)
    with pytest.raises(UserError, match="never saw a row without its class"):
        model.log_likelihood(ROWS, class_label="null")


def test_rows_with_labels_are_measured_under_them(model):
    rows = data()
    rows.split = np.array([0, 1], np.uint8).repeat(32)
    renamed = Dataset("points", rows.x, 2 - rows.class_label, None, rows.split, ("right", "top", "left"))
    found, other = (likelihood_figures(model, one, 20) for one in (rows, renamed))
    x, label = rows.x[rows.split == 1], rows.class_label[rows.split == 1]
    picked = np.arange(20) * 32 // 20
    gap = x[picked] - CENTERS.numpy()[label[picked]]
    wanted = (np.square(gap).sum(1) / (2 * STD**2) + math.log(2 * math.pi * STD**2)) / 2 / math.log(2)
    assert found.bits_per_dim == pytest.approx(wanted.mean(), abs=2e-3) == other.bits_per_dim
    with pytest.raises(UserError, match="classes that the model does not know: bottom"):
        likelihood_figures(
            model, Dataset("points", rows.x, rows.class_label, None, rows.split, ("top", "bottom", "left")), 9
        )


@pytest.mark.parametrize("labels", [["null"], ["null", "left", "right"]])
def test_their_files_are_read_by_every_command(model, tmp_path, labels):
    samples = model.sample(120, class_label=labels, steps=4)
    file, real = write_dataset(tmp_path / "samples", samples), write_dataset(tmp_path / "real", data(count=300))
    assert read_dataset(file).class_counts() == (
        {} if labels == ["null"] else {"left": 40, "top": 0, "right": 40, "null": 40}
    )
    run = lambda *words: CliRunner().invoke(app, [str(word) for word in words])  # noqa: E731
    for words in (("decode", file), ("inspect", file)):
        found = run(*words)
        assert found.exit_code == 0 and ("null" in found.output or words[0] == "decode" or labels == ["null"]), (
            found.output
        )
    found = run("evaluate", file, "--data", real, "-n", "40", "--json")
    assert found.exit_code == 0, found.output
    notes = " ".join(json.loads(found.output)["notes"])
    assert ("have no classes" if labels == ["null"] else "40 samples of the null class were left out") in notes


def test_the_command(tmp_path):
    recipe = {
        "run": {"name": "small", "dir": str(tmp_path)}, "model": {"arch": "selu_mlp", "hidden_dim": 8},
        "train": {"steps": 1, "batch_size": 16, "val_every": "never", "save_every": "never"}, "sample": {"every": "never"},
    }  # fmt: skip
    flowkit.train(recipe, data=data())
    words = ["sample", "--ckpt", str(tmp_path / "small"), "-n", "4", "--steps", "2", "--out"]
    for given, titles in ((["null"], ["0", "1", "2", "3"]), (["null", "top"], ["null", "null", "top", "top"])):
        options = [word for one in given for word in ("--class-label", one)]
        found = CliRunner().invoke(app, [*words, str(tmp_path / "out"), *options])
        assert found.exit_code == 0, found.output
        assert read_dataset(tmp_path / "out").titles() == titles


@pytest.mark.parametrize(
    "arch", ["dit", "mlp", "selu_mlp", "residual_mlp", "bezier_sketch_dit", "bezier_sketch_transformer"]
)
def test_a_network_s_own_null_is_what_dropping_the_label_gives(arch):
    from flowkit.conditions import Conditions
    from flowkit.flow.guidance import guided
    from flowkit.flow.objective import FlowObjective
    from flowkit.models import create_model
    from flowkit.sampling.draw import as_network

    sketch = arch.startswith("bezier")
    torch.manual_seed(0)
    sizes = {"num_strokes": 3} if sketch else {"input_dim": 6}
    network = create_model(arch, num_classes=3, **sizes).eval()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x, t = torch.randn(4, 3, 8) if sketch else torch.randn(4, 6), torch.rand(4)
    objective = FlowObjective(choose("path", "linear"))
    with torch.no_grad():
        mixed = guided(as_network(network), objective, Conditions(torch.tensor([-1, 1, -1, 2])))(x, t)
        torch.testing.assert_close(mixed[[0, 2]], network(x, t)[[0, 2]])
        torch.testing.assert_close(mixed[[1, 3]], network(x, t, torch.tensor([0, 1, 0, 2]))[[1, 3]])
