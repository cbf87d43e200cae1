"""SVG files, optionally gzipped, in class folders or in one folder or zip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from flowkit.errors import Unreadable
from flowkit.sketch.importers.items import Item
from flowkit.sketch.svg_read import MAX_BYTES, read_svg
from flowkit.sources.files import Files
from flowkit.sources.splits import places


def read(files: Files) -> Iterator[Item]:
    """Yield one sketch per file; its folder is its class. The canvas of the SVG becomes [-1, 1] x [-1, 1]."""
    entries = files.of_kind("svg")
    files.note_unread(entries)
    found = places(entries, files.name)
    files.notes += found.notes
    for entry, (split, class_name) in zip(entries, found.of, strict=True):
        try:
            if problem := files.foreign(entry):
                raise problem
            causes: Counter[str] = Counter()
            strokes = read_svg(files.read(entry, MAX_BYTES), causes)
            if not strokes:
                raise Unreadable("has no strokes", "; ".join(sorted(causes)))
            yield Item(class_name, entry.name, strokes, split=split, remarks=tuple(causes))
        except Unreadable as problem:
            yield Item(class_name, entry.name, None, problem, split)
        files.consumed += entry.size
