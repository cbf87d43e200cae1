"""What the network predicts and how the error is computed: independent choices, per sample, in fp32 (or fp64)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from flowkit.components import Component
from flowkit.conditions import Conditions
from flowkit.device import to_device
from flowkit.errors import UserError, listing, nearest
from flowkit.flow.error import Error, Squared
from flowkit.flow.paths import CLIP, GaussianPath, Path, expand, gaussian_paths, over_tokens
from flowkit.flow.weights import UniformWeights, Weights

PREDICTIONS = ("velocity", "data", "noise")


@dataclass(frozen=True)
class Spans:
    """For B rows: `length` (B,) s - t of the interval that starts at t, and `chosen` (B,) bool on the CPU, True unless 0.

    share: upper limit of the fraction of rows with an interval, up to rounding. guidance (B,): the guidance scales that the
    network is told; None if it is not.
    """

    length: Tensor
    chosen: Tensor  # on the CPU, to avoid a device sync
    share: float = 1.0
    listed: Tensor | None = None  # `rows`, once they are on the device
    guidance: Tensor | None = None

    def slice(self, indices: slice) -> Spans:
        guidance = None if self.guidance is None else self.guidance[indices]
        return Spans(self.length[indices], self.chosen[indices], self.share, guidance=guidance)

    @property
    def rows(self) -> Tensor:
        """The rows with an interval: (k,) int64 on the device."""
        if self.listed is not None:
            return self.listed
        return to_device(self.chosen.nonzero().squeeze(1), self.length.device)

    def put(self, *, fixed: bool) -> Spans:
        """Return the same intervals with their rows on the device.

        fixed: list as many rows in every update, as a recorded update needs. The additional ones have no interval, which
        changes nothing: their length is 0.
        """
        rows = self.chosen.nonzero().squeeze(1)
        if fixed:
            count = len(self.chosen)
            most = max(len(rows), min(count, int(count * self.share) + 1))
            others = (~self.chosen).nonzero().squeeze(1)
            rows = torch.cat((rows, others[: most - len(rows)]))
        return replace(self, listed=to_device(rows, self.length.device))

    def map(self, change: Callable[[Tensor], Tensor]) -> Spans:
        """Apply `change` to each tensor on the device."""
        optional = {"listed": self.listed, "guidance": self.guidance}
        changed = {name: None if tensor is None else change(tensor) for name, tensor in optional.items()}
        return replace(self, length=change(self.length), **changed)


class Draws(Protocol):
    """The random draws of one update that an objective may use, for the whole global batch."""

    def times(self, purpose: str) -> Tensor:
        """Draw training times (B,), independent of the update's own."""
        ...

    def uniform(self, purpose: str) -> Tensor:
        """Draw numbers (B,) on [0, 1)."""
        ...

    def number(self, purpose: str) -> int:
        """Draw a whole number below 2^63."""
        ...


class Pairs(NamedTuple):
    """A micro-batch of noise and data: x0, x1, eps (b, ...), t (b,). Networks are called (x, t, conditions, span=None)."""

    x0: Tensor
    x1: Tensor
    t: Tensor
    eps: Tensor | None
    conditions: Conditions
    spans: Spans | None
    network: Callable[..., Tensor]  # for gradients
    bare: Callable[..., Tensor]  # without wrappers, for forward-mode derivatives, which DDP does not support
    teacher: Callable[..., Tensor] | None = None  # a trained network, called like these; its output is a velocity


class Losses(NamedTuple):
    """Losses per row (b,): the one to descend and the one to show; and the predicted data (b, ...), if available."""

    descended: Tensor
    shown: Tensor
    data: Callable[[], Tensor] | None = None


class Objective(Component):
    """The training objective: the velocity, or its average over intervals."""

    averages: ClassVar[bool] = (
        False  # whether it learns average velocities; the network then gets the interval's length
    )
    sampled: ClassVar[dict[str, Any]] = {}  # defaults of [sample] if the recipe names no solver

    @property
    def guidance_max(self) -> float:
        """The largest guidance scale that the network is told in training; 1 if it is told none."""
        return 1.0

    @property
    def distills(self) -> str:
        """The checkpoint of the model that is distilled; "" if none is."""
        return ""

    def spans(self, t: Tensor, draws: Draws) -> tuple[Tensor, Spans | None]:
        """Return the times (B,) of the global batch, and the intervals that start there."""
        return t, None

    @abstractmethod
    def loss(self, pairs: Pairs, scored: FlowObjective) -> Losses:
        """Return the losses of one micro-batch. scored: the path, the prediction and the loss settings."""


class FlowMatching(Objective):
    """The velocity, or a quantity that implies it (arXiv 2210.02747)."""

    def loss(self, pairs: Pairs, scored: FlowObjective) -> Losses:
        x_t = scored.path.interpolate(pairs.x0, pairs.x1, pairs.t, pairs.eps)
        given = pairs.conditions.given
        if given is None:
            output = pairs.network(x_t, pairs.t, pairs.conditions)
            losses = scored.loss(output, pairs.x0, pairs.x1, pairs.t, pairs.eps)
            return Losses(losses, losses, lambda: scored.to_data(output, x_t, pairs.t))
        known = over_tokens(given, x_t)
        x_t = torch.where(known, pairs.x1, x_t)
        output = pairs.network(x_t, pairs.t, pairs.conditions)
        losses = scored.loss(output, pairs.x0, pairs.x1, pairs.t, pairs.eps, ~given)
        return Losses(losses, losses, lambda: torch.where(known, pairs.x1, scored.to_data(output, x_t, pairs.t)))


@dataclass(frozen=True)
class FlowObjective:
    """A path, a prediction, and a loss. Outputs may be bf16 or fp16; everything is computed in the dtype of x0, x1 and x_t.

    `loss_space` is the space of the error. With "velocity", a network that predicts x1 is trained as in arXiv 2511.13720.
    Conversions divide by alpha or sigma, clipped at `clip`. On the linear path this affects data predictions at t > 1 - clip
    and noise predictions at t < clip. `exact` is the same without the clip, for sampling and validation. min_snr weights also
    work without it, since they bound what a division makes large.

    Raises UserError for an unknown prediction, clip < 0, or a prediction that cannot be converted to a velocity on the path.
    """

    path: Path
    prediction: str = "velocity"
    loss_space: str = "velocity"
    error: Error = field(default_factory=Squared)
    weights: Weights = field(default_factory=UniformWeights)
    clip: float = CLIP

    def __post_init__(self):
        for what, name in (("prediction", self.prediction), ("loss_space", self.loss_space)):
            if name not in PREDICTIONS:
                raise UserError(f"unknown {what} {name!r}; expected {listing(PREDICTIONS)}{nearest(name, PREDICTIONS)}")
        if not self.clip >= 0:
            raise UserError(f"clip: {self.clip}; expected a number >= 0")
        for key, problem in needs_gaussian(self.path, self.prediction, self.loss_space, self.weights):
            raise UserError(f"{key}: {problem}")

    @property
    def exact(self) -> FlowObjective:
        """The same objective without a clip."""
        return replace(self, clip=0.0)

    def target(self, x0: Tensor, x1: Tensor, t: Tensor, eps: Tensor | None = None) -> Tensor:
        """Return the target of the network: the velocity, x1 or x0, (B, ...)."""
        if self.prediction == "velocity":
            return self.path.velocity(x0, x1, t, eps)
        return x1 if self.prediction == "data" else x0

    def loss(
        self,
        output: Tensor,
        x0: Tensor,
        x1: Tensor,
        t: Tensor,
        eps: Tensor | None = None,
        counted: Tensor | None = None,
    ) -> Tensor:
        """Return the weighted error per sample: output, x0, x1, eps (B, ...), t (B,) -> (B,).

        counted: (B, S) bool, the tokens whose error counts; None for all.

        The target is converted like the output, so it stays the minimizer when a division is clipped: at fixed x_t all quantities
        are affine in each other, so an error in one is an error in another times a factor that depends on t.
        """
        error = output - self.target(x0, x1, t, eps)
        if self.loss_space != self.prediction:
            assert isinstance(self.path, GaussianPath)
            clip = 0.0 if self.weights.gaussian else self.clip
            error = expand(self.path.affine(t, self.prediction, self.loss_space, clip)[1], x1) * error
        losses = self.error(error) if counted is None else self.error(error, counted)
        if isinstance(self.weights, UniformWeights):
            return losses
        return self.weights(t, self.path, self.loss_space) * losses

    def to_velocity(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the predicted velocity (B, ...) from the network's output at x_t, t (B,)."""
        return self.path.convert(output.to(x_t.dtype), x_t, t, self.prediction, "velocity", self.clip)

    def to_data(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the predicted x1 (B, ...) from the output at x_t, t (B,). Raises ValueError if it cannot be converted."""
        return self.path.convert(output.to(x_t.dtype), x_t, t, self.prediction, "data", self.clip)


def needs_gaussian(path: Path, prediction: str, loss_space: str, weights: Weights) -> list[tuple[str, str]]:
    """Return (recipe key, what is wrong and how to fix it) for every choice that this path does not allow."""
    if isinstance(path, GaussianPath):
        return []
    found, name, instead = [], path.tag(), f"or {gaussian_paths()}"
    if not path.converts(prediction, "velocity"):
        found.append(("flow.prediction", f'cannot convert "{prediction}" to a velocity on the path "{name}"; '
                                         f'use "velocity", {instead}'))  # fmt: skip
    known = "velocity" if found else prediction
    if loss_space != known:
        found.append(("flow.loss.space", f'cannot convert a {known} error to a {loss_space} error on the path "{name}"; '
                                         f'use "{known}", {instead}'))  # fmt: skip
    if weights.gaussian:
        found.append(("flow.loss.weights", f'"{weights.tag()}" needs a signal-to-noise ratio, and the path "{name}" has '
                                           f'none; use "uniform" or "bins", {instead}'))  # fmt: skip
    return found
