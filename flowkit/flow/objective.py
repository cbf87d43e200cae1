"""What the network predicts and how that is scored: independent choices, computed per sample in fp32 (or fp64)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor

from flowkit.components import Component
from flowkit.conditions import Conditions
from flowkit.errors import UserError, listing, nearest
from flowkit.flow.error import Error, Squared
from flowkit.flow.paths import CLIP, GaussianPath, Path, expand
from flowkit.flow.weights import UniformWeights, Weights

PREDICTIONS = ("velocity", "data", "noise")


@dataclass(frozen=True)
class Spans:
    """Of B rows: `length` (B,) s - t of the interval that begins at t, and `chosen` (B,) bool on the CPU, where it is not 0."""

    length: Tensor
    chosen: Tensor  # on the CPU, so that no device is asked

    def slice(self, indices: slice) -> Spans:
        return Spans(self.length[indices], self.chosen[indices])

    @property
    def rows(self) -> Tensor:
        """Those that have an interval: (k,) int64 on the device."""
        return self.chosen.nonzero().squeeze(1).to(self.length.device, non_blocking=True)


class Draws(Protocol):
    """What an objective may draw for one update, for the whole global batch: a function of the run's seed and the purpose."""

    def times(self, purpose: str) -> Tensor:
        """Training times (B,), other ones than the update's own."""
        ...

    def number(self, purpose: str) -> int:
        """A whole number below 2^63."""
        ...


class Pairs(NamedTuple):
    """A micro-batch of noise and data: x0, x1, eps (b, ...), t (b,). Networks are called (x, t, conditions, span=None)."""

    x0: Tensor
    x1: Tensor
    t: Tensor
    eps: Tensor | None
    conditions: Conditions
    spans: Spans | None
    network: Callable[..., Tensor]  # where a gradient goes
    bare: Callable[..., Tensor]  # the same without wrappers, for derivatives: those of DDP know nothing of forward mode


class Losses(NamedTuple):
    """By row (b,): what is descended, what is shown; and the predicted data (b, ...), where there is such."""

    descended: Tensor
    shown: Tensor
    data: Callable[[], Tensor] | None = None


class Objective(Component):
    """What is learned: the velocity, or its average over intervals."""

    averages: ClassVar[bool] = False  # of velocities: the network is told the interval's length
    sampled: ClassVar[dict[str, Any]] = {}  # keys of [sample], where the recipe names no solver

    def spans(self, t: Tensor, draws: Draws) -> tuple[Tensor, Spans | None]:
        """The times (B,) of the global batch, and the intervals that begin there, from its own times."""
        return t, None

    @abstractmethod
    def loss(self, pairs: Pairs, scored: FlowObjective) -> Losses:
        """Of one micro-batch; `scored` is the path, the prediction and how an error is scored."""


class FlowMatching(Objective):
    """The velocity, or what implies it (arXiv 2210.02747)."""

    def loss(self, pairs: Pairs, scored: FlowObjective) -> Losses:
        x_t = scored.path.interpolate(pairs.x0, pairs.x1, pairs.t, pairs.eps)
        output = pairs.network(x_t, pairs.t, pairs.conditions)
        losses = scored.loss(output, pairs.x0, pairs.x1, pairs.t, pairs.eps)
        return Losses(losses, losses, lambda: scored.to_data(output, x_t, pairs.t))


@dataclass(frozen=True)
class FlowObjective:
    """A path, a prediction, and a loss. Network outputs may be bf16 or fp16: all is computed in the dtype of x0, x1 and x_t.

    `loss_space` is what the error is an error of. With "velocity" a network that predicts x1 is trained as arXiv 2511.13720
    has it. Conversions divide by alpha or sigma, clipped at `clip`; on the linear path that concerns data predictions at
    t > 1 - clip and noise predictions at t < clip. `exact` is the same without the clip, for sampling and validation; min_snr
    weights do without it too, for they bound what a division makes large.

    Raises UserError for an unknown prediction, clip < 0, or a path on which the prediction implies no velocity.
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
                raise UserError(
                    f"unknown {what} {name!r}; known are {listing(PREDICTIONS)}{nearest(name, PREDICTIONS)}"
                )
        if not self.clip >= 0:
            raise UserError(f"clip is {self.clip}; expected a number of at least 0")
        if not self.path.converts(self.prediction, "velocity"):
            raise UserError(
                f'flow.prediction: cannot convert "{self.prediction}" to a velocity on the path "{self.path.tag()}"; '
                'use "velocity", or a Gaussian path (linear, cosine, vp)'
            )
        if self.loss_space != self.prediction and not isinstance(self.path, GaussianPath):
            raise UserError(
                f"flow.loss.space: cannot convert a {self.prediction} error to a {self.loss_space} error on the path "
                f'"{self.path.tag()}"; use "{self.prediction}", or a Gaussian path (linear, cosine, vp)'
            )
        if self.weights.gaussian and not isinstance(self.path, GaussianPath):
            raise UserError(
                f'flow.loss.weights: "{self.weights.tag()}" needs a signal-to-noise ratio, and the path '
                f'"{self.path.tag()}" has none; use "uniform" or "bins", or a Gaussian path (linear, cosine, vp)'
            )

    @property
    def exact(self) -> FlowObjective:
        """The same without a clip."""
        return replace(self, clip=0.0)

    def target(self, x0: Tensor, x1: Tensor, t: Tensor, eps: Tensor | None = None) -> Tensor:
        """What the network should have said: the velocity, x1 or x0, (B, ...)."""
        if self.prediction == "velocity":
            return self.path.velocity(x0, x1, t, eps)
        return x1 if self.prediction == "data" else x0

    def loss(self, output: Tensor, x0: Tensor, x1: Tensor, t: Tensor, eps: Tensor | None = None) -> Tensor:
        """Weighted error by sample: output, x0, x1, eps (B, ...), t (B,) -> (B,).

        The target is converted as the output is, so that it stays the minimiser where a division is clipped: at fixed x_t
        all quantities are affine in each other, so an error in one is that in the other times a factor of t.
        """
        error = output - self.target(x0, x1, t, eps)
        if self.loss_space != self.prediction:
            assert isinstance(self.path, GaussianPath)
            clip = 0.0 if self.weights.gaussian else self.clip
            error = expand(self.path.affine(t, self.prediction, self.loss_space, clip)[1], x1) * error
        losses = self.error(error)
        if isinstance(self.weights, UniformWeights):
            return losses
        return self.weights(t, self.path, self.loss_space) * losses

    def to_velocity(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Predicted velocity (B, ...) from the network's output at x_t, t (B,)."""
        return self.path.convert(output.to(x_t.dtype), x_t, t, self.prediction, "velocity", self.clip)

    def to_data(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Predicted x1 (B, ...) from the network's output at x_t, t (B,). Raises ValueError where the path has no such."""
        return self.path.convert(output.to(x_t.dtype), x_t, t, self.prediction, "data", self.clip)
