"""What safety costs: an update with its guards against one without, and a save's stall against a plain `torch.save`.

    python -m tests.benchmarks.guards [--recipe recipes/quickstart.toml] [--rounds 30] [--set KEY=VALUE]
    torchrun --standalone --nproc-per-node 2 -m tests.benchmarks.guards        # and what agreeing to stop costs

The guards: a non-finite loss or gradient skips the update on the device, the moments and averages with it, the skipped
are counted and kept out of the means, and all processes learn at each update whether any of them was told to stop.
Both kinds of updates work on one session, ten in turn; both saves write the same state to the same disk.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from pathlib import Path

import torch

from flowkit.checkpoint.background import Saver
from flowkit.checkpoint.saving import contents
from flowkit.data_source import open_data
from flowkit.distributed import environment as environments
from flowkit.distributed.agreement import GO_ON
from flowkit.recipe import load_recipe
from flowkit.training.meters import Meters
from flowkit.training.session import Session, build
from flowkit.training.step import UpdateInputs, one_update
from tests.benchmarks.paired import machine, paired, synchronize

BLOCK = 10


def guarded(session: Session, update: int, meters: Meters) -> None:
    """What the loop does for an update."""
    skipped = one_update(session, update, meters)
    assert session.ema is not None
    session.ema.update(update + 1, skipped)
    session.environment.agreement.of(GO_ON)


def bare(session: Session, update: int, meters: Meters) -> None:
    """The same draws, losses, sums, clipping, step and average, with nothing that looks after them."""
    inputs, accumulation = UpdateInputs(session, update), session.layout.accumulation
    means: dict[str, torch.Tensor] = {}
    for micro_step in range(accumulation):
        loss, terms = inputs.loss(micro_step)
        (loss / accumulation).backward()
        means = {name: means.get(name, 0) + term / accumulation for name, term in terms.items()}
    norm = torch.nn.utils.clip_grad_norm_(session.parameters, session.recipe.optim.max_grad_norm)
    session.optimizer.found_inf = None  # type: ignore[attr-defined]
    session.optimizer.step()
    session.optimizer.zero_grad(set_to_none=True)
    meters.update(torch.zeros(()), **means, grad_norm=norm)
    assert session.ema is not None
    for average in session.ema.by_label.values():
        averaged, current = average._parameters_of
        torch._foreach_lerp_(averaged, current, weight=1 - average.get_decay(update + 1))


def updates(session: Session, rounds: int) -> tuple[float, float, float]:
    """Median seconds of an update with guards and without, and the median of the ratios."""
    number, sums = itertools.count(), (Meters(), Meters())

    def block(kind, meters: Meters):
        def run() -> None:
            for _ in range(BLOCK):
                kind(session, next(number), meters)

        return run

    a, b, ratio = paired(block(guarded, sums[0]), block(bare, sums[1]), rounds)
    session.environment.agreement.settle()
    return a / BLOCK, b / BLOCK, ratio


def saves(session: Session, rounds: int) -> tuple[float, float, float]:
    """Median seconds that training stands still for a checkpoint, and for `torch.save`, and the median of the ratios."""
    saver, meters, step = Saver(session, lambda event: None), Meters(), itertools.count(1)
    one_update(session, 0, meters)
    averages = {} if session.ema is None else session.ema.modules()
    stalls, plain = [], []
    for _ in range(rounds + 1):
        synchronize()
        start = time.perf_counter()
        saver.start(next(step), None, meters, 0)
        stalls.append(time.perf_counter() - start)
        saver.settle(last=True)
        synchronize()
        start = time.perf_counter()
        torch.save(contents(session.model, averages, session.optimizer), session.run_dir / "plain.pt")
        plain.append(time.perf_counter() - start)
    stalls, plain = stalls[1:], plain[1:]  # the first makes the buffers
    ratios = sorted(a / b for a, b in zip(stalls, plain, strict=True))
    return sorted(stalls)[rounds // 2], sorted(plain)[rounds // 2], ratios[rounds // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/quickstart.toml")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(arguments.recipe, ["data.num_samples=4000", f"run.dir={folder}", *arguments.overrides])
        environment = environments.start(recipe)
        session = build(recipe, environment, open_data(recipe), source="doodles", run_dir=Path(folder) / "run")
        steps = updates(session, arguments.rounds)
        if session.is_main:
            size = sum(tensor.nbytes for tensor in session.model.state_dict().values()) / 2**20
            print(f"{machine()}, {session.layout.world_size} processes; {recipe.run.name}: {recipe.train.batch_size} rows, "
                  f"weights of {size:.1f} MiB")  # fmt: skip
            print(
                f"an update with guards {steps[0] * 1e3:.2f} ms, without {steps[1] * 1e3:.2f} ms: ratio {steps[2]:.3f}"
            )
            if session.layout.world_size == 1:
                stall = saves(session, arguments.rounds)
                print(
                    f"a save's stall {stall[0] * 1e3:.2f} ms, torch.save {stall[1] * 1e3:.2f} ms: ratio {stall[2]:.3f}"
                )
        environments.leave(environment)


if __name__ == "__main__":
    main()
