"""How samples are drawn: the settings of a recipe's [sample], which a checkpoint keeps and a caller may change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from flowkit.errors import UserError
from flowkit.flow.choices import Choice
from flowkit.flow.grids import grid_edges
from flowkit.flow.guidance import check_guidance
from flowkit.flow.solvers import get_solver

STATES = {"fp32": torch.float32, "fp64": torch.float64}
GUIDANCE = {"cfg": (), "cfg_zero": ("zero_init",), "autoguidance": ("ckpt",)}


@dataclass(frozen=True)
class SampleSettings:
    """How samples are drawn; the keys of a recipe's [sample] under the same names. Raises UserError for what cannot be."""

    solver: Choice = "midpoint"
    steps: int = 25
    grid: Choice = "uniform"
    state: str = "fp32"
    guidance: Choice = "cfg"
    guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float = 0.0

    def __post_init__(self):
        get_solver(self.solver)
        grid_edges(self.grid, self.steps, 0.0, 1.0)
        if self.state not in STATES:
            raise UserError(f"state: {self.state!r} is neither 'fp32' nor 'fp64'")
        if self.guidance_name not in GUIDANCE:
            raise UserError(f"guidance: {self.guidance_name!r} is unknown; known are {', '.join(GUIDANCE)}")
        table = {} if isinstance(self.guidance, str) else {name: self.guidance[name] for name in self.guidance}
        wrong = table.keys() - {"name", *GUIDANCE[self.guidance_name]}
        if wrong:
            raise UserError(f"guidance: {self.guidance_name!r} has no setting {', '.join(sorted(wrong))}")
        if self.guidance_name == "autoguidance" and not self.guide_ckpt:
            raise UserError(
                "guidance.ckpt: missing; autoguidance needs the checkpoint of a weaker model to lead away from"
            )
        if self.guide_ckpt is not None and not isinstance(self.guide_ckpt, str):
            raise UserError(f"guidance.ckpt: expected a path as text, found {self.guide_ckpt!r}")
        if isinstance(self.zero_init, bool) or not isinstance(self.zero_init, int | float):
            raise UserError(f"guidance.zero_init: {self.zero_init!r} is no number; expected one >= 0 and < 1")
        check_guidance(self.guidance_scale, self.guidance_interval, self.guidance_rescale, self.zero_init)

    @staticmethod
    def of(table: Mapping[str, Any], **given: Any) -> SampleSettings:
        """From a mapping, whose other keys are left alone, with what is `given` and not None in its place."""
        known = {field.name for field in fields(SampleSettings)}
        merged = {name: value for name, value in {**table, **_not_none(given)}.items() if name in known}
        times = merged["grid"].get("times") if isinstance(merged.get("grid"), Mapping) else None
        if isinstance(times, list | tuple):
            merged["steps"] = max(1, len(times) - 1)
            if given.get("steps") not in (None, merged["steps"]):
                raise UserError(
                    f"steps: {given['steps']}, and the times of the custom grid make {merged['steps']}; leave out the steps, "
                    "or name another grid"
                )
        if merged.get("guidance_interval") is not None:
            low, high = merged["guidance_interval"]
            merged["guidance_interval"] = (float(low), float(high))
        return SampleSettings(**merged)

    @property
    def solver_name(self) -> str:
        return _name(self.solver)

    @property
    def guidance_name(self) -> str:
        return _name(self.guidance)

    @property
    def guide_ckpt(self) -> str | None:
        return None if isinstance(self.guidance, str) else self.guidance.get("ckpt")

    @property
    def zero_init(self) -> float:
        if self.guidance_name != "cfg_zero":
            return 0.0
        return 0.04 if isinstance(self.guidance, str) else self.guidance.get("zero_init", 0.04)

    @property
    def of_ode(self) -> dict[str, Any]:
        """Solver, steps and grid to follow the flow itself, both ways, which sde and mean_flow do not: the midpoint rule then."""
        if self.solver_name == "mean_flow":
            return {"solver": "midpoint", "steps": max(25, self.steps), "grid": self.grid}
        solver = "midpoint" if self.solver_name == "sde" else self.solver
        return {"solver": solver, "steps": self.steps, "grid": self.grid}

    @property
    def words(self) -> str:
        """`midpoint, 25 steps, guidance 2 by cfg_zero`."""
        parts = [self.solver_name]
        if self.solver_name == "dopri5":
            parts[0] += f" to {self.solver.get('rtol', 1e-5):g}" if isinstance(self.solver, Mapping) else " to 1e-05"
        else:
            parts.append(
                f"{self.steps} step{'s' * (self.steps != 1)}"
                + ("" if self.grid == "uniform" else f" on the {_name(self.grid)} grid")
            )
        parts.append(f"guidance {self.guidance_scale:g}")
        if self.guidance_name != "cfg":
            parts[-1] += f" by {self.guidance_name}"
        if self.guidance_interval is not None:
            parts[-1] += " at t from {:g} to {:g}".format(*self.guidance_interval)
        return ", ".join(parts)

    def to_info(self) -> dict[str, Any]:
        """For a sidecar: solver and scale, the number of steps where it is given, and the rest where it is not the default."""
        plain = SampleSettings()
        always = {"solver", "guidance_scale"} if self.solver_name == "dopri5" else {"solver", "steps", "guidance_scale"}
        never = {"steps", "grid"} if self.solver_name == "dopri5" else set()
        return {name: value if isinstance(value, (str, int, float)) else _plain(value)
                for name, value in asdict(self).items()
                if name in always or (name not in never and value != getattr(plain, name))}  # fmt: skip


def _not_none(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if value is not None}


def _name(choice: Choice) -> str:
    return choice if isinstance(choice, str) else str(choice.get("name"))


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value)
