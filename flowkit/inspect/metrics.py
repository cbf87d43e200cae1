"""What a run's metrics.jsonl says: the latest, the best, and the curves."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"
POINTS = 60  # of a curve in the report


def metrics_report(run_dir: Path) -> dict[str, Any] | None:
    """`last` log step, `last_validation`, `best_validation` and thinned curves; None where nothing was logged.

    Lines that cannot be read, such as the last one of a run that was killed, are counted and left out.
    """
    try:
        text = (run_dir / METRICS).read_text("utf-8", errors="replace")
    except OSError:
        return None
    logged, validated, unreadable = [], [], 0
    for line in text.splitlines():
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            step = row["step"]
            assert isinstance(step, int | float)
        except (ValueError, KeyError, TypeError, AssertionError, RecursionError):
            unreadable += 1
            continue
        if "val_loss" in row:
            validated.append(row)
        elif "loss" in row:
            logged.append(row)
    if not logged and not validated:
        return None
    numbers = [row for row in validated if _is_number(row["val_loss"])]
    return {
        "last": logged[-1] if logged else None,
        "last_validation": validated[-1] if validated else None,
        "best_validation": min(numbers, key=lambda row: row["val_loss"]) if numbers else None,
        "loss_curve": _curve(logged, "loss"),
        "validation_curve": _curve(validated, "val_loss"),
        "unreadable_lines": unreadable,
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _curve(rows: list[dict[str, Any]], name: str) -> list[list[float]]:
    """[step, mean] of equal groups of rows."""
    points = [(row["step"], row[name]) for row in rows if _is_number(row[name])]
    count = min(POINTS, len(points))
    edges = [round(i * len(points) / count) for i in range(count + 1)] if count else []
    groups = [points[a:b] for a, b in pairwise(edges)]
    return [[group[-1][0], sum(value for _, value in group) / len(group)] for group in groups]
