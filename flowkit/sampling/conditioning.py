"""Labels and conditions of samples: from what a user asks for to what a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from flowkit.checkpoint.sidecar import class_number
from flowkit.data.dataset import NULL, null_name
from flowkit.data.tensors import load_tensors
from flowkit.errors import Unreadable, UserError, listing

if TYPE_CHECKING:
    from flowkit.encoders import Encoder

ClassLabel = str | int | Sequence[str | int] | np.ndarray | np.integer | Tensor | None


def resolve_labels(
    class_label: ClassLabel, count: int, class_names: tuple[str, ...], *, conditioned: bool
) -> Tensor | None:
    """Return labels (count,) int64, NULL for the null class; None if the model gets no labels.

    conditioned: a condition is given too; the labels must then be all of the null class, or none. Labels are spread evenly,
    class by class: 8 samples of 2 classes are 4 of one, then 4 of the other. Raises UserError for an unknown class.
    """
    if not class_names:
        if class_label is not None:
            raise UserError(f"class_label: {class_label!r}, but this model has no classes")
        return None
    if class_label is None and conditioned:
        return None
    every = class_label is None or _is_all(class_label)
    wanted = list(range(len(class_names))) if every else _numbers(class_label, class_names)
    if conditioned and NULL in wanted:
        if set(wanted) != {NULL}:
            raise UserError(
                f'class_label: "{null_name(class_names)}" cannot be mixed with other classes when a condition is given; sample '
                "them separately"
            )
        return None
    return torch.tensor(wanted)[torch.arange(count) * len(wanted) // count]


def resolve_row_labels(
    class_label: ClassLabel, count: int, class_names: tuple[str, ...], *, conditioned: bool
) -> Tensor | None:
    """Return the labels of existing rows, as `resolve_labels`: one label for all, or one per row. Nothing is spread.

    Also raises UserError if a model with classes gets neither a label nor a condition.
    """
    if class_names and not conditioned and (class_label is None or _is_all(class_label)):
        null = null_name(class_names)
        raise UserError(
            "class_label: missing; the density of a row depends on its class: give each row's label (a list or array of "
            f'{count}), one class for all rows, or "{null}" for the density without a class'
        )
    if class_names and class_label is not None and not isinstance(class_label, str | int | np.integer):
        wanted = _numbers(class_label, class_names)
        if len(wanted) not in (1, count):
            raise UserError(f"class_label: {len(wanted)} labels for {count} rows; give one for all, or one per row")
    return resolve_labels(class_label, count, class_names, conditioned=conditioned)


def _is_all(class_label: ClassLabel) -> bool:
    return isinstance(class_label, str) and class_label == "all"


def _numbers(class_label: ClassLabel, class_names: tuple[str, ...]) -> list[int]:
    if isinstance(class_label, np.ndarray | np.generic | Tensor):
        class_label = cast("ClassLabel", class_label.tolist())
    if isinstance(class_label, str | int):
        return [class_number(class_label, class_names)]
    wanted = [class_number(one, class_names) for one in cast("Sequence[str | int]", class_label)]
    if not wanted:
        raise UserError("class_label: empty list; give at least one class")
    return wanted


def resolve_condition(
    condition: np.ndarray | Tensor | None, mask: np.ndarray | Tensor | None, count: int, shape: Sequence[int] | None
) -> tuple[Tensor | None, Tensor | None]:
    """Return condition vectors (count, *shape) float32, and which of their tokens exist: (count, P) bool, None for all.

    Both may be given once for all or once per sample. Raises UserError if they do not fit.
    """
    if condition is None:
        if mask is not None:
            raise UserError("condition_mask: needs a condition, but none is given")
        return None, None
    if not shape:
        raise UserError("condition: this model was trained without condition vectors")
    features = torch.as_tensor(condition, dtype=torch.float32)
    if tuple(features.shape) == tuple(shape):
        features = features.expand(count, *shape)
    if tuple(features.shape) != (count, *shape):
        raise UserError(f"condition: has shape {tuple(features.shape)}; expected {tuple(shape)} or {(count, *shape)}")
    if mask is None:
        return features, None
    there, tokens = torch.as_tensor(mask), tuple(shape)[:-1]
    if there.dtype != torch.bool or len(tokens) != 1 or tuple(there.shape) not in (tokens, (count, *tokens)):
        expected = (
            f"{tokens} or {(count, *tokens)} bool" if tokens else "none, since this model's conditions are vectors"
        )
        raise UserError(f"condition_mask: is {there.dtype} of shape {tuple(there.shape)}; expected {expected}")
    return features, None if there.all() else there.expand(count, *tokens)


def read_condition(path: Path) -> tuple[Tensor, Tensor | None]:
    """Read the tensors "condition" and optionally "condition_mask" of a .safetensors file. Raises UserError."""
    tensors = load_tensors(path)
    if "condition" not in tensors:
        raise UserError(f"{path}: has no tensor 'condition'; it has {listing(tensors) or 'none'}")
    return tensors["condition"], tensors.get("condition_mask")


def encode(encoder: Encoder, asked: Any, count: int) -> tuple[Tensor, Tensor | None]:
    """Return the tokens (count, P, C) and mask (count, P) of the images or texts `asked`, each encoded once, then spread evenly.

    asked: one, or a list or tuple. Raises UserError for what cannot be read, for a text that is too long, and for a `count` that
    the number of them does not divide.
    """
    kind, several = encoder.kind, _several(asked)
    if not several or count % len(several):
        raise UserError(
            f"{kind}: {len(several)} for {count} samples; give at least one, and the same number of samples for each"
        )
    if kind == "image":
        several = [_read(one) for one in several]
    elif long := [one for one in several if encoder.too_long(one)]:
        raise UserError(f"text: {encoder.name} reads at most {encoder.tokens} tokens, and this text has more: "
                        f"{long[0][:60]!r}...; shorten it")  # fmt: skip
    tokens, mask = encoder.encode(several)
    spread = torch.arange(count) * len(several) // count
    return torch.from_numpy(tokens)[spread], None if mask is None else torch.from_numpy(mask)[spread]


def asked_for(image: Any, text: Any) -> dict[str, Any]:
    """Return what samples say of the images or texts that were asked for: files by name, else the texts."""
    names = [[str(one) if isinstance(one, str | Path) else f"image {place}" for place, one in enumerate(_several(asked), 1)]
             for asked in (image, text) if asked is not None]  # fmt: skip
    return {"asked": max(names, key=len)} if names else {}


def _several(asked: Any) -> list[Any]:
    return list(asked) if isinstance(asked, list | tuple) else [asked]


def _read(image: Any) -> Any:
    """Return a file or another image in RGB. Raises UserError."""
    from flowkit.encoders.pictures import read_image

    try:
        return read_image(image)
    except Unreadable as problem:
        name = image if isinstance(image, str | Path) else "image"
        raise UserError(f"{name}: {problem}" + (f" ({problem.detail})" if problem.detail else "")) from None
