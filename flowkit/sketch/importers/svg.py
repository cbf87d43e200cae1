"""SVG files, compressed or not, in class folders, flat, or in a zip of either."""

from __future__ import annotations

import re
from collections.abc import Iterator

from flowkit.errors import Unreadable
from flowkit.sketch.importers.items import Item
from flowkit.sketch.svg_read import MAX_BYTES, read_svg
from flowkit.sources.files import Files
from flowkit.sources.splits import places

_NOT_STROKES = ((rb"<(?:\w+:)?image[\s>]", "an embedded picture"), (rb"<(?:\w+:)?text[\s>]", "text"))


def read(files: Files) -> Iterator[Item]:
    """One sketch a file; its folder is its class. The SVG's own canvas becomes [-1, 1] x [-1, 1]."""
    entries = files.of_kind("svg")
    files.note_unread(entries)
    found = places(entries, files.name)
    files.notes += found.notes
    for entry, (split, class_name) in zip(entries, found.of, strict=True):
        try:
            if problem := files.foreign(entry):
                raise problem
            data = files.read(entry, MAX_BYTES)
            strokes = read_svg(data)
            if not strokes:
                held = " and ".join(name for pattern, name in _NOT_STROKES if re.search(pattern, data))
                raise Unreadable("has no strokes" + (f", only {held}" if held else ""))
            yield Item(class_name, entry.name, strokes, split=split)
        except Unreadable as problem:
            yield Item(class_name, entry.name, None, problem, split)
        files.consumed += entry.size
