"""Power-function averages, and how to reconstruct any of them from a few others (EDM2, arXiv 2312.02696, sec. 3 and app. C).

The profile of width gamma at step t weighs the weights of step tau by p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1) on
[0, t]. With the decay (1 - 1/t)^(gamma + 1) the update computes exactly this average, for weights that are constant within
a step. Uses only numpy: the linear systems are small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flowkit.errors import UserError

WIDEST = 12**-0.5  # for gamma = 0, the plain mean of all steps


@dataclass(frozen=True)
class Profile:
    """The profile of a power-function average of width `sigma_rel` at `step`."""

    sigma_rel: float
    step: int


def power_gamma(sigma_rel: float) -> float:
    """Return the gamma >= 0 of a width: the largest root of g^3 + 7 g^2 + (16 - s^-2) g + (12 - s^-2).

    The width is the profile's standard deviation over its length, (gamma + 1)^1/2 (gamma + 2)^-1 (gamma + 3)^-1/2.
    Raises UserError unless 0 < sigma_rel <= 0.2886, the width of the plain mean.
    """
    if not 0 < sigma_rel <= WIDEST:
        raise UserError(
            f"sigma_rel: {sigma_rel:g} is out of range; expected a number > 0 and <= {WIDEST:.4f}, the "
            "mean of all steps"
        )
    inverse = sigma_rel**-2.0
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return max(0.0, float(roots.real.max()))


def inner_products(a: Sequence[Profile], b: Sequence[Profile]) -> np.ndarray:
    """Return the integrals of p_a p_b over all steps, (len(a), len(b)) float64, in closed form."""
    gamma_a, step_a = (column[:, None] for column in _columns(a))
    gamma_b, step_b = (column[None, :] for column in _columns(b))
    least, most = np.minimum(step_a, step_b), np.maximum(step_a, step_b)
    # Powers of ratios <= 1: step^gamma itself overflows for narrow profiles.
    scale = (gamma_a + 1) * (gamma_b + 1) / ((gamma_a + gamma_b + 1) * most)
    return scale * (least / step_a) ** gamma_a * (least / step_b) ** gamma_b


def solve(snapshots: Sequence[Profile], wanted: Profile) -> tuple[np.ndarray, float]:
    """Return (coefficients (len(snapshots),) of the combination closest to `wanted`, its relative error).

    Least squares in the profiles, with coefficients that add up to 1, so that weights that never changed stay as they are.
    """
    inner, towards = inner_products(snapshots, snapshots), inner_products(snapshots, [wanted])[:, 0]
    # Normalize the profiles: those of early steps are tall and would make the system ill-conditioned.
    norms = np.sqrt(np.diag(inner))
    count = len(snapshots)
    system = np.zeros((count + 1, count + 1))
    system[:count, :count] = inner / np.outer(norms, norms)
    system[:count, count] = system[count, :count] = norms.min() / norms
    right = np.append(towards / norms, norms.min())
    coefficients = np.linalg.lstsq(system, right, rcond=1e-13)[0][:count] / norms
    length = inner_products([wanted], [wanted])[0, 0]
    missed = length - 2 * coefficients @ towards + coefficients @ inner @ coefficients
    return coefficients, float(np.sqrt(max(missed, 0.0) / length))


def _columns(profiles: Sequence[Profile]) -> tuple[np.ndarray, np.ndarray]:
    gammas = {sigma_rel: power_gamma(sigma_rel) for sigma_rel in {profile.sigma_rel for profile in profiles}}
    return (np.array([gammas[profile.sigma_rel] for profile in profiles]),
            np.array([float(profile.step) for profile in profiles]))  # fmt: skip
