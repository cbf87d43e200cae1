"""Couplings: which noise goes with which data. Only the noise is permuted, so that conditions stay with their data."""

from flowkit.flow.couplings.coupling import Coupling, Independent

__all__ = ["Coupling", "Independent"]
