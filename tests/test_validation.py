"""Validation losses: the same bits whatever the batch and the processes are, and few forward passes where batches are small."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

import flowkit
from flowkit.components import choose
from flowkit.data.base import NormalBase
from flowkit.data.dataset import Dataset
from flowkit.events import Validated
from flowkit.flow.objective import FlowObjective
from flowkit.training import validation
from flowkit.training.validation import Validator
from tests.conftest import Recorder

SIZES = (1, 7, 64, 500, 10**6)


class RowByRow(nn.Module):
    """Rounds each row by itself: no matrix product, whose order of sums may follow the batch. Its errors differ by powers of
    ten, such that a sum of them depends on their order."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, x, t, class_label, condition, cfg_mask):
        self.sizes.append(len(x))
        return torch.sin(3 * x + class_label[:, None]) * t[:, None] * 1000.0 ** class_label[:, None]


def validator(rank=0, world_size=1, batch_size=64, coupling="independent", path="linear", **options) -> Validator:
    """37 rows, each met three times."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((120, 3)).astype(np.float32) * [1, 20, 0.3]
    data = Dataset("array", x.astype(np.float32), np.arange(120) % 3, split=(np.arange(120) >= 83).astype(np.uint8))
    return Validator(
        data, choose("normalizer", "none").fit(data.x, np.arange(83)), FlowObjective(choose("path", path)), NormalBase(),
        choose("coupling", coupling), 32, max_rows=1000, batch_size=batch_size, seed=5, rank=rank, world_size=world_size,
        **{"device": torch.device("cpu"), **options},
    )  # fmt: skip


def losses(rank: int, world_size: int, batch_size: int, **options) -> list:
    found = validator(rank, world_size, batch_size, **options)(RowByRow(), contextlib.nullcontext)
    return [found.loss, found.zero_loss, *map(list, found.bins)]


@pytest.fixture(autouse=True)
def few_evaluations(monkeypatch):
    monkeypatch.setattr(validation, "MIN_EVALUATIONS", 100)


@pytest.fixture
def ranks(monkeypatch):
    """Runs what each of several ranks does, one after the other; what they reduce is the sum over all."""

    def run(world_size: int, batch_size: int, **options) -> list[list]:
        given: list[torch.Tensor] = []
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: given.append(tensor.clone()))
        for rank in range(world_size):
            losses(rank, world_size, batch_size, **options)
        total = torch.stack(given).sum(0)
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.copy_(total))
        found = [losses(rank, world_size, batch_size, **options) for rank in range(world_size)]
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
        return found

    return run


@pytest.mark.parametrize(("coupling", "path"), [("independent", "linear"), ("ot", "icfm")])
def test_losses_are_the_same_bits_for_every_batch_and_number_of_processes(ranks, coupling, path):
    wanted = losses(0, 1, 64, coupling=coupling, path=path)
    assert len(wanted) == 7 and wanted[0] != wanted[1]
    for size in SIZES:
        assert losses(0, 1, size, coupling=coupling, path=path) == wanted, size
        for world_size in (2, 3, 5):
            assert ranks(world_size, size, coupling=coupling, path=path) == [wanted] * world_size, (size, world_size)


def test_noise_and_times_are_drawn_on_the_cpu_whatever_the_device(monkeypatch):
    """A GPU's generator has other numbers, and above a million of them they depend on the kind of GPU."""
    devices, draws = [], validation.Draws
    monkeypatch.setattr(validation, "Draws", lambda seed, device: devices.append(device) or draws(seed, device))
    made = validator(coupling="ot", path="icfm", device=torch.device("meta"))
    assert devices == [torch.device("cpu")] and made.bins.device.type == "cpu"
    assert {tensor.device.type for tensor in (made.noise, made.times, made.eps, made.rows.x)} == {"meta"}


def test_losses_are_the_means_over_rows():
    made = validator(batch_size=100)
    found = made(RowByRow(), contextlib.nullcontext)
    t, target, label = made.times, made.rows.x - made.noise, made.rows.conditions.class_label
    output = RowByRow()(made.noise * (1 - t[:, None]) + t[:, None] * made.rows.x, t, label, None, None)
    rows = (output - target).double().square().mean(1)
    assert len(rows) == 37 * 3 and found.loss == pytest.approx(float(rows.mean()), rel=1e-6)
    for low, high, loss in found.bins:
        assert loss == pytest.approx(float(rows[(t >= low) & (t < high)].mean()), rel=1e-6)


@pytest.mark.parametrize("size", [7, 64, 500, 10**6])
def test_every_forward_pass_has_one_shape(size):
    model = RowByRow()
    validator(batch_size=size)(model, contextlib.nullcontext)
    assert set(model.sizes) == {min(size, 37 * 3)} and len(model.sizes) == -(-37 * 3 // size)


def test_a_batch_that_does_not_fit_the_memory_is_halved():
    class Large(RowByRow):
        def forward(self, x, *others):
            if len(x) > 20:
                raise torch.OutOfMemoryError
            return super().forward(x, *others)

    made, model = validator(batch_size=100), Large()
    found = made(model, contextlib.nullcontext)
    assert [found.loss, found.zero_loss, *map(list, found.bins)] == losses(0, 1, 100) and set(model.sizes) == {12}
    with pytest.raises(torch.OutOfMemoryError):  # the other ranks would wait for a forward pass that is not theirs
        validator(batch_size=100, sharded=True)(Large(), contextlib.nullcontext)


@pytest.mark.parametrize(("given", "expected"), [([], 64), (["train.val_batch_size=10"], 10)])
def test_a_run_validates_in_batches_of_their_own(tiny, given, expected):
    """The training micro-batch has no part in it."""
    tiny["data"] = {"val_fraction": 0.25}
    tiny["model"] = {"arch": "custom"}
    tiny["train"].update(steps=1, val_every=1)
    x, losses = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)), []
    for micro in (1, 16):
        recorder, sizes = Recorder(), []

        class Linear(nn.Linear):
            def forward(self, x, t, sizes=sizes):
                sizes.append((len(x), torch.is_grad_enabled()))
                return super().forward(x)

        torch.manual_seed(0)
        changes = [f"train.micro_batch_size={micro}", "optim.lr=1e-30", *given]
        flowkit.train(
            tiny, data=x, model=Linear(3, 3), overwrite=True, overrides=changes, listeners=lambda r=recorder: [r]
        )
        assert {size for size, training in sizes if not training} == {expected}
        assert {size for size, training in sizes if training} == {micro}
        losses.append([(one.loss, one.raw_loss, one.zero_loss, one.bins) for one in recorder.of(Validated)])
    assert losses[0] == losses[1] and len(losses[0]) == 1


def test_a_resumed_run_may_validate_in_other_batches(tiny, rows):
    tiny["train"]["steps"] = 2
    flowkit.train(tiny, data=rows)
    flowkit.train(tiny, data=rows, resume=True, overrides=["train.steps=3", "train.val_batch_size=5"])
