"""The metrics of a run as columns: `model.history`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.checkpoint import MAX_LINE, METRICS
from flowkit.data.strict_json import parse_json
from flowkit.errors import UserError, nearest
from flowkit.html import ShownAsHtml


class History(ShownAsHtml, dict[str, np.ndarray]):
    """Columns by their names in metrics.jsonl: each (N,) float64, one entry per step, NaN where a step has no such number.

    `history["val_loss"]` is a column and `history.curve("val_loss")` its steps and numbers without the gaps. It is a dict, so
    that `pandas.DataFrame(model.history)` makes a table.
    """

    def __missing__(self, name: str) -> np.ndarray:
        raise KeyError(f"no column {name!r}{nearest(name, self)}")

    def __repr__(self) -> str:
        steps = self.get("step", np.empty(0))
        last = f", to step {int(steps[-1]):,}" if len(steps) else ""
        return f"<History: {len(steps):,} rows{last}; columns {', '.join(self) or 'none'}>"

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return (steps (M,), numbers (M,)) of a column, without the steps that have no finite number."""
        column = self[name]
        there = np.isfinite(column)
        return self["step"][there], column[there]


def read_history(run_dir: Path | None) -> History:
    """Read the metrics of a run, without invalid lines. Raises UserError if the run or its metrics file is missing."""
    if run_dir is None:
        raise UserError("this model was loaded from a file outside a run, so it has no history")
    rows: dict[float, dict[str, float]] = {}
    try:
        with (run_dir / METRICS).open("rb") as file:
            while line := file.readline(MAX_LINE):
                try:
                    row = parse_json(line)
                except ValueError:
                    continue
                step = row.get("step") if isinstance(row, dict) else None
                if isinstance(step, int | float) and math.isfinite(step):
                    rows.setdefault(step, {}).update(_numbers(row))
    except OSError as error:
        raise UserError(f"{run_dir / METRICS}: cannot be read ({error.strerror})") from None
    names = dict.fromkeys(["step", *(name for row in rows.values() for name in row)]) if rows else {}
    table = [rows[step] for step in sorted(rows)]
    return History({name: np.array([row.get(name, math.nan) for row in table]) for name in names})


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a line. null stands for one that was not finite."""
    return {name: math.nan if value is None else float(value) for name, value in row.items()
            if value is None or isinstance(value, int | float)}  # fmt: skip
