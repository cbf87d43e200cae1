"""sketch-rnn's stroke-3 .npz files (arXiv 1704.03477): rows of dx, dy, pen-lift; a file is a class.

The published files hold arrays of Python objects under `train`, `valid` and `test`, which numpy reads only by
unpickling. That is never done here: `object_arrays` reads them as data, so nothing of the file's author can run.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from flowkit.sketch.bezier import from_lines
from flowkit.sketch.importers.files import SPLIT_NAMES, Entry, Files, split_name
from flowkit.sketch.importers.items import MAX_POINTS, Item, Unreadable, fit_canvas
from flowkit.sketch.importers.npz import Npz, open_npz
from flowkit.sketch.importers.object_arrays import read_object_array


def is_stroke3(npz: Npz) -> bool:
    """Whether the keys are sketch-rnn's splits, or every array is one drawing (n, 3)."""
    if set(npz.keys) & SPLIT_NAMES:
        return True
    shape = npz.array(npz.keys[0]).shape if npz.keys and not npz.is_object(npz.keys[0]) else ()
    return len(shape) == 2 and shape[1] == 3


def read(files: Files) -> Iterator[Item]:
    """One sketch an array, in the file's splits if it has any. Each is centred, a margin left around it."""
    for entry in files.only(".npz"):
        class_name = entry.stem.removeprefix("sketchrnn_").removesuffix(".full")
        try:
            with open_npz(files, entry) as npz:
                for key in npz.keys:
                    yield from _read_key(npz, key, class_name, entry)
        except Unreadable as problem:
            yield Item(class_name, entry.name, None, problem)
        files.consumed += entry.size


def _read_key(npz: Npz, key: str, class_name: str, entry: Entry) -> Iterator[Item]:
    split = split_name(key) if key in SPLIT_NAMES else ""
    drawings = _object_array(npz, key) if npz.is_object(key) else [npz.array(key)]
    for number, drawing in enumerate(drawings):
        where = f"{entry.name} {key}[{number}]"
        try:
            strokes = [from_lines(polyline) for polyline in fit_canvas(_polylines(drawing))]
            yield Item(class_name, where, strokes, split=split)
        except Unreadable as problem:
            yield Item(class_name, where, None, problem, split)


def _polylines(drawing: np.ndarray | None) -> list[np.ndarray]:
    """Offsets (n, 3) as polylines (m, 2): the pen lifts after a row whose third number is 1."""
    if drawing is None or drawing.ndim != 2 or drawing.shape[1] != 3 or drawing.dtype.kind not in "iuf":
        raise Unreadable("is no array of rows dx, dy, pen-lift")
    if len(drawing) > MAX_POINTS:
        raise Unreadable(f"has more than {MAX_POINTS:,} points")
    at = np.cumsum(drawing[:, :2].astype(np.float64), axis=0)
    lifts = np.flatnonzero(drawing[:, 2] == 1) + 1
    return [polyline for polyline in np.split(at, lifts) if len(polyline)]


def _object_array(npz: Npz, key: str) -> list[np.ndarray | None]:
    with npz.open(key) as stream:
        npz.header(stream)
        try:
            return read_object_array(stream)
        except ValueError as error:
            raise Unreadable(
                "holds Python objects other than arrays of numbers, which are refused", str(error)
            ) from None
