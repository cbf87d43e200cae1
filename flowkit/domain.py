"""What a domain is: all that is particular to sketches, sentences or points, behind one small protocol.

The loop, the sampler and the inspector know only this. Arrays at this border are numpy, so that looking at data
needs no torch; only `extra_losses` is about training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flowkit.errors import UserError, listing, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from flowkit.data.dataset import Dataset
    from flowkit.metrics.comparison import Comparison
    from flowkit.metrics.report import Figure


Tell = Callable[[str, int, int], None]  # what is being done, how much of it is done, out of how much


@dataclass(frozen=True)
class Preview:
    """One sample as a terminal can show it: rows of text of equal width, with a title and an optional remark.

    `behind`, of the same size, shows through dimly wherever `lines` are blank: data behind samples. `sizes` are the same
    picture with other numbers of lines, for a place that is known only when it is shown.
    Samples of one line each (sentences) are listed one below the other; the others are pictures, side by side.
    """

    title: str
    lines: tuple[str, ...]
    note: str = ""
    behind: tuple[str, ...] = ()
    sizes: tuple[Preview, ...] = ()

    def fitting(self, width: int, height: int) -> Preview:
        """The tallest of `sizes` of at most `width` cells and `height` lines, the title's not counted; else this one."""
        fit = (size for size in self.sizes if len(size.lines) <= height and len(size.lines[0]) <= width)
        return max(fit, key=lambda size: len(size.lines), default=self)


@dataclass(frozen=True)
class Presented:
    """What became of samples when they were made fit to look at."""

    files: tuple[Path, ...] = ()
    previews: tuple[Preview, ...] = ()
    texts: tuple[str, ...] | None = None  # a sentence a sample, where the domain's rows stand for text
    figures: dict[str, float] = field(default_factory=dict)  # measured on the samples, by their names in metrics.jsonl
    caption: str = ""  # what the previews' remarks are


class Presenter(Protocol):
    """Makes samples fit to look at. Made once a run (or command), since it may hold a decoder or training rows."""

    notice: str  # what the user should know once, such as why sentences cannot be decoded here; may be empty

    def __call__(
        self, samples: Dataset, out: Path, *, shown: Sequence[int] = (), progress: Callable[[int], object] | None = None
    ) -> Presented:
        """Write every row in its readable form (SVG, PNG) and an overview into the folder `out`; previews of `shown` rows.

        `progress` is told how many rows are done. Raises UserError where `out` cannot be written to.
        """
        ...


class Domain(Protocol):
    kind: str  # "sketch" | "embedding" | "points", as in the data's sidecar
    noun: str  # what one sample is called, in the plural: "sketches"
    builtin: tuple[str, ...]  # names of the data sets that it can generate
    archs: tuple[str, ...]  # architectures that fit its data
    default_normalizer: str
    compared_with: tuple[str, ...]  # splits that samples are compared with, the first that has enough rows
    together: bool  # whether a preview is one picture of all the rows given, and not one a row
    inverted_rows: int  # validation rows that a run carries back to noise and forth again whenever it draws samples

    def default_prediction(self, arch: str) -> str:
        """What that architecture's output should be, "velocity" or "data", where the recipe leaves it to us."""
        ...

    def generate(self, name: str, num_samples: int, seed: int) -> Dataset:
        """A built-in data set of `num_samples` rows; the same for the same seed."""
        ...

    def check(self, data: Dataset, where: str) -> None:
        """Raise UserError when the rows cannot be this domain's (shape, range)."""
        ...

    def model_args(self, data: Dataset, shape: tuple[int, ...]) -> dict[str, Any]:
        """The arguments of `create_model` that follow from the data: sizes, number of classes, condition width.

        `shape` is that of a row as the model sees it: normalised.
        """
        ...

    def extra_losses(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """Auxiliary losses by their key in `[loss]`: predicted x1 (B, ...) in the domain's units -> (B,)."""
        ...

    def preview(self, rows: Dataset) -> list[Preview]:
        """Terminal pictures of a few rows of data, or of samples; torch-free."""
        ...

    def presenter(self, data: Dataset | None, *, decode: bool = True, device: str = "auto") -> Presenter:
        """What makes samples fit to look at. `data`: what the model is trained on, where it is at hand, to compare with.

        `decode`: whether a decoder may be loaded for it, onto `device`.
        """
        ...

    def inherited(self, data: Dataset) -> dict[str, Any]:
        """What samples of a model trained on `data` say of themselves in their sidecar, so that they can be decoded."""
        ...

    def evaluator(self, comparison: Comparison, *, decode: bool = True, device: str = "auto") -> Evaluator:
        """What measures samples of this domain. Raises UserError where nothing does.

        `decode`: whether a decoder may be loaded for it, onto `device`, where it is at hand.
        """
        ...


class Evaluator(Protocol):
    protocol: str  # names the features, metrics and counts; figures compare under one name only
    legend: str  # what the groups of figures look at, in a few words
    notes: tuple[str, ...]  # what the reader should know, such as why something was not measured

    def figures(self, tell: Tell) -> Sequence[Figure]:
        """All metrics of samples, real rows and Gaussian draws; `tell` is told what is being measured."""
        ...

    def write(self, out: Path) -> list[Path]:
        """Write some samples, each beside the nearest training row, into the folder `out`; the paths made."""
        ...


# Built-in data sets by name: which domain generates them.
_POINTS = [
    name + what
    for name in ("8gaussians", "moons", "scurve", "checkerboard", "spirals")
    for what in ("", "-labelled", "-conditioned")
]
BUILTIN = {"doodles": "sketch", "sentences": "embedding"} | dict.fromkeys(_POINTS, "points")
_HOMES = {
    "sketch": ("flowkit.sketch.domain", "SketchDomain"),
    "embedding": ("flowkit.text.domain", "TextDomain"),
    "points": ("flowkit.points.domain", "PointsDomain"),
    "array": ("flowkit.array_domain", "ArrayDomain"),
}


def get_domain(kind: str) -> Domain:
    """The domain of a data kind. Raises UserError for a kind that this version does not know."""
    if kind not in _HOMES:
        raise UserError(f"unknown kind of data {kind!r}; known are {listing(_HOMES)}{nearest(kind, _HOMES)}")
    from importlib import import_module

    module, name = _HOMES[kind]
    return getattr(import_module(module), name)()


def check_arch(arch: str, kind: str) -> None:
    """Raise UserError where an architecture does not fit a kind of data."""
    archs = get_domain(kind).archs
    if arch not in archs:
        raise UserError(f"model.arch: {arch!r} does not fit {kind} data; {listing(archs) or 'none'} does")
