"""What every importer yields: sketches of any number of cubics in canvas units, or why one could not be read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flowkit.errors import Unreadable

MAX_POINTS = 100_000  # of a drawing; beyond it a file is no drawing
MARGIN = 0.1  # canvas units left free around drawings that come without a canvas of their own


@dataclass(frozen=True)
class Item:
    class_name: str
    where: str  # for messages: "cat/12.svg", "cat.ndjson line 7"
    strokes: list[np.ndarray] | None  # each (n, 8) float64, canvas units; None when it could not be read
    problem: Unreadable | None = None
    split: str = ""  # "train" | "validation" | "test" where the source was split
    remarks: tuple[str, ...] = ()  # what the file asks for and the reader does otherwise, in words


def fit_canvas(polylines: list[np.ndarray]) -> list[np.ndarray]:
    """Polylines (n, 2) of any unit, moved and scaled: bounding box centered on the canvas, MARGIN left at its longer side.

    Raises Unreadable when they have no extent or are not finite.
    """
    if not polylines:
        raise Unreadable("has no strokes")
    if sum(map(len, polylines)) > MAX_POINTS:
        raise Unreadable(f"has more than {MAX_POINTS:,} points")
    every = np.concatenate(polylines)
    if not np.isfinite(every).all():
        raise Unreadable("holds coordinates that are not finite")
    low, high = every.min(axis=0), every.max(axis=0)
    with np.errstate(over="ignore"):
        extent = float((high - low).max())
    if not extent > 0:
        raise Unreadable("has no strokes")
    if not 1e-150 < extent < 1e150:  # whose squares, and inverses, are still numbers
        raise Unreadable("holds coordinates beyond all bounds")
    center, scale = (low + high) / 2, 2 * (1 - MARGIN) / extent
    return [(line - center) * scale for line in polylines]
