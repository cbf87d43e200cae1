"""Validation on a fixed set of rows, noises and times, so that losses of different updates, runs and process counts compare."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

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
# Where solvers ask for the velocity in 25 steps. Nearer to an end, the velocity error of a prediction of the data (or the
# noise) is its own error over next to nothing: a few times would decide the mean.
FIRST, LAST = 0.02, 0.98
MIN_EVALUATIONS = 1024  # a small validation split meets several noises and times a row, or its loss is all chance
ONE_STEP_ROWS, FINE_STEPS = 256, 8  # of the comparison of MeanFlow's one step with the flow, and by the midpoint rule


@dataclass(frozen=True)
class ValidationResult:
    loss: float
    zero_loss: float  # of predicting zero velocity
    bins: tuple[tuple[float, float, float], ...]  # (t from, t to, loss)


class Validator:
    """Velocity loss with every condition given, times stratified uniformly over [FIRST, LAST] whatever those of training.

    Always the squared error of the velocity, without a clip: so it compares among runs and predictions, and with a Gaussian's.
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
        """The first `max_rows` validation rows, each met often enough to make MIN_EVALUATIONS, shared among the ranks.

        `block`: rows that the coupling pairs with one another. omega: the guidance that MeanFlow learns into its velocity.
        `batch_size`: rows of a forward pass, in each process; fewer where they do not fit the memory, unless the model is
        `sharded`.
        """
        rows = data.rows("validation")[:max_rows]
        self.count = len(rows) * -(-MIN_EVALUATIONS // max(1, len(rows)))
        self.objective = FlowObjective(objective.path, objective.prediction).exact
        self.device, self.sharded, self.omega = device, sharded, omega
        if not self.count:
            return
        # As many on every rank, and so as many forward passes, which are collectives where the model is sharded: where the
        # last few do not divide, some ranks take a row from the start once more, and leave it out of the sums.
        indices = np.arange(rank, -(-self.count // world_size) * world_size, world_size)
        self.indices = torch.from_numpy(indices[indices < self.count]).to(device)
        indices %= self.count
        self.batch_size = min(batch_size, len(indices))
        self.rows: Rows = read_rows(data, rows[indices % len(rows)], normalizer, device)
        draws = Draws(seed, device)
        shape = (self.count, *self.rows.x.shape[1:])
        met = rows[np.arange(self.count) % len(rows)]
        noise = base.draw(draws, "validation noise", 0, shape, met)
        coupled = not coupling.independent
        if coupling.permutes:
            # As in training, or the loss would be another problem's; over all rows, so that no share of them matters.
            everything = read_rows(data, met, normalizer, device)
            paired = pair_blocks(coupling, block, noise, everything, lambda n: key(seed, "validation coupling", n))
            noise = noise[paired]
        eps = draws.normal("validation bridge", 0, shape) if objective.path.stochastic else None
        # One time in each of `count` equal strata, in an order that does not follow the rows.
        strata = draws.uniform("validation strata", 0, (self.count,)).argsort()
        times = FIRST + (LAST - FIRST) * (strata + draws.uniform("validation times", 0, (self.count,))) / self.count
        mine = torch.from_numpy(indices).to(device)
        self.noise, self.times = noise[mine], times[mine]
        self.bins = (times * BINS).long().clamp_(0, BINS - 1).cpu()  # of all indices
        self.eps = None if eps is None else eps[mine]

        def baseline() -> dict[str, float]:
            """On all the rows, whatever this rank's share of them is; {} where a Gaussian's best field is not known."""
            if coupled or not isinstance(objective.path, GaussianPath) or not isinstance(base, NormalBase):
                return {}
            fitted = GaussianBaseline.fit(data.x, data.rows("train"), normalizer, objective.path, device=device)
            x1 = read_rows(data, met, normalizer, device).x
            return gaussian_losses(fitted, noise, x1, times)

        self._baseline = baseline

    @cached_property
    def gaussian_losses(self) -> dict[str, float]:
        """The losses of the best "diagonal" and "full" Gaussian's field on the same rows, noises and times."""
        return self._baseline()

    @torch.no_grad()
    def __call__(self, model: nn.Module, autocast: Callable[..., AbstractContextManager]) -> ValidationResult:
        """Losses of `model` (unwrapped) over the rows of all ranks: the same on each, whatever the batches and ranks are.

        They are gathered row by row, and summed in float64 in the order of the rows.
        """
        training = model.training
        model.eval()
        mine = torch.empty(2, len(self.times), dtype=torch.float64, device=self.device)
        done = 0
        while done < len(mine[0]):
            # The last batch goes back over some rows: passes of one shape round alike, and are compiled once.
            start = min(done, len(mine[0]) - self.batch_size)
            part = slice(start, start + self.batch_size)
            try:
                mine[:, part] = self._losses(model, autocast, part)
                done = part.stop
            except torch.OutOfMemoryError:
                if self.sharded or self.batch_size == 1:
                    raise  # the other ranks are in the same forward pass
                self.batch_size //= 2
        model.train(training)
        found = torch.zeros(2, self.count, dtype=torch.float64, device=self.device)
        found[:, self.indices] = mine[:, : len(self.indices)]
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(found)  # each place is one rank's: to the others' zeros nothing is added
        sums = torch.zeros(2, BINS, dtype=torch.float64).index_add_(1, self.bins, found.cpu())
        counts = self.bins.bincount(minlength=BINS)
        loss, zero = sums.tolist()
        edges = np.linspace(0, 1, BINS + 1).tolist()
        bins = tuple((edges[i], edges[i + 1], loss[i] / count) for i, count in enumerate(counts.tolist()) if count)
        return ValidationResult(sum(loss) / self.count, sum(zero) / self.count, bins)

    def _losses(self, model: nn.Module, autocast: Callable[..., AbstractContextManager], part: slice) -> Tensor:
        """Of the model and of predicting zero, (2, b), for that part of this rank's rows."""
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
        """The velocity v that the guided one, omega v + (1 - omega) v_null, says: the one that the pairs have."""
        null = call_model(model, x_t, t, rows.conditions.drop()).to(x_t.dtype)
        return (output.to(x_t.dtype) - (1 - self.omega) * null) / self.omega

    @torch.no_grad()
    def one_step_error(self, model: nn.Module, autocast: Callable[..., AbstractContextManager]) -> float:
        """How far one step of a network of average velocities ends from where its velocity leads: a root mean square.

        Over the elements of the first ONE_STEP_ROWS rows as the model sees them, from the noises of validation and under their
        conditions. The velocity, that over no span, is followed in FINE_STEPS steps. The same on all ranks.
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

            fine, _ = integrate(u, x0, solver="midpoint", steps=FINE_STEPS)
            gap = x0 + u(x0, x0.new_zeros(len(x0)), 1.0) - fine
            found[self.indices[part]] = gap.square().flatten(1).mean(1).double()
        model.train(training)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(found)
        return math.sqrt(float(found.mean()))
