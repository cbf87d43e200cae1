"""Couplings: which noise is paired with which data. Only the noise is permuted, so conditions stay with their data."""

from flowkit.flow.couplings.coupling import Coupling, Independent

__all__ = ["Coupling", "Independent"]
