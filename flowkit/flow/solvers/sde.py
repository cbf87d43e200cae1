"""Stochastic sampling from a velocity: Euler-Maruyama on the SDE with the flow's marginals (SiT, arXiv 2401.08740)."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from flowkit.device import to_device
from flowkit.errors import UserError
from flowkit.flow.paths import GaussianPath, expand
from flowkit.flow.solvers.problem import Integrated, Problem, Solver, evaluations


class SDE(Solver):
    """dx = [v + (w / 2) s] dt + sqrt(w) dW from t = 0 to 1, with the score s. Any w(t) >= 0 has the same marginals.

    diffusion: "sigma" is w = 2 scale sigma(t), "constant" is w = 2 scale. The last step is Tweedie's, x = E[x1 | x_t], since
    the score is unbounded where sigma is 0. scale = 0 is Euler's method for the ODE, except for that step.

    Raises UserError on a path without a score, and backward.
    """

    stochastic: ClassVar[bool] = True
    gaussian: ClassVar[bool] = True
    backward: ClassVar[bool] = False
    diffusion: Literal["sigma", "constant"] = Field(
        default="sigma", description="dependence of w in sqrt(w) dW on t: proportional to sigma(t), or constant"
    )
    scale: float = Field(default=1.0, ge=0, description="noise scale: w is 2 scale sigma(t), or 2 scale; 0 is the ODE")

    def solve(self, problem: Problem) -> Integrated:
        path, edges, x = problem.path, problem.edges, problem.x
        if problem.noise is None:
            raise UserError("solver 'sde': needs `noise`, a function of the step")
        if not isinstance(path, GaussianPath):
            name = "no path" if path is None else f"the path {type(path).__name__}"
            raise UserError(f"solver 'sde': cannot convert the velocity to a score on {name}; use a Gaussian path (linear, "
                            "cosine, vp) or an ODE solver")  # fmt: skip
        if edges[0] > edges[-1]:
            raise UserError("solver 'sde': only goes from noise to data; use an ODE solver to go backward")
        for step, (a, b) in enumerate(pairwise(edges)):
            t = torch.full((len(x),), a, dtype=x.dtype, device=x.device)
            v = problem.velocity(x, t).to(x.dtype)
            if b == 1:
                x = path.convert(v, x, t, "velocity", "data")
            else:
                x = x + (b - a) * self._drift(path, v, x, t)
                drawn = to_device(problem.noise(step), x.device).to(x.dtype)
                x = x + expand((2 * (b - a) * self._half(path, t)).sqrt(), x) * drawn
            if problem.on_step is not None:
                problem.on_step(step + 1, x)
        spent = evaluations(problem.velocity, torch.tensor(edges[:-1], dtype=x.dtype)).sum()
        return Integrated(x, spent.expand(len(x)))

    def _half(self, path: GaussianPath, t: Tensor) -> Tensor:
        """Return w / 2, (B,)."""
        return self.scale * (path.sigma(t) if self.diffusion == "sigma" else torch.ones_like(t))

    def _drift(self, path: GaussianPath, v: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return v + (w / 2) s, with s = -E[x0 | x_t] / sigma, without a division if w is proportional to sigma."""
        if self.diffusion == "sigma":
            return v - self.scale * path.convert(v, x, t, "velocity", "noise")
        return v + self.scale * path.convert(v, x, t, "velocity", "score", clip=1e-6)
