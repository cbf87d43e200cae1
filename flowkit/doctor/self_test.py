"""Two real processes train a tiny model, and what they learn is held against what one learns."""

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

SECONDS = 120.0  # after which it has failed; ten are usual
UPDATES = 8
TOLERANCE = 1e-4  # norm of the difference over norm of the parameters; rounding makes 1e-7 of it on a CPU
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
    """One line: how far apart they are, or why they did not get there. Leaves nothing behind."""
    how = "nccl, two GPUs" if gpus >= 2 else "gloo, the CPU"
    folder = Path(tempfile.mkdtemp(prefix="flowkit-doctor-"))
    start = time.monotonic()
    try:
        _train(folder, on_cpu=gpus < 2, deadline=start + SECONDS)
        apart = distance(_weights(folder, "two"), _weights(folder, "one"))
    except _Failed as failed:
        mend = "the lines above are the launcher's; the notes of this report may say why (host name, memory, packages)"
        return Finding("self-test", "two processes", "problem", f"{how}: {failed}", mend)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = f"{how}: {apart:.1e} apart from one process after {UPDATES} updates, in {time.monotonic() - start:.0f} s"
    if not apart <= TOLERANCE:
        mend = "they should differ by rounding alone: gradients are not summed as they ought to be; try another torch"
        return Finding("self-test", "two processes", "problem", found, mend)
    return Finding("self-test", "two processes", "ok", found)


def distance(a: dict, b: dict) -> float:
    """Norm of the difference over the norm of b; infinite where they do not hold the same tensors."""
    if a.keys() != b.keys() or any(a[name].shape != b[name].shape for name in b):
        return math.inf
    difference = sum(float(((a[name].astype("f8") - b[name].astype("f8")) ** 2).sum()) for name in b)
    whole = sum(float((b[name].astype("f8") ** 2).sum()) for name in b)
    return math.sqrt(difference / whole) if whole else math.inf


def _train(folder: Path, *, on_cpu: bool, deadline: float) -> None:
    """Both runs beside one another. Raises _Failed with what they said last."""
    two = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    kept = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""} if on_cpu else {}
    # What a launcher around this command, or the user's shell, says of other runs is not about these.
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
                os.killpg(process.pid, signal.SIGKILL)  # its children too, of which a launcher may have left some
            process.wait()


def _last_lines(log: Path, count: int = 6) -> str:
    """What a run said last, or its error where it names one."""
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:") or "Error: " in line]
    shown = errors[:2] or lines[-count:]
    return ": " + " / ".join(line.strip()[:200] for line in shown) if shown else "; it said nothing"


def _weights(folder: Path, name: str) -> dict:
    from flowkit.data.arrays import load_arrays

    return load_arrays(folder / "runs" / name / "checkpoints" / "latest" / "model.safetensors")
