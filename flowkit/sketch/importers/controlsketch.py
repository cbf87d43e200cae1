"""ControlSketch (arXiv 2502.08642): `{split}/{class}/{class}_{seed}.npz`, each with its sketch as SVG text."""

from __future__ import annotations

from collections.abc import Iterator

from flowkit.sketch.importers.files import Files, places
from flowkit.sketch.importers.items import Item, Unreadable
from flowkit.sketch.importers.npz import Npz, open_npz
from flowkit.sketch.svg_read import MAX_BYTES, read_svg

PREFIX = "svg_"  # "svg_32s" in the published data: 32 strokes


def read(files: Files) -> Iterator[Item]:
    """One sketch a file, in its split. A point p of the 512 px canvas becomes p / 512 * 2 - 1.

    The strokes stay in their order: contour first, then by attention.
    """
    entries = files.only(".npz")
    for entry, (split, class_name) in zip(entries, places(entries, files.name), strict=True):
        try:
            with open_npz(files, entry) as npz:
                # Uncut: a stroke is one cubic here, and stays one where it leaves the canvas and comes back.
                strokes = read_svg(_svg_text(npz).encode("utf-8", "replace"), cut=False)
            yield Item(class_name, entry.name, strokes, split=split)
        except Unreadable as problem:
            yield Item(class_name, entry.name, None, problem, split)
        files.consumed += entry.size


def _svg_text(npz: Npz) -> str:
    key = next((key for key in npz.keys if key.startswith(PREFIX)), None)
    if key is None:
        raise Unreadable("has no key 'svg_32s'", "it has " + ", ".join(npz.keys[:8]))
    text = npz.array(key, limit=4 * MAX_BYTES)  # numpy takes four bytes for a character
    if text.ndim or text.dtype.kind not in "US":
        raise Unreadable("holds no text under its key 'svg_32s'", f"{text.dtype} of shape {text.shape}")
    found = text.item()
    return found if isinstance(found, str) else found.decode("utf-8", "replace")
