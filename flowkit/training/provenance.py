"""Where a run was trained: host, command, versions and git commit, one line per session in `sessions.jsonl`. Torch-free."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import socket
import subprocess
import sys
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import flowkit

SESSIONS = "sessions.jsonl"  # in the run directory
PACKAGES = ("torch", "accelerate", "numpy", "safetensors", "timm")
GIT_TIMEOUT = 5.0  # seconds; a status of a large repository on a network disk can take minutes


def now() -> str:
    """Return local time with its offset, as in "2026-11-29T03:28:22+00:00"."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def record_session(run_dir: Path, start_step: int, **more: Any) -> None:
    """Append a line for this process, with `more` facts. Errors are ignored, because they must not stop a run."""
    with contextlib.suppress(OSError), (run_dir / SESSIONS).open("a", encoding="utf-8") as file:
        file.write(json.dumps({**session(start_step), **more}) + "\n")


def session(start_step: int) -> dict[str, Any]:
    """Return the facts of this process. `git` has the commits of the current folder and of flowkit, or null."""
    return {
        "time": now(),
        "start_step": start_step,
        "host": socket.gethostname(),
        "folder": os.getcwd(),
        "command": shlex.join(sys.orig_argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {"flowkit": flowkit.__version__, **{name: _version(name) for name in PACKAGES}},
        "git": {"folder": _commit(Path()), "flowkit": _commit(Path(flowkit.__file__).parent)},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit(folder: Path) -> str | None:
    """Return the commit checked out in a folder, with `-dirty` if tracked files were changed."""
    try:
        asked = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=GIT_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
