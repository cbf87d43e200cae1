"""log p(x1) of a flow from unit noise: integrate the divergence of its velocity backward (arXiv 1806.07366)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowkit.errors import UserError, listing, nearest
from flowkit.flow.solvers import Solver, Velocity, integrate
from flowkit.flow.solvers.problem import evaluations

DIVERGENCES = ("auto", "exact", "hutchinson")
EXACT_DIM = 16  # largest dimension for which "auto" is "exact"


class LogLikelihood(NamedTuple):
    """log_p (B,) in nats; its standard error over probes (B,), None if exact or with one probe; x0 (B, ...); NFE (B,)."""

    log_p: Tensor
    error: Tensor | None
    x0: Tensor
    nfe: Tensor


def log_likelihood(
    velocity: Velocity,
    x1: Tensor,
    *,
    divergence: str = "auto",
    probes: int = 1,
    signs: Tensor | None = None,
    generator: torch.Generator | None = None,
    solver: Solver | str | Mapping[str, Any] = "dopri5",
    **how: Any,
) -> LogLikelihood:
    """Return log p(x1) per row, x1 (B, ...), of the flow from N(0, I) at t = 0 along `velocity`.

    divergence: "exact" (D backward passes for D elements per row), "hutchinson" (`probes` passes, unbiased: arXiv
    1810.01367), or "auto": exact up to 16 elements. The probes, +1 or -1, are `signs` (B, probes, ...) if given, else drawn
    from `generator`; they are constant along a trajectory. The velocity must treat rows independently. NFE counts forward
    evaluations.

    Raises UserError for unknown names, probes < 1, and as `integrate`.
    """
    if divergence not in DIVERGENCES:
        raise UserError(
            f"divergence: unknown {divergence!r}; expected {listing(DIVERGENCES)}{nearest(divergence, DIVERGENCES)}"
        )
    if probes < 1:
        raise UserError(f"probes: {probes}; expected at least 1")
    x1 = x1 if x1.dtype == torch.float64 else x1.float()
    dim = math.prod(x1.shape[1:])
    if divergence == "exact" or (divergence == "auto" and dim <= EXACT_DIM):
        signs, count = None, 1
    else:
        if signs is None:
            bits = torch.randint(2, (len(x1), probes, *x1.shape[1:]), generator=generator)
            signs = 2.0 * bits - 1
        signs, count = signs.to(x1).flatten(2), signs.shape[1]
    field = _Augmented(velocity, tuple(x1.shape[1:]), signs)
    start = torch.cat((x1.flatten(1), x1.new_zeros(len(x1), count)), dim=1)
    with torch.no_grad():
        end, nfe = integrate(field, start, solver=solver, **how, t0=1.0, t1=0.0)
    x0, change = end[:, :dim], end[:, dim:]
    log_p = -0.5 * (x0.square().sum(1, keepdim=True) + dim * math.log(2 * math.pi)) + change
    error = log_p.std(1) / math.sqrt(count) if count > 1 else None
    return LogLikelihood(log_p.mean(1), error, x0.reshape(x1.shape), nfe)


@dataclass(frozen=True)
class _Augmented:
    """(x, a) changes with (v, div v), flattened: a (B, P) has one column per probe, or one if the divergence is exact."""

    velocity: Velocity
    shape: tuple[int, ...]
    signs: Tensor | None  # (B, P, D)

    def __call__(self, state: Tensor, t: Tensor) -> Tensor:
        dim = math.prod(self.shape)
        with torch.inference_mode(False), torch.enable_grad():
            x = state[:, :dim].detach().clone().requires_grad_()
            v = self.velocity(x.reshape(-1, *self.shape), t.clone()).to(x.dtype).flatten(1)
            divergence = _divergence(v, x) if self.signs is None else _traces(v, x, self.signs)
        return torch.cat((v.detach(), divergence), dim=1)

    def evaluations(self, t: Tensor) -> Tensor:
        return evaluations(self.velocity, t)

    @property
    def take(self) -> Callable[[Tensor], _Augmented]:
        pick = getattr(self.velocity, "take", None)
        if pick is None:
            raise AttributeError("take")  # the velocity cannot be evaluated for some of its rows
        return lambda rows: _Augmented(pick(rows), self.shape, None if self.signs is None else self.signs[rows])


def _divergence(v: Tensor, x: Tensor) -> Tensor:
    """Return sum_i dv_i / dx_i (B, 1), with one backward pass for each of the D columns."""
    total = torch.zeros_like(x[:, 0])
    for i in range(x.shape[1]):
        total = total + _pulled(v, x, torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[i].expand_as(v))[:, i]
    return total[:, None]


def _traces(v: Tensor, x: Tensor, signs: Tensor) -> Tensor:
    """Return e^T (dv / dx) e (B, P) for each probe e, whose mean is the trace."""
    return torch.stack([(_pulled(v, x, probe) * probe).sum(1) for probe in signs.unbind(1)], dim=1)


def _pulled(v: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    """Return weights^T dv / dx (B, D); 0 if v does not depend on x."""
    if not v.requires_grad:
        return torch.zeros_like(x)
    (found,) = torch.autograd.grad(v, x, weights, retain_graph=True, allow_unused=True)
    return torch.zeros_like(x) if found is None else found
