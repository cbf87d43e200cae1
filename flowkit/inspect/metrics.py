"""Summarize a run's metrics.jsonl: the latest values, the best ones, and the curves."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

from flowkit.checkpoint import MAX_LINE
from flowkit.data.strict_json import parse_json

POINTS = 60  # per curve in the report


def metrics_report(path: Path) -> dict[str, Any] | None:
    """Return `last`, `last_validation`, `best_validation` and thinned curves; None if the file holds no losses.

    path: a metrics.jsonl. Unreadable lines, such as the last one of a killed run, are counted and skipped.
    """
    if not path.is_file():
        return None
    logged, validated = _Series("loss"), _Series("val_loss")
    unreadable = 0
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE):
                row = metrics_row(line)
                if row:
                    validated.add(row) if "val_loss" in row else logged.add(row)
                elif line.strip():
                    unreadable += 1
    except OSError:
        return None
    if not logged.last and not validated.last:
        return None
    return {
        "last": logged.last,
        "last_validation": validated.last,
        "best_validation": validated.best,
        "loss_curve": logged.curve(),
        "validation_curve": validated.curve(),
        "unreadable_lines": unreadable,
    }


def metrics_row(line: bytes) -> dict[str, Any] | None:
    """Parse a line. None if it is not a line of metrics."""
    try:
        row = parse_json(line.decode("utf-8"))
    except ValueError:
        return None
    if not isinstance(row, dict) or not _is_number(row.get("step")) or not math.isfinite(row["step"]):
        return None
    if not all(
        row[name] is None or _is_number(row[name]) for name in ("loss", "val_loss", "val_zero_loss") if name in row
    ):
        return None
    return row


class _Series:
    """The rows that hold one of the losses. Keeps only (step, loss) of each, since a long run has millions of rows."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.last: dict[str, Any] | None = None
        self.best: dict[str, Any] | None = None
        self.points: list[tuple[float, float]] = []

    def add(self, row: dict[str, Any]) -> None:
        if self.name not in row:
            return
        self.last = row
        loss = row[self.name]
        if loss is None or not math.isfinite(loss):
            return
        self.points.append((row["step"], loss))
        if self.best is None or loss < self.best[self.name]:
            self.best = row

    def curve(self) -> list[list[float]]:
        """Return [step, mean loss] for groups of rows of equal size."""
        count = min(POINTS, len(self.points))
        edges = [round(i * len(self.points) / count) for i in range(count + 1)] if count else []
        groups = [self.points[a:b] for a, b in pairwise(edges)]
        return [[group[-1][0], sum(value for _, value in group) / len(group)] for group in groups]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
