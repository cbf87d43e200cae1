"""Completion: some tokens of a row are given, and the flow makes the others.

A network can be trained for it: it sees the given tokens clean, marked by an embedding, and learns only the others. With any
other network, on a Gaussian path from independent noise, the given tokens are put on their path from noise to data at every step
(replacement), and each step is repeated from new noise, so that both parts agree (resampling, RePaint, arXiv 2201.09865).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from flowkit.flow.grids import grid_edges
from flowkit.flow.paths import GaussianPath, expand
from flowkit.flow.solvers import Integrated, integrate
from flowkit.flow.solvers.problem import Wrapped
from flowkit.settings import Says

RESAMPLE = 8  # repetitions of each step, for completion without training
_Share = Annotated[float, Field(ge=0, le=1)]
Shares = Annotated[
    _Share | dict[Literal["prefix", "subset"], _Share],
    Says("a number from 0 to 1, or a table of such numbers named prefix and subset"),
]


def rates(given: float | Mapping[Any, float]) -> tuple[float, float]:
    """Return the probabilities that a row is shown its beginning, and a random subset of its parts."""
    if isinstance(given, Mapping):
        return given.get("prefix", 0.0), given.get("subset", 0.0)
    return given / 2, given / 2


def shown_tokens(parts: Tensor, rates: tuple[float, float], which: Tensor, amount: Tensor, each: Tensor) -> Tensor:
    """Return the tokens that training shows (B, S) bool.

    parts: (B, S) number of the part that each token belongs to, -1 for absent tokens, which are never shown. rates: as returned
    by `rates`. which, amount (B,), each (B, S): uniform random numbers. A prefix has 0 to n - 1 of the n tokens that exist, each
    equally likely. A subset has each part with a probability that is itself uniform.
    """
    there = parts >= 0
    count = there.sum(1)
    prefix = there & (there.cumsum(1) <= (amount * count).floor()[:, None])
    subset = there & (each.gather(1, parts.clamp_min(0)) < amount[:, None])
    begins, some = (which < rates[0])[:, None], (which < rates[0] + rates[1])[:, None]
    return torch.where(begins, prefix, subset & some)


@dataclass(frozen=True)
class Held(Wrapped):
    """A velocity under which given tokens stay at `known` (B, S, ...); with `noise`, they follow their path from it instead."""

    known: Tensor
    given: Tensor  # (B, S, 1, ...) bool
    path: GaussianPath | None = None
    noise: Tensor | None = None  # (B, S, ...)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        v = self.velocity(torch.where(self.given, self.at(t).to(x.dtype), x), t)
        if self.noise is None:
            return v.masked_fill(self.given, 0)
        assert self.path is not None
        return torch.where(self.given, self.path.velocity(self.noise, self.known, t).to(v.dtype), v)

    def at(self, t: Tensor) -> Tensor:
        """Return where the given tokens are at t (B,): (B, S, ...)."""
        if self.noise is None:
            return self.known
        assert self.path is not None
        return self.path.interpolate(self.noise, self.known, t)

    def take(self, rows: Tensor) -> Held:
        noise = None if self.noise is None else self.noise[rows]
        return replace(super().take(rows), known=self.known[rows], given=self.given[rows], noise=noise)


def resampled(
    velocity: Held,
    x: Tensor,
    *,
    path: GaussianPath,
    times: int,
    steps: int,
    grid: Any,
    noise: Callable[[int], Tensor],
    on_step: Callable[[int, Tensor], None] | None = None,
    **how: Any,
) -> Integrated:
    """Integrate from t = 0 to 1, taking each step `times` times, each time from new noise of the same level.

    x, path, steps, grid, on_step and `how` are as in `integrate`. noise(k) -> (B, ...): unit normals, called in order.
    """
    nfe, drawn = torch.zeros(len(x), dtype=torch.int64), 0
    edges = grid_edges(grid, steps, 0.0, 1.0)
    for step, (a, b) in enumerate(pairwise(edges)):
        for again in range(times):
            moved, spent = integrate(velocity, x, steps=1, t0=a, t1=b, path=path, noise=noise, **how)
            nfe = nfe + spent
            if again == times - 1:
                x = moved
                break
            start, stop = (torch.full((len(x),), t, dtype=x.dtype, device=x.device) for t in (a, b))
            ratio = path.alpha(start) / path.alpha(stop)
            level = (path.sigma(start).square() - (ratio * path.sigma(stop)).square()).clamp_min(0).sqrt()
            x = expand(ratio, x) * moved + expand(level, x) * noise(drawn).to(x)
            drawn += 1
            known = (x - expand(path.alpha(start), x) * velocity.known) / expand(path.sigma(start), x)
            velocity = replace(velocity, noise=known)  # given tokens have new noise as well
        if on_step is not None:
            on_step(step + 1, x)
    return Integrated(x, nfe)
