"""`latest` and `best` are hints: whatever became of them, the checkpoints of a run are found, kept and resumed."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flowkit
from flowkit.checkpoint import find_checkpoint, list_checkpoints
from flowkit.errors import CheckpointSkipped, UserError
from flowkit.events import Notice, RunStarted
from flowkit.inspect import inspect
from flowkit.training.train import train
from tests.conftest import Recorder

RECIPE: dict[str, Any] = {
    "data": {"source": "moons", "num_samples": 64, "val_fraction": 0.25},
    "model": {"arch": "selu_mlp", "hidden_dim": 8, "num_layers": 1},
    "ema": {"power": [0.1], "snapshot_every": 2},
    "train": {"steps": 6, "batch_size": 16, "log_every": 2, "val_every": 2, "save_every": 2, "keep_last": 0},
    "sample": {"every": "never", "steps": 2},
}


def recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    return {**RECIPE, "run": {"name": "run", "dir": str(folder)}, "train": {**RECIPE["train"], **changes}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    flowkit.train(recipe(folder))
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path) -> Path:
    shutil.copytree(trained, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def text(pointer: Path, name: str) -> None:
    pointer.unlink()
    pointer.write_text(name)


def copied(pointer: Path) -> None:
    target = pointer.resolve()
    pointer.unlink()
    shutil.copytree(target, pointer)


def links(pointer: Path, target: str) -> None:
    pointer.unlink()
    pointer.symlink_to(target)


CHANGES: dict[str, Callable[[Path], object]] = {
    "copied": copied,
    "text": lambda pointer: text(pointer, pointer.readlink().name),
    "text with a line end": lambda pointer: text(pointer, f"{pointer.readlink().name}\r\n"),
    "absent": lambda pointer: pointer.unlink(),
    "dangling": lambda pointer: links(pointer, "step-00000099"),
    "cyclic": lambda pointer: links(pointer, pointer.name),
    "to another file system": lambda pointer: links(pointer, f"/mnt/gone/{pointer.readlink().name}"),
    "empty": lambda pointer: text(pointer, ""),
}


def damage(checkpoint: Path, how: str) -> None:
    model = checkpoint / "model.safetensors"
    if how == "cut":
        for path in checkpoint.glob("*.safetensors"):
            os.truncate(path, path.stat().st_size // 2)
    elif how == "gone":
        model.unlink()
    elif how == "flipped":
        content = bytearray(model.read_bytes())
        content[-3] ^= 1
        model.write_bytes(content)
        ema = checkpoint / "ema.safetensors"
        ema.write_bytes(content)
    elif how == "empty sidecar":
        (checkpoint / "model.json").write_text("")


@pytest.mark.parametrize("change", CHANGES)
def test_readers_find_the_newest_and_the_best(run, change):
    best = (run / "checkpoints" / "best").resolve().name
    for name in ("latest", "best"):
        CHANGES[change](run / "checkpoints" / name)
    for named in (run, run / "checkpoints", run / "checkpoints" / "latest", run / "recipe.toml"):
        assert flowkit.load(named).info["step"] == 6
    assert find_checkpoint(run / "checkpoints" / "best").directory.name in (best, "best")
    assert flowkit.load(run / "checkpoints" / "best").info["step"] == int(best.removeprefix("step-"))
    found = inspect(run)["run"]
    assert (found["latest"], found["best"]) == ("step-00000006", best)
    assert inspect(run / "checkpoints" / "latest")["model"]["step"] == 6
    assert len(found["checkpoints"]) == 3 and all(one["validation_loss"] > 0 for one in found["checkpoints"])


@pytest.mark.parametrize("change", CHANGES)
def test_resume_recreates_pointers(run, change):
    for name in ("latest", "best"):
        CHANGES[change](run / "checkpoints" / name)
    recorder = Recorder()
    flowkit.train(recipe(run.parent, steps=8), resume=True, listeners=lambda: [recorder])
    assert recorder.of(RunStarted)[0].start_step == 6 and not recorder.of(Notice)
    assert (run / "checkpoints" / "latest").readlink().name == "step-00000008"
    assert not list((run / "checkpoints").glob(".*"))
    assert [int(path.name[5:]) for path in list_checkpoints(run)] == [2, 4, 6, 8]


@pytest.mark.parametrize("how", ["cut", "gone", "flipped", "empty sidecar"])
def test_corrupt_checkpoint_is_skipped_with_a_warning(run, how):
    newest = run / "checkpoints" / "step-00000006"
    damage(newest, how)
    with pytest.warns(CheckpointSkipped, match="step-00000006 is not usable"):
        assert flowkit.load(run).info["step"] == 4
    with pytest.raises(UserError, match="step-00000006"):
        flowkit.load(newest)
    recorder = Recorder()
    flowkit.train(recipe(run.parent, steps=7), resume=True, listeners=lambda: [recorder])
    assert recorder.of(RunStarted)[0].start_step == 4
    (notice,) = recorder.of(Notice)
    assert "step-00000006 is not usable" in notice.text and notice.text.endswith("step-00000004")
    assert flowkit.load(run).info["step"] == 7
    assert flowkit.load(newest).info["step"] == 6  # skipped again, and rewritten


@pytest.mark.parametrize("lost", ["optimizer.safetensors", "state.json", "ema.safetensors"])
def test_a_checkpoint_that_lacks_what_resuming_needs(run, lost):
    (run / "checkpoints" / "step-00000006" / lost).unlink()
    recorder = Recorder()
    flowkit.train(recipe(run.parent, steps=8), resume=True, listeners=lambda: [recorder])
    assert recorder.of(RunStarted)[0].start_step == 4 and lost in recorder.of(Notice)[0].text


def test_weights_of_init_from_are_the_newest_whole_ones(run, tmp_path):
    damage(run / "checkpoints" / "step-00000006", "cut")
    recorder = Recorder()
    other = {**recipe(tmp_path, steps=1), "run": {"name": "tuned", "dir": str(tmp_path)}}
    flowkit.train(other, init_from=run, listeners=lambda: [recorder])
    assert [notice.text.endswith("step-00000004") for notice in recorder.of(Notice)] == [True]


def test_if_all_are_corrupt_the_newest_raises(run):
    for path in list_checkpoints(run):
        damage(path, "cut")
    with pytest.raises(
        UserError, match=r"step-00000006/.*not a valid safetensors file|step-00000006/.*checksum mismatch"
    ):
        flowkit.load(run)


def test_the_best_is_known_without_its_pointer_and_without_a_state(run):
    checkpoints = run / "checkpoints"
    losses = {}
    for number, path in enumerate(list_checkpoints(run)):
        (path / "checksums.json").unlink()
        info = json.loads((path / "model.json").read_text())
        info["validation"]["loss"] = losses[path.name] = [0.5, 0.25, 0.75][number]
        (path / "model.json").write_text(json.dumps(info))
        (path / "state.json").unlink()
    (checkpoints / "best").unlink()
    assert find_checkpoint(checkpoints / "best").directory.name == min(losses, key=losses.__getitem__)
    for path in list_checkpoints(run):
        info = json.loads((path / "model.json").read_text())
        (path / "model.json").write_text(json.dumps({**info, "validation": None}))
    with pytest.raises(UserError, match="no checkpoint has a validation loss"):
        find_checkpoint(checkpoints / "best")
    (checkpoints / "best").write_text("step-00000002")
    assert find_checkpoint(checkpoints / "best").directory.name == "step-00000002"


def test_run_with_copied_pointers_only(run):
    """As after `rsync -L RUN/checkpoints/latest`: the copy is a checkpoint, and gets its proper name when the run resumes."""
    copied(run / "checkpoints" / "latest")
    for path in (run / "checkpoints").glob("step-*"):
        shutil.rmtree(path)
    (run / "checkpoints" / "best").unlink()
    assert flowkit.load(run).info["step"] == 6 and inspect(run)["run"]["checkpoints"][0]["step"] == 6
    flowkit.train(recipe(run.parent, steps=8), resume=True)
    assert {path.name for path in (run / "checkpoints").iterdir()} >= {"step-00000006", "step-00000008"}
    assert (run / "checkpoints" / "latest").is_symlink()


def test_pruning_keeps_checkpoints_named_by_pointers(run):
    checkpoints = run / "checkpoints"
    links(checkpoints / "best", "step-00000002")
    copied(checkpoints / "best")
    (checkpoints / "figure-3").symlink_to("step-00000004")  # of the user's own
    (checkpoints / "step-00000006" / "checksums.json").unlink()
    state = json.loads((checkpoints / "step-00000006" / "state.json").read_text())
    (checkpoints / "step-00000006" / "state.json").write_text(json.dumps({**state, "best": [2, 1e-9]}))
    before = {path.name: path.read_bytes() for path in (checkpoints / "best").iterdir()}
    flowkit.train(recipe(run.parent, steps=10, keep_last=1, val_every=50), resume=True)
    assert {path.name: path.read_bytes() for path in (checkpoints / "step-00000002").iterdir()} == before
    assert (checkpoints / "figure-3" / "model.safetensors").is_file()
    assert {path.name for path in list_checkpoints(run)} == {
        f"step-{step:08d}" for step in (2, 4, 10)
    }  # fmt: skip


@pytest.mark.parametrize("failure", [OSError(errno.EPERM, "Operation not permitted"), NotImplementedError("no links")])
def test_a_disk_without_links(tmp_path, monkeypatch, failure):
    def no_links(*arguments: Any, **named: Any) -> None:
        raise failure

    monkeypatch.setattr(os, "symlink", no_links)
    recorder = Recorder()
    flowkit.train(recipe(tmp_path), listeners=lambda: [recorder])
    assert not recorder.of(Notice)
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text() == "step-00000006\n"
    assert flowkit.load(tmp_path / "run" / "checkpoints" / "best").info["step"] in (2, 4, 6)
    flowkit.train(recipe(tmp_path, steps=8, keep_last=1), resume=True)
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text() == "step-00000008\n"
    best = json.loads((tmp_path / "run" / "checkpoints" / "step-00000008" / "state.json").read_text())["best"][0]
    assert {path.name for path in list_checkpoints(tmp_path / "run")} == {f"step-{step:08d}" for step in (best, 8)}


def test_a_pointer_that_cannot_be_written_is_one_notice(tmp_path, monkeypatch):
    replace = os.replace

    def no_pointers(source: Any, target: Any) -> None:
        if Path(target).name in ("latest", "best"):
            raise OSError(errno.EACCES, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", no_pointers)
    recorder = Recorder()
    flowkit.train(recipe(tmp_path, keep_last=1), listeners=lambda: [recorder])
    said = [notice.text for notice in recorder.of(Notice)]
    assert len(said) == 2 and all("cannot be written (Permission denied). Nothing depends on it" in one for one in said)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob(".*")] == []
    assert flowkit.load(tmp_path / "run").info["step"] == 6
    folder = tmp_path / "run" / "checkpoints" / "latest"
    monkeypatch.undo()
    folder.mkdir()  # of something else
    (folder / "notes.txt").write_text("mine")
    recorder = Recorder()
    flowkit.train(recipe(tmp_path, steps=8), resume=True, listeners=lambda: [recorder])
    assert "latest: cannot be written (there is a folder that is not a checkpoint)" in recorder.of(Notice)[0].text
    assert (folder / "notes.txt").read_text() == "mine"


def test_permissions_and_directories_that_a_mount_cannot_set_or_sync(tmp_path, monkeypatch):
    """exFAT and SMB refuse chmod; some refuse to sync a directory."""
    sync = os.fsync

    def files_only(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(handle)

    def refused(*arguments: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fsync", files_only)
    monkeypatch.setattr(os, "chmod", refused)
    recorder = Recorder()
    flowkit.train(recipe(tmp_path, steps=2), listeners=lambda: [recorder])
    assert not recorder.of(Notice) and flowkit.load(tmp_path / "run").info["step"] == 2


def test_resume_auto_finds_copied_checkpoints(run):
    for name in ("latest", "best"):
        copied(run / "checkpoints" / name)
    from flowkit.recipe import recipe_from_dict

    assert train(recipe_from_dict(recipe(run.parent)), resume="auto").reason == "already done"
