"""The sketch domain: everything specific to sketches of Bezier strokes."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit.braille import braille_lines
from flowkit.data.dataset import Dataset
from flowkit.domain import Domain, Presented, Preview, Tell
from flowkit.errors import UserError, listing, nearest
from flowkit.sketch.raster import contact_sheet, trace
from flowkit.sketch.svg_write import write_svg
from flowkit.sources.arrays import found_in
from flowkit.sources.kinds import SKETCHES

if TYPE_CHECKING:
    from flowkit.metrics.comparison import Comparison
    from flowkit.sketch.evaluation import SketchEvaluator
    from flowkit.sketch.prepare import PrepareReport
    from flowkit.sources.files import Files

MAX_COORDINATE = 10.0  # larger numbers are not in canvas units


class SketchDomain(Domain):
    """Sketches (S, 8): S cubic Bezier strokes [x0 y0 x1 y1 x2 y2 x3 y3] on the canvas [-1, 1] x [-1, 1], y down."""

    kind = "sketch"
    noun = "sketches"
    builtin = ("doodles",)
    sizes = ("num_strokes", "stroke_dim")
    default_normalizer = "global"
    measures_memorization = True

    def generate(self, name: str, num_samples: int, seed: int) -> Dataset:
        """Return a built-in data set. Raises UserError for a name that is not in `builtin`."""
        if name not in self.builtin:
            hint = nearest(name, self.builtin)
            raise UserError(f"unknown built-in data set of sketches {name!r}; expected {listing(self.builtin)}{hint}")
        from flowkit.sketch.doodles import generate_doodles

        return generate_doodles(num_samples, seed)

    def prepares(self, source: Path, files: Files) -> bool:
        """Return whether there are drawings among the files, or arrays that may be drawings."""
        if any(files.kind(entry) in SKETCHES for entry in files.entries):
            return True
        held, _ = found_in(files)
        if held == "unreadable":
            return files.only is None or files.only.suffix != ".npy"
        return held not in ("", "vectors")

    def prepare(
        self, source: Path, out: Path, *, seed: int = 0, overwrite: bool = False, tell: Tell | None = None,
        notice: Callable[[str], object] | None = None, **options: Any,
    ) -> PrepareReport:  # fmt: skip
        from flowkit.sketch.prepare import prepare

        return prepare(source, out, seed=seed, overwrite=overwrite, tell=tell, **options)

    def check(self, data: Dataset, where: str) -> None:
        """Raise UserError unless `data.x` is (N, S, 8) with S >= 1 and in canvas units."""
        if data.x.ndim != 3 or data.x.shape[1] < 1 or data.x.shape[2] != 8:
            raise UserError(
                f"{where}: x has shape {tuple(data.x.shape)}; expected (N, S, 8): N sketches of S >= 1 strokes, each with "
                "the 8 numbers x0 y0 x1 y1 x2 y2 x3 y3"
            )
        largest = max((max(-float(row.min()), float(row.max())) for row in _chunks(data.x)), default=0.0)
        if largest > MAX_COORDINATE:
            raise UserError(
                f"{where}: coordinates reach {largest:.4g}; expected canvas units, in which the picture spans -1 to 1. "
                "Convert pixels of a picture of width `size` by p / size * 2 - 1"
            )

    def model_args(self, data: Dataset, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return the arguments of the model. Raises UserError if the normalizer mixes strokes."""
        if len(shape) != 2:
            raise UserError(
                "data.normalizer.components: cannot be used with sketches, because dropping components mixes their strokes; "
                "remove this key"
            )
        return super().model_args(data, shape)

    def preview(self, rows: Dataset) -> list[Preview]:
        """Return sketches as braille pictures of 24 x 12 characters, and in smaller sizes."""
        return [
            Preview(
                title, braille(sketch), sizes=tuple(Preview(title, braille(sketch, 2 * n, n)) for n in range(5, 12))
            )
            for sketch, title in zip(rows.x, rows.titles(), strict=True)
        ]

    def presenter(self, data: Dataset | None, *, decode: bool = True, device: str = "auto") -> SketchPresenter:
        return SketchPresenter()

    def evaluator(self, comparison: Comparison, *, decode: bool = True, device: str = "auto") -> SketchEvaluator:
        from flowkit.sketch.evaluation import SketchEvaluator

        return SketchEvaluator(comparison)


class SketchPresenter:
    """Writes sketches as SVG and a contact sheet."""

    notice = ""

    def __call__(
        self, samples: Dataset, out: Path, *, shown: Sequence[int] = (), tell: Tell | None = None
    ) -> Presented:
        """Write one SVG per sketch (`000-cat.svg`, ...) and a contact sheet, `sheet.png`. Raises UserError if it cannot."""
        titles, x = samples.titles(), samples.x
        digits = max(3, len(str(len(x) - 1)))
        paths = []
        for number, (sketch, title) in enumerate(zip(x, titles, strict=True)):
            paths.append(Path(out) / f"{number:0{digits}d}-{safe_name(title)}.svg")
            write_svg(paths[-1], sketch, title)
        if paths:
            contact_sheet(x, titles, Path(out) / "sheet.png", tell=tell)  # takes most of the time
            paths.append(Path(out) / "sheet.png")
        previews = SketchDomain().preview(samples.take(np.asarray(shown, np.int64))) if len(shown) else []
        return Presented(tuple(paths), tuple(previews))


def _chunks(x: np.ndarray, rows: int = 1 << 16):
    return (x[start : start + rows] for start in range(0, len(x), rows))


def safe_name(title: str) -> str:
    """Return `title` as part of a portable file name: letters, marks and digits of any script, and dashes; up to 40."""
    letters = (
        c if unicodedata.category(c)[0] in "LMN" or c == "_" else "-" for c in unicodedata.normalize("NFC", title)
    )
    words = [word for word in "".join(letters).split("-") if word]
    return "-".join(words)[:40].rstrip("-") or "sketch"


def braille(sketch: np.ndarray, columns: int = 24, rows: int = 12) -> tuple[str, ...]:
    """Draw `sketch` (S, 8) as `rows` lines of `columns` characters. 2 columns per row look square.

    Lines are one dot wide. Anything outside the canvas is not drawn.
    """
    wide, high = 2 * columns, 4 * rows
    points, owner = trace(sketch, spacing=0.5 / max(wide, high))
    dots = np.floor((points + 1) * (np.array([wide, high]) / 2)).clip(-2, max(wide, high) + 1).astype(int)
    dots = _thin(dots, owner)
    x, y = dots[((dots >= 0) & (dots < (wide, high))).all(axis=1)].T
    on = np.zeros((high, wide), bool)
    on[y, x] = True
    return braille_lines(on)


def _thin(dots: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Drop repeated dots, and the corner of every right-angled step, so that slanted lines are chains of diagonals."""
    keep = np.ones(len(dots), bool)
    keep[1:] = (np.diff(dots, axis=0) != 0).any(axis=1) | (np.diff(owner) != 0)
    dots, owner = dots[keep], owner[keep]
    keep = np.ones(len(dots), bool)
    if len(dots) > 2:
        corner = (np.abs(dots[2:] - dots[:-2]) == 1).all(axis=1) & (owner[2:] == owner[:-2])
        for i in np.flatnonzero(corner) + 1:  # in order: a dot next to one just dropped must stay
            keep[i] = not keep[i - 1]
    return dots[keep]
