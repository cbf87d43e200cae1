"""Terminal views of plain dataclasses, with Rich. Nothing here imports torch."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from flowkit.events import Listener


def listener(console: Console | None = None) -> Listener:
    """Return a live view if stderr is a terminal that can show it, plain lines otherwise."""
    from flowkit.ui.plain import PlainListener

    if console is None:
        if sys.stderr is None or not sys.stderr.isatty():  # the usual case of a log: no Rich
            return PlainListener()
        from rich.console import Console

        console = Console(stderr=True)
    # With FORCE_COLOR Rich takes a log file for a terminal. It may have colors, but it cannot be repainted.
    screen = console.file.isatty() and console.is_interactive and not console.legacy_windows
    if not screen or console.options.ascii_only:
        return PlainListener(console.file)
    from flowkit.ui.live import LiveListener

    return LiveListener(console)
