"""Exact minibatch optimal transport (OT-CFM, arXiv 2302.00482): the pairing of a block with the least squared distance."""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.flow.couplings.assignment import assign
from flowkit.flow.couplings.coupling import BlockCoupling, transport_cost


class OptimalTransport(BlockCoupling):
    """A permutation, not draws from a plan: those would use a third of a block's noises never and others twice."""

    def __call__(
        self,
        x0: Tensor,
        x1: Tensor,
        class_label: Tensor | None = None,
        condition: Tensor | None = None,
        *,
        seed: int = 0,
    ) -> Tensor:
        """rows (B,) of the least sum of |x1[i] - x0[rows[i]]|^2, whatever the conditions are."""
        return torch.from_numpy(assign(transport_cost(x0, x1))).to(x0.device)
