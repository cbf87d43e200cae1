"""[sample]: what is drawn while training; class labels take turns. `flowkit sample` starts from the same settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flowkit.recipe.base import Section
from flowkit.recipe.interval import Interval


class Sample(Section):
    every: Interval = Field(default=Interval(1000), description="how often to draw samples while training")
    num_samples: int = Field(default=8, ge=1, description="samples to draw; the classes take turns")
    solver: Literal["euler", "midpoint", "heun", "rk4"] = Field(default="heun", description="fixed-step ODE solver")
    steps: int = Field(default=25, ge=1, description="solver steps from noise to data")
    guidance_scale: float = Field(default=1.0, ge=0, description="w in v_null + w (v_cond - v_null); 1 is no guidance")
    decode: bool = Field(
        default=True, description="decode samples while training, where the data's codec is at hand; sentences only"
    )
    weights: Literal["ema", "raw"] = Field(
        default="ema", description="weights to sample with; raw where there is no EMA"
    )
