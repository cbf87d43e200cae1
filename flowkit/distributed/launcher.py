"""End a run when its launcher is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
ELASTIC = "TORCHELASTIC_RUN_ID"  # set for processes started by a launcher
LAUNCHERS = ("accelerate", "torchrun", "torch.distributed.run")


def end_with_launcher() -> None:
    """Ask Linux for a SIGTERM when the launcher ends, as it would otherwise leave the training processes behind.

    The run then saves and stops, as after any SIGTERM. A shell that ends does not count: runs in the background continue. Call
    it early, since a launcher may die early.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    if _is_launcher(parent):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
        gone = os.getppid() != parent  # it died in the meantime
    else:
        gone = parent == 1 and ELASTIC in os.environ  # it died before, and init is the parent now
    if gone:
        os.kill(os.getpid(), signal.SIGTERM)


def _is_launcher(process: int) -> bool:
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(Path(os.fsdecode(word)).name.startswith(LAUNCHERS) for word in words[:6])
