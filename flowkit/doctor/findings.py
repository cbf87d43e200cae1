"""What each look at the machine yields: a line, whether all is well with it, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """A note is something to know; a problem is something that fails."""

    group: str  # "machine" | "torch" | "packages" | "sentences" | "launching" | "self-test"
    name: str
    state: State
    found: str
    mend: str = ""  # of a problem always
