"""What the network predicts and how that is scored: always in velocity space, per sample, in fp32."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from flowkit.errors import UserError, listing, nearest
from flowkit.flow.paths import Path, expand

PREDICTIONS = ("velocity", "data")


@dataclass(frozen=True)
class FlowObjective:
    """A path and a prediction. Network outputs may be bf16 or fp16: all is computed in the dtype of x0, x1 and x_t.

    "data" (the network predicts x1, the loss is the velocity's: arXiv 2511.13720) divides by sigma, which is clipped
    at `min_sigma` both in the loss and in sampling; on the linear path that concerns t > 1 - min_sigma only.

    Raises UserError for an unknown prediction or min_sigma <= 0.
    """

    path: Path
    prediction: str = "velocity"
    min_sigma: float = 0.05

    def __post_init__(self):
        if self.prediction not in PREDICTIONS:
            raise UserError(
                f"unknown prediction {self.prediction!r}; known are {listing(PREDICTIONS)}"
                f"{nearest(self.prediction, PREDICTIONS)}"
            )
        if not self.min_sigma > 0:
            raise UserError(f"min_sigma is {self.min_sigma}; expected a number above 0")

    def loss(self, output: Tensor, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        """Squared error of the velocity, mean over the elements of a sample: output, x0, x1 (B, ...), t (B,) -> (B,).

        A "data" output is converted as in `to_velocity`, and so is the true x1, so that x1 stays the minimiser
        where the division is clipped.
        """
        if self.prediction == "velocity":
            error = output - self.path.velocity(x0, x1, t)
        else:
            error = expand(self.path.velocity_per_data(t, self.min_sigma), x1) * (output - x1)
        return error.square().flatten(1).mean(1)

    def to_velocity(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Predicted velocity (B, ...) from the network's output at x_t, t (B,)."""
        output = output.to(x_t.dtype)
        if self.prediction == "velocity":
            return output
        return self.path.data_to_velocity(output, x_t, t, self.min_sigma)

    def to_data(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Predicted x1 (B, ...) from the network's output at x_t, t (B,)."""
        output = output.to(x_t.dtype)
        if self.prediction == "data":
            return output
        return self.path.velocity_to_data(output, x_t, t)
