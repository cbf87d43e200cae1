"""[ema]: moving averages of the weights. Samples come from the first one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from flowkit.recipe.interval import Interval
from flowkit.settings import AS_TUPLE, Says, Section

WIDEST = 12**-0.5  # sigma_rel of the mean of all steps
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
        description="EMA decay; averages about the last 1 / (1 - decay) updates. 0 disables it; a list keeps several, and "
        "samples use the first",
    )
    warmup: bool = Field(
        default=True, description="use a smaller decay early on, so that short runs forget their initial weights"
    )
    warmup_share: float = Field(
        default=0.1, gt=0, lt=1,
        description="fraction of the past updates to average at most; the decay at update n is decay (n - 1) / (n - 1 + 1 / "
        "warmup_share)",
    )  # fmt: skip
    warmup_power: float | None = Field(
        default=None,
        gt=0,
        description="alternative warm-up, replaces warmup_share: the decay at update n is min(decay, 1 - n^-warmup_power)",
    )
    power: Widths = Field(
        default=(),
        description="EDM2 sigma_rel widths to snapshot; `flowkit ema` reconstructs any other after the run",
    )
    snapshot_every: Interval = Field(
        default=Interval(1000),
        description="how often to save snapshots of ema.power to ema/; the last step is always saved",
    )
    snapshot_dtype: Literal["fp16", "bf16", "fp32"] = Field(default="fp16", description="data type of the snapshots")

    @property
    def decays(self) -> tuple[float, ...]:
        """Return the decays as a tuple, empty without an EMA."""
        decays = self.decay if isinstance(self.decay, tuple) else (self.decay,)
        return tuple(decay for decay in decays if decay)
