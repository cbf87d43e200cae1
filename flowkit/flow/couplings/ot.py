"""Exact minibatch optimal transport (OT-CFM, arXiv 2302.00482): the pairing of a block with the least squared distance."""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.conditions import NOTHING, Conditions
from flowkit.flow.couplings.assignment import assign
from flowkit.flow.couplings.coupling import BlockCoupling, transport_cost


class OptimalTransport(BlockCoupling):
    """A permutation, not draws from a plan, which would never use a third of a block's noise and use others twice."""

    def __call__(self, x0: Tensor, x1: Tensor, given: Conditions = NOTHING, *, seed: int = 0) -> Tensor:
        """Return rows (B,) with the least sum of |x1[i] - x0[rows[i]]|^2. Ignores conditions."""
        return torch.from_numpy(assign(transport_cost(x0, x1))).to(x0.device)
