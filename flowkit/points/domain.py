"""The domain of points: what the trainer, the sampler and the inspector need to know of two-dimensional toy data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit.data.dataset import Dataset
from flowkit.domain import Presented, Preview
from flowkit.errors import UserError
from flowkit.points.distributions import NAMES, class_names, draw
from flowkit.rng import key

if TYPE_CHECKING:
    from torch import Tensor

    from flowkit.metrics.comparison import Comparison
    from flowkit.points.evaluation import PointsEvaluator


class PointsDomain:
    """Points (D,) of a space of few dimensions; pictures are drawn of those in the plane."""

    kind = "points"
    noun = "points"
    builtin = NAMES
    archs = ("selu_mlp", "residual_mlp", "mlp")
    default_normalizer = "none"  # the published tables are in raw units
    compared_with = ("validation",)
    inverted_rows = 256
    together = True

    def default_prediction(self, arch: str) -> str:
        return "velocity"

    def generate(self, name: str, num_samples: int, seed: int) -> Dataset:
        """A built-in data set. Raises UserError for a name that is not in `builtin`."""
        x, label, condition = draw(name, num_samples, np.random.default_rng(key(seed, "points")))
        return Dataset(self.kind, x, label, condition, None, class_names(name), {"source": name, "seed": seed})

    def check(self, data: Dataset, where: str) -> None:
        """Raise UserError unless `data.x` is (N, D) with D >= 1."""
        if data.x.ndim != 2 or data.x.shape[1] < 1:
            raise UserError(
                f"{where}: x has shape {tuple(data.x.shape)}; points are (N, D): a row of coordinates a point"
            )

    def model_args(self, data: Dataset, shape: tuple[int, ...]) -> dict[str, Any]:
        """Sizes for `create_model`; `num_classes` and `condition_dim` are 0 where `data` has no labels or conditions."""
        return {
            "input_dim": shape[0],
            "num_classes": len(data.class_names) if data.class_label is not None else 0,
            "condition_dim": int(data.condition.shape[-1]) if data.condition is not None else 0,
        }

    def extra_losses(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        return {}

    def preview(self, rows: Dataset) -> list[Preview]:
        """One picture of all the points."""
        return _preview(rows.x, None)

    def presenter(self, data: Dataset | None, *, decode: bool = True, device: str = "auto") -> PointsPresenter:
        return PointsPresenter(data)

    def inherited(self, data: Dataset) -> dict[str, Any]:
        return {}

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
        self, samples: Dataset, out: Path, *, shown: Sequence[int] = (), progress: Callable[[int], object] | None = None
    ) -> Presented:
        """`scatter.png`, where the points are in the plane; one preview of them all, whichever rows are `shown`."""
        x, files = samples.x, []
        if x.shape[1] == 2 and len(x):
            from flowkit.points.scatter import write_scatter

            files.append(
                write_scatter(
                    Path(out) / "scatter.png", x, self._data, class_label=samples.class_label,
                    class_names=samples.class_names,
                )
            )  # fmt: skip
        if progress is not None:
            progress(len(x))
        return Presented(tuple(files), tuple(_preview(x, self._data)) if len(shown) else ())


def _preview(x: np.ndarray, data: np.ndarray | None) -> list[Preview]:
    from flowkit.points.terminal import picture, statistics

    return [picture(x, data) if x.shape[1] == 2 else statistics(x)]
