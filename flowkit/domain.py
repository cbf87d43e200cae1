"""What a domain is: all that is particular to sketches, sentences or points, behind one small protocol.

The loop, the sampler and the inspector know only this. Arrays at this border are numpy, so that looking at data
needs no torch; only `extra_losses` and `normalizer_axes` speak of training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flowkit.errors import UserError, listing, nearest

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from flowkit.data.dataset import Dataset
    from flowkit.metrics.comparison import Comparison
    from flowkit.metrics.report import Figure


@dataclass(frozen=True)
class Preview:
    """One sample as a terminal can show it: rows of text of equal width, with a title and an optional remark."""

    title: str
    lines: tuple[str, ...]
    note: str = ""


class Domain(Protocol):
    kind: str  # "sketch" | "embedding" | "points", as in the data's sidecar
    noun: str  # what one sample is called, in the plural: "sketches"
    builtin: tuple[str, ...]  # names of the data sets that it can generate
    archs: tuple[str, ...]  # architectures that fit its data
    default_normalizer: str

    def generate(self, name: str, num_samples: int, seed: int) -> Dataset:
        """A built-in data set of `num_samples` rows; the same for the same seed."""
        ...

    def check(self, data: Dataset, where: str) -> None:
        """Raise UserError when the rows cannot be this domain's (shape, range)."""
        ...

    def model_args(self, data: Dataset) -> dict[str, Any]:
        """The arguments of `create_model` that follow from the data: sizes, number of classes, condition width."""
        ...

    def extra_losses(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """Auxiliary losses by their key in `[loss]`: predicted x1 (B, ...) in the domain's units -> (B,)."""
        ...

    def preview(self, x: np.ndarray, titles: Sequence[str]) -> list[Preview]:
        """Terminal pictures of a few rows."""
        ...

    def write(
        self, x: np.ndarray, titles: Sequence[str], out: Path, progress: Callable[[int], object] | None = None
    ) -> list[Path]:
        """Write every row in its readable form (SVG, text) and an overview into the folder `out`; the paths made.

        `progress` is told how many rows are done.
        """
        ...

    def evaluator(self, comparison: Comparison) -> Evaluator:
        """What measures samples of this domain. Raises UserError where nothing does."""
        ...


class Evaluator(Protocol):
    protocol: str  # names the features, metrics and counts; figures compare under one name only
    legend: str  # what the groups of figures look at, in a few words

    def figures(self, stage: Callable[[str], None]) -> Sequence[Figure]:
        """All metrics of samples, real rows and Gaussian draws; `stage` is told which of the three is measured now."""
        ...

    def picture(self, path: Path) -> None:
        """Write a PNG of some samples, each beside the nearest training row."""
        ...


# Built-in data sets by name: which domain generates them.
BUILTIN = {"doodles": "sketch"}
_HOMES = {
    "sketch": ("flowkit.sketch.domain", "SketchDomain"),
    "array": ("flowkit.data.array_domain", "ArrayDomain"),
}


def get_domain(kind: str) -> Domain:
    """The domain of a data kind. Raises UserError for a kind that this version does not know."""
    if kind not in _HOMES:
        raise UserError(f"unknown kind of data {kind!r}; known are {listing(_HOMES)}{nearest(kind, _HOMES)}")
    from importlib import import_module

    module, name = _HOMES[kind]
    return getattr(import_module(module), name)()
