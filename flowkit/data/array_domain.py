"""The domain of plain tensors: rows of any shape that flowkit knows nothing particular about (`flowkit.train(..., data=x)`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowkit.domain import Evaluator, Preview
from flowkit.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from flowkit.data.dataset import Dataset
    from flowkit.metrics.comparison import Comparison


class ArrayDomain:
    kind = "array"
    noun = "rows"
    builtin: tuple[str, ...] = ()
    archs: tuple[str, ...] = ()
    default_normalizer = "zscore"

    def generate(self, name: str, num_samples: int, seed: int) -> Dataset:
        raise UserError(f"no built-in data set of plain tensors is called {name!r}")

    def check(self, data: Dataset, where: str) -> None:
        if data.x.ndim < 2:
            raise UserError(f"{where}: x has shape {data.x.shape}; expected (N, ...) with at least two dimensions")

    def model_args(self, data: Dataset) -> dict[str, Any]:
        return {}

    def extra_losses(self) -> dict[str, Any]:
        return {}

    def preview(self, x: np.ndarray, titles: Sequence[str]) -> list[Preview]:
        flat = x.reshape(len(x), -1)
        return [
            Preview(title, (f"mean {row.mean():+.3f}", f"std  {row.std():.3f} ", f"norm {(row**2).sum() ** 0.5:.3f} "))
            for row, title in zip(flat, titles, strict=True)
        ]

    def write(
        self, x: np.ndarray, titles: Sequence[str], out: Path, progress: Callable[[int], object] | None = None
    ) -> list[Path]:
        return []

    def evaluator(self, comparison: Comparison) -> Evaluator:
        raise UserError("evaluate: there are no metrics for plain tensors; only data of a known kind can be measured")
