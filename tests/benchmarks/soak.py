"""Attacks training runs for some minutes and reports what was lost: kills, resumes, flipped bits, full disks.

    python -m tests.benchmarks.soak --minutes 60 [--kills 200] [--seed 0] [--processes 1 2]

Each round trains one small recipe (sketches or vectors; accumulation, condition drop-out, OT coupling, three averages,
samples) to its end through random SIGKILLs, a part of them while a checkpoint is being written, and through SIGTERMs,
flipped bits of the latest checkpoint and a disk that is full for a while. At its end its files are compared with those of
a run that nobody disturbed: byte for byte on one process, to 1e-5 where the number of processes changed on the way.
Exit status 1 if anything was lost. Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from flowkit.checkpoint import list_checkpoints
from flowkit.data.dataset import Dataset, write_dataset
from tests.conftest import sketch_rows

RECIPE = """
[run]
name = "NAME"
[data]
source = "rows.safetensors"
val_fraction = 0.2
[model]
MODEL
[flow]
cond_drop = 0.3
coupling = {name = "ot", block = 32}
[optim]
lr = 1e-4
[ema]
decay = [0.9, 0.5]
power = [0.1]
snapshot_every = 40
[train]
steps = STEPS
batch_size = 16
micro_batch_size = 8
log_every = 7
val_every = 25
save_every = 12
keep_last = 4
[sample]
every = 30
num_samples = 2
steps = 2
decode = false
"""
MODELS = {
    "sketches": 'arch = "bezier_sketch_dit"\nembed_dim = 16\nnum_layers = 2\nnum_heads = 2\ndropout = DROPOUT',
    "vectors": 'arch = "dit"\nhidden_dim = 16\nnum_layers = 2\nnum_heads = 2\ndropout = DROPOUT',
}
CLOCKS = ("rows_per_second", "memory_bytes", "time", "elapsed")  # all that an interruption may change in metrics.jsonl
DAMAGED = re.compile(r"error: .*step-\d+|notice .*step-\d+\S* is not usable", re.S)


@dataclass
class Tally:
    """What was tried, and what came of it."""

    counts: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    largest: float = 0.0  # relative difference where the number of processes changed

    def report(self, minutes: float) -> str:
        lines = [f"{minutes:.1f} minutes", *(f"{name:<58}{count:>6}" for name, count in sorted(self.counts.items()))]
        if self.largest:
            lines.append(f"{'largest relative difference over changing processes':<58}{self.largest:>10.1e}")
        return "\n".join([*lines, f"{'lost':<58}{len(self.lost):>6}", *self.lost])


def train(folder: str, overrides: tuple[str, ...], largest_file: int) -> None:
    """Run `flowkit train recipe.toml --resume auto` in a separate process, with its output in `log.txt`."""
    os.chdir(folder)
    # Of a full disk the log is no part: it may have outgrown the limit already, and what cannot be said would be the failure.
    handle = os.open(os.devnull if largest_file else "log.txt", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    sys.argv = ["flowkit", "train", "recipe.toml", "-q", "--resume", "auto"]
    for override in overrides:
        sys.argv += ["--set", override]
    from flowkit.cli import main

    main()


class Soak:
    def __init__(self, folder: Path, seed: int, steps: int, processes: list[int]):
        self.folder, self.steps, self.processes = folder, steps, processes
        self.random, self.tally = random.Random(seed), Tally()
        # Each run is a process that can be killed; torch is loaded once, in the one that they are forked from.
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["flowkit.training.train", "timm.utils", "accelerate", "scipy.optimize"])
        self._undisturbed: dict[tuple[str, float], Path] = {}

    def undisturbed(self, name: str, dropout: float) -> Path:
        """The folder of an undisturbed run, trained on first use."""
        if (name, dropout) not in self._undisturbed:
            folder = self.prepare(f"undisturbed-{name}-{dropout}", name, dropout)
            process = self.start(folder)
            process.join()
            assert process.exitcode == 0, self.said(folder)
            self._undisturbed[name, dropout] = folder
        return self._undisturbed[name, dropout]

    def prepare(self, folder: str, name: str, dropout: float) -> Path:
        path = self.folder / folder
        path.mkdir()
        if name == "sketches":
            rows = sketch_rows(60)
            data = Dataset("sketch", rows["x"], rows["class_label"], class_names=rows["class_names"])
        else:
            rng = np.random.default_rng(0)
            x, condition = (rng.standard_normal((60, width)).astype(np.float32) for width in (24, 3))
            data = Dataset("embedding", x, None, condition, texts=[f"Number {i}." for i in range(60)])
        write_dataset(path / "rows", data)
        text = RECIPE.replace("NAME", "run").replace("MODEL", MODELS[name]).replace("STEPS", str(self.steps))
        (path / "recipe.toml").write_text(text.replace("DROPOUT", str(dropout)))
        return path

    def start(self, folder: Path, *overrides: str, largest_file: int = 0) -> multiprocessing.process.BaseProcess:
        process = self.context.Process(target=train, args=(str(folder), overrides, largest_file))
        process.start()
        return process

    def round(self, number: int, out_of: Callable[[], bool]) -> None:
        """One run, disturbed until it is at its end or time is out, and compared with the undisturbed one."""
        name, several = self.random.choice(list(MODELS)), len(self.processes) > 1 and number % 4 == 3
        dropout = 0.0 if several else self.random.choice((0.0, 0.1))  # its masks are drawn by rank
        folder = self.prepare(f"round-{number}", name, dropout)
        while not self.finished(folder):
            if out_of():
                break
            before = self.latest(folder)
            self.disturb(folder, self.random.choice(self.processes) if several else 1)
            if self.latest(folder) < before:
                self.lose(folder, f"step {before} fell to {self.latest(folder)}")
            if self.random.random() < 0.1:
                self.flip(folder)
        self.to_the_end(folder)
        self.compare(folder, self.undisturbed(name, dropout), exact=not several)
        self.tally.counts["runs compared with an undisturbed one"] += 1
        shutil.rmtree(folder)

    def disturb(self, folder: Path, processes: int) -> None:
        """Let it train for a while, then end it by one of several means."""
        if processes > 1:
            return self.disturb_several(folder, processes)
        kind = self.random.choices(["kill", "kill in a save", "terminate", "full disk"], [10, 4, 2, 1])[0]
        process = self.start(folder, largest_file=2000 if kind == "full disk" else 0)
        self.tally.counts["starts and resumes"] += 1
        if kind == "kill in a save":
            self.wait_for_a_save(folder, process)
        elif kind == "full disk":
            process.join(self.random.uniform(2, 6))
            if process.exitcode == 2:
                self.tally.counts["ends of training with no room for the last checkpoint"] += 1
        else:
            process.join(self.random.expovariate(1 / 2.0))
        if process.exitcode is not None:
            if process.exitcode not in (0, 2 if kind == "full disk" else 0):
                self.lose(folder, f"exit status {process.exitcode}: {self.said(folder)}")
            return
        os.kill(process.pid or 0, signal.SIGTERM if kind == "terminate" else signal.SIGKILL)
        process.join(60)
        if kind == "terminate":
            self.tally.counts["SIGTERM"] += 1
            if process.exitcode not in (0, 128 + signal.SIGTERM, -signal.SIGTERM):  # the last: it had just begun
                self.lose(folder, f"exit status {process.exitcode} after SIGTERM: {self.said(folder)}")
            return
        if kind == "full disk":
            self.tally.counts["SIGKILL while the disk was full"] += 1
        self.tally.counts["SIGKILL"] += 1
        self.tally.counts["SIGKILL inside a save"] += any(self.checkpoints(folder).glob(".step-*.partial"))

    def disturb_several(self, folder: Path, processes: int) -> None:
        """Of two real processes under a launcher, kill one, or the launcher; all must be gone a minute later."""
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
                   "-m", "flowkit", "train", "recipe.toml", "-q", "--resume", "auto",
                   "--set", f"train.micro_batch_size={16 // processes // 2}"]  # fmt: skip
        variables = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": os.pathsep.join(sys.path)}
        with open(folder / "log.txt", "a") as log:
            launcher = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=variables)
        self.tally.counts["starts and resumes"] += 1
        self.tally.counts[f"starts and resumes of {processes} processes"] += 1
        self.tally.counts["changes of the number of processes (at most)"] += 1
        with contextlib.suppress(subprocess.TimeoutExpired):
            launcher.wait(6 + self.random.expovariate(1 / 4.0))
        if launcher.poll() is not None:
            if launcher.returncode:
                self.lose(folder, f"exit status {launcher.returncode} of {processes} processes: {self.said(folder)}")
            return
        ranks = [int(pid) for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()]
        victim = self.random.choice([launcher.pid, *ranks])
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        self.tally.counts["SIGKILL of one of several processes, or of their launcher"] += 1
        end = time.monotonic() + 60
        while any(map(alive, [launcher.pid, *ranks])) and time.monotonic() < end:
            launcher.poll()
            time.sleep(0.1)
        for pid in filter(alive, [launcher.pid, *ranks]):
            self.lose(folder, f"process {pid} outlived another by a minute")
            os.kill(pid, signal.SIGKILL)
        launcher.wait()

    def wait_for_a_save(self, folder: Path, process: multiprocessing.process.BaseProcess) -> None:
        """Until a checkpoint is being written, and a moment longer."""
        passed, end = self.random.randrange(3), time.monotonic() + 20
        seen: set[str] = set()
        while process.is_alive() and time.monotonic() < end:
            with contextlib.suppress(OSError):
                seen |= {path.name for path in self.checkpoints(folder).glob(".step-*.partial")}
            if len(seen) > passed:
                time.sleep(self.random.uniform(0, 0.01))
                return

    def flip(self, folder: Path) -> None:
        """Flip one bit of the latest checkpoint: a resume must name it and pass it over, or not have needed it."""
        latest = self.checkpoints(folder) / "latest"
        if not latest.is_dir() or len(list_checkpoints(folder / "runs" / "run")) < 2:
            return
        checkpoint = latest.resolve()
        shutil.copytree(checkpoint, folder / "aside", dirs_exist_ok=True)
        victim = self.random.choice(sorted(checkpoint.iterdir()))
        content = bytearray(victim.read_bytes())
        place = self.random.randrange(len(content))
        content[place] ^= 1 << self.random.randrange(8)
        victim.write_bytes(content)
        (folder / "log.txt").unlink(missing_ok=True)
        process = self.start(folder)
        process.join(8)
        if process.is_alive():
            process.kill()
            process.join()
        self.tally.counts["flipped bits"] += 1
        if process.exitcode in (0, -signal.SIGKILL) and DAMAGED.search(self.said(folder)):
            self.tally.counts["flipped bits that were noticed"] += 1
        elif process.exitcode not in (0, -signal.SIGKILL):
            self.lose(
                folder, f"exit status {process.exitcode} after a flipped bit in {victim.name}: {self.said(folder)}"
            )
            shutil.rmtree(checkpoint)
        elif victim.name != "checksums.json":  # whose own names and layout nothing else depends on
            self.lose(folder, f"a flipped bit in {victim.name} was not noticed")
        shutil.rmtree(folder / "aside")

    def to_the_end(self, folder: Path) -> None:
        process = self.start(folder)
        process.join()
        self.tally.counts["starts and resumes"] += 1
        if process.exitcode != 0:
            self.lose(folder, f"exit status {process.exitcode} at the end: {self.said(folder)}")

    def compare(self, folder: Path, wanted: Path, *, exact: bool) -> None:
        ours, theirs = folder / "runs" / "run", wanted / "runs" / "run"
        hidden = [path.name for path in (ours / "checkpoints").glob(".*")]
        if hidden:
            self.lose(folder, f"left behind: {hidden}")
        if not exact:
            self.tally.largest = max(self.tally.largest, distance(ours, theirs))
            if self.tally.largest > 1e-5:
                self.lose(folder, f"relative difference {self.tally.largest:.1e}")
            return
        last = f"checkpoints/step-{self.steps:08d}"
        for pattern in (f"{last}/*", "samples/*/*.safetensors", "samples/*/*.svg", "ema/*/*"):
            mine, its = (
                {path.relative_to(run): path.read_bytes() for path in run.glob(pattern)} for run in (ours, theirs)
            )
            different = sorted(str(path) for path in mine.keys() | its.keys() if mine.get(path) != its.get(path))
            if different:
                self.lose(folder, f"not as in the undisturbed run: {different}")
        if metrics(ours) != metrics(theirs):
            self.lose(folder, "metrics.jsonl is not that of the undisturbed run")

    def lose(self, folder: Path, what: str) -> None:
        self.tally.lost.append(f"{folder.name}: {what}")
        print(self.tally.lost[-1], file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            shutil.copytree(folder, self.folder / f"{folder.name}-lost-{len(self.tally.lost)}", symlinks=True)

    def checkpoints(self, folder: Path) -> Path:
        return folder / "runs" / "run" / "checkpoints"

    def latest(self, folder: Path) -> int:
        steps = list_checkpoints(folder / "runs" / "run")
        return int(steps[-1].name.removeprefix("step-")) if steps else 0

    def finished(self, folder: Path) -> bool:
        return self.latest(folder) == self.steps

    def said(self, folder: Path) -> str:
        return (folder / "log.txt").read_text()[-1500:]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCKS} for line in lines]


def distance(ours: Path, theirs: Path) -> float:
    """Norm of the difference of the last weights over the norm of the weights."""
    a, b = (load_file(run / "checkpoints" / "latest" / "model.safetensors") for run in (ours, theirs))
    difference = sum(float(np.square(a[name].astype(np.float64) - b[name]).sum()) for name in b)
    return (difference / sum(float(np.square(b[name].astype(np.float64)).sum()) for name in b)) ** 0.5


def soak(minutes: float, kills: int, seed: int, steps: int, processes: list[int], folder: Path) -> tuple[Tally, float]:
    """Rounds until both `minutes` and `kills` are reached. Returns the tally and how long it took."""
    start = time.monotonic()
    it = Soak(folder, seed, steps, processes)

    def enough() -> bool:
        return time.monotonic() - start > 60 * minutes and it.tally.counts["SIGKILL"] >= kills

    number = 0
    while not enough():
        it.round(number, enough)
        number += 1
        counts = it.tally.counts
        print(f"{(time.monotonic() - start) / 60:6.1f} min: round {number}, {counts['SIGKILL']} SIGKILLs, "
              f"{counts['starts and resumes']} starts, {len(it.tally.lost)} lost", file=sys.stderr, flush=True)  # fmt: skip
    return it.tally, (time.monotonic() - start) / 60


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--kills", type=int, default=0, help="go on until so many SIGKILLs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=200, help="updates of each run")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="numbers of processes to resume on")
    parser.add_argument("--keep", type=Path, help="work here, and keep what was lost")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        tally, minutes = soak(
            arguments.minutes, arguments.kills, arguments.seed, arguments.steps, arguments.processes, folder
        )
    print(tally.report(minutes))
    return 1 if tally.lost else 0


if __name__ == "__main__":
    raise SystemExit(main())
