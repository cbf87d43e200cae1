"""What the network predicts and how that is scored: independent choices, computed per sample in fp32 (or fp64)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor

from flowkit.components import Component
from flowkit.errors import UserError, listing, nearest
from flowkit.flow.error import Error, Squared
from flowkit.flow.paths import CLIP, GaussianPath, Path, expand
from flowkit.flow.weights import UniformWeights, Weights

PREDICTIONS = ("velocity", "data", "noise")


class Objective(Component):
    """What is learned: the velocity, or its average over intervals."""

    averages: ClassVar[bool] = False


class FlowMatching(Objective):
    """The velocity (arXiv 2210.02747)."""


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
                f"flow.prediction: on the path {type(self.path).__name__} a prediction of the {self.prediction} implies no "
                'velocity; use prediction = "velocity", or a Gaussian path (linear, cosine, vp)'
            )
        if self.loss_space != self.prediction and not isinstance(self.path, GaussianPath):
            raise UserError(
                f"flow.loss_space: on the path {type(self.path).__name__} an error of the {self.prediction} is none of the "
                f'{self.loss_space}; use loss_space = "{self.prediction}", or a Gaussian path (linear, cosine, vp)'
            )
        if self.weights.gaussian and not isinstance(self.path, GaussianPath):
            raise UserError(
                f"flow.weights: {self.weights.tag()} needs a path with a signal and a noise: linear, cosine or vp"
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
