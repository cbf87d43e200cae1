"""From noise to samples: what is settled beforehand, the keyed draws, and the batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowkit.data.base import Base, NormalBase
from flowkit.data.keys import NUMERICS, key, seed_generator
from flowkit.data.normalizers import Normalizer
from flowkit.errors import UserError
from flowkit.flow.choices import Choice
from flowkit.flow.grids import grid_edges
from flowkit.flow.guidance import Network, Pushed, check_guidance, guided
from flowkit.flow.objective import FlowObjective
from flowkit.flow.paths import GaussianPath
from flowkit.flow.solvers import Velocity, get_solver, integrate
from flowkit.models.calls import call_model

BATCH_SIZES = {"cpu": 64, "cuda": 1024}
STATES = {"fp32": torch.float32, "fp64": torch.float64}
Weak = tuple[Network, FlowObjective]  # the weaker model of autoguidance
Guide = Callable[[Tensor], Tensor]  # x (B, ...) in the domain's units -> (B,)


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


GUIDANCE = {"cfg": (), "cfg_zero": ("zero_init",), "autoguidance": ("ckpt",)}


@dataclass(frozen=True)
class Drawn:
    """x (N, ...) float32 in the domain's units, the noise (N, *shape) float32 that each came from, and the cost by row.

    states (T, at most keep_states, ...) float32 in the domain's units: where some of them, evenly spread, were after each
    step, from the noise on; None unless they were to be kept.
    """

    x: np.ndarray
    noise: np.ndarray
    nfe: int | float  # network evaluations a sample: a whole number where all had the same
    nfe_max: int
    states: np.ndarray | None = None

    def cost(self) -> dict[str, Any]:
        return {"nfe": self.nfe} if self.nfe == self.nfe_max else {"nfe": self.nfe, "nfe_max": self.nfe_max}


class States:
    """What some samples, evenly spread over all, went through: filled batch by batch."""

    def __init__(self, count: int, num_samples: int, normalizer: Normalizer) -> None:
        self._rows = np.unique(np.linspace(0, num_samples - 1, min(count, num_samples)).astype(int)) if count else []
        self._normalizer = normalizer
        self._batches: list[list[np.ndarray]] = []

    def begin(self, indices: range, x: Tensor) -> Callable[[int, Tensor], None] | None:
        """The listener for the steps of samples `indices`, which start at x; None where there is nothing to keep."""
        places = [int(row) - indices.start for row in self._rows if row in indices]
        if not places:
            return None
        states: list[np.ndarray] = []
        self._batches.append(states)

        def keep(step: int, x: Tensor) -> None:
            states.append(self._normalizer.denormalize(x[places]).float().cpu().numpy())

        keep(0, x)
        return keep

    def stacked(self) -> np.ndarray | None:
        """(T, kept, ...); where an adaptive solver took more steps in one batch, the others rest at their ends."""
        if not self._batches:
            return None
        longest = max(map(len, self._batches))
        return np.concatenate([np.stack(each + each[-1:] * (longest - len(each))) for each in self._batches], axis=1)


def step_noise(seed: int, indices: range, shape: tuple[int, ...], numerics: int = NUMERICS) -> Callable[[int], Tensor]:
    """The noise of a stochastic solver's steps, taken in their order: of each sample a stream of its own, on the CPU."""
    streams = [seed_generator(torch.Generator(), key(seed, "sample steps", i), numerics) for i in indices]
    return lambda step: torch.stack([torch.randn(shape, generator=stream) for stream in streams])


def as_network(model: nn.Module) -> Network:
    """The model under the conditions that it takes, called in its own precision whatever that of x.

    Times are fp32 at least: networks embed them with frequencies of 1000.
    """
    own = next(model.parameters()).dtype
    clock = torch.promote_types(own, torch.float32)

    def call(
        x: Tensor,
        t: Tensor,
        class_label: Tensor | None,
        condition: Tensor | None,
        cfg_mask: Tensor | None,
        span: Tensor | None = None,
    ) -> Tensor:
        if condition is not None:
            condition = condition.to(own)
        span = None if span is None else span.to(clock)
        return call_model(model, x.to(own), t.to(clock), class_label, condition, cfg_mask, span)

    return call


def guided_velocity(
    network: Network,
    objective: FlowObjective,
    settings: SampleSettings,
    class_label: Tensor | None = None,
    condition: Tensor | None = None,
    weak: Weak | None = None,
    numerics: int = NUMERICS,
) -> Velocity:
    """The velocity that `settings` ask for, of these rows."""
    assert (weak is None) == (settings.guidance_name != "autoguidance"), "autoguidance has a weaker model"
    return guided(
        network, objective, class_label, condition, settings.guidance_scale, interval=settings.guidance_interval,
        rescale=settings.guidance_rescale, optimised=settings.guidance_name == "cfg_zero", zero_init=settings.zero_init,
        weak=weak, numerics=numerics,
    )  # fmt: skip


def draw_samples(
    model: nn.Module,
    objective: FlowObjective,
    normalizer: Normalizer,
    shape: tuple[int, ...],
    num_samples: int,
    settings: SampleSettings,
    *,
    class_label: Tensor | None = None,
    condition: Tensor | None = None,
    seed: int = 0,
    base: Base | None = None,
    weak: Weak | None = None,
    guide: Guide | None = None,
    guide_scale: float = 1.0,
    batch_size: int = 64,
    keep_states: int = 0,
    numerics: int = NUMERICS,
    progress: Callable[[int], None] | None = None,
) -> Drawn:
    """`shape` is that of a row as the model sees it; class_label (N,) and condition (N, ...) go with sample i.

    base: what they start from, unit noise where it is None; sample i depends on (seed, i) alone. guide: samples are of p(x)
    exp(guide_scale guide(x)), nearly (`Pushed`). numerics: the version to draw by, a checkpoint's own; in version 1 predictions
    of the data or the noise are clipped. `progress` is told the number of samples done after each batch. The model is used as it
    stands: on its device, in its precision, and should be in eval mode.
    """
    device, network = next(model.parameters()).device, as_network(model)
    base = base or NormalBase(numerics)
    straight = numerics > 1 and objective.prediction != "velocity"
    if straight:
        objective, weak = objective.exact, None if weak is None else (weak[0], weak[1].exact)
    done, noises, spent = [], [], []
    states = States(keep_states, num_samples, normalizer)
    # A guide differentiates through the network, whose conditions are made here: no inference mode then.
    with torch.inference_mode() if guide is None else torch.no_grad():
        for first in range(0, num_samples, batch_size):
            indices = range(first, min(first + batch_size, num_samples))
            cut = lambda tensor: None if tensor is None else tensor[first : indices.stop].to(device)  # noqa: B023, E731
            velocity = guided_velocity(network, objective, settings, cut(class_label), cut(condition), weak, numerics)
            if guide is not None:
                assert isinstance(objective.path, GaussianPath), "checked by who takes the guide"
                velocity = Pushed(velocity, lambda x: guide(normalizer.denormalize(x)), objective.path, guide_scale)
            noise = base.sample(seed, indices, shape)
            x = noise.to(device, STATES[settings.state])
            x, nfe = integrate(
                velocity, x, solver=settings.solver, steps=settings.steps, grid=settings.grid, path=objective.path,
                straight=straight, noise=step_noise(seed, indices, shape, numerics), on_step=states.begin(indices, x),
            )  # fmt: skip
            done.append(normalizer.denormalize(x).float().cpu().numpy())
            noises.append(noise.numpy())
            spent.append(nfe)
            if progress is not None:
                progress(indices.stop)
    nfe = torch.cat(spent)
    mean, most = nfe.double().mean().item(), int(nfe.max())
    nfe = most if mean == most else round(mean, 2)
    return Drawn(np.concatenate(done), np.concatenate(noises), nfe, most, states.stacked())


def _not_none(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if value is not None}


def _name(choice: Choice) -> str:
    return choice if isinstance(choice, str) else str(choice.get("name"))


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value)
