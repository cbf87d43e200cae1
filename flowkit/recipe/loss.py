"""[loss]: weights of the auxiliary losses on the predicted sketch; 0 is off."""

from __future__ import annotations

from pydantic import Field

from flowkit.recipe.base import Section


class Loss(Section):
    smoothness: float = Field(
        default=0.0, ge=0, description="weight of the inner control points' distance from the chord"
    )
    bending: float = Field(
        default=0.0, ge=0, description="weight of the squared second differences of the control points"
    )
    degenerate: float = Field(default=0.0, ge=0, description="weight of the penalty on strokes that shrink to a dot")
