"""[sample]: how samples are drawn, also while training. `flowkit sample` starts from the same settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from flowkit.components import Choose
from flowkit.conditions import scale_words
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
        text = f"invalid interval [{low:g}, {high:g}]; expected 0 <= start < end <= 1, such as {such}"
        raise PydanticCustomError("said", "{text}", {"text": text})
    return interval


Time = Annotated[float, Field(ge=0, le=1)]
TwoTimes = Annotated[
    tuple[Time, Time], AS_TUPLE, AfterValidator(_rising), Says("a list of two rising numbers from 0 to 1")
]


Scales = Annotated[
    float | dict[Literal["class", "condition", "image", "text"], float],
    Says("a number, or a table of numbers named class, condition, image, text"),
]


class SampleSettings(Section):
    """How samples are drawn. A checkpoint stores it as the defaults of `flowkit sample`."""

    solver: Annotated[Solver, Choose("solver")] = Field(
        default=Midpoint(),
        description="ODE solver; ab2 and dpm need one evaluation per step, dopri5 is adaptive, sde is stochastic, "
        "mean_flow is for that objective",
    )
    steps: int = Field(default=25, ge=1, description="number of solver steps from noise to data")
    grid: Annotated[Grid, Choose("grid")] = Field(default=Uniform(), description="spacing of the steps in t")
    state: Literal["fp32", "fp64"] = Field(default="fp32", description="precision of x between network calls")
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="precision of the network while sampling: its own, or bf16 autocast"
    )
    compile: bool = Field(
        default=False,
        description="compile the network for sampling, once for all batch sizes, and record it as a graph on CUDA",
    )
    guidance: Annotated[Guidance, Choose("guidance")] = Field(
        default=ClassifierFree(),
        description="guidance method: away from the unconditional model, or from a weaker model",
    )
    guidance_scale: Scales = Field(
        default=1.0,
        description="guidance scale w in v_null + w (v_cond - v_null); 1 disables guidance; or one for each kind, added in this "
        "order: {image = 2, text = 1.5}",
    )
    guidance_interval: TwoTimes | None = Field(
        default=None, description="range of t with guidance; everywhere by default"
    )
    guidance_rescale: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="how far to rescale the guided v to the standard deviation of the conditional v",
    )

    @staticmethod
    def of(table: Mapping[str, Any], **given: Any) -> SampleSettings:
        """Read the settings in `table`, overridden by those `given` that are not None. Other keys of `table` are ignored.

        Raises UserError.
        """
        from flowkit.recipe.messages import first_mistake

        known = SampleSettings.model_fields
        given = {name: value for name, value in given.items() if value is not None}
        if unknown := min(given.keys() - known, default=None):
            raise TypeError(f"{unknown!r} is not a sampling setting{nearest(unknown, known)}")
        merged = {name: value for name, value in {**table, **given}.items() if name in known and value is not None}
        try:
            found = SampleSettings.model_validate(merged)
        except ValidationError as error:
            raise UserError(first_mistake(error, merged, SampleSettings)) from None
        steps = found.grid.steps(found.steps)
        if given.get("steps") not in (None, steps):
            raise UserError(
                f"steps: {given['steps']}, but the {found.grid.tag()} grid has {steps} steps; leave out the steps, or "
                "choose another grid"
            )
        return found.model_copy(update={"steps": steps})

    @property
    def of_ode(self) -> dict[str, Any]:
        """Return solver, steps and grid for the flow's own ODE; the midpoint rule replaces solvers that cannot go back."""
        solver = self.solver if self.solver.backward else Midpoint()
        return {
            "solver": solver,
            "steps": max(25, self.steps) if self.solver.averages else self.steps,
            "grid": self.grid,
        }

    @property
    def words(self) -> str:
        """Describe the settings: `midpoint, 25 steps, guidance 2 by cfg_zero`."""
        parts = [self.solver.words]
        if not self.solver.adaptive:
            on = "" if self.grid == Uniform() else f" on the {self.grid.tag()} grid"
            parts.append(f"{self.steps} step{'s' * (self.steps != 1)}{on}")
        if self.precision != "fp32":
            parts.append(self.precision)
        if self.compile:
            parts.append("compiled")
        parts.append(f"guidance {scale_words(self.guidance_scale)}")
        if self.guidance != ClassifierFree():
            parts[-1] += f" by {self.guidance.tag()}"
        if self.guidance_interval is not None:
            parts[-1] += " at t from {:g} to {:g}".format(*self.guidance_interval)
        return ", ".join(parts)

    def to_info(self) -> dict[str, Any]:
        """Return the settings for a sidecar: solver, scale and steps always, the rest if it is not the default."""
        always = {"solver", "guidance_scale"} if self.solver.adaptive else {"solver", "steps", "guidance_scale"}
        never = {"steps", "grid"} if self.solver.adaptive else set()
        changed = self.model_dump(exclude_none=True, exclude_defaults=True, exclude=never)
        table = {**self.model_dump(include=always), **changed}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in table.items()}


class Sample(SampleSettings):
    every: Interval = Field(default=Interval(1000), description="how often to draw samples while training")
    num_samples: int = Field(
        default=8, ge=1, description="number of samples to draw while training, in turn from each class"
    )
    decode: bool = Field(
        default=True, description="decode samples to sentences while training, if the codec is installed"
    )
    weights: Literal["ema", "raw"] = Field(default="ema", description="weights to sample with; raw if there is no EMA")
