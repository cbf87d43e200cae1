"""Exceptions that the CLI prints without a traceback, and helpers for messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Bad input. The message says what was wrong, where, what was expected, and how to fix it. Exit status 2."""

    exit_status = 2


class NothingLeft(UserError):
    """The input is valid, but no row of it is left to train on. Exit status 1."""

    exit_status = 1


class Unreadable(UserError):
    """One item of many that is left out. The summary counts items by `reason`; `detail` is specific to the item."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason = reason
        self.detail = detail


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM. The message says what was kept and how to continue. Exit status 130 or 143."""


class CheckpointSkipped(UserWarning):
    """A corrupt checkpoint was skipped, and an earlier one of the run is used."""


class NotCompiled(UserWarning):
    """A network could not be compiled for sampling, and is run eagerly."""


class PeerLost(RuntimeError):
    """Another process of the run has ended, and its own output names the cause. Exit status 1."""


def nearest(name: str, choices: Iterable[str], limit: int = 3) -> str:
    """Return `"; did you mean 'cat' or 'car'?"` with the choices most similar to `name`. Empty if there are none."""
    by_lower = {str(choice).lower(): str(choice) for choice in choices}
    close = get_close_matches(str(name).lower(), by_lower, n=limit, cutoff=0.6)
    if not close:
        return ""
    return "; did you mean " + " or ".join(repr(by_lower[match]) for match in close) + "?"


def listing(choices: Iterable[str], limit: int = 20) -> str:
    """Return `a, b, c` for a message. Of a long list, only the first `limit` are shown, and the others counted."""
    names = [str(choice) for choice in choices]
    if len(names) <= limit:
        return ", ".join(names)
    return ", ".join(names[:limit]) + f", ... ({len(names) - limit} more)"
