"""The curves of a run, from its metrics.jsonl, in bounded memory. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowkit.checkpoint import MAX_LINE
from flowkit.inspect.metrics import metrics_row

POINTS = 400  # per curve, at most
Points = list[tuple[float, float]]  # (step, value)


@dataclass
class Thinned:
    """Points of a curve. When there are too many, neighbors are averaged."""

    points: Points = field(default_factory=list)
    _stride: int = 1
    _waiting: Points = field(default_factory=list)

    def add(self, step: float, value: Any) -> None:
        """Add a point. One that is not a finite number is left out."""
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            return
        self._waiting.append((step, value))
        if len(self._waiting) < self._stride:
            return
        self.points.append(_mean(self._waiting))
        self._waiting = []
        if len(self.points) >= 2 * POINTS:
            self.points = [_mean(list(pair)) for pair in zip(self.points[::2], self.points[1::2], strict=True)]
            self._stride *= 2


@dataclass
class Curves:
    """By the names in metrics.jsonl. `validations` are whole lines, the last one always among them."""

    logged: dict[str, Points]  # "loss", "lr", "grad_norm", "rows_per_second", ...
    validations: list[dict[str, Any]]

    def validation(self, name: str) -> Points:
        """Return a curve of the validations, such as "val_loss"."""
        return [(row["step"], row[name]) for row in self.validations
                if isinstance(row.get(name), int | float) and math.isfinite(row[name])]  # fmt: skip


def read_curves(path: Path) -> Curves:
    """Read a metrics.jsonl. Lines and values that cannot be read are left out; a missing file has no curves."""
    logged: dict[str, Thinned] = {}
    validations: list[dict[str, Any]] = []
    stride = count = 0
    last: dict[str, Any] | None = None
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE):
                row = metrics_row(line)
                if not row:
                    continue
                if "val_loss" in row:
                    last, count = row, count + 1
                    if count % (1 << stride) == 0:
                        validations.append(row)
                    if len(validations) >= 2 * POINTS:
                        validations, stride = validations[1::2], stride + 1
                elif "loss" in row:
                    for name, value in row.items():
                        if name not in ("step", "time"):
                            logged.setdefault(name, Thinned()).add(row["step"], value)
    except OSError:
        pass
    if last is not None and (not validations or validations[-1] is not last):
        validations.append(last)
    return Curves({name: curve.points for name, curve in logged.items()}, validations)


def _mean(points: Points) -> tuple[float, float]:
    return sum(step for step, _ in points) / len(points), sum(value for _, value in points) / len(points)
