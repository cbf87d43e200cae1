"""Conditions: what a network is given besides x and t: a class label, condition tokens, which of them are dropped, which
tokens of x are given, and how the row was augmented."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

# The kinds of conditions by their names in a recipe, with their fields; also the columns of `dropped`.
KINDS = {"label": "class_label", "condition": "tokens"}


@dataclass(frozen=True)
class Conditions:
    """The conditions of B rows. None means not given.

    dropped: rows whose conditions are to be ignored, all of them (B,), or by kind (B, 2) in the order of KINDS. A network
    treats them like missing ones.
    """

    class_label: Tensor | None = None  # (B,) int64
    tokens: Tensor | None = None  # (B, C), or P of them (B, P, C), float
    mask: Tensor | None = None  # (B, P) bool: True for tokens, False for padding; None: no padding
    dropped: Tensor | None = None  # (B,) or (B, 2) bool
    given: Tensor | None = None  # (B, S) bool: tokens of x that are clean, for the network to complete; never dropped
    augmented: Tensor | None = None  # (B, A) float: how the row was augmented; 0 and None: not at all; never dropped

    @classmethod
    def of_arrays(cls, *arrays: np.ndarray | None) -> Conditions:
        """Make conditions of class_label, tokens and mask from numpy, without a copy."""
        return cls(*(None if array is None else torch.from_numpy(array) for array in arrays))

    def arrays(self) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
        """Return class_label, tokens and mask as numpy arrays, from tensors on the CPU."""
        label, tokens, mask = (
            None if one is None else one.numpy() for one in (self.class_label, self.tokens, self.mask)
        )
        return label, tokens, mask

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `sample` and `log_likelihood`."""
        return {"class_label": self.class_label, "condition": self.tokens, "condition_mask": self.mask}

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
        tensors = (self.class_label, self.tokens, self.mask, self.dropped, self.given, self.augmented)
        if all(tensor is None for tensor in tensors):  # the most common case
            return self
        return Conditions(*(None if tensor is None else change(tensor) for tensor in tensors))

    def drop(self, rows: Tensor | None = None) -> Conditions:
        """Drop all conditions, or those of `rows`, (B,) or (B, 2) bool, in addition to those already dropped."""
        if not self.kinds:
            return self
        if rows is None:
            rows = torch.ones_like(self._one if self.dropped is None else self.dropped, dtype=torch.bool)
        elif self.dropped is not None:
            same = rows.ndim == self.dropped.ndim
            rows = rows | self.dropped if same else _by_kind(rows) | _by_kind(self.dropped)
        return replace(self, dropped=rows)

    def doubled(self) -> Conditions:
        """Return conditions of 2B rows: as they are, then dropped, to evaluate a network with and without in one call."""
        dropped = torch.zeros_like(self._one, dtype=torch.bool) if self.dropped is None else self.dropped
        told = self.map(lambda tensor: torch.cat((tensor, tensor)))
        return replace(told, dropped=torch.cat((dropped, torch.ones_like(dropped))))

    def nothing(self) -> Tensor:
        """Return (B,) bool: the rows whose conditions are all dropped."""
        if self.dropped is None:
            return torch.zeros_like(self._one, dtype=torch.bool)
        if self.dropped.ndim == 1:
            return self.dropped
        return self.dropped[:, [kind in self.kinds for kind in KINDS]].all(1)

    @property
    def _one(self) -> Tensor:
        """One number per row, (B,), for batch size and device."""
        if self.class_label is not None:
            return self.class_label
        assert self.tokens is not None, "no condition is given"
        return self.tokens.flatten(1)[:, 0]


NOTHING = Conditions()


def _by_kind(dropped: Tensor) -> Tensor:
    return dropped[:, None].expand(-1, len(KINDS)) if dropped.ndim == 1 else dropped
