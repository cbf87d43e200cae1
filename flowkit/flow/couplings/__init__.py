"""Couplings: which noise goes with which data. Only the noise is permuted, so that conditions stay with their data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowkit.flow.choices import Choice, choose
from flowkit.flow.couplings.c2ot import ConditionalOptimalTransport
from flowkit.flow.couplings.coupling import Coupling
from flowkit.flow.couplings.independent import Independent
from flowkit.flow.couplings.ot import OptimalTransport
from flowkit.flow.couplings.paired import Paired
from flowkit.flow.couplings.sinkhorn import Sinkhorn

__all__ = ["COUPLINGS", "Coupling", "get_coupling"]

COUPLINGS: dict[str, Callable[..., Coupling]] = {
    "independent": Independent,
    "ot": OptimalTransport,
    "sinkhorn": Sinkhorn,
    "c2ot": ConditionalOptimalTransport,
    "paired": Paired,
}


def get_coupling(choice: Choice, **settings: Any) -> Coupling:
    """A coupling by name, or by a table with its settings. Raises UserError."""
    return choose("coupling", COUPLINGS, choice, settings)
