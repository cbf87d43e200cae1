"""`flowkit train --dry-run` and `--profile`: what they measure, and that a dry run writes nothing."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from rich.console import Console
from safetensors.numpy import load_file
from typer.testing import CliRunner

from flowkit.cli import app
from flowkit.errors import UserError
from flowkit.recipe import recipe_from_dict
from flowkit.training.profile import UPDATES
from flowkit.training.rehearsal import rehearse
from flowkit.training.train import train
from flowkit.ui.rehearsal_view import seconds, show_rehearsal

runner = CliRunner()


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    found = (path for path in folder.rglob("*"))
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in (folder, *found)}


@pytest.fixture
def recipe(tiny: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(tomli_w.dumps(tiny))
    return path


def test_a_dry_run_writes_nothing(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    answer = runner.invoke(app, ["train", str(recipe), "--dry-run", "--profile", "--set", "train.max_hours=1e-9"])
    assert answer.exit_code == 0, answer.output
    assert tree(tmp_path) == before
    for said in (
        "nothing was written",
        "parameters",
        "whole run",
        "peak",
        "checkpoint",
        "needed",
        "one update",
        "train.max_hours",
    ):
        assert said in answer.stdout, said


def test_what_a_dry_run_says_is_what_a_run_does(tiny, recorder):
    tiny["train"] |= {"steps": 10, "val_every": 4, "save_every": 3, "keep_last": 2}
    tiny["sample"]["every"] = 5
    recipe = recipe_from_dict(tiny)
    said = rehearse(recipe)
    outcome = train(recipe, listeners=lambda: [recorder])
    kinds = [type(event).__name__ for event in recorder.events]
    assert said.validations == kinds.count("Validated") == 6
    assert said.samplings == kinds.count("Sampled") == 2
    assert (said.started.total_steps, said.started.num_parameters) == (10, recorder.events[0].num_parameters)
    saved = [path for path in (outcome.run_dir / "checkpoints").iterdir() if not path.is_symlink()]
    assert len(saved) <= said.disk.kept == 3
    tensors = sum(array.nbytes for file in saved[0].glob("*.safetensors") for array in load_file(file).values())
    assert said.disk.checkpoint == tensors
    assert said.nfe == recorder.of(type(recorder.events[kinds.index("Sampled")]))[0].nfe
    expected = 10 * said.update + 6 * (said.validation or 0) + 2 * (said.sampling or 0)
    assert said.total == pytest.approx(expected) and said.updates_measured >= 2
    assert said.memory.weights == 4 * said.started.num_parameters and said.memory.optimizer >= 2 * said.memory.weights
    again = rehearse(recipe)
    assert any("already exists" in note for note in again.notes)
    console = Console(width=60, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    show_rehearsal(again, console)
    assert "already exists" in console.export_text()


def test_power_averages_and_a_run_without_validation(tiny):
    tiny["data"]["val_fraction"] = 0.0
    tiny["ema"] = {"power": [0.05, 0.1], "snapshot_every": 4, "snapshot_dtype": "fp16"}
    said = rehearse(recipe_from_dict(tiny))
    assert (said.validation, said.validations, said.samplings) == (None, 0, 0)
    assert said.disk.snapshots == 2 * 2 * 2 * said.started.num_parameters  # widths, bytes, snapshots
    assert said.sampling is not None


def test_bad_input(recipe, tmp_path):
    for words, said in ((["--resume"], "mutually exclusive"), (["--set", "train.batch_size=1000"], "train.batch_size"),
                        (["--set", "data.source=data/no"], "data/no")):  # fmt: skip
        answer = runner.invoke(app, ["train", str(recipe), "--dry-run", *words])
        assert isinstance(answer.exception, UserError) and said in str(answer.exception), answer.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("steps", "first"), [(24, 11), (6, 1)])
def test_a_profile_is_written_to_the_run(tiny, tmp_path, steps, first):
    tiny["train"] |= {"steps": steps, "log_every": 4}
    (tmp_path / "a.toml").write_text(tomli_w.dumps(tiny))
    answer = runner.invoke(app, ["train", str(tmp_path / "a.toml"), "--profile"])
    assert answer.exit_code == 0, answer.output
    last = first + min(UPDATES, steps) - 1
    trace = tmp_path / "runs" / "tiny" / "profile" / f"trace-{first:08d}-{last:08d}.json.gz"
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert sum(event.get("name", "").startswith("Optimizer.step#") for event in events) == min(UPDATES, steps)
    assert [path.name for path in trace.parent.iterdir()] == [trace.name]
    for said in ("where the time goes", "backward", "optimizer", "aten::", trace.name):
        assert said in answer.stdout, said


def test_a_profile_changes_no_weight(tiny, tmp_path):
    weights = []
    for name, flags in (("plain", []), ("profiled", ["--profile", "--quiet"])):
        tiny["run"]["name"] = name
        (tmp_path / f"{name}.toml").write_text(tomli_w.dumps(tiny))
        assert runner.invoke(app, ["train", str(tmp_path / f"{name}.toml"), *flags]).exit_code == 0
        path = tmp_path / "runs" / name / "checkpoints" / "step-00000008" / "model.safetensors"
        weights.append(path.read_bytes())
    assert weights[0] == weights[1]


def test_seconds_in_words():
    assert [seconds(took) for took in (250.0, 12.34, 1.0, 0.0123, 4.5e-5)] == [
        "4:10",
        "12.34 s",
        "1.000 s",
        "12.30 ms",
        "45 µs",
    ]
