"""The noise that each row came from, kept with the data: reflow (arXiv 2209.03003)."""

from __future__ import annotations

from dataclasses import dataclass

from flowkit.flow.couplings.independent import Independent


@dataclass(frozen=True)
class Paired(Independent):
    """Nothing is permuted: the noise is not drawn but read beside the rows, where `flowkit sample --pairs` wrote it.

    Trained on a model's own pairs a flow keeps both ends and takes straighter ways, so that fewer steps do.
    """
