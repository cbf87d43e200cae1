"""accelerate_configs/slurm.sbatch: its logic with stand-ins for Slurm's commands, and a real Slurm of one node."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w

from tests.slurm import Slurm, missing

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "accelerate_configs" / "slurm.sbatch"
# Runs the command once per task, as srun does, and ends with the largest status.
SRUN = """#!/bin/sh
echo "srun $1 $SRUN_CPUS_PER_TASK" >> "$LOG"
shift
largest=0
for task in 0 1 2 3; do
    export SLURM_PROCID=$task SLURM_LOCALID=$((task % 2)) SLURM_STEP_TASKS_PER_NODE='2(x2)'
    "$@" || [ $? -le $largest ] || largest=$STATUS
done
exit $largest
"""
SCONTROL = """#!/bin/sh
[ "$2" = hostnames ] && printf 'first\\nsecond\\n'
[ "$1" = requeue ] && echo "requeue $2" >> "$LOG"
exit 0
"""
PYTHON = """#!/bin/sh
echo "$RANK $LOCAL_RANK $LOCAL_WORLD_SIZE $WORLD_SIZE $MASTER_ADDR $MASTER_PORT: $*" >> "$LOG"
exit $STATUS
"""


@pytest.fixture
def batch(tmp_path):
    """Runs the script as a batch job whose tasks end with `status`: (its status, what was called, what it said)."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("python", PYTHON)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    log = tmp_path / "log"

    def run(status: int, *words: str, **variables: str) -> tuple[int, list[str], str]:
        log.write_text("")
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(log), "STATUS": str(status), "SLURM_JOB_ID": "40123",
            "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NTASKS": "4", "SLURM_CPUS_PER_TASK": "3", **variables,
        }  # fmt: skip
        done = subprocess.run(["bash", str(SCRIPT), *words], env=environment, capture_output=True, text=True)
        return done.returncode, log.read_text().splitlines(), done.stderr

    return run


def test_each_task_is_told_its_place(batch):
    status, called, said = batch(0, "my recipe.toml", "--set", "run.name=a b")
    assert status == 0 and said == ""
    assert called[0] == "srun --kill-on-bad-exit=0 3"
    place = "2 4 first 20123: -m flowkit train my recipe.toml --set run.name=a b --resume auto"
    assert called[1:] == [f"{rank} {rank % 2} {place}" for rank in range(4)]


@pytest.mark.parametrize(
    ("status", "requeued"), [(75, True), (138, True), (0, False), (1, False), (2, False), (143, False)]
)
def test_a_run_that_was_saved_is_requeued(batch, status, requeued):
    left, called, said = batch(status, "a.toml")
    assert left == (0 if requeued else status)
    assert ("requeue 40123" in called) == requeued == ("requeueing" in said)


def test_a_job_that_gets_nowhere_ends(batch):
    left, called, said = batch(138, "a.toml", SLURM_RESTART_COUNT="100")
    assert left == 138 and "requeue 40123" not in called and "submit the job again" in said
    assert "requeue 40123" in batch(138, "a.toml", SLURM_RESTART_COUNT="99")[1]


SLOW = """
import os, time
from accelerate.tracking import GeneralTracker

class Slow(GeneralTracker):
    name, requires_logging_directory = "slow", False
    def __init__(self, run_name, **settings):
        super().__init__()
    @property
    def tracker(self):
        return None
    def store_init_configuration(self, values):
        pass
    def log(self, values, step=None, **settings):
        time.sleep(float(os.environ["SLOW"]))
"""


@pytest.mark.slow
def test_a_job_that_is_cut_off_twice_ends_bit_equal_to_one_that_was_not(tmp_path):
    """On a real Slurm of one node: apt install slurmctld slurmd slurm-client. About five minutes.

    The first cut is a USR1, the second one the time limit's.
    """
    if missing():
        pytest.skip(f"needs Slurm: {', '.join(missing())}")
    (tmp_path / "slow.py").write_text(SLOW)
    recipe = {
        "run": {"name": "plain", "dir": str(tmp_path / "runs")}, "data": {"source": "8gaussians", "num_samples": 500},
        "model": {"arch": "selu_mlp", "hidden_dim": 16, "num_layers": 1},
        "train": {"steps": 300, "batch_size": 32, "log_every": 1, "val_every": 100, "save_every": 1000},
        "sample": {"every": "never"}, "track": {"to": "slow:Slow"},
    }  # fmt: skip
    (tmp_path / "a.toml").write_text(tomli_w.dumps(recipe))
    variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    options = ["--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1"]
    with Slurm(tmp_path / "slurm") as slurm:
        slurm.environment["PATH"] = f"{Path(sys.executable).parent}:{slurm.environment['PATH']}"
        job = slurm.submit(*options, str(SCRIPT), "a.toml", cwd=tmp_path, SLOW="0", **variables)
        assert slurm.finish(job, 120)["Restarts"] == "0"
        # Slurm looks every 30 seconds, so the signal comes 15 to 45 seconds before the end of the two minutes.
        short = [*options, "--time=2", "--signal=USR1@15", str(SCRIPT), "a.toml", "--set", "run.name=cut"]
        job = slurm.submit(*short, cwd=tmp_path, SLOW="0.5", **variables)
        metrics = tmp_path / "runs" / "cut" / "metrics.jsonl"
        slurm.wait(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 9, 60, "line of metrics")
        slurm.run("scancel", "--signal=USR1", str(job))
        assert int(slurm.finish(job, 500)["Restarts"]) >= 2
    said = (tmp_path / f"flowkit-{job}.out").read_text()
    assert said.count("saved with status 138") >= 2 and "done at step 300" in said
    assert len((tmp_path / "runs" / "cut" / "sessions.jsonl").read_text().splitlines()) >= 3
    for name in ("model.safetensors", "ema.safetensors", "optimizer.safetensors"):
        plain, cut = (tmp_path / "runs" / run / "checkpoints" / "step-00000300" / name for run in ("plain", "cut"))
        assert plain.read_bytes() == cut.read_bytes(), name
