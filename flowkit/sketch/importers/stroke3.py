"""sketch-rnn's strokes in .npz and .npy files (arXiv 1704.03477): rows dx, dy, pen-lift, or stroke-5 with three pen states.

The published files hold arrays of Python objects under `train`, `valid` and `test`, which numpy can only read by
unpickling. `object_arrays` reads them without unpickling, so no code from the file can run. Drawings of equal length may
also be one array (N, n, 3).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from flowkit.errors import Unreadable, listing
from flowkit.sketch.bezier import from_lines
from flowkit.sketch.importers.items import MAX_POINTS, Item, fit_canvas
from flowkit.sources.arrays import Arrays, open_arrays
from flowkit.sources.files import Entry, Files
from flowkit.sources.splits import places, split_of


def read(files: Files) -> Iterator[Item]:
    """Yield one sketch per array, in the splits of the keys or the folder. Drawings are centered with a margin.

    Each file is a class, named after the file; files named train, valid and test are splits of one class.
    """
    entries = files.of_kind("npz", "npy")
    files.note_unread(entries)
    found = places(entries, files.name)
    if splits_by_folder := any(split for split, _ in found.of):
        files.notes += found.notes[:1]  # the notes on classes do not apply: the file name is the class
    by_name = not splits_by_folder and all(split_of(entry.stem) for entry in entries)
    if by_name and len(entries) > 1:
        files.notes.append(
            "files " + ", ".join(entry.name for entry in entries) + ": read as splits, because of their names"
        )
    for entry, (split, folder) in zip(entries, found.of, strict=True):
        class_name = entry.stem.removeprefix("sketchrnn_").removesuffix(".full")
        if by_name:
            split, class_name = split_of(entry.stem), folder if len(entry.parts) > 1 or len(entries) > 1 else class_name
        elif split_of(class_name):
            class_name = folder
        try:
            with open_arrays(files, entry) as arrays:
                about = {key: arrays.about(key) for key in arrays.keys}
                keys = [key for key, (shape, dtype) in about.items() if dtype.hasobject or len(shape) in (2, 3)]
                others = listing([key for key in about if key not in keys], 4)
                if others and keys:  # labels, scales
                    files.notes.append(f"{entry.name}: not read, because they hold no drawings: {others}")
                several = [key for key in keys if not split_of(key)]
                if len(several) > 1:
                    files.notes.append(
                        f"{entry.name}: {listing(several, 4)} are read as one class, {class_name!r}; to get one class per "
                        "key, save each as a separate file"
                    )
                for key in keys or about:
                    yield from _read_key(arrays, key, class_name, entry, split)
        except Unreadable as problem:
            yield Item(class_name, entry.name, None, problem, split)
        files.consumed += entry.size


def _read_key(arrays: Arrays, key: str, class_name: str, entry: Entry, split: str) -> Iterator[Item]:
    split = split_of(key) or split
    shape, dtype = arrays.about(key)
    if dtype.hasobject:
        drawings = arrays.objects(key)
    else:
        drawings = arrays.array(key)
        if len(shape) != 3:
            drawings = [drawings]
    for number, drawing in enumerate(drawings):
        where = f"{entry.name} {key}[{number}]"
        try:
            strokes = [from_lines(polyline) for polyline in fit_canvas(_polylines(drawing))]
            yield Item(class_name, where, strokes, split=split)
        except Unreadable as problem:
            yield Item(class_name, where, None, problem, split)


def _polylines(drawing: np.ndarray | None) -> list[np.ndarray]:
    """Convert offsets (n, 3) or (n, 5) to polylines (m, 2).

    The pen is lifted after each row whose third number (fourth of five) is 1.
    """
    if drawing is None or drawing.ndim != 2 or drawing.shape[1] not in (3, 5) or drawing.dtype.kind not in "iuf":
        raise Unreadable("is not an array of rows dx, dy, pen-lift")
    if drawing.shape[1] == 5:  # dx, dy, pen down, pen up, end; rows from the end on are padding
        ends = np.flatnonzero(drawing[:, 4] > 0.5)
        drawing = drawing[: ends[0] if len(ends) else None, [0, 1, 3]]
    drawn = np.flatnonzero((drawing != 0).any(axis=1))
    drawing = drawing[: drawn[-1] + 1 if len(drawn) else 0]  # rows of zeros after the last one are padding
    if len(drawing) > MAX_POINTS:
        raise Unreadable(f"has more than {MAX_POINTS:,} points")
    at = np.cumsum(drawing[:, :2].astype(np.float64), axis=0)
    lifts = np.flatnonzero(drawing[:, 2] > 0.5) + 1
    return [polyline for polyline in np.split(at, lifts) if len(polyline)]
