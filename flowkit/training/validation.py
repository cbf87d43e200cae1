"""Validation on fixed rows, noise and times, so that losses are comparable across updates, runs and process counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from flowkit.conditions import Conditions
from flowkit.data.base import Base, NormalBase
from flowkit.data.dataset import Dataset
from flowkit.data.normalizers import Normalizer
from flowkit.flow.couplings import Coupling
from flowkit.flow.objective import FlowObjective
from flowkit.flow.paths import GaussianPath
from flowkit.flow.solvers import integrate
from flowkit.models.calls import call_model
from flowkit.rng import Draws, key
from flowkit.training.baselines import GaussianBaseline, gaussian_losses
from flowkit.training.batches import Rows, read_rows
from flowkit.training.pairing import pair_blocks

BINS = 5  # equal bins of t
# The range of times in 25 solver steps. Closer to the ends, converting a data (or noise) prediction to a velocity divides by
# almost 0, and a few times would dominate the mean.
FIRST, LAST = 0.02, 0.98
MIN_EVALUATIONS = 1024  # small validation splits use several noises and times per row, to reduce the variance
ONE_STEP_ROWS, FINE_STEPS = 256, 8  # for MeanFlow's one-step error: rows, and midpoint steps of the reference


@dataclass(frozen=True)
class ValidationResult:
    loss: float
    zero_loss: float  # of predicting zero velocity
    bins: tuple[tuple[float, float, float], ...]  # (t from, t to, loss)


class Validator:
    """Velocity loss with all conditions given, and times stratified uniformly over [FIRST, LAST], however training draws them.

    Always the squared error of the velocity, without a clip, so that runs, predictions and Gaussian baselines are comparable.
    """

    def __init__(
        self,
        data: Dataset,
        normalizer: Normalizer,
        objective: FlowObjective,
        base: Base,
        coupling: Coupling,
        block: int,
        *,
        omega: float = 1.0,
        max_rows: int,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        sharded: bool = False,
    ):
        """Use the first `max_rows` validation rows, repeated to make at least MIN_EVALUATIONS, shared among the ranks.

        block: rows that the coupling pairs with one another. omega: the guidance scale that MeanFlow learns.
        batch_size: rows per forward pass and process; halved if memory runs out, unless the model is `sharded`.
        """
        rows = data.rows("validation")[:max_rows]
        self.count = len(rows) * -(-MIN_EVALUATIONS // max(1, len(rows)))
        self.objective = FlowObjective(objective.path, objective.prediction).exact
        self.device, self.sharded, self.omega = device, sharded, omega
        if not self.count:
            return
        # Every rank needs the same number of forward passes, which are collectives if the model is sharded. So some ranks
        # repeat a row from the start, which is left out of the sums.
        indices = np.arange(rank, -(-self.count // world_size) * world_size, world_size)
        self.indices = torch.from_numpy(indices[indices < self.count]).to(device)
        indices %= self.count
        self.batch_size = min(batch_size, len(indices))
        self.rows: Rows = read_rows(data, rows[indices % len(rows)], normalizer, device)
        # On the CPU, since a GPU's generator has other numbers, which depend on its size.
        draws = Draws(seed, torch.device("cpu"))
        shape = (self.count, *self.rows.x.shape[1:])
        met = rows[np.arange(self.count) % len(rows)]
        noise = base.draw(draws, "validation noise", 0, shape, met)
        coupled = not coupling.independent
        if coupling.permutes:
            # Couple as in training, over all rows, so that the result does not depend on the number of ranks.
            everything = read_rows(data, met, normalizer, noise.device)
            paired = pair_blocks(coupling, block, noise, everything, lambda n: key(seed, "validation coupling", n))
            noise = noise[paired]
        eps = draws.normal("validation bridge", 0, shape) if objective.path.stochastic else None
        # One time in each of `count` equal strata, shuffled relative to the rows.
        strata = draws.uniform("validation strata", 0, (self.count,)).argsort()
        times = FIRST + (LAST - FIRST) * (strata + draws.uniform("validation times", 0, (self.count,))) / self.count
        mine = torch.from_numpy(indices)
        self.noise, self.times = noise[mine].to(device), times[mine].to(device)
        self.bins = (times * BINS).long().clamp_(0, BINS - 1)  # of all rows
        self.eps = None if eps is None else eps[mine].to(device)

        def baseline() -> dict[str, float]:
            """Return the baseline over all rows; {} if the best Gaussian field is not known in closed form."""
            if coupled or not isinstance(objective.path, GaussianPath) or not isinstance(base, NormalBase):
                return {}
            fitted = GaussianBaseline.fit(data.x, data.rows("train"), normalizer, objective.path, device=device)
            x1 = read_rows(data, met, normalizer, device).x
            return gaussian_losses(fitted, noise.to(device), x1, times.to(device))

        self._baseline = baseline

    @cached_property
    def gaussian_losses(self) -> dict[str, float]:
        """The losses of the best "diagonal" and "full" Gaussian fields on the same rows, noise and times."""
        return self._baseline()

    @torch.no_grad()
    def __call__(self, model: nn.Module, autocast: Callable[..., AbstractContextManager]) -> ValidationResult:
        """Return the losses of `model` (unwrapped) over the rows of all ranks, independent of batch size and number of ranks.

        Losses are gathered row by row and summed in float64, in row order.
        """
        training = model.training
        model.eval()
        mine = torch.empty(2, len(self.times), dtype=torch.float64, device=self.device)
        done = 0
        while done < len(mine[0]):
            # The last batch overlaps the one before: with one shape for all, rounding is the same and torch compiles once.
            start = min(done, len(mine[0]) - self.batch_size)
            part = slice(start, start + self.batch_size)
            try:
                mine[:, part] = self._losses(model, autocast, part)
                done = part.stop
            except torch.OutOfMemoryError:
                if self.sharded or self.batch_size == 1:
                    raise  # the other ranks wait in the same forward pass
                self.batch_size //= 2
        model.train(training)
        found = torch.zeros(2, self.count, dtype=torch.float64, device=self.device)
        found[:, self.indices] = mine[:, : len(self.indices)]
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(found)  # exact, since each entry is 0 on all ranks but one
        sums = torch.zeros(2, BINS, dtype=torch.float64).index_add_(1, self.bins, found.cpu())
        counts = self.bins.bincount(minlength=BINS)
        loss, zero = sums.tolist()
        edges = np.linspace(0, 1, BINS + 1).tolist()
        bins = tuple((edges[i], edges[i + 1], loss[i] / count) for i, count in enumerate(counts.tolist()) if count)
        return ValidationResult(sum(loss) / self.count, sum(zero) / self.count, bins)

    def _losses(self, model: nn.Module, autocast: Callable[..., AbstractContextManager], part: slice) -> Tensor:
        """Return the losses of the model and of predicting zero, (2, b), for that part of this rank's rows."""
        rows = self.rows.slice(part.start, part.stop)
        x0, t, eps = self.noise[part], self.times[part], None if self.eps is None else self.eps[part]
        x_t = self.objective.path.interpolate(x0, rows.x, t, eps)
        with autocast():
            output = call_model(model, x_t, t, rows.conditions)
            if self.omega != 1:
                output = self._unguided(model, output, x_t, t, rows)
        zero = self.objective.path.velocity(x0, rows.x, t, eps).square().flatten(1).mean(dim=1)
        return torch.stack((self.objective.loss(output, x0, rows.x, t, eps), zero)).double()

    def _unguided(self, model: nn.Module, output: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """Return the velocity v behind the guided one, omega v + (1 - omega) v_null."""
        null = call_model(model, x_t, t, rows.conditions.drop()).to(x_t.dtype)
        return (output.to(x_t.dtype) - (1 - self.omega) * null) / self.omega

    @torch.no_grad()
    def one_step_error(
        self,
        model: nn.Module,
        autocast: Callable[..., AbstractContextManager],
        field: Callable[[Conditions], Callable[[Tensor, Tensor], Tensor]] | None = None,
    ) -> float:
        """Return the RMS distance between one step of average velocities and the end of the flow of its velocity.

        field: the velocity to compare with, under conditions; by default the model's own (the average over an empty span). Over
        the elements of the first ONE_STEP_ROWS rows as the model sees them, from the validation noise and with their conditions.
        The velocity is integrated in FINE_STEPS steps. The same on all ranks.
        """
        training = model.training
        model.eval()
        found = torch.zeros(min(ONE_STEP_ROWS, self.count), dtype=torch.float64, device=self.device)
        mine = int((self.indices < len(found)).sum())
        for start in range(0, mine, self.batch_size):
            part = slice(start, min(start + self.batch_size, mine))
            rows, x0 = self.rows.slice(part.start, part.stop), self.noise[part]

            def u(x: Tensor, t: Tensor, span: float = 0.0, rows: Rows = rows) -> Tensor:
                with autocast():
                    return call_model(model, x, t, rows.conditions, torch.full_like(t, span))

            fine, _ = integrate(u if field is None else field(rows.conditions), x0, solver="midpoint", steps=FINE_STEPS)
            gap = x0 + u(x0, x0.new_zeros(len(x0)), 1.0) - fine
            found[self.indices[part]] = gap.square().flatten(1).mean(1).double()
        model.train(training)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(found)
        return math.sqrt(float(found.mean()))
