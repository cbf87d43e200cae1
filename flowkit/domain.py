"""What a domain is: all that is particular to sketches, sentences or points, behind one small protocol.

The loop, the sampler and the inspector know only this. Arrays at this border are numpy, so that looking at data
needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flowkit.errors import UserError, listing
from flowkit.progress import Tell

if TYPE_CHECKING:
    from torch import Tensor

    from flowkit.data.dataset import Dataset
    from flowkit.metrics.comparison import Comparison
    from flowkit.metrics.report import Figure


AuxiliaryLoss = Callable[["Tensor"], "Tensor"]  # predicted x1 (B, ...) in the domain's units -> (B,)


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


class Domain:
    """A kind of rows. This one is that of plain numbers, of which nothing is known; the others say more of theirs."""

    kind: str = "array"  # as in the data's sidecar; of a domain from outside, its import path
    noun: str = "rows"  # what one sample is called, in the plural: "sketches"
    builtin: tuple[str, ...] = ()  # names of the data sets that it can generate
    sizes: tuple[str, ...] = (
        "input_dim",
    )  # the network's arguments that are told a row's shape, one for each dimension
    default_normalizer: str = "zscore"
    compared_with: tuple[str, ...] = (
        "validation",
    )  # splits that samples are compared with, the first with enough rows
    together: bool = False  # whether a preview is one picture of all the rows given, and not one a row
    inverted_rows: int = 0  # validation rows that a run carries back to noise and forth again whenever it draws samples

    def generate(self, name: str, num_samples: int, seed: int) -> Dataset:
        """The built-in data set of that name, of `num_samples` rows; the same for the same seed."""
        raise UserError(f"no built-in data set of {self.noun} is called {name!r}")

    def check(self, data: Dataset, where: str) -> None:
        """Raise UserError when the rows cannot be this domain's (shape, range)."""
        if data.x.ndim < 2:
            raise UserError(f"{where}: x has shape {data.x.shape}; expected (N, ...) with at least two dimensions")

    def model_args(self, data: Dataset, shape: tuple[int, ...]) -> dict[str, Any]:
        """What there is to tell a network of the data, of which it gets what its constructor takes.

        `shape` is that of a row as the model sees it: normalised. What the data have none of is 0.
        """
        width = int(data.condition.shape[-1]) if data.condition is not None else 0
        sizes = dict(zip(self.sizes, shape, strict=True)) if len(self.sizes) == len(shape) else {}
        classes = len(data.class_names) if data.class_label is not None else 0
        return {**sizes, "shape": list(shape), "num_classes": classes, "clip_dim": width, "condition_dim": width}

    def preview(self, rows: Dataset) -> list[Preview]:
        """Terminal pictures of a few rows of data, or of samples; torch-free."""
        flat = rows.x.reshape(len(rows), -1)
        return [
            Preview(title, (f"mean {row.mean():+.3f}", f"std  {row.std():.3f} ", f"norm {(row**2).sum() ** 0.5:.3f} "))
            for row, title in zip(flat, rows.titles(), strict=True)
        ]

    def presenter(self, data: Dataset | None, *, decode: bool = True, device: str = "auto") -> Presenter:
        """What makes samples fit to look at. `data`: what the model is trained on, where it is at hand, to compare with.

        `decode`: whether a decoder may be loaded for it, onto `device`.
        """
        return PlainPresenter(self)

    def inherited(self, data: Dataset) -> dict[str, Any]:
        """What samples of a model trained on `data` say of themselves in their sidecar, so that they can be decoded."""
        return {}

    def evaluator(self, comparison: Comparison, *, decode: bool = True, device: str = "auto") -> Evaluator:
        """What measures samples of this domain. Raises UserError where nothing does.

        `decode`: whether a decoder may be loaded for it, onto `device`, where it is at hand.
        """
        raise UserError(f"evaluate: there are no metrics for {self.noun} of the kind {self.kind!r}; only data of a kind that "
                        "has some can be measured")  # fmt: skip


class PlainPresenter:
    """There is nothing to write beyond the samples file; the domain's own previews are shown."""

    notice = ""

    def __init__(self, domain: Domain):
        self._domain = domain

    def __call__(
        self, samples: Dataset, out: Path, *, shown: Sequence[int] = (), progress: Callable[[int], object] | None = None
    ) -> Presented:
        import numpy as np

        previews = self._domain.preview(samples.take(np.asarray(shown, np.int64))) if len(shown) else []
        return Presented(previews=tuple(previews))


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


def auxiliary_loss(*kinds: str) -> Callable[[AuxiliaryLoss], AuxiliaryLoss]:
    """Mark a function as an auxiliary loss of these kinds of data alone; without this mark it is one of any kind."""

    def mark(loss: AuxiliaryLoss) -> AuxiliaryLoss:
        loss.kinds = kinds  # pyright: ignore[reportFunctionMemberAccess]
        return loss

    return mark


def get_domain(kind: str) -> Domain:
    """The domain of a data kind. Raises UserError for a kind that this version does not know."""
    from flowkit.components import find

    return find("domain", kind)()


@cache
def builtin_sets() -> dict[str, str]:
    """The kinds of all built-in data sets, by their names."""
    from flowkit.components import names

    return {name: kind for kind in names("domain") for name in get_domain(kind).builtin}


def check_arch(arch: str, kind: str) -> None:
    """Raise UserError where an architecture does not fit a kind of data: it wants to be told sizes that those rows have not."""
    from flowkit.components import SIZES, find, names

    told = get_domain(kind).sizes
    misfits = lambda name: (SIZES & signature(find("arch", name)).parameters.keys()) - {*told}  # noqa: E731
    if misfits(arch):
        others = [name for name in names("arch") if name != "custom" and not misfits(name)]
        raise UserError(
            f"model.arch: {arch!r} does not fit {kind} data; {listing(others)} {'does' if len(others) == 1 else 'do'}"
        )
