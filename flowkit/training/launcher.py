"""What becomes of a run whose launcher is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1


def end_with_launcher() -> None:
    """Ask for a SIGTERM when `accelerate launch` ends: of one process it dies of a signal and leaves the training behind.

    The run then saves and leaves, as by a SIGTERM of its own. Linux only. Of several processes the elastic agent takes care,
    and a shell that ends is no reason to stop: a run in the background goes on.
    """
    parent = os.getppid()
    if sys.platform != "linux" or int(os.environ.get("WORLD_SIZE", "1")) > 1 or not _is_accelerate(parent):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:  # it died meanwhile
        os.kill(os.getpid(), signal.SIGTERM)


def _is_accelerate(process: int) -> bool:
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(Path(os.fsdecode(word)).name.startswith("accelerate") for word in words[:4])
