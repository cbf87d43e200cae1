"""From noise to samples: what is settled beforehand, the keyed draws, and the batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowkit.conditions import NOTHING, Conditions
from flowkit.data.base import Base, NormalBase
from flowkit.data.keys import NUMERICS, key, seed_generator
from flowkit.data.normalizers import Normalizer
from flowkit.flow.guidance import Network, Pushed, guided
from flowkit.flow.objective import FlowObjective
from flowkit.flow.paths import GaussianPath
from flowkit.flow.solvers import Velocity, integrate
from flowkit.models.calls import call_model
from flowkit.sampling.settings import STATES, SampleSettings

BATCH_SIZES = {"cpu": 64, "cuda": 1024}
Weak = tuple[Network, FlowObjective]  # the weaker model of autoguidance
Guide = Callable[[Tensor], Tensor]  # x (B, ...) in the domain's units -> (B,)


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

    def call(x: Tensor, t: Tensor, conditions: Conditions, span: Tensor | None = None) -> Tensor:
        span = None if span is None else span.to(clock)
        return call_model(model, x.to(own), t.to(clock), conditions.to(dtype=own), span)

    return call


def guided_velocity(
    network: Network,
    objective: FlowObjective,
    settings: SampleSettings,
    conditions: Conditions = NOTHING,
    weak: Weak | None = None,
    numerics: int = NUMERICS,
) -> Velocity:
    """The velocity that `settings` ask for, of these rows."""
    assert (weak is None) == (settings.guidance_name != "autoguidance"), "autoguidance has a weaker model"
    return guided(
        network, objective, conditions, settings.guidance_scale, interval=settings.guidance_interval,
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
    conditions: Conditions = NOTHING,
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
    """`shape` is that of a row as the model sees it; row i of the conditions goes with sample i.

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
            told = conditions.slice(first, indices.stop).to(device)
            velocity = guided_velocity(network, objective, settings, told, weak, numerics)
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
