"""Processes of flowkit that need not import torch first, which is most of what a short one costs.

They are forked off a server that imports and does nothing else; signals, ranks and the end are theirs as those of any other.
Where a launcher or the imports are what a test is about, it starts new ones.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([
    "__main__", "flowkit.cli", "flowkit.training.train", "flowkit.sketch.domain", "flowkit.points.domain", "flowkit.ui.plain",
    "flowkit.models.bezier_sketch_dit", "accelerate", "timm.optim", "timm.utils", "scipy.optimize", "torch.nn.parallel",
    "torch.distributed.algorithms.join",
])  # fmt: skip


def flowkit(*words: str) -> None:
    from flowkit.cli import main

    sys.argv = ["flowkit", *words]
    main()


def script(path: Path, *words: str) -> None:
    sys.argv = [str(path), *words]
    runpy.run_path(str(path), run_name="__main__")


def _begin(folder: Path, variables: dict[str, str], logs: Path, what: Callable[..., Any], arguments: Any) -> None:
    for number, name in ((1, "out"), (2, "err")):
        with open(logs / name, "ab") as file:
            os.dup2(file.fileno(), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    what(*arguments)


def start(folder: Path, what: Callable[..., Any], *arguments: Any, ranks: int = 1, **variables: str) -> list[Started]:
    """`what(*arguments)` in the folder, as each of the ranks of a run on this machine; of one as without a launcher."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started, logs = [], folder / f".said-{time.monotonic_ns()}"
    logs.mkdir()
    for rank in range(ranks):
        of_rank = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if ranks > 1 else {}  # fmt: skip
        whole = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **of_rank, **variables}
        # A daemon: should its test fail, it ends with the tests.
        process = SERVER.Process(target=_begin, args=(folder, whole, logs, what, arguments), daemon=True)
        process.start()
        started.append(Started(process, logs))
    return started


class Started:
    """Somewhat as subprocess.Popen has it; what the ranks of a run say is in one file, in the order in which they say it."""

    def __init__(self, process: BaseProcess, logs: Path):
        self.process, self.logs = process, logs

    @property
    def out(self) -> str:
        return (self.logs / "out").read_text()

    @property
    def err(self) -> str:
        return (self.logs / "err").read_text()

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, seconds: float = 300.0) -> int:
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"not done after {seconds:.0f} s: {self.err}")
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        assert self.process.pid
        os.kill(self.process.pid, number)
