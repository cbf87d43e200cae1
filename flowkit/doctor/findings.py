"""The result of one check: what was found, whether it is a problem, and the fix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the report. A note is something to know, a problem is something that fails."""

    group: str  # "machine" | "torch" | "packages" | "sentences" | "launching" | "self-test"
    name: str
    state: State
    found: str
    fix: str = ""  # the fix; every problem has one
