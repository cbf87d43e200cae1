"""Samples over data, and the ways that they took from noise to there, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flowkit.points.plot import GRAY, PALETTE, Color, Plot
from flowkit.points.window import around, window_of

MOST = 5000  # points of either kind that are drawn
LINES = 64  # of trajectories: more are a tangle
# From noise to data; dark to bright, as far as white paper allows (after matplotlib's plasma).
STOPS = np.array([(40, 50, 130), (140, 30, 150), (215, 70, 95), (245, 150, 50)], np.float64)


def write_scatter(
    path: Path | str,
    samples: np.ndarray,
    data: np.ndarray | None = None,
    *,
    class_label: np.ndarray | None = None,
    class_names: Sequence[str] = (),
) -> Path:
    """Write a PNG of samples (N, 2), by class where labeled (N,), over data (M, 2) in gray; the window is the data's.

    Classes beyond the palette's eight take its colors again, and are not named. Raises UserError where it cannot write.
    """
    plot = Plot(window_of(samples if data is None else data))
    if data is not None:
        plot.dots(data[:MOST], GRAY, 1.6)
        plot.legend(GRAY, "data")
    shown = samples[:MOST]
    radius = 2.6 if len(shown) <= 2000 else 1.8
    if class_label is None:
        plot.dots(shown, PALETTE[0], radius, alpha=0.8)
        plot.legend(PALETTE[0], f"{len(samples):,} samples")
        return plot.save(path)
    for label in np.unique(class_label).tolist():
        color = PALETTE[label % len(PALETTE)]
        plot.dots(shown[class_label[:MOST] == label], color, radius, alpha=0.8)
        if len(class_names) <= len(PALETTE):
            plot.legend(color, str(class_names[label]))
    return plot.save(path)


def write_trajectories(states: np.ndarray, path: Path | str, data: np.ndarray | None = None) -> Path:
    """Write a PNG of at most 64 of the trajectories states (T, N, 2), T >= 2, colored by time, over data (M, 2) in gray.

    Raises ValueError for another shape, and UserError where the file cannot be written.
    """
    states = np.asarray(states, np.float64)
    if states.ndim != 3 or states.shape[0] < 2 or states.shape[2] != 2:
        raise ValueError(f"states: shape {states.shape}; expected (T, N, 2) with at least two times")
    states = states[:, np.unique(np.linspace(0, states.shape[1] - 1, min(LINES, states.shape[1])).astype(int))]
    shown = [states.reshape(-1, 2)] if data is None else [states.reshape(-1, 2), data[:MOST]]
    plot = Plot(around(*map(window_of, shown)))
    if data is not None:
        plot.dots(data[:MOST], GRAY, 1.6)
    colors = [color_at((step + 0.5) / (len(states) - 1)) for step in range(len(states) - 1)]
    for row in range(states.shape[1]):
        plot.line(states[:, row], colors, 1.4)
    plot.dots(states[0], color_at(0.0), 2.6)
    plot.dots(states[-1], color_at(1.0), 3.2)
    plot.legend(color_at(0.0), "start (t = 0)")
    plot.legend(color_at(1.0), "end (t = 1)")
    if data is not None:
        plot.legend(GRAY, "data")
    return plot.save(path)


def color_at(t: float) -> Color:
    """Return the color of a time in [0, 1]."""
    place = np.linspace(0, 1, len(STOPS))
    red, green, blue = (round(float(np.interp(t, place, STOPS[:, channel]))) for channel in range(3))
    return red, green, blue
