"""Sampling of a small network by Euler's method and by Dormand and Prince's, against torchdiffeq, with one thread.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.sampling_torchdiffeq [--batches 1 64 1024 10000] [--updates 500] [--rounds 15]

The network is the points' three layers of 64, trained a little on eight Gaussians so that its field is one. flowkit is
asked as its sampler asks it, by the guided velocity; torchdiffeq by the usual wrapper of the network. Besides the times,
dopri5's errors against a tight solution in double precision: of both at the same tolerance.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torchdiffeq
from torch import Tensor, nn

import flowkit
from flowkit.conditions import NOTHING
from flowkit.flow.solvers import integrate
from flowkit.recipe.sample import SampleSettings
from flowkit.sampling.draw import velocity_of
from flowkit.sampling.load import LoadedModel
from tests.benchmarks.paired import machine, paired

TOLERANCE = 1e-5
ROUNDS = {1: 8, 64: 4, 1024: 2}  # times as many of the small batches, whose times scatter more


class Wrapped(nn.Module):
    """The network as torchdiffeq wants it, counting its calls."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        self.calls += 1
        return self.model(x, t.to(x.dtype).expand(len(x)))


def trained(folder: str, updates: int) -> LoadedModel:
    overrides = [f"run.dir={folder}", f"train.steps={updates}", "sample.every=never", "train.val_every=never"]
    return flowkit.train(Path("recipes/points_quickstart.toml"), overrides=overrides)


def ours(loaded: LoadedModel, x: Tensor, **settings: object) -> Callable[[], tuple[Tensor, Tensor]]:
    @torch.inference_mode()
    def work() -> tuple[Tensor, Tensor]:
        velocity = velocity_of(loaded, NOTHING, settings=SampleSettings.of({"solver": "euler"}))
        return tuple(integrate(velocity, x, **settings))  # pyright: ignore[reportArgumentType]

    return work


def theirs(model: nn.Module, x: Tensor, steps: int | None) -> Callable[[], tuple[Tensor, int]]:
    grid = torch.linspace(0.0, 1.0, (steps or 1) + 1)
    given = {"method": "euler"} if steps else {"method": "dopri5", "rtol": TOLERANCE, "atol": TOLERANCE}

    @torch.inference_mode()
    def work() -> tuple[Tensor, int]:
        field = Wrapped(model)
        return torchdiffeq.odeint(field, x, grid, **given)[-1], field.calls

    return work


def tight(loaded: LoadedModel, x: Tensor) -> Tensor:
    """To 1e-10 in double precision, by torchdiffeq."""
    model = loaded.model.double()
    with torch.inference_mode():
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        found = torchdiffeq.odeint(Wrapped(model), x.double(), ends, method="dopri5", rtol=1e-10, atol=1e-10)[-1]
    loaded.model.float()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64, 1024, 10_000])
    parser.add_argument("--steps", type=int, nargs="*", default=[10, 50, 100])
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        loaded = trained(folder, arguments.updates)
    for batch in arguments.batches:
        x = torch.randn(batch, 2, generator=torch.Generator().manual_seed(batch))
        rounds = arguments.rounds * ROUNDS.get(batch, 1)
        for steps in arguments.steps:
            a, b, ratio = paired(
                ours(loaded, x, solver="euler", steps=steps),
                theirs(loaded.model, x, steps),
                max(5, rounds * 10 // steps),
            )
            print(f"batch {batch:6d}, euler {steps:4d}: flowkit {a * 1e3:8.2f} ms, torchdiffeq {b * 1e3:8.2f} ms; "
                  f"ratio {ratio:.3f}", flush=True)  # fmt: skip
        solver = {"name": "dopri5", "rtol": TOLERANCE, "atol": TOLERANCE}
        mine, other = ours(loaded, x, solver=solver), theirs(loaded.model, x, None)
        a, b, ratio = paired(mine, other, rounds)
        (found, nfe), (found_too, calls), wanted = mine(), other(), tight(loaded, x)
        gaps = [(got - wanted).abs().amax(1) for got in (found, found_too)]
        print(f"batch {batch:6d}, dopri5 {TOLERANCE:g}: flowkit {a * 1e3:8.2f} ms, torchdiffeq {b * 1e3:8.2f} ms; "
              f"ratio {ratio:.3f}\n    error, mean and largest of a row: {gaps[0].mean():.1e}, {gaps[0].max():.1e} against "
              f"{gaps[1].mean():.1e}, {gaps[1].max():.1e}; evaluations of a row: {nfe.double().mean():.1f} (at most "
              f"{int(nfe.max())}) against {calls}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
