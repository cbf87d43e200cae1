"""What the CLI prints without a traceback: what the user can mend (exit status 2), and that another process has ended (1)."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Bad input. The message says what was wrong, where, what was expected, and how to mend it."""

    exit_status = 2


class NothingLeft(UserError):
    """The input was read as it should be, and nothing of it is left to train on."""

    exit_status = 1


class Unreadable(UserError):
    """One item of many that has to be left out. `reason` is what the summary counts by, `detail` differs from item to item."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason = reason
        self.detail = detail


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, with what was kept and how to continue. Printed in one line, exit status 130 or 143."""


class PassedOver(UserWarning):
    """A damaged checkpoint of a run was passed over for an earlier one."""


class PeerLost(RuntimeError):
    """Another process of the run has ended. Printed in one line: that process said what was wrong."""


def nearest(name: str, choices: Iterable[str], limit: int = 3) -> str:
    """`"; did you mean 'cat' or 'car'?"` for the choices nearest to `name`, or an empty string when none is near."""
    by_lower = {str(choice).lower(): str(choice) for choice in choices}
    close = get_close_matches(str(name).lower(), by_lower, n=limit, cutoff=0.6)
    if not close:
        return ""
    return "; did you mean " + " or ".join(repr(by_lower[match]) for match in close) + "?"


def listing(choices: Iterable[str], limit: int = 20) -> str:
    """`a, b, c` for a message; long lists are cut and counted."""
    names = [str(choice) for choice in choices]
    if len(names) <= limit:
        return ", ".join(names)
    return ", ".join(names[:limit]) + f", ... ({len(names) - limit} more)"
