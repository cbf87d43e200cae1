"""[flow]: what connects noise and data: independent choices of path, coupling, prediction and times."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from flowkit.recipe.base import BY_NAME, Choice, Section


class LinearPath(Choice):
    name: Literal["linear"] = "linear"


class IndependentCoupling(Choice):
    name: Literal["independent"] = "independent"


class UniformTimes(Choice):
    name: Literal["uniform"] = "uniform"


class LogitNormalTimes(Choice):
    name: Literal["logit_normal"] = "logit_normal"
    mean: float = Field(default=0.0, description="mean of the normal whose sigmoid is t; above 0 leans to the data")
    std: float = Field(default=1.0, gt=0, description="its standard deviation")


PathChoice = Annotated[LinearPath, BY_NAME]
CouplingChoice = Annotated[IndependentCoupling, BY_NAME]
TimesChoice = Annotated[UniformTimes | LogitNormalTimes, Field(discriminator="name"), BY_NAME]


class Flow(Section):
    path: PathChoice = Field(default=LinearPath(), description="how a point moves from noise (t = 0) to data (t = 1)")
    coupling: CouplingChoice = Field(default=IndependentCoupling(), description="which noise is paired with which row")
    prediction: Literal["auto", "velocity", "data"] = Field(
        default="auto",
        description="the network's output; the loss is the velocity's; auto: the domain's choice for the architecture",
    )
    times: TimesChoice = Field(default=LogitNormalTimes(), description="how training times t are drawn")
    cond_drop: float = Field(
        default=0.1, ge=0, le=1, description="probability, row by row, that the condition is dropped, for guidance"
    )
