"""ControlSketch (arXiv 2502.08642): `{split}/{class}/{class}_{seed}.npz`, each with its sketch as SVG text."""

from __future__ import annotations

from collections.abc import Iterator

from flowkit.errors import Unreadable
from flowkit.sketch.importers.items import Item
from flowkit.sketch.svg_read import MAX_BYTES, read_svg
from flowkit.sources.arrays import CONTROLSKETCH, Arrays, open_arrays
from flowkit.sources.files import Files
from flowkit.sources.splits import places


def read(files: Files) -> Iterator[Item]:
    """Yield one sketch per file, in its split. A point p of the 512 px canvas becomes p / 512 * 2 - 1.

    The order of the strokes is kept: contour first, then by attention.
    """
    entries = files.of_kind("npz", "npy")
    files.note_unread(entries)
    found = places(entries, files.name)
    files.notes += found.notes
    for entry, (split, class_name) in zip(entries, found.of, strict=True):
        try:
            with open_arrays(files, entry) as arrays:
                # Not cut at the canvas: each stroke is one cubic and must remain one.
                strokes = read_svg(_svg_text(arrays).encode("utf-8", "replace"), cut=False)
            yield Item(class_name, entry.name, strokes, split=split)
        except Unreadable as problem:
            yield Item(class_name, entry.name, None, problem, split)
        files.consumed += entry.size


def _svg_text(arrays: Arrays) -> str:
    key = next((key for key in arrays.keys if key.startswith(CONTROLSKETCH)), None)
    if key is None:
        raise Unreadable("has no key 'svg_32s'", "it has " + ", ".join(arrays.keys[:8]))
    text = arrays.array(key, limit=4 * MAX_BYTES)  # numpy stores four bytes per character
    if text.ndim or text.dtype.kind not in "US":
        raise Unreadable("has no text in key 'svg_32s'", f"{text.dtype} of shape {text.shape}")
    found = text.item()
    return found if isinstance(found, str) else found.decode("utf-8", "replace")
