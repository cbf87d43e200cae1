"""Progress bars on stderr for work whose length is known: sampling, measuring. Silent where stderr is no terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


def passing(*columns: ProgressColumn) -> Progress:
    """A Rich progress of these columns that leaves nothing behind, on stderr."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextlib.contextmanager
def stage_bar(first: str, total: int | None = None) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for work in stages, `first` until told otherwise; yields what is told (stage, how much is done, of how much)."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with passing(*columns) as progress:
        task = progress.add_task(first, total=total)
        yield lambda stage, done, total: progress.update(task, description=stage, completed=done, total=total)
