"""Conditions: what a network is given besides x and t: a class label, condition tokens, an image's and a text's tokens, which
of them are dropped, which tokens of x are given, and how the row was augmented."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

# The kinds of conditions by their names in a recipe, with their fields; also the columns of `dropped`.
KINDS = {"class": "class_label", "condition": "tokens", "image": "image", "text": "text"}
ENCODED = ("image", "text")  # the kinds that an encoder made from files or sentences


@dataclass(frozen=True)
class Conditions:
    """The conditions of B rows. None means not given.

    dropped: rows whose conditions are to be ignored, all of them (B,), or by kind (B, 4) in the order of KINDS. A network
    treats them like missing ones.
    """

    class_label: Tensor | None = None  # (B,) int64
    tokens: Tensor | None = None  # (B, C), or P of them (B, P, C), float
    mask: Tensor | None = None  # (B, P) bool: True for tokens, False for padding; None: no padding
    dropped: Tensor | None = None  # (B,) or (B, 4) bool
    given: Tensor | None = None  # (B, S) bool: tokens of x that are clean, for the network to complete; never dropped
    augmented: Tensor | None = None  # (B, A) float: how the row was augmented; 0 and None: not at all; never dropped
    image: Tensor | None = None  # (B, P, C) float: tokens of an image, by an encoder
    image_mask: Tensor | None = None  # (B, P) bool, as `mask`
    text: Tensor | None = None  # (B, P, C) float: tokens of a text, by an encoder
    text_mask: Tensor | None = None  # (B, P) bool, as `mask`
    guidance: Tensor | None = (
        None  # (B,) float: the guidance scale to predict for, for networks that take it; never dropped
    )

    @classmethod
    def of_arrays(cls, **arrays: np.ndarray | None) -> Conditions:
        """Make conditions from numpy arrays by the names of the fields, without a copy."""
        return cls(**{name: torch.from_numpy(array) for name, array in arrays.items() if array is not None})

    @property
    def encoded(self) -> dict[str, Tensor]:
        """The tokens of images and texts and their masks, by name, without what is not given: arguments of a network."""
        found = {name: getattr(self, name) for kind in ENCODED for name in (kind, f"{kind}_mask")}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of the conditions given."""
        return tuple(kind for kind, field in KINDS.items() if getattr(self, field) is not None)

    def slice(self, start: int, stop: int) -> Conditions:
        return self.map(lambda tensor: tensor[start:stop])

    def take(self, rows: Tensor) -> Conditions:
        """Return the conditions of rows (b,) int64, which must be on the same device."""
        return self.map(lambda tensor: tensor[rows])

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Conditions:
        """Move to a device, and convert tokens to a dtype."""
        return self.map(lambda tensor: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None))

    def map(self, change: Callable[[Tensor], Tensor]) -> Conditions:
        """Apply `change` to each tensor."""
        tensors = {name: tensor for name in NAMES if (tensor := getattr(self, name)) is not None}
        return replace(self, **{name: change(tensor) for name, tensor in tensors.items()}) if tensors else self

    def drop(self, rows: Tensor | None = None) -> Conditions:
        """Drop all conditions, or those of `rows`, (B,) or (B, 4) bool, in addition to those already dropped."""
        if not self.kinds:
            return self
        if rows is None:
            rows = torch.ones_like(self._one if self.dropped is None else self.dropped, dtype=torch.bool)
        elif self.dropped is not None:
            same = rows.ndim == self.dropped.ndim
            rows = rows | self.dropped if same else _by_kind(rows) | _by_kind(self.dropped)
        return replace(self, dropped=rows)

    def guided(self, scale: float) -> Conditions:
        """Tell a network the guidance scale to predict for, if there is a condition to guide by."""
        if not self.kinds:
            return self
        return replace(self, guidance=torch.full(self._one.shape, scale, dtype=torch.float32, device=self._one.device))

    def doubled(self) -> Conditions:
        """Return conditions of 2B rows: as they are, then dropped, to evaluate a network with and without in one call."""
        dropped = torch.zeros_like(self._one, dtype=torch.bool) if self.dropped is None else self.dropped
        told = self.map(lambda tensor: torch.cat((tensor, tensor)))
        return replace(told, dropped=torch.cat((dropped, torch.ones_like(dropped))))

    def added(self, kinds: Sequence[str]) -> Conditions:
        """Return conditions of (k + 1) B rows: without `kinds`, with the first of them, with the first two, ..., with all k."""
        already = _by_kind(torch.zeros_like(self._one, dtype=torch.bool) if self.dropped is None else self.dropped)
        hidden = [[kind in kinds[count:] for kind in KINDS] for count in range(len(kinds) + 1)]
        told = self.map(lambda tensor: torch.cat([tensor] * len(hidden)))
        return replace(told, dropped=torch.cat([already | torch.tensor(one, device=already.device) for one in hidden]))

    def nothing(self) -> Tensor:
        """Return (B,) bool: the rows whose conditions are all dropped."""
        if self.dropped is None:
            return torch.zeros_like(self._one, dtype=torch.bool)
        if self.dropped.ndim == 1:
            return self.dropped
        # By slices: a list as an index would be copied from the host.
        columns = [self.dropped[:, column] for column, kind in enumerate(KINDS) if kind in self.kinds]
        return torch.stack(columns, dim=1).all(1)

    @property
    def _one(self) -> Tensor:
        """One number per row, (B,), for batch size and device."""
        if self.class_label is not None:
            return self.class_label
        tokens = next((one for one in (self.tokens, self.image, self.text) if one is not None), None)
        assert tokens is not None, "no condition is given"
        return tokens.flatten(1)[:, 0]


def scale_words(scale: float | Mapping[Any, float]) -> str:
    """Format a guidance scale: `2`, or `image=2,text=1.5` as the option -w takes it."""
    return f"{scale:g}" if not isinstance(scale, Mapping) else ",".join(f"{kind}={w:g}" for kind, w in scale.items())


NAMES = tuple(field.name for field in fields(Conditions))
NOTHING = Conditions()


def _by_kind(dropped: Tensor) -> Tensor:
    return dropped[:, None].expand(-1, len(KINDS)) if dropped.ndim == 1 else dropped
