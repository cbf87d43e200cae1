"""What becomes of a run whose launcher is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
ELASTIC = "TORCHELASTIC_RUN_ID"  # set for the processes of a launcher
LAUNCHERS = ("accelerate", "torchrun", "torch.distributed.run")


def end_with_launcher() -> None:
    """Ask for a SIGTERM when the launcher ends: killed, or of one process, it leaves the training behind.

    The run then saves and leaves, as by a SIGTERM of its own; before it has begun it just ends. Linux only. A shell that
    ends is no reason to stop: a run in the background goes on. To be called early, for a launcher may die early.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    if _is_launcher(parent):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
        gone = os.getppid() != parent  # it died meanwhile
    else:
        gone = parent == 1 and ELASTIC in os.environ  # it died before, and whoever takes in orphans is the parent now
    if gone:
        os.kill(os.getpid(), signal.SIGTERM)


def _is_launcher(process: int) -> bool:
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(Path(os.fsdecode(word)).name.startswith(LAUNCHERS) for word in words[:6])
