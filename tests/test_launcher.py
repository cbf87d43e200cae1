"""Signals to a run and to the launcher of one process: it saves and leaves, and no orphan trains on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import processes

RECIPE = """
[run]
name = "long"
[data]
source = "8gaussians"
num_samples = 2000
[model]
arch = "selu_mlp"
[train]
steps = 1000000
batch_size = 64
log_every = 20
val_every = "never"
save_every = "never"
[sample]
every = "never"
"""
LAUNCHED = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "1",
            "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "flowkit"]  # fmt: skip


def until(what, seconds=120.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def until_it_trains(folder: Path, process: subprocess.Popen | processes.Started) -> None:
    metrics = folder / "runs" / "long" / "metrics.jsonl"
    until(lambda: process.poll() is not None or (metrics.exists() and metrics.read_text().count("\n") > 1))
    assert process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_saves_and_sets_the_exit_status(tmp_path, number):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (process,) = processes.start(tmp_path, processes.flowkit, "train", "recipe.toml", "-q")
    until_it_trains(tmp_path, process)
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    assert (tmp_path / "runs" / "long" / "checkpoints" / "latest" / "state.json").exists()


def test_killed_launcher_leaves_no_orphan(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*LAUNCHED, "train", "recipe.toml", "-q"], cwd=tmp_path, env=environment)
    until_it_trains(tmp_path, process)
    (child,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    process.kill()  # the hardest case: the launcher can pass nothing on
    process.wait(60)
    state = tmp_path / "runs" / "long" / "checkpoints" / "latest" / "state.json"
    until(state.exists, 60)
    until(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2], 60)
    assert json.loads(state.read_text())["step"] > 0
