"""The domain of plain tensors: rows of any shape that flowkit knows nothing particular about (`flowkit.train(..., data=x)`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit.domain import Evaluator, Presented, Preview
from flowkit.errors import UserError

if TYPE_CHECKING:
    from flowkit.data.dataset import Dataset
    from flowkit.metrics.comparison import Comparison


class ArrayDomain:
    kind = "array"
    noun = "rows"
    builtin: tuple[str, ...] = ()
    archs: tuple[str, ...] = ()
    default_normalizer = "zscore"
    compared_with = ("validation",)
    together = False
    inverted_rows = 0

    def generate(self, name: str, num_samples: int, seed: int) -> Dataset:
        raise UserError(f"no built-in data set of plain tensors is called {name!r}")

    def check(self, data: Dataset, where: str) -> None:
        if data.x.ndim < 2:
            raise UserError(f"{where}: x has shape {data.x.shape}; expected (N, ...) with at least two dimensions")

    def default_prediction(self, arch: str) -> str:
        return "velocity"

    def model_args(self, data: Dataset, shape: tuple[int, ...]) -> dict[str, Any]:
        return {}

    def extra_losses(self) -> dict[str, Any]:
        return {}

    def preview(self, rows: Dataset) -> list[Preview]:
        flat = rows.x.reshape(len(rows), -1)
        return [
            Preview(title, (f"mean {row.mean():+.3f}", f"std  {row.std():.3f} ", f"norm {(row**2).sum() ** 0.5:.3f} "))
            for row, title in zip(flat, rows.titles(), strict=True)
        ]

    def presenter(self, data: Dataset | None, *, decode: bool = True, device: str = "auto") -> ArrayPresenter:
        return ArrayPresenter()

    def inherited(self, data: Dataset) -> dict[str, Any]:
        return {}

    def evaluator(self, comparison: Comparison, *, decode: bool = True, device: str = "auto") -> Evaluator:
        raise UserError("evaluate: there are no metrics for plain tensors; only data of a known kind can be measured")


class ArrayPresenter:
    """There is nothing to write of plain tensors beyond the samples file; their statistics are shown."""

    notice = ""

    def __call__(
        self, samples: Dataset, out: Path, *, shown: Sequence[int] = (), progress: Callable[[int], object] | None = None
    ) -> Presented:
        previews = ArrayDomain().preview(samples.take(np.asarray(shown, np.int64))) if len(shown) else []
        return Presented(previews=tuple(previews))
