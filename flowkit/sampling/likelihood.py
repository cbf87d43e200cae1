"""Likelihoods of data under a trained model: densities in the domain's units, next to those of the best full Gaussian."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from flowkit.conditions import Conditions
from flowkit.data.arrays import gather
from flowkit.data.base import NormalBase
from flowkit.data.dataset import Dataset
from flowkit.errors import UserError
from flowkit.flow.likelihood import log_likelihood
from flowkit.metrics.gaussian import fit_gaussian
from flowkit.progress import Progress
from flowkit.rng import key, seed_generator
from flowkit.sampling.draw import velocity_of

if TYPE_CHECKING:
    from flowkit.data.normalizers import Normalizer
    from flowkit.sampling.conditioning import ClassLabel
    from flowkit.sampling.model import SamplingModel

BATCH_SIZES = {"cpu": 64, "cuda": 256}
FITTED = 50_000  # maximum number of training rows to fit the Gaussian on


@dataclass(frozen=True)
class RowLikelihoods:
    """log_p (N,) float64 in nats: the density of rows of `dim` numbers, in the domain's units."""

    log_p: np.ndarray
    probe_error: np.ndarray | None  # (N,) standard error over Hutchinson's probes; None if exact
    dim: int
    nfe: float  # mean forward evaluations per row; each divergence costs backward passes too

    @property
    def bits_per_dim(self) -> np.ndarray:
        """(N,) -log2 p(x) / dim. Lower is likelier; below 0 if densities exceed 1."""
        return -self.log_p / (self.dim * math.log(2))

    @property
    def mean(self) -> tuple[float, float]:
        """Mean bits per dimension and its standard error, which includes that of the probes."""
        bits = self.bits_per_dim
        return float(bits.mean()), float(bits.std(ddof=1) / math.sqrt(len(bits))) if len(bits) > 1 else math.nan


def of_rows(
    model: SamplingModel,
    x: np.ndarray | Tensor,
    *,
    class_label: ClassLabel = None,
    condition: np.ndarray | Tensor | None = None,
    condition_mask: np.ndarray | Tensor | None = None,
    conditions: Conditions | None = None,
    divergence: str = "auto",
    probes: int = 1,
    solver: Any = "dopri5",
    steps: int = 25,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> RowLikelihoods:
    """Return log p(x) of rows x (N, ...), a density in the domain's units, without guidance. Probes depend on (seed, row).

    class_label, condition: one for all rows, or one per row. A model with classes needs a label ("null" for the density without
    a class) or a condition. conditions: use these, one per row, instead.

    Raises UserError as `sample` for those two, for rows of another shape, a normalizer that drops directions, a flow that does
    not start from noise, and as `flowkit.flow.likelihood.log_likelihood`.
    """
    rows = torch.as_tensor(x)
    if tuple(rows.shape[1:]) != model.shape or not len(rows):
        raise UserError(f"x: has shape {tuple(rows.shape)}; expected (N, {', '.join(map(str, model.shape))}) with rows")
    if why := model.domain.no_density(model.shape):
        raise UserError(f"likelihood: {why}")
    log_det = _log_det(model)
    given = conditions
    if given is None:
        given = model.conditions(len(rows), class_label, condition, condition_mask, of_rows=True)
    batch_size = batch_size or BATCH_SIZES.get(model.device.type, 64)
    found, errors, spent = [], [], []
    for first in range(0, len(rows), batch_size):
        stop = min(first + batch_size, len(rows))
        x1 = model.normalizer.normalize(rows[first:stop].double())
        one = log_likelihood(
            velocity_of(model, given, slice(first, stop)), x1.float().to(model.device),
            divergence=divergence, probes=probes, solver=solver, steps=steps,
            signs=_signs(seed, range(first, stop), (probes, *x1.shape[1:])) if probes > 0 else None,
        )  # fmt: skip
        found.append(one.log_p.double().cpu() + log_det)
        errors.append(one.error)
        spent.append(one.nfe)
        if progress is not None:
            progress(stop, len(rows))
    error = None if errors[0] is None else torch.cat(errors).double().cpu().numpy()
    return RowLikelihoods(
        torch.cat(found).numpy(), error, math.prod(model.shape), torch.cat(spent).double().mean().item()
    )


def _log_det(model: SamplingModel) -> float:
    """Return the normalizer's log determinant. Raises UserError if it drops directions, or the flow does not start from noise."""
    if not isinstance(model.base, NormalBase):
        raise UserError(
            "likelihood: this flow starts from a data set, whose density is unknown; only a flow that starts from noise has "
            "likelihoods"
        )
    return model.normalizer.log_det(model.shape)


def _signs(seed: int, indices: range, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator()
    bits = [torch.randint(2, shape, generator=seed_generator(generator, key(seed, "probe", i))) for i in indices]
    return 2.0 * torch.stack(bits) - 1


def gaussian_bits(train: np.ndarray, x: np.ndarray, normalizer: Normalizer) -> tuple[float, float] | None:
    """Return bits per dimension and standard error of rows x (N, ...) under a full Gaussian fitted on `train`, in closed form.

    Fitted in the normalizer's space. None if the covariance is unavailable or singular.
    """
    shape, dim = tuple(x.shape[1:]), math.prod(x.shape[1:])
    flat = lambda rows: normalizer.normalize(torch.from_numpy(np.ascontiguousarray(rows)).double()).flatten(1).numpy()  # noqa: E731
    fitted = fit_gaussian(lambda: [flat(train)])
    if fitted.covariance is None:
        return None
    try:
        factor = np.linalg.cholesky(fitted.covariance)
    except np.linalg.LinAlgError:
        return None
    white = np.linalg.solve(factor, (flat(x) - fitted.mean).T)
    log_p = -0.5 * np.square(white).sum(0) - np.log(np.diag(factor)).sum() - 0.5 * dim * math.log(2 * math.pi)
    return RowLikelihoods(log_p + normalizer.log_det(shape), None, dim, 0).mean


@dataclass(frozen=True)
class LikelihoodFigures:
    """Bits per dimension of held-out rows with standard errors: of the model, and of a full Gaussian if possible."""

    split: str
    rows: int
    bits_per_dim: float
    error: float
    gaussian: tuple[float, float] | None
    divergence: str
    probes: int
    probe_error: float | None  # of the mean, due to the probes
    nfe: float

    @property
    def words(self) -> str:
        how = "exact divergence" if self.divergence == "exact" else f"Hutchinson, {self.probes} probes"
        probe = "" if self.probe_error is None else f", {self.probe_error:.2g} of it from the probes"
        beside = "" if self.gaussian is None else f"; one full Gaussian {self.gaussian[0]:.4g} ± {self.gaussian[1]:.2g}"
        return (
            f"{self.bits_per_dim:.4g} ± {self.error:.2g} bits per dimension{probe}{beside} "
            f"({self.rows:,} {self.split} rows, {how}, NFE {self.nfe:.0f})"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def held_out_rows(model: SamplingModel, data: Dataset, split: str) -> np.ndarray:
    """Return the rows of the split. Raises UserError if there are none, or the model has no likelihoods."""
    _log_det(model)
    rows = data.rows(split)
    if not len(rows):
        raise UserError(
            f"likelihood: the data has no {split} rows; choose another --split, or train with data.val_fraction"
        )
    return rows


def likelihood_figures(
    model: SamplingModel,
    data: Dataset,
    count: int,
    *,
    split: str = "validation",
    probes: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> LikelihoodFigures:
    """Return the likelihood of at most `count` rows spread over the split, with their labels and conditions. Raises UserError."""
    from flowkit.flow.likelihood import EXACT_DIM

    rows = held_out_rows(model, data, split)
    rows = rows[np.arange(min(count, len(rows))) * len(rows) // min(count, len(rows))]
    given = model.given_with(data, rows, "likelihood: the rows")
    x = np.ascontiguousarray(gather(data.x, rows))
    found = of_rows(model, x, conditions=given, probes=probes, seed=seed, progress=progress)
    train = data.rows("train")
    train = train[np.arange(min(FITTED, len(train))) * len(train) // min(FITTED, len(train))]
    bits, error = found.mean
    probe_error = None
    if found.probe_error is not None:
        probe_error = float(np.sqrt(np.square(found.probe_error).sum()) / len(x) / (found.dim * math.log(2)))
    exact = math.prod(model.latent_shape) <= EXACT_DIM
    return LikelihoodFigures(
        split, len(x), bits, error, gaussian_bits(gather(data.x, train), x, model.normalizer),
        "exact" if exact else "hutchinson", probes, probe_error, found.nfe,
    )  # fmt: skip
