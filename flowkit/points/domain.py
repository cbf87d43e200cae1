"""The domain of points: everything that is particular to low-dimensional toy data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit.braille import braille_lines
from flowkit.data.dataset import Dataset
from flowkit.domain import Domain, Presented, Preview, Tell
from flowkit.errors import UserError
from flowkit.points.distributions import NAMES, class_names, draw
from flowkit.points.window import Window, window_of
from flowkit.rng import key

if TYPE_CHECKING:
    from flowkit.metrics.comparison import Comparison
    from flowkit.points.evaluation import PointsEvaluator

ROWS = 18  # lines of a picture, each twice as many characters wide, which looks square
LEAST, MOST = 6, 30  # lines of the smallest and tallest picture
BEHIND = 2000  # data points drawn in 18 lines; more would fill every cell


class PointsDomain(Domain):
    """Points (D,) in few dimensions. 2-D points are drawn as pictures."""

    kind = "points"
    noun = "points"
    builtin = NAMES
    default_normalizer = "none"  # published tables use raw units
    inverted_rows = 256
    together = True

    def generate(self, name: str, num_samples: int, seed: int) -> Dataset:
        """Return a built-in data set. Raises UserError for a name that is not in `builtin`."""
        x, label, condition = draw(name, num_samples, np.random.default_rng(key(seed, "points")))
        return Dataset(self.kind, x, label, condition, None, class_names(name), {"source": name, "seed": seed})

    def check(self, data: Dataset, where: str) -> None:
        """Raise UserError unless `data.x` is (N, D) with D >= 1."""
        if data.x.ndim != 2 or data.x.shape[1] < 1:
            raise UserError(
                f"{where}: x has shape {tuple(data.x.shape)}; expected (N, D): one row of D coordinates per point"
            )

    def preview(self, rows: Dataset) -> list[Preview]:
        """Return one picture of all points."""
        return _preview(rows.x, None)

    def draw(self, rows: Dataset, behind: np.ndarray | None = None) -> list[str]:
        """Return one SVG of all points, over those of the data, in its window. Empty unless the points are 2-D.

        Points of class k have the style sheet's color `--series-k`, with k below 8.
        """
        from flowkit.points.svg import scatter_svg

        if rows.x.ndim != 2 or rows.x.shape[1] != 2:
            return []
        return [scatter_svg(rows.x, rows.class_label, behind)]

    def compares(self, source: str, inherited: dict[str, Any]) -> bool:
        return True

    def trajectories(self, shape: tuple[int, ...]) -> Callable[[np.ndarray, Path, np.ndarray | None], Path]:
        """Raise UserError unless the points are 2-D."""
        if shape != (2,):
            raise UserError(
                f"--trajectories: requires 2-D points, and this model samples points of {shape[0]} dimensions; leave it out"
            )
        from flowkit.points.scatter import write_trajectories

        return write_trajectories

    def presenter(self, data: Dataset | None, *, decode: bool = True, device: str = "auto") -> PointsPresenter:
        return PointsPresenter(data)

    def evaluator(self, comparison: Comparison, *, decode: bool = True, device: str = "auto") -> PointsEvaluator:
        from flowkit.points.evaluation import PointsEvaluator

        return PointsEvaluator(comparison)


class PointsPresenter:
    """Draws samples over the data, in the terminal and as a PNG."""

    notice = ""

    def __init__(self, data: Dataset | None) -> None:
        self._data = None
        if data is not None:
            rows = data.rows("validation")
            self._data = np.asarray(data.x[np.concatenate([rows, data.rows("train")])[:5000]])

    def __call__(
        self, samples: Dataset, out: Path, *, shown: Sequence[int] = (), tell: Tell | None = None
    ) -> Presented:
        """Write `scatter.png` if the points are 2-D. The preview shows all points, whichever rows are `shown`."""
        x, files = samples.x, []
        if x.shape[1] == 2 and len(x):
            from flowkit.points.scatter import write_scatter

            files.append(
                write_scatter(
                    Path(out) / "scatter.png", x, self._data, class_label=samples.class_label,
                    class_names=samples.class_names,
                )
            )  # fmt: skip
        if tell is not None:
            tell("rendering points", len(x), len(x))
        return Presented(tuple(files), tuple(_preview(x, self._data)) if len(shown) else ())


def _preview(x: np.ndarray, data: np.ndarray | None) -> list[Preview]:
    return [picture(x, data) if x.shape[1] == 2 else statistics(x)]


def picture(points: np.ndarray, data: np.ndarray | None = None, title: str = "") -> Preview:
    """Draw points (N, 2) over data (M, 2), within the window of the data if there is any.

    The picture has 18 lines; `sizes` holds it with 6 to 30 lines.
    """
    window = window_of(points if data is None else data)
    away = int(len(points) - window.inside(points).sum())

    front = _placed(points, window)
    back = None if data is None else _placed(data[: BEHIND * MOST**2 // ROWS**2], window)

    def drawn(rows: int) -> Preview:
        behind = () if back is None else _lines(back[: BEHIND * rows**2 // ROWS**2], rows)
        note = f"{away} off it" if away else ""
        return Preview(title or f"{len(points):,} points", _lines(front, rows), note, behind)

    return replace(drawn(ROWS), sizes=tuple(drawn(rows) for rows in range(LEAST, MOST + 1)))


def statistics(points: np.ndarray) -> Preview:
    """Return mean and standard deviation of points (N, D), for points that cannot be drawn."""
    rows = points[np.isfinite(points).all(axis=1)].astype(np.float64)
    shown = ("mean", rows.mean(axis=0)), ("std", rows.std(axis=0))
    lines = [f"{name:<5}" + " ".join(f"{value:+.3f}" for value in values[:8]) for name, values in shown if len(rows)]
    width = max(map(len, lines), default=0)
    return Preview(f"{len(points):,} points", tuple(line.ljust(width) for line in (*lines, "")))


def _placed(points: np.ndarray, window: Window) -> np.ndarray:
    return window.place(points[window.inside(points)].astype(np.float64))


def _lines(placed: np.ndarray, rows: int) -> tuple[str, ...]:
    on = np.zeros((4 * rows, 4 * rows), bool)
    column, row = np.floor(placed * (4 * rows)).astype(int).T
    on[row, column] = True
    return braille_lines(on)
