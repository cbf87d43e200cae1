"""Reports of prepared data and samples: the sidecar, the labels, and statistics of a few thousand rows."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.data.dataset import SPLITS, Dataset, data_files, read_dataset
from flowkit.data.encoded import encoded_file
from flowkit.domain import Preview, get_domain
from flowkit.errors import UserError

STATISTICS_ROWS = 4096
DRAWN = 8


def data_report(path: Path) -> dict[str, Any]:
    """Report on prepared data or samples. Raises UserError if a file is missing, truncated, or contradicts the other."""
    data = read_dataset(path, check=False)
    looked = _spread(len(data), STATISTICS_ROWS)
    tensors_path, json_path = data_files(path)
    arrays = {"x": data.x, "condition": data.condition}
    statistics = {name: _statistics(array[looked]) for name, array in arrays.items() if array is not None}
    remarks = [f"{found['bad_rows']} of the {len(looked):,} rows looked at have NaN or infinity in {name!r}"
               for name, found in statistics.items() if found["bad_rows"]]  # fmt: skip
    files = [tensors_path, json_path] + ([tensors_path.with_suffix(".jsonl")] if data.texts is not None else [])
    files += [encoded_file(tensors_path, kind) for kind in data.encoded]
    split, mask = None, data.condition_mask
    if data.split is not None:
        split = {name: int((data.split == number).sum()) for name, number in SPLITS.items()}
    domain = None
    with contextlib.suppress(UserError):  # the kind is defined in code that is not trusted
        domain = get_domain(data.kind)
    return {
        "what": "data",
        "path": str(tensors_path),
        "kind": data.kind,
        "rows": len(data),
        "shape": list(data.x.shape[1:]),
        "condition_shape": None if data.condition is None else list(data.condition.shape[1:]),
        "condition_tokens": None
        if mask is None
        else float(mask[looked].sum(1).mean()),  # mean number of present tokens
        "encoded": {
            kind: {"shape": list(one.shape), "items": len(one.tokens), "rows": int((one.counts > 0).sum()), **one.info}
            for kind, one in data.encoded.items()
        },
        "class_names": list(data.class_names),
        "class_counts": data.class_counts() or None,
        "split": split,
        "files": {one.name: one.stat().st_size for one in files},
        "statistics": statistics,
        "vectors": None,
        "strokes": None,
        **({} if domain is None else {domain.statistics_of: domain.statistics(data.x[looked])}),
        "statistics_rows": len(looked),
        "info": data.info,
        "remarks": remarks,
    }


def pictures(data: Dataset | Path, limit: int = DRAWN) -> list[Preview]:
    """Return previews of a few rows, covering as many classes as possible. Raises UserError if they cannot be drawn."""
    path = data if isinstance(data, Path) else None
    data = read_dataset(data, check=False) if isinstance(data, Path) else data
    domain = get_domain(data.kind)
    rows = _spread(len(data), STATISTICS_ROWS) if domain.together else _one_of_each(data, limit)
    few = data.take(rows)
    domain.check(few, str(path or "data"))
    if not np.isfinite(few.x).all():
        raise UserError("rows with NaN or infinity cannot be drawn")
    previews = domain.preview(few)
    if domain.together or few.class_label is not None:
        return previews
    return [replace(preview, title=str(row)) for preview, row in zip(previews, rows, strict=True)]


def _spread(count: int, limit: int) -> np.ndarray:
    """Return at most `limit` row numbers, evenly spaced, because rows may be sorted by class."""
    return np.arange(count) if count <= limit else np.arange(limit) * count // limit


def _one_of_each(data: Dataset, limit: int) -> np.ndarray:
    if data.class_label is None or not len(data):
        return _spread(len(data), limit)
    _, first = np.unique(data.class_label, return_index=True)
    return first[_spread(len(first), limit)] if len(first) >= limit else _spread(len(data), limit)


def _statistics(rows: np.ndarray) -> dict[str, Any]:
    flat = rows.reshape(len(rows), math.prod(rows.shape[1:])).astype(np.float64)
    good = np.isfinite(flat).all(axis=1)
    flat = flat[good]
    if not flat.size:
        return {"mean": None, "std": None, "min": None, "max": None, "row_norm": None, "bad_rows": int((~good).sum())}
    return {
        "mean": float(flat.mean()), "std": float(flat.std()), "min": float(flat.min()), "max": float(flat.max()),
        "row_norm": float(np.sqrt((flat**2).sum(axis=1)).mean()), "bad_rows": int((~good).sum()),
    }  # fmt: skip
