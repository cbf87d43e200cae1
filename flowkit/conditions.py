"""What samples are to be of: labels and condition vectors, from what a user says to what a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from flowkit.data.tensors import load_tensors
from flowkit.errors import UserError, listing
from flowkit.sidecar import class_number

ClassLabel = str | int | Sequence[str | int] | np.ndarray | np.integer | Tensor | None


def asked_labels(
    class_label: ClassLabel, count: int, class_names: tuple[str, ...], *, conditioned: bool
) -> Tensor | None:
    """Labels (count,) int64, or None for the null class of all. conditioned: a condition is given beside them.

    Spread evenly, classes side by side: 8 samples of 2 classes are 4 of one, then 4 of the other. Raises UserError for a class
    that there is not.
    """
    if not class_names:
        if class_label is not None:
            raise UserError(f"class_label: {class_label!r} is asked for, and this model knows no classes")
        return None
    if isinstance(class_label, np.ndarray | np.generic | Tensor):
        class_label = cast("ClassLabel", class_label.tolist())
    if class_label is None and conditioned:
        return None
    if class_label is None or class_label == "all":
        wanted = list(range(len(class_names)))
    elif isinstance(class_label, str | int):
        wanted = [class_number(class_label, class_names)]
    else:
        wanted = [class_number(one, class_names) for one in cast("Sequence[str | int]", class_label)]
        if not wanted:
            raise UserError("class_label: an empty list; name at least one class")
    return torch.tensor(wanted)[torch.arange(count) * len(wanted) // count]


def asked_condition(condition: np.ndarray | Tensor | None, count: int, shape: Sequence[int] | None) -> Tensor | None:
    """Condition vectors (count, *shape) float32 from one for all or one a sample. Raises UserError where they do not fit."""
    if condition is None:
        return None
    if not shape:
        raise UserError("condition: this model was trained without condition vectors")
    features = torch.as_tensor(condition, dtype=torch.float32)
    if tuple(features.shape) == tuple(shape):
        features = features.expand(count, *shape)
    if tuple(features.shape) != (count, *shape):
        raise UserError(f"condition: has shape {tuple(features.shape)}; expected {tuple(shape)} or {(count, *shape)}")
    return features


def read_condition(path: Path) -> Tensor:
    """The tensor "condition" of a .safetensors file. Raises UserError."""
    tensors = load_tensors(path)
    if "condition" not in tensors:
        raise UserError(f"{path}: has no tensor 'condition'; it has {listing(tensors) or 'none'}")
    return tensors["condition"]
