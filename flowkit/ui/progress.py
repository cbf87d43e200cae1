"""Progress bars on stderr for work of known length: sampling, evaluation. Silent if stderr is not a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


def passing(*columns: ProgressColumn) -> Progress:
    """Return a Rich progress bar on stderr that is erased at the end."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextlib.contextmanager
def stage_bar(first: str, total: int | None = None) -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for work in stages, starting with `first`. Yields tell(stage, done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with passing(*columns) as progress:
        task = progress.add_task(first, total=total)
        yield lambda stage, done, total: progress.update(task, description=stage, completed=done, total=total)
