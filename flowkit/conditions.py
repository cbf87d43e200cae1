"""What a network is told beside x and t, as one value: a class label, condition tokens, and which of them are dropped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# What can be told, by its name in a recipe; the columns of `dropped`, and the fields that hold it.
KINDS = {"label": "class_label", "condition": "tokens"}


@dataclass(frozen=True)
class Conditions:
    """Of B rows; what is None is not told.

    dropped: a row's conditions, all of them (B,), or by kind (B, 2) in the order of KINDS, are there and to be ignored: a
    network makes of them what it makes of missing ones.
    """

    class_label: Tensor | None = None  # (B,) int64
    tokens: Tensor | None = None  # (B, C), or P of them (B, P, C), float
    mask: Tensor | None = None  # (B, P) bool: which tokens are there, the others are padding; None: all are
    dropped: Tensor | None = None  # (B,) or (B, 2) bool

    @classmethod
    def of_arrays(cls, *arrays: np.ndarray | None) -> Conditions:
        """class_label, tokens and mask from numpy, without a copy."""
        return cls(*(None if array is None else torch.from_numpy(array) for array in arrays))

    def arrays(self) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
        """The way back, from tensors on the CPU."""
        label, tokens, mask = (
            None if one is None else one.numpy() for one in (self.class_label, self.tokens, self.mask)
        )
        return label, tokens, mask

    def arguments(self) -> dict[str, Any]:
        """As `sample` and `log_likelihood` take them."""
        return {"class_label": self.class_label, "condition": self.tokens, "condition_mask": self.mask}

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of what is told."""
        return tuple(kind for kind, field in KINDS.items() if getattr(self, field) is not None)

    def slice(self, start: int, stop: int) -> Conditions:
        return self.map(lambda tensor: tensor[start:stop])

    def take(self, rows: Tensor) -> Conditions:
        """rows (b,) int64, on the same device."""
        return self.map(lambda tensor: tensor[rows])

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Conditions:
        """On that device; the tokens of that precision."""
        return self.map(lambda tensor: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None))

    def map(self, change: Callable[[Tensor], Tensor]) -> Conditions:
        """`change` made of each tensor."""
        if self.class_label is None and self.tokens is None:  # most often, and at every update
            return self
        tensors = (self.class_label, self.tokens, self.mask, self.dropped)
        return Conditions(*(None if tensor is None else change(tensor) for tensor in tensors))

    def drop(self, rows: Tensor | None = None) -> Conditions:
        """All that is told dropped, or in those rows, (B,) or (B, 2) bool; what was dropped stays so."""
        if not self.kinds:
            return self
        if rows is None:
            rows = torch.ones_like(self._one if self.dropped is None else self.dropped, dtype=torch.bool)
        elif self.dropped is not None:
            same = rows.ndim == self.dropped.ndim
            rows = rows | self.dropped if same else _by_kind(rows) | _by_kind(self.dropped)
        return Conditions(self.class_label, self.tokens, self.mask, rows)

    def doubled(self) -> Conditions:
        """As they are, then dropped, of 2B rows: for a network that is asked under them and without them in one call."""
        dropped = torch.zeros_like(self._one, dtype=torch.bool) if self.dropped is None else self.dropped
        told = self.map(lambda tensor: torch.cat((tensor, tensor)))
        return Conditions(told.class_label, told.tokens, told.mask, torch.cat((dropped, torch.ones_like(dropped))))

    def nothing(self) -> Tensor:
        """(B,) bool: the rows that nothing is told of, all of it being dropped."""
        if self.dropped is None:
            return torch.zeros_like(self._one, dtype=torch.bool)
        if self.dropped.ndim == 1:
            return self.dropped
        return self.dropped[:, [kind in self.kinds for kind in KINDS]].all(1)

    @property
    def _one(self) -> Tensor:
        """A number a row, (B,)."""
        if self.class_label is not None:
            return self.class_label
        assert self.tokens is not None, "conditions of no rows"
        return self.tokens.flatten(1)[:, 0]


NOTHING = Conditions()


def _by_kind(dropped: Tensor) -> Tensor:
    return dropped[:, None].expand(-1, len(KINDS)) if dropped.ndim == 1 else dropped
