"""Blocks of the stream: the same noise for every row whatever the block's place, the worker, the processes or the resume."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import flowkit
from flowkit import rng
from flowkit.components import choose
from flowkit.data.dataset import Dataset, write_dataset
from flowkit.errors import UserError
from flowkit.events import Validated
from flowkit.rng import Draws, key
from flowkit.training import batches as batches_module
from flowkit.training.batches import Batches, Layout
from flowkit.training.pairing import Pairing, workers
from tests.conftest import Recorder, sketch_rows
from tests.test_training import distance, weights
from tests.test_two_processes import RECIPE, launch, tensors

CPU = torch.device("cpu")
BATCH = 16


def pairing(coupling, *, rank: int = 0, world_size: int = 1, micro: int = 4, rows: int = 60, labeled=True, **settings):
    """Over 60 rows, so that blocks straddle epochs."""
    generated = sketch_rows(rows)
    data = Dataset("sketch", generated["x"], generated["class_label"] if labeled else None)
    layout = Layout(BATCH, micro, BATCH // (micro * world_size), rank, world_size)
    batches = Batches(data, choose("normalizer", "global").fit(data.x, np.arange(rows)), layout, 3, CPU)
    draws = Draws(3, CPU)
    draw = lambda update: draws.normal("noise", update, (BATCH, *data.x.shape[1:]))  # noqa: E731
    return Pairing(choose("coupling", coupling), batches, draw, seed=3, **settings)


@pytest.mark.parametrize("block", [4, 8, 16, 32, 64])
def test_blocks_are_consecutive_places_of_the_stream_and_each_is_transported(block):
    """Against scipy on the stream laid out by hand."""
    made = pairing({"name": "ot", "block": block})
    draws, updates = Draws(3, CPU), 8
    noise = torch.cat([draws.normal("noise", u, (BATCH, 6, 8)) for u in range(updates)])
    data = torch.cat([made.batches.of(u).x for u in range(updates)])
    found = torch.cat([made.noise(update) for update in range(updates)])
    squares = lambda a, b: torch.cdist(a.flatten(1).double(), b.flatten(1).double()).square()  # noqa: E731
    for start in range(0, len(noise), block):
        part = slice(start, start + block)
        cost = squares(data[part], noise[part])
        assert squares(data[part], found[part]).trace() == pytest.approx(cost[linear_sum_assignment(cost)].sum().item())
        used = squares(found[part], noise[part]) < 1e-9
        assert (used.sum(0) == 1).all() and (used.sum(1) == 1).all()
    made.close()


@pytest.mark.parametrize(
    "coupling", [{"name": "sinkhorn", "block": 64}, {"name": "c2ot", "block": 32}, {"name": "ot", "block": 4}]
)
def test_noise_of_an_update_depends_on_the_seed_only(coupling, monkeypatch):
    straight = pairing(coupling)
    wanted = [straight.noise(update) for update in range(9)]
    straight.close()
    others = {
        "no worker ahead": pairing(coupling, ahead=0),
        "three workers ahead": pairing(coupling, ahead=3),
        "another rank": pairing(coupling, rank=1, world_size=2),
        "another micro batch": pairing(coupling, micro=16),
    }
    monkeypatch.setattr(batches_module, "RESIDENT_CPU_BYTES", 0)
    others["read from the map"] = pairing(coupling)
    for name, other in others.items():
        for update in (0, 1, 5, 8):
            assert torch.equal(other.noise(update), wanted[update]), name
        other.close()
        other.batches.close()
    for update in (7, 2, 3):  # begun in the middle of a block, and backwards
        made = pairing(coupling)
        assert torch.equal(made.noise(update), wanted[update])
        made.close()


def test_blocks_draw_by_their_own_numbers():
    made = pairing({"name": "sinkhorn", "block": 8, "epsilon": 1e6})
    rows = [made.permutation(window) for window in range(4)]
    assert not any(torch.equal(a, b) for i, a in enumerate(rows) for b in rows[:i])
    assert not torch.equal(rows[0][:8], rows[0][8:] - 8)
    made.close()


def test_conditions_travel_with_the_blocks():
    made = pairing({"name": "c2ot", "block": 32})
    labels = made.batches.window(2, 2).conditions.class_label
    assert labels is not None and torch.equal(labels[made.permutation(1)], labels)
    made.close()


def test_independent_noise_is_the_draw_itself_and_starts_no_thread():
    before = threading.active_count()
    made, drawn = pairing("independent"), torch.randn(BATCH, 6, 8)
    made.draw = lambda update: drawn
    assert made.noise(3) is drawn and threading.active_count() == before


@pytest.mark.parametrize("ahead", [1, 3])
def test_the_next_windows_are_paired_while_this_one_is_used(ahead):
    made = pairing({"name": "ot", "block": 32}, ahead=ahead)
    asked, main = [], threading.current_thread()
    whole = made.permutation
    made.permutation = lambda window: asked.append((window, threading.current_thread() is main)) or whole(window)
    made.noise(0)
    assert [window for window, _ in made._next] == list(range(1, ahead + 1))
    for _, found in made._next:
        found.result()
    assert sorted(asked) == [(window, False) for window in range(ahead + 1)]
    made.close()


def test_workers_share_the_cores_and_leave_room_for_large_blocks(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(16)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert [workers(block) for block in (64, 1024, 2048, 4096, 16384)] == [4, 4, 4, 1, 1]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert workers(1024) == 2


def test_errors_in_workers_are_raised():
    made = pairing("ot")
    made.draw = lambda update: torch.zeros(3)
    with pytest.raises(Exception, match=r"."):
        made.noise(0)
    made.close()


def test_c2ot_requires_conditions(tiny):
    with pytest.raises(UserError, match=r"flow.coupling.*labels"):
        pairing("c2ot", labeled=False)
    rows = sketch_rows()
    with pytest.raises(UserError, match=r"flow.coupling"):
        flowkit.train(tiny, data={"x": rows["x"], "kind": "sketch"}, overrides=["flow.coupling=c2ot"])


# ---- whole runs ----


class Slow(np.random.Generator):
    def permutation(self, x, axis=0):
        time.sleep(0.01)
        return super().permutation(x, axis)


class Listens(torch.nn.Module):
    """Keeps the points that it is asked about."""

    def __init__(self):
        super().__init__()
        self.weight, self.heard = torch.nn.Parameter(torch.zeros(1)), []

    def forward(self, x, t):
        self.heard.append(x.detach().clone())
        return self.weight * x


@pytest.mark.parametrize(("rows", "batch"), [(37, 8), (9, 8), (20, 16)])
def test_rows_on_disk_train_on_their_own_noise_at_the_ends_of_epochs_too(tiny, monkeypatch, rows, batch):
    """Noise and row are the same number, so every point between them is; a slow permutation lets threads meet."""
    monkeypatch.setattr(batches_module, "RESIDENT_CPU_BYTES", 0)
    monkeypatch.setattr(rng.np.random, "Generator", Slow)
    x = np.repeat(np.arange(rows, dtype=np.float32)[:, None], 2, axis=1)
    tiny.update(model={"arch": "custom"}, data={"val_fraction": 0, "normalizer": "none"}, flow={"coupling": "paired"})
    tiny["train"].update(steps=3 * rows // batch + 2, batch_size=batch, log_every=100)
    model = Listens()
    flowkit.train(tiny, model=model, data=Dataset("array", x, noise=x.copy()))
    heard = torch.cat(model.heard)
    assert len(heard) >= 3 * rows
    assert (heard - heard.round()).abs().max() < 1e-4


def test_the_loop_trains_on_the_paired_noise(tiny, rows, tmp_path):
    """A block of 16 is the batch: with a micro batch of 4 it is the same coupling, and it is not the independent run."""
    tiny["data"]["val_fraction"] = 0
    for name, micro, coupling in (("whole", 16, "ot"), ("cut", 4, "ot"), ("plain", 16, "independent")):
        changes = [f"run.name={name}", f"train.micro_batch_size={micro}", f"flow.coupling={coupling}"]
        flowkit.train(tiny, data=rows, overrides=changes)
    runs = {name: weights(tmp_path / "runs" / name) for name in ("whole", "cut", "plain")}
    assert distance(runs["cut"], runs["whole"]) < 1e-5 < 1e-3 < distance(runs["plain"], runs["whole"])


def test_resume_within_a_block_is_exact(tiny, rows, tmp_path):
    tiny["flow"] = {"coupling": {"name": "sinkhorn", "block": 64}}
    tiny["train"]["save_every"] = 6  # of blocks of 4 updates
    flowkit.train(tiny, data=rows)
    folder = tmp_path / "runs" / "tiny"
    whole = weights(folder)
    checkpoints = folder / "checkpoints"
    for path in (checkpoints / "step-00000008").iterdir():
        path.unlink()
    (checkpoints / "step-00000008").rmdir()
    (checkpoints / "latest").unlink()
    flowkit.train(tiny, data=rows, resume=True)
    assert all(torch.equal(whole[name], value) for name, value in weights(folder).items())


def test_validation_scores_the_same_coupling(tiny, rows):
    """Its zero-velocity loss is the mean squared distance of pairs: transport lowers it, and every run agrees on it."""
    zero = {}
    for coupling in ("independent", "ot", "c2ot", '{name = "ot", block = 64}'):
        recorder = Recorder()
        changes = [f"flow.coupling={coupling}", "train.val_every=1", "train.steps=1"]  # no training in it
        flowkit.train(tiny, data=rows, overrides=changes, overwrite=True, listeners=lambda r=recorder: [r])
        (event,) = recorder.of(Validated)
        zero[coupling] = event.zero_loss
        assert bool(event.gaussian_losses) == (coupling == "independent")
    assert zero['{name = "ot", block = 64}'] < zero["ot"] < zero["c2ot"] < zero["independent"]


def test_two_processes_pair_as_one_does(tmp_path, monkeypatch):
    rows = sketch_rows(100)
    write_dataset(tmp_path / "rows", Dataset("sketch", rows["x"], rows["class_label"], class_names=rows["class_names"]))
    changes = ['flow.coupling={name = "c2ot", block = 32}', "train.steps=10", "sample.every=never"]
    augment = RECIPE[RECIPE.index("[data.augment]") : RECIPE.index("[flow]")]  # requires independent noise
    (tmp_path / "recipe.toml").write_text(RECIPE.replace(augment, ""))
    settings = ["--set", "run.name=two", "--set", "train.micro_batch_size=4"]
    done = launch(tmp_path, 2, *settings, *(word for change in changes for word in ("--set", change)))
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    flowkit.train("recipe.toml", overrides=changes)
    assert distance(tensors(tmp_path, "two"), tensors(tmp_path, "one")) < 1e-5


def test_keys_differ_from_those_of_other_draws():
    assert key(0, "coupling", 0) != key(0, "noise", 0)
