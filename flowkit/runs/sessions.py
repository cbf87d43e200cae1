"""Where a run was trained: the lines of its sessions.jsonl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowkit.checkpoint import MAX_LINE
from flowkit.data.strict_json import parse_json
from flowkit.training.provenance import SESSIONS


def read_sessions(run: Path) -> list[dict[str, Any]]:
    """Return the sessions of a run, the first first. Unreadable lines are skipped."""
    found = []
    try:
        with (run / SESSIONS).open("rb") as file:
            while line := file.readline(MAX_LINE):
                try:
                    row = parse_json(line)
                except ValueError:
                    continue
                if isinstance(row, dict):
                    found.append(row)
    except OSError:
        pass
    return found
