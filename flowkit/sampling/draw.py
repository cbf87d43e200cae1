"""From noise to samples: velocities, seeded draws, and batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from flowkit.conditions import KINDS, NOTHING, Conditions
from flowkit.data.normalizers import Normalizer
from flowkit.device import tf32_products
from flowkit.flow.given import Held, resampled
from flowkit.flow.guidance import GradientGuidance, Network, guided
from flowkit.flow.inversion import Inversion, inversion_figures, reconstruct, zero_field_figures
from flowkit.flow.objective import FlowObjective
from flowkit.flow.paths import GaussianPath, over_tokens
from flowkit.flow.solvers import Velocity, integrate
from flowkit.models.calls import call_model
from flowkit.progress import Progress
from flowkit.recipe.sample import SampleSettings
from flowkit.rng import NUMERICS, key, seed_generator

if TYPE_CHECKING:
    from flowkit.data.dataset import Dataset
    from flowkit.sampling.model import SamplingModel

BATCH_SIZES = {"cpu": 64, "cuda": 1024}
STEP_NOISE_BYTES = 1 << 26  # noise of a stochastic solver to draw at once
Step = Callable[[int, Tensor], None]  # a listener for (steps done, x)
Guide = Callable[[Tensor], Tensor]  # x (B, ...) in the domain's units -> (B,)


@dataclass(frozen=True)
class Completion:
    """rows (N, S, ...) and their given tokens (N, S) bool. resample: None for a model that was trained to complete."""

    rows: np.ndarray
    tokens: np.ndarray
    resample: int | None

    def to_info(self) -> dict[str, Any]:
        """Return what samples say about it: the given tokens, once if they are the same for all."""
        same = (self.tokens == self.tokens[:1]).all()
        shown = [np.flatnonzero(row).tolist() for row in (self.tokens[:1] if same else self.tokens)]
        info: dict[str, Any] = {"given": shown[0] if same else shown}
        return info if self.resample is None else {**info, "resample": self.resample}


@dataclass(frozen=True)
class Start:
    """Where samples start, instead of noise from the seed.

    rows: (N, ...) in the domain's units, which noise moves to time t; strength = 1 - t: 0 keeps the rows, 1 forgets them.
    noise: (N, *latent_shape), as the model sees it, to start from at t = 0. Give one of the two.
    """

    rows: np.ndarray | None = None
    strength: float = 0.5
    noise: np.ndarray | None = None

    def to_info(self) -> dict[str, Any]:
        return {"strength": self.strength} if self.rows is not None else {}

    @property
    def t0(self) -> float:
        return 0.0 if self.rows is None else 1.0 - self.strength


def slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Interpolate on a sphere between noises a and b (D...), at `share` (T,) from 0 to 1: (T, D...).

    Norms are interpolated too. So every step is as likely under normal noise as its ends are.
    """
    long, short = a.flatten().norm(), b.flatten().norm()
    cosine = (a.flatten() @ b.flatten() / (long * short).clamp_min(1e-12)).clamp(-1, 1)
    angle = torch.arccos(cosine)
    share = share.view(-1, *(1,) * a.ndim)
    if float(angle) < 1e-4:
        return torch.lerp(a[None], b[None], share)
    ways = torch.sin((1 - share) * angle) * a / long + torch.sin(share * angle) * b / short
    return ways / torch.sin(angle) * torch.lerp(long, short, share)


@dataclass(frozen=True)
class Drawn:
    """x (N, ...) float32 in the domain's units, the noise (N, *shape) float32 that each came from, and the cost per row.

    states (T, at most keep_states, ...) float32 in the domain's units: an evenly spread subset after each step, from the noise
    on; None if not kept.
    """

    x: np.ndarray
    noise: np.ndarray
    nfe: int | float  # network evaluations per sample; an int if all had the same number
    nfe_max: int
    states: np.ndarray | None = None

    def cost(self) -> dict[str, Any]:
        return {"nfe": self.nfe} if self.nfe == self.nfe_max else {"nfe": self.nfe, "nfe_max": self.nfe_max}


class States:
    """The trajectories of an evenly spread subset of samples, filled batch by batch."""

    def __init__(self, count: int, num_samples: int, normalizer: Normalizer) -> None:
        self._rows = np.unique(np.linspace(0, num_samples - 1, min(count, num_samples)).astype(int)) if count else []
        self._normalizer = normalizer
        self.batches: list[list[np.ndarray]] = []

    def begin(self, indices: range, x: Tensor) -> Step | None:
        """Return the step listener for samples `indices`, which start at x; None if none of them is kept."""
        offsets = [int(row) - indices.start for row in self._rows if row in indices]
        if not offsets:
            return None
        states: list[np.ndarray] = []
        self.batches.append(states)

        def keep(step: int, x: Tensor) -> None:
            states.append(self._normalizer.denormalize(x[offsets]).float().cpu().numpy())

        keep(0, x)
        return keep

    def stacked(self) -> np.ndarray | None:
        """Return (T, kept, ...). If an adaptive solver took fewer steps in a batch, its last state is repeated."""
        if not self.batches:
            return None
        longest = max(map(len, self.batches))
        return np.concatenate([np.stack(each + each[-1:] * (longest - len(each))) for each in self.batches], axis=1)


def step_noise(
    seed: int, indices: range, shape: tuple[int, ...], numerics: int = NUMERICS, *, steps: int = 1
) -> Callable[[int], Tensor]:
    """Return the noise of a stochastic solver's steps, to be called in order. Each sample has its own stream, on the CPU.

    steps: how many of them will be called for, to draw several at once; more may be. The numbers do not depend on it.
    """
    count, size = len(indices), math.prod(shape)
    # Torch draws normals in groups of 16, so only rows of whole groups have the same numbers in one call as in several.
    together = 1 if size == 0 or size % 16 else max(1, min(steps, STEP_NOISE_BYTES // (4 * count * size)))

    def drawn() -> Iterator[Tensor]:
        streams = [seed_generator(torch.Generator(), key(seed, "sample steps", i), numerics) for i in indices]
        while True:
            yield from torch.stack([torch.randn((together, *shape), generator=stream) for stream in streams], 1)

    of_steps = drawn()
    return lambda step: next(of_steps)


def as_network(model: nn.Module, call: Callable[..., Tensor] | None = None) -> Network:
    """Return the model as a function of x, t and conditions that runs in the model's own precision.

    Times are at least fp32, since networks embed them with frequencies of 1000. call: as in `call_model`.
    """
    own = next(model.parameters()).dtype
    clock = torch.promote_types(own, torch.float32)

    def network(x: Tensor, t: Tensor, conditions: Conditions, span: Tensor | None = None) -> Tensor:
        span = None if span is None else span.to(clock)
        return call_model(model, x.to(own), t.to(clock), conditions.to(dtype=own), span, call)

    return network


def network_of(model: SamplingModel, settings: SampleSettings) -> Network:
    """Return the model's network, compiled and in bf16 as the settings say.

    Autocast is for the network alone: a solver's own products stay in the precision of the state.
    """
    network = as_network(model.model, model.compiled(settings) if settings.compile else None)
    if settings.precision != "bf16":
        return network

    def in_bf16(*given: Any) -> Tensor:
        with torch.autocast(model.device.type, torch.bfloat16):
            return network(*given)

    return in_bf16


def velocity_of(
    model: SamplingModel, given: Conditions, rows: slice = slice(None), settings: SampleSettings | None = None
) -> Velocity:
    """Return the velocity of these rows of `given`: the network's own, or guided according to `settings`."""
    told = given.map(lambda tensor: tensor[rows].to(model.device))
    if settings is None:
        return guided(as_network(model.model), model.objective, told)

    def of(one: SamplingModel) -> tuple[Network, FlowObjective]:
        return network_of(one, settings), one.objective.exact if model.straight else one.objective

    if settings.compile and settings.guidance_interval is not None and told.kinds and told.dropped is None:
        # In and outside the interval the network is then called alike, and compiled once.
        none = told.nothing()
        told = told.drop(none[:, None].expand(-1, len(KINDS)) if isinstance(settings.guidance_scale, Mapping) else none)
    weak = model.weak(settings)
    scale = settings.guidance_scale
    if model.flow.objective.guidance_max > 1:
        assert not isinstance(scale, Mapping), "checked by the caller"
        told, scale = told.guided(scale), 1.0  # the network knows what to do with it
    return guided(
        *of(model), told, scale, interval=settings.guidance_interval,
        rescale=settings.guidance_rescale, guidance=settings.guidance, weak=None if weak is None else of(weak),
        numerics=model.numerics,
    )  # fmt: skip


def draw_samples(
    model: SamplingModel,
    num_samples: int,
    settings: SampleSettings,
    given: Conditions = NOTHING,
    *,
    seed: int = 0,
    guide: Guide | None = None,
    guide_scale: float = 1.0,
    completion: Completion | None = None,
    start: Start | None = None,
    batch_size: int | None = None,
    keep_states: int = 0,
    progress: Progress | None = None,
) -> Drawn:
    """Draw samples. Sample i has the conditions of row i of `given`, and starts from noise that depends on (seed, i) alone.

    guide: the samples then approximate p(x) exp(guide_scale guide(x)); see `GradientGuidance`. progress: called with the
    number of samples done; a step of a fixed-step solver counts as its share of the batch. The model is used on its device
    and in its precision, and should be in eval mode. batch_size: by default that of the device, halved if memory runs out.
    """
    normalizer, path, numerics = model.normalizer, model.objective.path, model.numerics
    size = batch_size or BATCH_SIZES.get(model.device.type, 256)
    # Open both outside inference mode, whose tensors a guide cannot differentiate through.
    base, _ = model.base, model.weak(settings)
    parts: list[tuple[np.ndarray, np.ndarray, Tensor]] = []
    states = States(keep_states, num_samples, normalizer)

    def drawn(indices: range) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """Return the samples, their noise and their cost."""
        part = slice(indices.start, indices.stop)
        told = given
        if completion is not None and completion.resample is None:
            told = replace(given, given=torch.from_numpy(np.array(completion.tokens)))
        velocity = velocity_of(model, told, part, settings)
        if guide is not None:
            assert isinstance(path, GaussianPath), "checked by the caller"
            of_rows = guide
            velocity = GradientGuidance(velocity, lambda x: of_rows(normalizer.denormalize(x)), path, guide_scale)
        noise = base.sample(seed, indices, model.latent_shape)
        if start is not None and start.noise is not None:
            noise = torch.from_numpy(np.ascontiguousarray(start.noise[part], np.float32))
        x = noise.to(model.device, torch.float64 if settings.state == "fp64" else torch.float32)
        if start is not None and start.rows is not None:
            rows = _normalized(model, start.rows[part]).to(x)
            t0 = torch.full((len(x),), start.t0, dtype=x.dtype, device=x.device)
            eps = step_noise(seed, indices, model.latent_shape, numerics)(0).to(x) if path.stochastic else None
            # Some paths still have noise at t = 1. At strength 0 the rows stay as they are.
            x = path.interpolate(x, rows, t0, eps) if start.strength else rows
        held = None if completion is None else _held(model, completion, velocity, x, part.start)
        keep = states.begin(indices, x)

        def on_step(step: int, x: Tensor) -> None:
            if keep is not None:
                keep(step, x)
            if progress is not None and not settings.solver.adaptive:
                progress(indices.start + len(indices) * min(step, settings.steps) // settings.steps, num_samples)

        how: dict[str, Any] = {
            "solver": settings.solver, "steps": settings.steps, "grid": settings.grid, "path": path,
            "straight": model.straight, "on_step": on_step,
            "noise": step_noise(seed, indices, model.latent_shape, numerics, steps=settings.steps),
        }  # fmt: skip
        if held is not None and completion is not None and completion.resample is not None:
            x, nfe = resampled(held, x, times=completion.resample, **{**how, "straight": False})
        else:
            x, nfe = integrate(held or velocity, x, t0=0.0 if start is None else start.t0, **how)
        found = normalizer.denormalize(x).float().cpu().numpy()
        if completion is None:
            return model.domain.finish(found), noise.numpy(), nfe
        rows, tokens = completion.rows[part], completion.tokens[part]
        given_back = np.where(tokens.reshape(*tokens.shape, *(1,) * (rows.ndim - 2)), rows, found)
        return model.domain.finish(given_back, tokens), noise.numpy(), nfe

    first = 0
    # A guide differentiates through the network, so it needs no_grad instead of inference mode.
    with (
        torch.inference_mode() if guide is None else torch.no_grad(),
        tf32_products() if model.tf32 else nullcontext(),
    ):
        while first < num_samples:
            indices, before = range(first, min(first + size, num_samples)), len(states.batches)
            try:
                parts.append(drawn(indices))
                first = indices.stop
            except torch.OutOfMemoryError:
                if batch_size is not None or len(indices) == 1:
                    raise
                size = len(indices) // 2
                del states.batches[before:]
            if progress is not None:
                progress(first, num_samples)
    done, noises, spent = zip(*parts, strict=True)
    nfe = torch.cat(spent)
    mean, most = nfe.double().mean().item(), int(nfe.max())
    nfe = most if mean == most else round(mean, 2)
    return Drawn(np.concatenate(done), np.concatenate(noises), nfe, most, states.stacked())


def _normalized(model: SamplingModel, rows: np.ndarray) -> Tensor:
    """Return rows (N, ...) in the domain's units as the model sees them, on its device."""
    return model.normalizer.normalize(torch.from_numpy(np.array(rows, np.float32)).to(model.device))


def _held(model: SamplingModel, completion: Completion, velocity: Velocity, noise: Tensor, first: int) -> Held:
    """Return the velocity that completes the rows from `first` on. Without training, given tokens come from `noise`."""
    part = slice(first, first + len(noise))
    known = _normalized(model, completion.rows[part]).to(noise)
    given = over_tokens(torch.from_numpy(np.array(completion.tokens[part])).to(noise.device), known)
    if completion.resample is None:
        return Held(velocity, known, given)
    path = model.objective.path
    assert isinstance(path, GaussianPath), "checked by the caller"
    return Held(velocity, known, given, path, noise)


def invert(
    model: SamplingModel, data: Dataset, rows: np.ndarray, settings: SampleSettings
) -> tuple[Inversion, Inversion]:
    """Invert rows of `data` to noise and reconstruct them, with their conditions and no guidance; the same for the zero field."""
    variance = model.base.variance
    with torch.inference_mode():
        x1 = model.normalizer.normalize_rows(data.x, rows, lambda tensor: tensor.to(model.device))
        x0, back = reconstruct(velocity_of(model, model.given_with(data, rows)), x1, **settings.of_ode)
    return inversion_figures(x0, x1, back, variance), zero_field_figures(x1, variance)
