"""[ema]: the moving averages of the weights; samples are drawn from the first."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from flowkit.recipe.interval import Interval
from flowkit.settings import AS_TUPLE, Says, Section

WIDEST = 12**-0.5  # sigma_rel of the plain mean of all steps
Several = Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1), AS_TUPLE]
Decay = Annotated[
    Annotated[float, Field(ge=0, lt=1)] | Several, Says("a number >= 0 and < 1, or a list of such numbers above 0")
]
Widths = Annotated[
    tuple[Annotated[float, Field(gt=0, le=WIDEST)], ...], AS_TUPLE, Says("a list of numbers > 0 and <= 0.2886")
]


class Ema(Section):
    decay: Decay = Field(
        default=0.9999,
        description="averages about the last 1 / (1 - decay) updates, fewer while it warms up; 0 is no EMA; samples come from "
        "the first of a list",
    )
    warmup: bool = Field(
        default=True, description="average fewer updates at first, so that a short run's EMA leaves the start behind"
    )
    warmup_share: float = Field(
        default=0.1, gt=0, lt=1,
        description="share of the updates so far that is averaged at most: the decay at update n is decay (n - 1) / (n - 1 + 1 / "
        "share)",
    )  # fmt: skip
    warmup_power: float | None = Field(
        default=None,
        gt=0,
        description="another warm-up, in place of the share: the decay is 1 - n^-power, at most `decay`",
    )
    power: Widths = Field(
        default=(),
        description="widths (sigma_rel) of power-function averages, of which `flowkit ema` makes any other after the run",
    )
    snapshot_every: Interval = Field(
        default=Interval(1000), description="how often those are saved to ema/; the run's last step is saved always"
    )
    snapshot_dtype: Literal["fp16", "bf16", "fp32"] = Field(
        default="fp16", description="number format of the snapshots"
    )

    @property
    def decays(self) -> tuple[float, ...]:
        """The decays as a tuple, empty where there is no such average."""
        decays = self.decay if isinstance(self.decay, tuple) else (self.decay,)
        return tuple(decay for decay in decays if decay)
