"""[sample]: what is drawn while training; class labels take turns. `flowkit sample` starts from the same settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from flowkit.recipe.base import AS_TUPLE, BY_NAME, Choice, Says, Section
from flowkit.recipe.interval import Interval

# The keys that say how a sample is drawn; a checkpoint keeps them, for `flowkit sample` to start from.
SAMPLING = (
    *("solver", "steps", "grid", "state", "guidance", "guidance_scale", "guidance_interval", "guidance_rescale"),
)
Time = Annotated[float, Field(ge=0, le=1)]
Times = Annotated[tuple[Time, ...], AS_TUPLE, Field(min_length=2), Says("a list of rising numbers from 0.0 to 1.0")]
TwoTimes = Annotated[tuple[Time, Time], AS_TUPLE, Says("a list of two numbers from 0 to 1")]


class EulerSolver(Choice):
    name: Literal["euler"] = "euler"


class MidpointSolver(Choice):
    name: Literal["midpoint"] = "midpoint"


class HeunSolver(Choice):
    name: Literal["heun"] = "heun"


class RK4Solver(Choice):
    name: Literal["rk4"] = "rk4"


class Dopri5Solver(Choice):
    name: Literal["dopri5"] = "dopri5"
    rtol: float = Field(default=1e-5, gt=0, description="relative tolerance")
    atol: float = Field(default=1e-5, gt=0, description="absolute tolerance")
    max_steps: int = Field(default=1000, ge=1, description="attempted steps after which it gives up")


class SDESolver(Choice):
    name: Literal["sde"] = "sde"
    diffusion: Literal["sigma", "constant"] = Field(
        default="sigma", description="how w in sqrt(w) dW goes with t: as sigma(t) does, or not at all"
    )
    scale: float = Field(default=1.0, ge=0, description="w is 2 scale times that; 0 is the ODE")


class MeanFlowSolver(Choice):
    name: Literal["mean_flow"] = "mean_flow"


class UniformGrid(Choice):
    name: Literal["uniform"] = "uniform"


class ShiftedGrid(Choice):
    name: Literal["shifted"] = "shifted"
    shift: float = Field(default=3.0, gt=0, description="above 1 more steps near the noise, below near the data")


class PowerGrid(Choice):
    name: Literal["power"] = "power"
    exponent: float = Field(default=2.0, gt=0, description="t ** exponent: above 1 more steps near the noise")


class CustomGrid(Choice):
    name: Literal["custom"] = "custom"
    times: Times = Field(description="the times themselves, in place of steps")


class ClassifierFree(Choice):
    name: Literal["cfg"] = "cfg"


class CFGZero(Choice):
    name: Literal["cfg_zero"] = "cfg_zero"
    zero_init: float = Field(default=0.04, ge=0, lt=1, description="steps that begin below this t are left out")


class Autoguidance(Choice):
    name: Literal["autoguidance"] = "autoguidance"
    ckpt: str = Field(min_length=1, description="a smaller or earlier model of the same data, to lead away from")


SolverChoice = Annotated[
    EulerSolver | MidpointSolver | HeunSolver | RK4Solver | Dopri5Solver | SDESolver | MeanFlowSolver,
    Field(discriminator="name"),
    BY_NAME,
]
GridChoice = Annotated[UniformGrid | ShiftedGrid | PowerGrid | CustomGrid, Field(discriminator="name"), BY_NAME]
GuidanceChoice = Annotated[ClassifierFree | CFGZero | Autoguidance, Field(discriminator="name"), BY_NAME]


class Sample(Section):
    every: Interval = Field(default=Interval(1000), description="how often to draw samples while training")
    num_samples: int = Field(default=8, ge=1, description="samples to draw; the classes take turns")
    solver: SolverChoice = Field(
        default=MidpointSolver(),
        description="ODE solver; dopri5 chooses its steps for itself; sde is stochastic; mean_flow is "
        "for flow.objective mean_flow, whose default it is, in 1 step",
    )
    steps: int = Field(default=25, ge=1, description="solver steps from noise to data")
    grid: GridChoice = Field(default=UniformGrid(), description="where in t the steps are")
    state: Literal["fp32", "fp64"] = Field(
        default="fp32", description="precision of x between network calls; the network has its own"
    )
    guidance: GuidanceChoice = Field(
        default=ClassifierFree(), description="what v is led away from: the null condition, or another model"
    )
    guidance_scale: float = Field(default=1.0, ge=0, description="w in v_null + w (v_cond - v_null); 1 is no guidance")
    guidance_interval: TwoTimes | None = Field(default=None, description="t from and to which there is guidance")
    guidance_rescale: float = Field(
        default=0.0, ge=0, le=1, description="how far the guided v's spread is brought back to the conditional one's"
    )
    decode: bool = Field(
        default=True, description="decode samples while training, where the data's codec is at hand; sentences only"
    )
    weights: Literal["ema", "raw"] = Field(
        default="ema", description="weights to sample with; raw where there is no EMA"
    )
