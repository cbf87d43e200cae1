"""Check where a data set may be written, before the long part begins."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from flowkit.data.dataset import data_files, says_texts
from flowkit.errors import UserError


def free_target(
    out: Path | str, *, overwrite: bool, sources: Sequence[Path] = (), texts: bool = False, example: str = "data"
) -> tuple[Path, ...]:
    """Return the files of the data set `out`: .safetensors and .json, and .jsonl if it has `texts`.

    Raises UserError for a folder, files that exist (with `overwrite`, only those that are not flowkit's), one of the `sources`,
    or a place that cannot be written.
    """
    out = Path(out)
    if out.is_dir():
        raise UserError(f"{out}: is a folder; choose a file in it, such as {out / example}")
    tensors, sidecar = data_files(out)
    lines = tensors.with_suffix(".jsonl")
    paths = (tensors, sidecar, lines) if texts else (tensors, sidecar)
    for path in paths:
        for source in sources:
            if path.exists() and source.exists() and os.path.samefile(path, source):
                raise UserError(f"{source}: would be overwritten by {path.name} of the data set; choose another --out")
    existing = [path for path in paths if path.exists()]
    if existing and not overwrite:
        raise UserError(f"{existing[0]}: exists already; choose another --out, or replace it with --overwrite")
    if lines in existing and not says_texts(sidecar):
        raise UserError(
            f"{lines}: does not belong to a data set, so it is not replaced; choose another --out, or move it away"
        )
    parent = tensors.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"{tensors}: cannot be written, {parent} is not a writable folder")
    return paths
