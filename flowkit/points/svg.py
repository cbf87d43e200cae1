"""Points in the plane as an SVG for a web page."""

from __future__ import annotations

import numpy as np

from flowkit.points.window import window_of

SIDE = 320  # of the picture, in its own units
MOST = 2000  # points of either kind that are drawn
COLORS = 8  # of the style sheet: --series-0 to --series-7


def scatter_svg(points: np.ndarray, class_label: np.ndarray | None = None, behind: np.ndarray | None = None) -> str:
    """Draw points (N, 2), by class where labeled (N,), over dimmed points (M, 2), which also decide the window."""
    window = window_of(points if behind is None else behind)
    layers = [] if behind is None else [("currentColor", 2.2, 0.16, behind[:MOST])]
    points = points[:MOST]
    if class_label is None:
        layers.append(("var(--series-0, currentColor)", 3.2, 0.75, points))
    else:
        labels = np.asarray(class_label)[:MOST]
        for label in np.unique(labels).tolist():
            color = f"var(--series-{max(label, 0) % COLORS}, currentColor)"
            layers.append((color, 3.2, 0.75, points[labels == label]))
    paths = []
    for color, width, opacity, shown in layers:
        placed = window.place(np.asarray(shown, np.float64)[window.inside(shown)]) * SIDE
        dots = "".join(f"M{x:.4g} {y:.4g}h0" for x, y in np.round(placed, 1).tolist())
        paths.append(f'<path d="{dots}" stroke="{color}" stroke-width="{width}" stroke-opacity="{opacity}"/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE} {SIDE}" role="img">'
        f"<title>{len(points):,} points</title>"
        f'<g fill="none" stroke-linecap="round">{"".join(paths)}</g></svg>'
    )
