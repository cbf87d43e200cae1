"""[ema]: the moving average of the weights that samples are drawn from."""

from __future__ import annotations

from pydantic import Field

from flowkit.recipe.base import Section


class Ema(Section):
    decay: float = Field(default=0.9999, ge=0, lt=1, description="decay per step, in fp32; 0 is no EMA")
    warmup: bool = Field(
        default=True, description="the decay rises to its value, so that a short run's EMA leaves the start behind"
    )
    warmup_power: float = Field(
        default=2 / 3, gt=0, description="the decay at step n is 1 - (1 + n)^-power until it meets `decay`"
    )
