"""Gaussian paths `x_t = alpha(t) x1 + sigma(t) x0`: four coefficients, from which all conversions follow.

At fixed x_t and t, the velocity, data (x1), noise (x0) and, if x0 is normal noise drawn independently of x1, the score are
affine in each other. So conversions of x0 and x1 also apply to a network's expectations of them (Lipman et al.,
arXiv 2210.02747; Albergo et al., arXiv 2303.08797). A new Gaussian path is one small class here.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from flowkit.components import find
from flowkit.flow.paths.base import CLIP, QUANTITIES, Path, expand, ones
from flowkit.registry import BUILT_IN

ZERO = 1e-6  # coefficients below it count as 0


class GaussianPath(Path):
    """Coefficients of t (B,) -> (B,), finite on [0, 1], and the conversions that follow from them."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor: ...
    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor: ...
    @abstractmethod
    def d_alpha(self, t: Tensor) -> Tensor: ...
    @abstractmethod
    def d_sigma(self, t: Tensor) -> Tensor: ...
    @abstractmethod
    def time(self, tau: Tensor) -> Tensor:
        """Return the t at which alpha / (alpha + sigma) is tau."""

    def interpolate(self, x0: Tensor, x1: Tensor, t: Tensor, eps: Tensor | None = None) -> Tensor:
        """Return x_t = alpha x1 + sigma x0."""
        return expand(self.alpha(t), x1) * x1 + expand(self.sigma(t), x1) * x0

    def velocity(self, x0: Tensor, x1: Tensor, t: Tensor, eps: Tensor | None = None) -> Tensor:
        """Return alpha' x1 + sigma' x0."""
        return expand(self.d_alpha(t), x1) * x1 + expand(self.d_sigma(t), x1) * x0

    def converts(self, source: str, to: str) -> bool:
        return source in QUANTITIES and to in QUANTITIES

    def convert(self, value: Tensor, x_t: Tensor, t: Tensor, source: str, to: str, clip: float = CLIP) -> Tensor:
        """Convert between quantities. Exact if sigma and alpha are at least `clip`; otherwise the result of a division shrinks.

        So near the data, the noise implied by a data prediction shrinks, and near the noise, the data implied by a noise
        prediction. The velocity still moves the mean correctly, which clipping all of it would not.
        clip = 0 is exact unless sigma or alpha is 0: there, a quantity that x_t does not determine is 0.
        """
        if source == to:
            return value
        of_x, of_value = self.affine(t, source, to, clip)
        return expand(of_x, x_t) * x_t + expand(of_value, x_t) * value

    def affine(self, t: Tensor, source: str, to: str, clip: float = CLIP) -> tuple[Tensor, Tensor]:
        """Return (a, b), each (B,), such that `to` = a x_t + b `source`. b converts an error in one into an error in the other.

        Raises ValueError for a quantity that is not in QUANTITIES.
        """
        alpha, sigma, d_alpha, d_sigma = self.alpha(t), self.sigma(t), self.d_alpha(t), self.d_sigma(t)
        over_alpha, over_sigma = _inverse(alpha, clip), _inverse(sigma, clip)
        wronskian = sigma * d_alpha - d_sigma * alpha
        if source == to:
            return torch.zeros_like(t), ones(t)
        match source, to:
            case "score", _:  # score = -noise / sigma
                of_x, of_noise = self.affine(t, "noise", to, clip)
                return of_x, -sigma * of_noise
            case _, "score":
                of_x, of_value = self.affine(t, source, "noise", clip)
                return -over_sigma * of_x, -over_sigma * of_value
            case "velocity", "data":
                return -d_sigma / wronskian, sigma / wronskian
            case "velocity", "noise":
                return d_alpha / wronskian, -alpha / wronskian
            case "data", "velocity":
                return d_sigma * over_sigma, d_alpha - d_sigma * alpha * over_sigma
            case "data", "noise":
                return over_sigma, -alpha * over_sigma
            case "noise", "velocity":
                return d_alpha * over_alpha, d_sigma - d_alpha * sigma * over_alpha
            case "noise", "data":
                return over_alpha, -sigma * over_alpha
        raise ValueError(f"{source!r} to {to!r}: expected two of {QUANTITIES}")


def _inverse(coefficient: Tensor, clip: float) -> Tensor:
    if clip:
        return 1 / coefficient.clamp_min(clip)
    return torch.where(coefficient > ZERO, 1 / coefficient.clamp_min(ZERO), 0.0)


class Linear(GaussianPath):
    """x_t = t x1 + (1 - (1 - sigma_min) t) x0: rectified flow (arXiv 2209.03003), conditional OT (arXiv 2210.02747).

    With sigma_min > 0, a little noise remains at t = 1, as in Lipman et al.
    """

    sigma_min: float = Field(default=0.0, ge=0, lt=1, description="standard deviation of the remaining noise at t = 1")

    def velocity(self, x0: Tensor, x1: Tensor, t: Tensor, eps: Tensor | None = None) -> Tensor:
        expand(t, x1)  # checks its shape
        return super().velocity(x0, x1, t, eps) if self.sigma_min else x1 - x0  # the same numbers, in one operation

    def alpha(self, t: Tensor) -> Tensor:
        return t

    def sigma(self, t: Tensor) -> Tensor:
        return 1 - (1 - self.sigma_min) * t if self.sigma_min else 1 - t

    def d_alpha(self, t: Tensor) -> Tensor:
        return ones(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return (self.sigma_min - 1) * ones(t)

    def time(self, tau: Tensor) -> Tensor:
        return tau / (1 - self.sigma_min * tau)


class Cosine(GaussianPath):
    """x_t = sin(pi t / 2) x1 + cos(pi t / 2) x0: the trigonometric, generalized variance-preserving (GVP) path.

    arXiv 2303.08797, 2401.08740. Data of unit variance has unit variance at every t.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(t * (math.pi / 2))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.cos(t * (math.pi / 2)).clamp_min(0.0)  # fp32 rounds to below 0 at t = 1

    def d_alpha(self, t: Tensor) -> Tensor:
        return math.pi / 2 * torch.cos(t * (math.pi / 2))

    def d_sigma(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * torch.sin(t * (math.pi / 2))

    def time(self, tau: Tensor) -> Tensor:
        return torch.atan2(tau, 1 - tau) * (2 / math.pi)


class VariancePreserving(GaussianPath):
    """The path of variance-preserving diffusion (arXiv 2011.13456), from noise to data: alpha^2 + sigma^2 = 1.

    log alpha = -(beta_max - beta_min) s^2 / 4 - beta_min s / 2 with s = 1 - t. alpha(0) is about 0.007, so x_0 is noise with a
    trace of data. sigma' is unbounded at t = 1, so it is computed with sigma clipped at 0.01, which affects t > 0.999 at the
    default beta_min.
    """

    beta_min: float = Field(default=0.1, gt=0, description="noise rate beta at the data")
    beta_max: float = Field(default=20.0, gt=0, description="noise rate beta at the noise")

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.beta_min >= self.beta_max:
            raise ValueError(f"beta_min = {self.beta_min:g} must be below beta_max = {self.beta_max:g}")
        return self

    def _log_alpha(self, t: Tensor) -> Tensor:
        s = 1 - t
        return -s * (0.25 * (self.beta_max - self.beta_min) * s + 0.5 * self.beta_min)

    def alpha(self, t: Tensor) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()  # 1 - alpha^2 would lose precision near the data

    def d_alpha(self, t: Tensor) -> Tensor:
        return self.alpha(t) * 0.5 * ((self.beta_max - self.beta_min) * (1 - t) + self.beta_min)

    def d_sigma(self, t: Tensor) -> Tensor:
        return -self.alpha(t) * self.d_alpha(t) / self.sigma(t).clamp_min(0.01)

    def time(self, tau: Tensor) -> Tensor:
        # -log alpha from sigma / alpha, then the root of the quadratic in s, in the form that is stable near s = 0.
        cost = 0.5 * torch.log1p(((1 - tau) / tau).square())
        linear, slope = 0.5 * self.beta_min, self.beta_max - self.beta_min
        return 1 - 2 * cost / (linear + (linear**2 + slope * cost).sqrt())


def gaussian_paths() -> str:
    """Return "a Gaussian path (linear, cosine, vp)", with the names of all built-in ones, for messages."""
    return f"a Gaussian path ({', '.join(name for name in BUILT_IN['path'] if issubclass(find('path', name), GaussianPath))})"
