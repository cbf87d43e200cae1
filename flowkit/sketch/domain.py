"""The sketch domain: everything specific to sketches of Bezier strokes."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit.braille import braille_lines
from flowkit.components import choose
from flowkit.data.dataset import Dataset
from flowkit.data.normalizers import Auto, Normalization
from flowkit.data.normalizers.affine import Plain
from flowkit.domain import Domain, Example, Presented, Presenter, Preview, Tell
from flowkit.errors import UserError, listing, nearest
from flowkit.sketch.animate import flow_gif, strip
from flowkit.sketch.normalizer import Strokes
from flowkit.sketch.raster import asked_sheet, contact_sheet, trace
from flowkit.sketch.strokes import CONTINUES, EXISTS, as_row, continues, exists, tidy
from flowkit.sketch.svg_write import svg, write_svg
from flowkit.sources.arrays import found_in
from flowkit.sources.kinds import SKETCHES

if TYPE_CHECKING:
    from torch import Tensor

    from flowkit.metrics.comparison import Comparison
    from flowkit.recipe.data import Augment
    from flowkit.sketch.asked import Shown
    from flowkit.sketch.completion import Completed
    from flowkit.sketch.evaluation import SketchEvaluator
    from flowkit.sketch.prepare import PrepareReport
    from flowkit.sources.files import Files

MAX_COORDINATE = 10.0  # larger numbers are not in canvas units


class SketchDomain(Domain):
    """Sketches of S cubic Bezier curves [x0 y0 x1 y1 x2 y2 x3 y3] on the canvas [-1, 1] x [-1, 1], y down.

    Rows are (S, 8), where each cubic is a stroke of its own, or (S, 10) with pen strokes: see `flowkit.sketch.strokes`.
    """

    kind = "sketch"
    noun = "sketches"
    builtin = ("doodles", "pen_doodles")
    sizes = ("num_strokes", "stroke_dim")
    default_normalizer = "global"
    statistics_of = "strokes"
    has_parts = True
    augments = 9  # see flowkit.sketch.augment
    measures_memorization = True

    def generate(self, name: str, num_samples: int, seed: int) -> Dataset:
        """Return a built-in data set. Raises UserError for a name that is not in `builtin`."""
        if name not in self.builtin:
            hint = nearest(name, self.builtin)
            raise UserError(f"unknown built-in data set of sketches {name!r}; expected {listing(self.builtin)}{hint}")
        from flowkit.sketch.doodles import generate_doodles

        return generate_doodles(num_samples, seed, 32 if name == "doodles" else None)

    def prepares(self, source: Path, files: Files) -> bool:
        """Return whether there are drawings among the files, or arrays that may be drawings."""
        if any(files.kind(entry) in SKETCHES for entry in files.entries):
            return True
        from flowkit.sketch.importers.controlsketch import tables

        if tables(files):
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
        """Raise UserError unless `data.x` is (N, S, 8 or 10) with S >= 1 and in canvas units, with signs of -1 and 1."""
        if data.x.ndim != 3 or data.x.shape[1] < 1 or data.x.shape[2] not in (8, 10):
            raise UserError(
                f"{where}: x has shape {tuple(data.x.shape)}; expected (N, S, 8) or (N, S, 10): N sketches of S >= 1 cubics, "
                "each with the 8 numbers x0 y0 x1 y1 x2 y2 x3 y3, and for pen strokes two signs: exists, continues"
            )
        if any((np.abs(part[..., EXISTS:]) != 1).any() for part in _chunks(data.x)):
            raise UserError(
                f"{where}: the last two numbers of each cubic must be 1 or -1: whether it exists, and whether it continues the "
                "one before"
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

    def normalization(self, choice: Normalization, row_shape: tuple[int, ...]) -> Normalization:
        """Raises UserError for a normalizer that would mix coordinates and signs."""
        if row_shape[-1] == EXISTS:
            return super().normalization(choice, row_shape)
        choice = choose("normalizer", "strokes") if isinstance(choice, Auto) else choice
        if not isinstance(choice, Strokes | Plain):
            raise UserError(
                f'data.normalizer: "{choice.tag()}" would scale or mix the signs of pen strokes with their coordinates; use '
                '"strokes" or "none", or prepare the drawings without pen strokes (--exactly 32)'
            )
        return choice

    def parts(self, x: Tensor) -> Tensor:
        """Return the pen stroke of each cubic, or the cubic itself in rows without pen strokes."""
        import torch

        if x.shape[-1] == EXISTS:
            return torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
        there = x[..., EXISTS] > 0
        starts = there & ~(x[..., CONTINUES] > 0)
        starts[:, 0] = there[:, 0]
        return torch.where(there, starts.cumsum(1) - 1, -1).clamp_min(-1)

    def augment_draws(self, row_shape: tuple[int, ...]) -> int:
        from flowkit.sketch.augment import draws

        return draws(row_shape[0])

    def augment(self, x: Tensor, augment: Augment, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """See `flowkit.sketch.augment`."""
        from flowkit.sketch.augment import augmented

        return augmented(x, self.parts(x), augment, uniform)

    def example(
        self, source: str, row_shape: tuple[int, ...], inherited: dict[str, Any], *, part: bool = False
    ) -> Example:
        """Return the drawing of an SVG file as a row; its viewBox goes with the samples. Raises UserError if it does not fit."""
        return read_example(Path(source), row_shape, part=part)

    def no_density(self, row_shape: tuple[int, ...]) -> str | None:
        if row_shape[-1] == EXISTS:
            return None
        return "the signs of pen strokes are discrete, so rows have no density; train on drawings cut with `prepare --exactly 32`"

    def finish(self, x: np.ndarray, given: np.ndarray | None = None) -> np.ndarray:
        return tidy(x, given) if x.shape[-1] > EXISTS else x

    def statistics(self, x: np.ndarray) -> dict[str, Any] | None:
        """Return mean and range of the numbers of cubics and pen strokes; None for rows without pen strokes."""
        if x.ndim != 3 or x.shape[-1] <= EXISTS or not len(x):
            return None
        cubics = exists(x).sum(axis=1)
        found = {"cubics": cubics, "pen_strokes": cubics - continues(x).sum(axis=1)}
        return {name: {"mean": float(count.mean()), "min": int(count.min()), "max": int(count.max())}
                for name, count in found.items()}  # fmt: skip

    def preview(self, rows: Dataset) -> list[Preview]:
        """Return sketches as braille pictures of 24 x 12 characters, and in smaller sizes."""
        return [
            Preview(
                title, braille(sketch), sizes=tuple(Preview(title, braille(sketch, 2 * n, n)) for n in range(5, 12))
            )
            for sketch, title in zip(rows.x, rows.titles(), strict=True)
        ]

    def draw(self, rows: Dataset, behind: np.ndarray | None = None) -> list[str]:
        """Return one SVG per sketch, transparent and in the page's text color."""
        return [
            svg(sketch, size=160, stroke_width=0.028, color="currentColor", background=None, title=title)
            for sketch, title in zip(rows.x, rows.titles(), strict=True)
        ]

    def presenter(self, data: Dataset | None, *, decode: bool = True, device: str = "auto") -> SketchPresenter:
        return SketchPresenter()

    def moving(self) -> tuple[Presenter, Callable[[np.ndarray, Path], None]]:
        from flowkit.sketch.decoding import SketchOptions

        return SketchOptions(animate=True).presenter(), flow_gif

    def completed(self, model: Any, data: Dataset, rows: np.ndarray, **how: Any) -> Completed:
        from flowkit.sketch.completion import measure_completion

        return measure_completion(model, data, rows, **how)

    def shown(self, model: Any, data: Dataset, **how: Any) -> Shown:
        from flowkit.sketch.asked import measure_shown

        return measure_shown(model, data, **how)

    def evaluator(self, comparison: Comparison, *, decode: bool = True, device: str = "auto") -> SketchEvaluator:
        from flowkit.sketch.evaluation import SketchEvaluator

        return SketchEvaluator(comparison)


class SketchPresenter:
    """Writes sketches as SVG and a contact sheet. Interpolations also become a strip and a GIF."""

    notice = ""

    def __call__(
        self, samples: Dataset, out: Path, *, shown: Sequence[int] = (), tell: Tell | None = None
    ) -> Presented:
        """Write one SVG per sketch (`000-cat.svg`, ...) and a contact sheet, `sheet.png`. Raises UserError if it cannot."""
        titles, x, info = samples.titles(), samples.x, samples.info
        asked = [str(one) for one in info.get("asked", ())]
        if asked:
            titles = [Path(asked[row * len(asked) // len(x)]).stem for row in range(len(x))]
        digits = max(3, len(str(len(x) - 1)))
        view, given = info.get("view_box"), info.get("given")
        paths = []
        for number, (sketch, title) in enumerate(zip(x, titles, strict=True)):
            name = f"{number:0{digits}d}-{safe_name(title)}"
            paths.append(Path(out) / f"{name}.svg")
            write_svg(paths[-1], sketch, title, None if view is None else tuple(view))
        if len(x) and asked:
            asked_sheet(x, [_picture_or_name(one) for one in asked], Path(out) / "sheet.png", tell=tell)
            paths.append(Path(out) / "sheet.png")
        elif len(x):
            marked = None
            if given and given == list(range(len(given))):  # a beginning
                marked = np.tile(np.arange(x.shape[1]) < len(given), (len(x), 1))
            contact_sheet(x, titles, Path(out) / "sheet.png", tell=tell, marked=marked)  # takes most of the time
            paths.append(Path(out) / "sheet.png")
        if "between" in info and len(x):
            for name in ("between.png", "between.gif"):
                strip(x, Path(out) / name)
                paths.append(Path(out) / name)
        previews = SketchDomain().preview(samples.take(np.asarray(shown, np.int64))) if len(shown) else []
        return Presented(tuple(paths), tuple(previews))


def _picture_or_name(asked: str) -> Any:
    """Return the image file that was asked for, as a PIL image; or the text, if it is none or is gone."""
    from flowkit.encoders.pictures import SUFFIXES, read_image
    from flowkit.errors import Unreadable

    if Path(asked).suffix.lower() not in SUFFIXES:
        return asked
    try:
        return read_image(Path(asked))
    except Unreadable:
        return Path(asked).name


def read_example(path: Path, row_shape: tuple[int, ...], *, part: bool) -> Example:
    """See `SketchDomain.example`."""
    from flowkit.errors import Unreadable
    from flowkit.sketch.budget import to_size
    from flowkit.sketch.svg_read import BLEED, read_drawing

    size, pens = row_shape[0], row_shape[-1] > EXISTS
    try:
        data = path.read_bytes()
    except OSError as error:
        hint = f" {path.name} could also be row N of a data set: DATA.safetensors#N" if not path.suffix else ""
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected an SVG file.{hint}") from None
    try:
        strokes, canvas = read_drawing(data, cut=False)
        strokes = [stroke for stroke in strokes if len(stroke)]
        if not strokes:
            raise Unreadable("has no strokes")
        farthest = max(float(np.abs(stroke).max()) for stroke in strokes)
        if canvas is not None and farthest > 1 + BLEED:
            raise UserError(
                f"{path}: has ink outside its canvas (up to {farthest:.2f} times half its longer side). Move it inside, or "
                "enlarge its viewBox"
            )
        count = sum(map(len, strokes))
        if part and count > size:
            raise UserError(f"{path}: has {count} cubics, but this model draws at most {size}. Begin with fewer strokes, or "
                            "simplify them")  # fmt: skip
        info: dict[str, Any] = {} if canvas is None else {"view_box": list(canvas)}
        if not part:
            return Example(to_size(strokes, size, exactly=not pens).x, None, info)
        row = as_row(strokes, size)
        if not pens:
            info["note"] = f"this model draws loose cubics, so the pen strokes of {path} are given as {count} cubics"
        return Example(row if pens else np.ascontiguousarray(row[:, :EXISTS]), exists(row), info)
    except Unreadable as problem:
        raise UserError(f"{path}: {problem}") from None


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
