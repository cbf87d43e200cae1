"""The items that importers yield: a sketch of any number of cubics in canvas units, or the reason it was not read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from flowkit.errors import Unreadable

MAX_POINTS = 100_000  # per drawing
MARGIN = 0.1  # canvas units left free around drawings from formats without a canvas


@dataclass(frozen=True)
class Item:
    class_name: str
    where: str  # for messages: "cat/12.svg", "cat.ndjson line 7"
    strokes: list[np.ndarray] | None  # each (n, 8) float64, canvas units; None if it could not be read
    problem: Unreadable | None = None
    split: str = ""  # "train" | "validation" | "test"; empty if the source has no splits
    remarks: tuple[str, ...] = ()  # what was read differently than written
    caption: str = ""
    picture: Callable[[], Any] | None = None  # reads the image that was drawn, for `read_image`; None if there is none


def fit_canvas(polylines: list[np.ndarray]) -> list[np.ndarray]:
    """Move and scale polylines (n, 2) so that their bounding box is centered on the canvas, with MARGIN on its longer side.

    Raises Unreadable if they have no extent or are not finite.
    """
    if not polylines:
        raise Unreadable("has no strokes")
    if sum(map(len, polylines)) > MAX_POINTS:
        raise Unreadable(f"has more than {MAX_POINTS:,} points")
    every = np.concatenate(polylines)
    if not np.isfinite(every).all():
        raise Unreadable("has coordinates that are not finite")
    low, high = every.min(axis=0), every.max(axis=0)
    with np.errstate(over="ignore"):
        extent = float((high - low).max())
    if not extent > 0:
        raise Unreadable("has no strokes")
    if not 1e-150 < extent < 1e150:  # so that squares and inverses do not overflow
        raise Unreadable("has coordinates that are too large")
    center, scale = (low + high) / 2, 2 * (1 - MARGIN) / extent
    return [(line - center) * scale for line in polylines]
