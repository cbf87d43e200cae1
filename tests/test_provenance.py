"""What a run says of where and when it was trained: time stamps in its metrics, and a line per session."""

import json
import shlex
import subprocess
import sys
from datetime import datetime

import pytest

import flowkit
from flowkit.events import Logged
from flowkit.training import provenance, trackers
from flowkit.training.trackers import MetricsFile

EARLIER = [
    {"step": 10, "loss": 2.0},
    {"step": 20, "loss": 1.0, "elapsed": 30.5},
    {"step": 30, "loss": 0.5, "elapsed": 99},
]


def _logged(step: int) -> Logged:
    return Logged(step, 1.0, 0.5, 1e-3, 1.0, 0.9, 100.0, 10.0, 1000)


@pytest.mark.parametrize(("start", "earlier"), [(0, 0.0), (10, 0.0), (25, 30.5), (30, 99.0)])
def test_metrics_carry_the_time_and_the_seconds_of_all_sessions(tmp_path, monkeypatch, start, earlier):
    clock = [1000.0]
    monkeypatch.setattr(trackers.time, "monotonic", lambda: clock[0])
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in EARLIER))
    metrics = MetricsFile(path, start)
    for step in (40, 50):
        clock[0] += 7
        metrics(_logged(step))
    rows = [json.loads(line) for line in path.read_text().splitlines()][-2:]
    assert [row["elapsed"] for row in rows] == [earlier + 7, earlier + 14]
    written = datetime.fromisoformat(rows[0]["time"])
    assert written.tzinfo is not None and abs((datetime.now().astimezone() - written).total_seconds()) < 60
    assert list(rows[0])[-2:] == ["time", "elapsed"]


def _git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_session_records_host_command_versions_and_commit(tmp_path, monkeypatch):
    _git(tmp_path, "init", "-q")
    (tmp_path / "recipe.toml").write_text("a")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-qm", "first")
    commit = _git(tmp_path, "rev-parse", "HEAD")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "flowkit", "train", "my recipe.toml"])
    provenance.record_session(tmp_path, 0)
    (tmp_path / "recipe.toml").write_text("b")
    provenance.record_session(tmp_path, 144)
    first, second = map(json.loads, (tmp_path / provenance.SESSIONS).read_text().splitlines())
    assert (first["start_step"], second["start_step"]) == (0, 144)
    assert (first["git"]["folder"], second["git"]["folder"]) == (commit, f"{commit}-dirty")
    assert shlex.split(first["command"])[-1] == "my recipe.toml" and first["folder"] == str(tmp_path)
    assert first["versions"]["flowkit"] == flowkit.__version__ and first["versions"]["torch"][0].isdigit()
    assert first["host"] and first["python"] in sys.version


def test_a_session_outside_a_repository_or_without_git_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.session(0)["git"]["folder"] is None
    monkeypatch.setenv("PATH", "")
    assert provenance.session(0)["git"] == {"folder": None, "flowkit": None}


def test_unwritable_session_file_is_ignored(tmp_path):
    provenance.record_session(tmp_path / "gone", 0)
    assert not (tmp_path / "gone").exists()
