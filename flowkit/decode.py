"""From a samples file (or prepared data) to what people can look at. The samples' kind says which domain does it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowkit.data.dataset import Dataset, data_files, read_dataset
from flowkit.domain import Preview, get_domain
from flowkit.errors import UserError

PREVIEWED = 8
Tell = Callable[[str, int, int], object]


@dataclass(frozen=True)
class Decoded:
    out: Path
    files: tuple[Path, ...]
    previews: tuple[Preview, ...]


def decode(path: Path, *, out: Path | None = None, limit: int | None = None, tell: Tell | None = None) -> Decoded:
    """Decode the file at `path` into the folder `out` (by default beside it). Raises UserError for a file that is none.

    tell: told what is being done, how many rows are done, and of how many.
    """
    data = read_dataset(path)
    get_domain(data.kind).check(data, str(data_files(path)[0]))
    if limit is not None and limit < len(data):
        data = data.take(np.arange(limit))
    tensors, _ = data_files(path)
    return write_readable(data, out or (tensors.parent if tensors.stem == "samples" else tensors.with_suffix("")), tell)


def write_readable(data: Dataset, out: Path, tell: Tell | None = None) -> Decoded:
    """Write every row in its readable form, and draw a few. Raises UserError where `out` cannot be written to."""
    domain = get_domain(data.kind)
    check_writable(out)
    progress = None if tell is None else lambda done: tell(f"writing {domain.noun}", done, len(data))
    few = np.unique(np.linspace(0, len(data) - 1, min(PREVIEWED, len(data))).round().astype(int)) if len(data) else []
    shown = domain.presenter(None)(data, out, shown=[int(row) for row in few], progress=progress)
    return Decoded(out, shown.files, shown.previews)


def check_writable(out: Path) -> None:
    """Look now, so that minutes of sampling are not spent on a place that cannot be written to. Makes nothing yet."""
    place = next(place for place in (out, *out.parents) if os.path.exists(place))
    if not place.is_dir():
        raise UserError(f"{out}: cannot be made a folder ({place} is a file); name another with --out")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{out}: cannot be written to; name another folder with --out")
