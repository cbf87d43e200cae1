"""Train a tiny model on two real processes, and compare the weights with those of one process."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flowkit.doctor.findings import Finding
from flowkit.doctor.probes import environment

SECONDS = 120.0  # timeout; ten seconds are usual
UPDATES = 8
TOLERANCE = 1e-4  # norm of the difference over norm of the parameters; rounding on a CPU gives 1e-7
RECIPE = f"""
[run]
name = "NAME"
[data]
source = "moons"
num_samples = 256
val_fraction = 0.0
[model]
arch = "selu_mlp"
hidden_dim = 16
[train]
steps = {UPDATES}
batch_size = 32
log_every = 4
val_every = "never"
save_every = "never"
[sample]
every = "never"
"""


class _Failed(Exception):
    pass


def look_at_two_processes(gpus: int) -> Finding:
    """Report the difference of the weights, or why training failed. Removes its files."""
    how = "nccl, two GPUs" if gpus >= 2 else "gloo, the CPU"
    folder = Path(tempfile.mkdtemp(prefix="flowkit-doctor-"))
    start = time.monotonic()
    try:
        _train(folder, on_cpu=gpus < 2, deadline=start + SECONDS)
        apart = distance(_weights(folder, "two"), _weights(folder, "one"))
    except _Failed as failed:
        fix = "see the launcher's output above, and the notes of this report (host name, memory, packages)"
        return Finding("self-test", "two processes", "problem", f"{how}: {failed}", fix)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = (
        f"{how}: differs from one process by {apart:.1e} after {UPDATES} updates, in {time.monotonic() - start:.0f} s"
    )
    if not apart <= TOLERANCE:
        fix = "only rounding should differ: gradients are not summed correctly. Try another version of torch"
        return Finding("self-test", "two processes", "problem", found, fix)
    return Finding("self-test", "two processes", "ok", found)


def distance(a: dict, b: dict) -> float:
    """Return the norm of the difference over the norm of b; infinity if they hold different tensors."""
    if a.keys() != b.keys() or any(a[name].shape != b[name].shape for name in b):
        return math.inf
    difference = sum(float(((a[name].astype("f8") - b[name].astype("f8")) ** 2).sum()) for name in b)
    whole = sum(float((b[name].astype("f8") ** 2).sum()) for name in b)
    return math.sqrt(difference / whole) if whole else math.inf


def _train(folder: Path, *, on_cpu: bool, deadline: float) -> None:
    """Run both trainings in parallel. Raises _Failed with the last lines of output."""
    two = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    kept = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""} if on_cpu else {}
    # Settings of a launcher around this command, or of the user's shell, are for other runs.
    inherited = {
        name: value for name, value in environment().items()
        if not name.startswith(("ACCELERATE_", "WANDB_", "TORCHELASTIC_"))
        and name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    }  # fmt: skip
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, launcher in (("two", two), ("one", ())):
            (folder / f"{name}.toml").write_text(RECIPE.replace("NAME", name))
            with open(folder / f"{name}.log", "wb") as log:
                started[name] = subprocess.Popen(
                    [sys.executable, *launcher, "-m", "flowkit", "train", f"{name}.toml", "--quiet"], cwd=folder,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                    env={**inherited, **kept, "OMP_NUM_THREADS": "1"},
                )  # fmt: skip
        for name, process in started.items():
            try:
                status = process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise _Failed(f"not done after {SECONDS:.0f} s{_last_lines(folder / f'{name}.log')}") from None
            if status:
                who = "two processes" if name == "two" else "a single process"
                raise _Failed(f"{who} ended with status {status}{_last_lines(folder / f'{name}.log')}")
    finally:
        for process in started.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # also the children that a launcher may have left
            process.wait()


def _last_lines(log: Path, count: int = 6) -> str:
    """Return the last lines of a log, or its error messages if it has any."""
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:") or "Error: " in line]
    shown = errors[:2] or lines[-count:]
    return ": " + " / ".join(line.strip()[:200] for line in shown) if shown else "; no output"


def _weights(folder: Path, name: str) -> dict:
    from flowkit.data.arrays import load_arrays

    return load_arrays(folder / "runs" / name / "checkpoints" / "latest" / "model.safetensors")
