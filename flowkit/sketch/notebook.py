"""Sketches as HTML for notebooks."""

from __future__ import annotations

from html import escape

from flowkit.data.dataset import Dataset
from flowkit.sketch.svg_write import svg

MOST = 16  # drawings shown
SIZE = 112  # pixels per drawing


def sketches_html(rows: Dataset) -> str:
    """Return what `rows` is in words, and its first drawings with their titles."""
    first = rows[:MOST]
    cells = [
        f'<div style="text-align:center;width:{SIZE}px">{svg(sketch, size=SIZE, title=title)}'
        f'<div style="overflow:hidden;text-overflow:ellipsis;white-space:nowrap">{escape(title)}</div></div>'
        for sketch, title in zip(first.x, first.titles(), strict=True)
    ]
    more = f"<div>and {len(rows) - MOST:,} more</div>" if len(rows) > MOST else ""
    grid = f'<div style="display:flex;flex-wrap:wrap;gap:8px;align-items:end">{"".join(cells)}{more}</div>'
    return f'<div style="margin-bottom:6px"><code>{escape(repr(rows))}</code></div>{grid}'
