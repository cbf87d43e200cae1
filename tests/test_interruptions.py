"""A run that is stopped and resumed leaves the files that a run leaves which never was: byte for byte, whatever it trains."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flowkit
from flowkit.checkpoint import list_checkpoints, saving
from flowkit.checkpoint.run_dir import RunLock
from flowkit.checkpoint.saving import save_checkpoint
from flowkit.data.dataset import Dataset
from flowkit.errors import UserError
from flowkit.events import Event, Finished, Notice, Stepped
from flowkit.training import train
from tests.conftest import Recorder, sketch_rows

CLOCKS = {"rows_per_second", "memory_bytes", "time", "elapsed"}  # all that an interruption may change in metrics.jsonl
RECIPE: dict[str, Any] = {
    "data": {"val_fraction": 0.2},
    "flow": {"cond_drop": 0.3, "coupling": {"name": "ot", "block": 32}, "stratified": True},
    "optim": {"lr": 1e-2},
    "ema": {"decay": [0.9, 0.5], "power": [0.1], "snapshot_every": 5},
    "train": {"steps": 14, "batch_size": 16, "micro_batch_size": 8, "log_every": 5, "val_every": 3, "save_every": 6,
              "keep_last": 0},
    "sample": {"every": 4, "num_samples": 2, "steps": 2, "decode": False},
}  # fmt: skip


def sketches() -> tuple[dict[str, Any], Dataset]:
    rows = sketch_rows(60)
    model = {"arch": "bezier_sketch_dit", "embed_dim": 16, "num_layers": 2, "num_heads": 2, "dropout": 0.1}
    return model, Dataset("sketch", rows["x"], rows["class_label"], class_names=rows["class_names"])


def sentences() -> tuple[dict[str, Any], Dataset]:
    rng = np.random.default_rng(0)
    x, condition = (rng.standard_normal((60, width)).astype(np.float32) for width in (24, 3))
    texts = [f"Number {i}." for i in range(60)]
    model = {"arch": "dit", "hidden_dim": 16, "num_layers": 2, "num_heads": 2, "dropout": 0.1}
    return model, Dataset("embedding", x, None, condition, texts=texts)


pytestmark = pytest.mark.usefixtures("few_evaluations")


class At:
    """A listener that does something after certain updates."""

    def __init__(self, actions: dict[int, Callable[[], None]]):
        self.actions = actions

    def __enter__(self) -> At:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def __call__(self, event: Event) -> None:
        if isinstance(event, Stepped) and event.step in self.actions:
            self.actions[event.step]()


def written() -> None:
    """Wait for the checkpoint that is being written behind training."""
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join()


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCKS} for line in lines]


def files(run_dir: Path, *patterns: str) -> dict[str, bytes]:
    found = [path for pattern in patterns for path in run_dir.glob(pattern) if path.is_file()]
    return {str(path.relative_to(run_dir)): path.read_bytes() for path in found}


@pytest.mark.parametrize(("of", "stops"), [(sketches, (1, 3, 6, 8, 13)), (sentences, (2, 7, 9, 12))])
def test_interruptions_leave_no_trace(tmp_path, monkeypatch, of, stops):
    def slow(*arguments: Any, **named: Any) -> Path:
        time.sleep(0.2)  # some updates: what is written is what was there when the checkpoint was due
        return save_checkpoint(*arguments, **named)

    monkeypatch.setattr(saving, "save_checkpoint", slow)
    model, data = of()
    whole, stopped = ({**RECIPE, "run": {"name": name, "dir": str(tmp_path)}, "model": model} for name in ("a", "b"))
    flowkit.train(whole, data=data)
    for stop in stops:
        flowkit.train(stopped, data=data, resume="auto", listeners=lambda stop=stop: [At({stop: terminate})])
        latest = json.loads((tmp_path / "b" / "checkpoints" / "latest" / "state.json").read_text())
        assert latest["step"] == stop
    flowkit.train(stopped, data=data, resume=True)
    for path in list_checkpoints(tmp_path / "b"):
        if not (tmp_path / "a" / "checkpoints" / path.name).exists():
            shutil.rmtree(path)  # those of the stops
    for name in ("a", "b"):  # the one difference that there ought to be
        for path in tmp_path.glob(f"{name}/checkpoints/*/*.json"):
            path.write_bytes(path.read_bytes().replace(f'"name": "{name}"'.encode(), b'"name": "run"'))
    patterns = (
        "checkpoints/*/*.safetensors",
        "checkpoints/*/model.json",
        "checkpoints/*/state.json",
        "samples/**/*",
        "ema/*/*",
    )
    ours, theirs = files(tmp_path / "b", *patterns), files(tmp_path / "a", *patterns)
    assert ours.keys() == theirs.keys() and len(ours) > 40
    assert [name for name, content in ours.items() if content != theirs[name]] == []
    assert metrics(tmp_path / "b") == metrics(tmp_path / "a")


def room_in_files(size: int) -> None:
    """How large a file of this process may become from now on: a disk that is full, as far as it can tell."""
    written()
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_training_continues_with_a_full_disk(tmp_path):
    model, data = sketches()
    recipe = {**RECIPE, "run": {"name": "full", "dir": str(tmp_path)}, "model": model}
    recorder = Recorder()
    full = At({4: lambda: room_in_files(100), 9: lambda: room_in_files(resource.RLIM_INFINITY)})
    try:
        flowkit.train(recipe, data=data, listeners=lambda: [full, recorder])
    finally:
        room_in_files(resource.RLIM_INFINITY)
    notices = [notice.text for notice in recorder.of(Notice)]
    for what in ("step-00000006: the checkpoint cannot be written", "metrics.jsonl: cannot be written",
                 "ema/step-00000005: the snapshot cannot be written", "no samples at step 4"):  # fmt: skip
        assert sum(what in notice for notice in notices) == 1, (what, notices)
    assert [path.name for path in list_checkpoints(tmp_path / "full")] == ["step-00000012", "step-00000014"]
    assert not list((tmp_path / "full" / "checkpoints").glob(".*")) and recorder.of(Finished)[0].reason == "done"
    flowkit.train({**recipe, "run": {"name": "never", "dir": str(tmp_path)}}, data=data)
    lines, wanted = metrics(tmp_path / "full"), metrics(tmp_path / "never")
    assert [line for line in wanted if line not in lines] == [
        line for line in wanted if line["step"] == 4 and "nfe" in line
    ]
    model_of = "checkpoints/step-00000014/model.safetensors"
    assert (tmp_path / "full" / model_of).read_bytes() == (tmp_path / "never" / model_of).read_bytes()


def test_training_continues_if_the_run_directory_is_removed(tmp_path):
    model, data = sentences()
    recipe = {**RECIPE, "run": {"name": "gone", "dir": str(tmp_path)}, "model": model}

    def remove() -> None:
        written()
        shutil.rmtree(tmp_path / "gone")

    flowkit.train(recipe, data=data, listeners=lambda: [At({8: remove})])
    assert [path.name for path in list_checkpoints(tmp_path / "gone")] == ["step-00000012", "step-00000014"]
    assert [line["step"] for line in metrics(tmp_path / "gone") if "loss" in line] == [10, 14]
    assert flowkit.load(tmp_path / "gone").sample(2, steps=1).x.shape == (2, 24)


def test_a_last_checkpoint_that_cannot_be_written_is_an_error(tmp_path):
    model, data = sentences()
    recipe = {**RECIPE, "run": {"name": "end", "dir": str(tmp_path)}, "model": model}
    try:
        with pytest.raises(
            UserError, match=r"(?s)step-00000014: the checkpoint cannot be written.*(--resume|resume=True)"
        ):
            flowkit.train(recipe, data=data, listeners=lambda: [At({13: lambda: room_in_files(100)})])
    finally:
        room_in_files(resource.RLIM_INFINITY)
    assert (tmp_path / "end" / "checkpoints" / "latest").readlink().name == "step-00000012"
    flowkit.train(recipe, data=data, resume=True)
    assert (tmp_path / "end" / "checkpoints" / "latest").readlink().name == "step-00000014"


def test_second_trainer_is_refused_and_resume_waits(tmp_path, monkeypatch):
    model, data = sentences()
    recipe = {**RECIPE, "run": {"name": "one", "dir": str(tmp_path)}, "model": model}
    flowkit.train(recipe, data=data, listeners=lambda: [At({8: terminate})])
    monkeypatch.setattr(train, "HANDOVER", 0.1)
    with RunLock(tmp_path / "one") as other:
        other.take(wait=0)
        for named in ({"overwrite": True}, {"resume": True}, {"resume": "auto"}):
            with pytest.raises(UserError, match="another process is training this run"):
                flowkit.train(recipe, data=data, **named)
    assert json.loads((tmp_path / "one" / "checkpoints" / "latest" / "state.json").read_text())["step"] == 8
    monkeypatch.setattr(train, "HANDOVER", 60)
    last = RunLock(tmp_path / "one")
    last.take(wait=0)
    threading.Timer(1, last.__exit__).start()
    flowkit.train(recipe, data=data, resume=True)
    assert [line["step"] for line in metrics(tmp_path / "one") if "loss" in line] == [5, 10, 14]


def test_second_interrupt_exits_immediately(tmp_path):
    model, data = sentences()
    recipe = {**RECIPE, "run": {"name": "twice", "dir": str(tmp_path)}, "model": model}

    def twice() -> None:
        written()
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        flowkit.train(recipe, data=data, listeners=lambda: [At({9: twice})])
    assert json.loads((tmp_path / "twice" / "checkpoints" / "latest" / "state.json").read_text())["step"] == 6
    flowkit.train(recipe, data=data, resume=True)
    assert json.loads((tmp_path / "twice" / "checkpoints" / "latest" / "state.json").read_text())["step"] == 14


def test_unwritable_folder_is_reported_before_training():
    model, data = sentences()
    recipe = {**RECIPE, "run": {"name": "run", "dir": "/proc/flowkit"}, "model": model}
    with pytest.raises(UserError, match=r"^/proc/flowkit/run: cannot be written \(.*\); choose a writable run.dir"):
        flowkit.train(recipe, data=data)
