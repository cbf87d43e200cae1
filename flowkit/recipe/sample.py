"""[sample]: how samples are drawn, and which are while training. `flowkit sample` starts from the same settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from flowkit.components import Choose
from flowkit.errors import UserError, nearest
from flowkit.flow.grids import Grid, Uniform
from flowkit.flow.guidance import ClassifierFree, Guidance
from flowkit.flow.solvers import Midpoint, Solver
from flowkit.recipe.interval import Interval
from flowkit.settings import AS_TUPLE, Says, Section


def _rising(interval: tuple[float, float]) -> tuple[float, float]:
    low, high = interval
    if not low < high:
        such = f"[{min(low, high):g}, {max(low, high):g}]"
        text = f"[{low:g}, {high:g}] does not rise; expected [from, to], such as {such}"
        raise PydanticCustomError("said", "{text}", {"text": text})
    return interval


Time = Annotated[float, Field(ge=0, le=1)]
TwoTimes = Annotated[
    tuple[Time, Time], AS_TUPLE, AfterValidator(_rising), Says("a list of two rising numbers from 0 to 1")
]


class SampleSettings(Section):
    """How samples are drawn; a checkpoint keeps it, for `flowkit sample` to start from."""

    solver: Annotated[Solver, Choose("solver")] = Field(
        default=Midpoint(),
        description="ODE solver; ab2 and dpm evaluate once a step; dopri5 chooses its steps; sde is stochastic; "
        "mean_flow is for flow.objective mean_flow, in 1 step",
    )
    steps: int = Field(default=25, ge=1, description="solver steps from noise to data")
    grid: Annotated[Grid, Choose("grid")] = Field(default=Uniform(), description="where in t the steps are")
    state: Literal["fp32", "fp64"] = Field(
        default="fp32", description="precision of x between network calls; the network has its own"
    )
    guidance: Annotated[Guidance, Choose("guidance")] = Field(
        default=ClassifierFree(), description="what v is led away from: the null condition, or another model"
    )
    guidance_scale: float = Field(default=1.0, description="w in v_null + w (v_cond - v_null); 1 is no guidance")
    guidance_interval: TwoTimes | None = Field(default=None, description="t from and to which there is guidance")
    guidance_rescale: float = Field(
        default=0.0, ge=0, le=1, description="how far the guided v's spread is brought back to the conditional one's"
    )

    @staticmethod
    def of(table: Mapping[str, Any], **given: Any) -> SampleSettings:
        """From a mapping, whose other keys are left alone, with what is `given` and not None in its place. Raises UserError."""
        from flowkit.recipe.messages import first_mistake

        known = SampleSettings.model_fields
        given = {name: value for name, value in given.items() if value is not None}
        if unknown := min(given.keys() - known, default=None):
            raise TypeError(f"{unknown!r} is no setting of how samples are drawn{nearest(unknown, known)}")
        merged = {name: value for name, value in {**table, **given}.items() if name in known and value is not None}
        try:
            found = SampleSettings.model_validate(merged)
        except ValidationError as error:
            raise UserError(first_mistake(error, merged, SampleSettings)) from None
        steps = found.grid.steps(found.steps)
        if given.get("steps") not in (None, steps):
            raise UserError(
                f"steps: {given['steps']}, and the times of the {found.grid.tag()} grid make {steps}; leave out the steps, or "
                "name another grid"
            )
        return found.model_copy(update={"steps": steps})

    @property
    def of_ode(self) -> dict[str, Any]:
        """Solver, steps and grid to follow the flow itself, both ways; the midpoint rule for solvers that follow another."""
        solver = self.solver if self.solver.backward else Midpoint()
        return {
            "solver": solver,
            "steps": max(25, self.steps) if self.solver.averages else self.steps,
            "grid": self.grid,
        }

    @property
    def words(self) -> str:
        """`midpoint, 25 steps, guidance 2 by cfg_zero`."""
        parts = [self.solver.words]
        if not self.solver.adaptive:
            on = "" if self.grid == Uniform() else f" on the {self.grid.tag()} grid"
            parts.append(f"{self.steps} step{'s' * (self.steps != 1)}{on}")
        parts.append(f"guidance {self.guidance_scale:g}")
        if self.guidance != ClassifierFree():
            parts[-1] += f" by {self.guidance.tag()}"
        if self.guidance_interval is not None:
            parts[-1] += " at t from {:g} to {:g}".format(*self.guidance_interval)
        return ", ".join(parts)

    def to_info(self) -> dict[str, Any]:
        """For a sidecar: solver and scale, the number of steps where it is given, and the rest where it is not the default."""
        always = {"solver", "guidance_scale"} if self.solver.adaptive else {"solver", "steps", "guidance_scale"}
        never = {"steps", "grid"} if self.solver.adaptive else set()
        changed = self.model_dump(exclude_none=True, exclude_defaults=True, exclude=never)
        table = {**self.model_dump(include=always), **changed}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in table.items()}


class Sample(SampleSettings):
    every: Interval = Field(default=Interval(1000), description="how often to draw samples while training")
    num_samples: int = Field(default=8, ge=1, description="samples to draw; the classes take turns")
    decode: bool = Field(
        default=True, description="decode samples while training, where the data's codec is at hand; sentences only"
    )
    weights: Literal["ema", "raw"] = Field(
        default="ema", description="weights to sample with; raw where there is no EMA"
    )
