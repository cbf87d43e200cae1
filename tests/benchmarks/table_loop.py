"""Table A's training loop (3 x 64 SELU, batch 512, AdamW) through flowkit against the loop of torchcfm's own examples.

    pip install -e '.[bench]'
    python -m tests.benchmarks.table_loop [--updates 400] [--compile]

Both run in one process, ten updates in turn, on one thread, for I-CFM (no coupling) and OT-CFM (exact transport by POT there,
by a worker ahead of the step here). torchcfm's examples draw their eight Gaussians point by point in Python, which takes
longer than all the rest of an update without transport; so I-CFM is compared twice, with that draw and with a vectorized one.
`--compile` compiles flowkit's updates (`train.compile`).
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path

import torch

from flowkit.data_source import open_data
from flowkit.distributed import environment as environments
from flowkit.recipe import recipe_from_dict
from flowkit.training import loop
from flowkit.training.session import build
from tests.benchmarks.paired import machine
from tests.benchmarks.training_step import Alternating

BATCH = 512


class TorchCFM:
    """The loop of its example notebooks: zero_grad, draw, sample the flow, predict, mean square, backward, step."""

    def __init__(self, optimal_transport: bool, point_by_point: bool):
        from torchcfm.conditional_flow_matching import (
            ConditionalFlowMatcher,
            ExactOptimalTransportConditionalFlowMatcher,
        )

        matcher = ExactOptimalTransportConditionalFlowMatcher if optimal_transport else ConditionalFlowMatcher
        self.matcher = matcher(sigma=0.1)
        hidden = [layer for a, b in pairwise((3, 64, 64, 64)) for layer in (torch.nn.Linear(a, b), torch.nn.SELU())]
        self.model = torch.nn.Sequential(*hidden, torch.nn.Linear(64, 2))  # torchcfm.models.MLP(2, time_varying=True)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=1e-5)
        angle = torch.arange(8) * (math.pi / 4)
        self.centers = 5 * torch.stack([angle.cos(), angle.sin()], dim=1)
        self.draw = self.one_by_one if point_by_point else self.all_at_once

    def all_at_once(self) -> torch.Tensor:
        return self.centers[torch.randint(8, (BATCH,))] + 0.1**0.25 * torch.randn(BATCH, 2)

    def one_by_one(self) -> torch.Tensor:
        """As its sample_8gaussians does."""
        noise = 0.1**0.25 * torch.randn(BATCH, 2)
        which = torch.multinomial(torch.ones(8), BATCH, replacement=True)
        return torch.stack([self.centers[which[i]] + noise[i] for i in range(BATCH)])

    def update(self) -> None:
        self.optimizer.zero_grad()
        x0 = torch.randn(BATCH, 2)
        x1 = self.draw()
        t, x_t, u_t = self.matcher.sample_location_and_conditional_flow(x0, x1)
        v_t = self.model(torch.cat([x_t, t[:, None]], dim=-1))
        loss = torch.mean((v_t - u_t) ** 2)
        loss.backward()
        self.optimizer.step()


def compare(coupling: str, updates: int, *, point_by_point: bool = False, compiled: bool = False) -> str:
    with tempfile.TemporaryDirectory() as folder:
        recipe = recipe_from_dict({
            "run": {"name": "run", "dir": folder, "device": "cpu"},
            "data": {"source": "8gaussians", "num_samples": 100_000, "val_fraction": 0.0, "normalizer": "none"},
            "model": {"arch": "selu_mlp"},
            "flow": {"path": "icfm", "coupling": coupling, "times": "uniform"},
            "optim": {"lr": 1e-3, "weight_decay": 1e-5, "schedule": "constant", "warmup": 0, "max_grad_norm": 0.0},
            "ema": {"decay": 0.0},
            "train": {"steps": updates, "batch_size": BATCH, "val_every": 0, "save_every": 0, "compile": compiled},
            "sample": {"every": 0},
        })  # fmt: skip
        environment = environments.start(recipe)
        session = build(recipe, environment, open_data(recipe), source="8gaussians", run_dir=Path(folder) / "run")
        torch.set_num_threads(1)
        theirs = TorchCFM(coupling == "ot", point_by_point)
        hearing = Alternating(theirs)  # type: ignore[arg-type]
        loop.run(session, hearing)
        session.batches.close()
        session.pairing.close()
    low, ratio, high = statistics.quantiles((b / a for a, b in zip(hearing.flowkit, hearing.plain, strict=True)), n=4)
    ours, plain = statistics.median(hearing.flowkit), statistics.median(hearing.plain)
    name = {"independent": "I-CFM", "ot": "OT-CFM"}[coupling] + (", their draw" if point_by_point else "")
    return (f"{name}{', compiled' if compiled else ''}: flowkit {ours * 1e3:.2f} ms, torchcfm {plain * 1e3:.2f} ms an update; "
            f"{ratio:.2f} times as many updates (quartiles {low:.2f}, {high:.2f})")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    print(f"{machine()}, one thread; {BATCH} rows")
    for coupling, point_by_point in (("independent", False), ("independent", True), ("ot", False)):
        print(
            compare(coupling, arguments.updates, point_by_point=point_by_point, compiled=arguments.compile), flush=True
        )


if __name__ == "__main__":
    main()
