"""Weight of each time in the loss: t (B,) -> (B,), on top of how often it is drawn (`flow.times`)."""

from __future__ import annotations

from abc import abstractmethod
from functools import lru_cache
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from flowkit.components import Component
from flowkit.flow.paths import GaussianPath, Path
from flowkit.settings import AS_TUPLE, Says

Losses = Annotated[
    tuple[Annotated[float, Field(gt=0)], ...], AS_TUPLE, Field(min_length=2), Says("a list of at least two numbers > 0")
]


class Weights(Component):
    gaussian: ClassVar[bool] = False  # whether it needs a Gaussian path

    @abstractmethod
    def __call__(self, t: Tensor, path: Path, space: str) -> Tensor:
        """t (B,), the path, the space of the loss -> (B,)."""


class UniformWeights(Weights):
    """The same weight for all times."""

    def __call__(self, t: Tensor, path: Path, space: str) -> Tensor:
        return torch.ones_like(t)


class MinSNR(Weights):
    """min(SNR, gamma) on the data's squared error, with SNR = alpha^2 / sigma^2 (arXiv 2303.09556), in any space.

    At fixed x_t an error of the data is -sigma / alpha times that of the noise and sigma / W times that of d x_t / dt, with
    W = alpha' sigma - alpha sigma'. So a loss on the noise is weighted by min(SNR, gamma) / SNR, one on the velocity by
    min(SNR, gamma) sigma^2 / W^2. (The paper's min(SNR, gamma) / (SNR + 1) is for another v, alpha x0 - sigma x1.)
    Gaussian paths only.
    """

    gaussian: ClassVar[bool] = True
    gamma: float = Field(default=5.0, gt=0, description="upper limit of the signal-to-noise ratio")

    def __call__(self, t: Tensor, path: Path, space: str) -> Tensor:
        assert isinstance(path, GaussianPath), "min_snr needs a Gaussian path"
        # Multiplied out, to avoid dividing by sigma, which is 0 at the data.
        alpha2, sigma2 = path.alpha(t).square(), path.sigma(t).square()
        signal = torch.minimum(alpha2, self.gamma * sigma2)  # sigma^2 min(SNR, gamma)
        if space == "data":
            return torch.where(sigma2 * self.gamma < alpha2, self.gamma, alpha2 / sigma2.clamp_min(1e-12))
        if space == "noise":
            return signal / alpha2.clamp_min(1e-12)
        wronskian = path.d_alpha(t) * path.sigma(t) - path.alpha(t) * path.d_sigma(t)
        return signal / wronskian.square()


class BinWeights(Weights):
    """The inverse of a loss measured in equal bins of t, scaled to a mean of 1: every bin then contributes equally.

    `losses` are the bins that validation writes to metrics.jsonl as "val_bins" ([from, to, loss]), from t = 0 to t = 1. Any
    number of bins.
    """

    losses: Losses = Field(
        description="loss in each of n equal bins of t, as in the validation log; the weights are their inverse"
    )

    def __call__(self, t: Tensor, path: Path, space: str) -> Tensor:
        weights = _inverse(self.losses, t.dtype, t.device)
        return weights[(t * len(weights)).long().clamp_(0, len(weights) - 1)]


@lru_cache(maxsize=16)
def _inverse(losses: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return 1 / losses (n,), scaled to a mean of 1. Cached: a copy from the host at every update would wait for the device."""
    with torch.inference_mode(False):  # tensors made in inference mode cannot be used in training
        weights = 1 / torch.tensor(losses, dtype=dtype)
        return (weights / weights.mean()).to(device)
