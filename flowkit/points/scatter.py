"""Samples over data, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flowkit.points.plot import GREY, PALETTE, Plot
from flowkit.points.window import window_of

MOST = 5000  # points of either kind that are drawn


def write_scatter(
    path: Path | str,
    samples: np.ndarray,
    data: np.ndarray | None = None,
    *,
    class_label: np.ndarray | None = None,
    class_names: Sequence[str] = (),
) -> Path:
    """A PNG of samples (N, 2), by class where labelled (N,), over data (M, 2) in grey; the window is the data's.

    Classes beyond the palette's eight take its colours again, and are not named. Raises UserError where it cannot write.
    """
    plot = Plot(window_of(samples if data is None else data))
    if data is not None:
        plot.dots(data[:MOST], GREY, 1.6)
        plot.legend(GREY, "data")
    shown = samples[:MOST]
    radius = 2.6 if len(shown) <= 2000 else 1.8
    if class_label is None:
        plot.dots(shown, PALETTE[0], radius, alpha=0.8)
        plot.legend(PALETTE[0], f"{len(samples):,} samples")
        return plot.save(path)
    for label in np.unique(class_label).tolist():
        colour = PALETTE[label % len(PALETTE)]
        plot.dots(shown[class_label[:MOST] == label], colour, radius, alpha=0.8)
        if len(class_names) <= len(PALETTE):
            plot.legend(colour, str(class_names[label]))
    return plot.save(path)
