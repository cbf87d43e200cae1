"""Options of `flowkit decode` for sketches: self-drawing SVGs, and pages for a pen plotter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from flowkit.data.dataset import Dataset
from flowkit.data.files import replacing
from flowkit.domain import Presented, Tell
from flowkit.errors import UserError
from flowkit.sketch.animate import animated_svg
from flowkit.sketch.domain import SketchPresenter
from flowkit.sketch.plotter import Plot, check_grid, parse_grid, parse_page, plot


@dataclass(frozen=True)
class SketchOptions:
    """The options of `flowkit decode` for sketches, as on the command line. None (or False) for those that were not given."""

    kind: ClassVar[str] = "sketch"
    noun: ClassVar[str] = "sketches"
    animate: bool = False
    page: str | None = None
    margin: str | None = None
    landscape: bool = False
    grid: str | None = None
    drawings: str | None = None

    def given(self) -> list[str]:
        """Return the options that were given, as on the command line: "--page"."""
        return [f"--{field.name}" for field in fields(self) if getattr(self, field.name) not in (None, False)]

    def check(self) -> None:
        """Raise UserError for options that are not valid, or that require --page."""
        if self.page is None:
            if alone := [option for option in self.given() if option != "--animate"]:
                raise UserError(f"{alone[0]}: requires --page, such as --page a4")
            return
        page = parse_page(self.page, self.margin, self.landscape)
        if self.grid is not None:
            check_grid(page, parse_grid(self.grid))
        if self.drawings is not None:
            _numbers(self.drawings)

    def identify(self) -> bool:
        return False

    def presenter(self) -> SketchFiles:
        return SketchFiles(self)


class SketchFiles:
    """Writes what a `SketchPresenter` writes, and what the options ask for besides."""

    notice = ""

    def __init__(self, options: SketchOptions):
        self._options = options

    def __call__(
        self, samples: Dataset, out: Path, *, shown: Sequence[int] = (), tell: Tell | None = None
    ) -> Presented:
        """Also write `000-cat-animated.svg`, ... with --animate, and `page-1.svg`, ... with --page. Raises UserError."""
        page = self._options.page is not None
        rows = self._on_page(len(samples)) if page else ()
        presented = SketchPresenter()(samples, out, shown=shown, tell=tell)
        files, facts = list(presented.files), ""
        if self._options.animate:
            named = [path for path in presented.files if path.suffix == ".svg"]
            for path, sketch, title in zip(named, samples.x, samples.titles(), strict=True):
                files.append(path.with_name(f"{path.stem}-animated.svg"))
                _write(files[-1], animated_svg(sketch, title=title))
        if page:
            made = self._plot(samples.x[rows], tell)
            digits = len(str(len(made.pages)))
            for number, text in enumerate(made.pages, 1):
                files.append(out / f"page-{number:0{digits}d}.svg")
                _write(files[-1], text)
            facts = _said(made, len(rows))
        return replace(presented, files=tuple(files), noun="SVG files", facts=facts)

    def _on_page(self, count: int) -> np.ndarray:
        """Return the numbers of the drawings on the pages."""
        if not count:
            raise UserError("--page: there are no drawings to put on a page")
        if self._options.drawings is None:
            return np.arange(count)
        rows = _numbers(self._options.drawings)
        if max(rows) >= count:
            raise UserError(f"--drawings: there is no drawing {max(rows)}; expected 0 to {count - 1}")
        return np.array(rows)

    def _plot(self, x: np.ndarray, tell: Tell | None) -> Plot:
        options = self._options
        assert options.page is not None
        page = parse_page(options.page, options.margin, options.landscape)
        grid = None if options.grid is None else parse_grid(options.grid)
        moved = None if tell is None else lambda done, total: tell("ordering pen strokes", done, total)
        return plot(x, page, grid, tell=moved)


def _said(made: Plot, count: int) -> str:
    """Such as "16 drawings of 41 mm on 1 page; pen lifts 343 -> 301, travel 5,210 -> 1,731 mm"."""
    pages = len(made.pages)
    text = (
        f"{count} drawing{'s' * (count != 1)} of {made.cell:.3g} mm on {pages} page{'s' * (pages != 1)}; "
        f"pen lifts {made.lifts[0]:,} -> {made.lifts[1]:,}, travel {made.travel[0]:,.0f} -> {made.travel[1]:,.0f} mm"
    )
    if made.shrunk:
        verb = "reaches" if made.shrunk == 1 else "reach"
        text += f"; {made.shrunk} of them {verb} beyond the canvas and had to be moved or scaled down"
    return text


def _numbers(text: str) -> list[int]:
    """Return the numbers in "0,4-7". Raises UserError."""
    numbers: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if found is None or int(found[2] or found[1]) < int(found[1]):
            raise UserError(
                f"--drawings: {text!r} is not a list of numbers; expected numbers and ranges, such as 0,4-7"
            )
        first, last = int(found[1]), int(found[2] or found[1])
        if last - first >= 1_000_000:
            raise UserError(f"--drawings: {part.strip()!r} is a range of more than a million drawings")
        numbers += range(first, last + 1)
    return numbers


def _write(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, "utf-8")
