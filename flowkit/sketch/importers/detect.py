"""Which importer reads a source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from flowkit.errors import UserError, listing
from flowkit.sketch.importers import controlsketch, quickdraw, stroke3, svg
from flowkit.sketch.importers.files import Files
from flowkit.sketch.importers.items import Item, Unreadable
from flowkit.sketch.importers.npz import open_npz

KNOWN = "SVG (.svg), Quick, Draw! (.ndjson), ControlSketch or sketch-rnn stroke-3 (.npz), in a folder or a .zip"


def detect(source: Path, files: Files) -> tuple[str, Callable[[Files], Iterator[Item]]]:
    """The format's name and its reader. Raises UserError where there is none, or more than one."""
    counts = Counter(entry.suffix for entry in files.entries)
    found = [suffix for suffix in (".svg", ".ndjson", ".npz") if counts[suffix]]
    if not found:
        what = ", ".join(f"{n} {suffix or 'without suffix'}" for suffix, n in counts.most_common(5)) or "it is empty"
        raise UserError(f"{source}: holds no sketches that flowkit can read ({what}); expected {KNOWN}")
    if len(found) > 1:
        what = " and ".join(f"{counts[suffix]} {suffix} files" for suffix in found)
        raise UserError(f"{source}: holds {what}; point to a folder that holds one kind")
    if found == [".svg"]:
        return "svg", svg.read
    if found == [".ndjson"]:
        return "quickdraw", quickdraw.read
    return _npz_kind(source, files)


def _npz_kind(source: Path, files: Files) -> tuple[str, Callable[[Files], Iterator[Item]]]:
    """By the first .npz that can be read."""
    problem = ""
    for entry in files.only(".npz")[:20]:
        try:
            with open_npz(files, entry) as npz:
                if any(key.startswith(controlsketch.PREFIX) for key in npz.keys):
                    return "controlsketch", controlsketch.read
                if stroke3.is_stroke3(npz):
                    return "stroke3", stroke3.read
                problem = problem or f"{entry.name} has the keys {listing(npz.keys, 8) or 'none'}"
        except Unreadable as error:
            problem = problem or f"{entry.name} {error}"
    raise UserError(
        f"{source}: {problem}; expected ControlSketch's key 'svg_32s', or sketch-rnn's 'train', 'valid', 'test' "
        f"(or one plain array of rows dx, dy, pen-lift for each drawing)"
    )
