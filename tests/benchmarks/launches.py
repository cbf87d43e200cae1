"""Operations of one update by phase, about what a GPU launches: `python -m tests.benchmarks.launches`.

Counts what reaches torch's dispatcher on the CPU as an update branches on a GPU, without views and allocations. A GPU launches
a few more where an operation is several kernels there (reductions, lists of hundreds of tensors). A recorded update
(`train.capture`) launches one graph instead of everything but "draws, copies". On a GPU, `--time` also measures both.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flowkit.data.dataset import Dataset
from flowkit.data_source import open_data
from flowkit.device import recording
from flowkit.distributed import environment as environments
from flowkit.recipe import load_recipe
from flowkit.training.capture import WARM_UP, Body, make_update
from flowkit.training.loop import eager_update
from flowkit.training.meters import Meters
from flowkit.training.optimizer import step_optimizer
from flowkit.training.session import Session, build
from flowkit.training.step import UpdateInputs, backward, micro_loss
from tests.benchmarks.paired import synchronize

PHASES = ("draws, copies", "rows", "path, loss", "network", "backward", "norm, clip, AdamW", "meters", "averages")
NO_LAUNCH = {"detach", "alias", "_unsafe_view", "empty", "empty_strided", "empty_like", "is_same_size"}
RECIPES = ("points_quickstart", "mlp_text", "dit_text", "quickstart", "dit_sketch")
SMALL = ("data.num_samples=512", "data.val_fraction=0", "train.batch_size=32", "train.precision=fp32", "run.device=cpu")


class Counts(TorchDispatchMode):
    """Operations by the phase that `phase` names."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.phase = PHASES[0]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and func.overloadpacket.__name__ not in NO_LAUNCH:
            self.found[self.phase] += 1
        return func(*args, **(kwargs or {}))

    def during(self, phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call` with its operations counted under `phase`."""

        def run(*args: Any, **kwargs: Any) -> Any:
            before, self.phase = self.phase, phase
            try:
                return call(*args, **kwargs)
            finally:
                self.phase = before

        return run


def operations(session: Session) -> dict[str, int]:
    """Return the operations of one update by phase."""
    meters, counts = Meters(), Counts()
    for update in range(2):
        eager_update(session, meters)(update)
    pick, networks = session.batches.pick, session.networks
    with recording():
        body = Body(session, meters, UpdateInputs(session, 2, ready=False).micro(0))
        session.batches.pick = counts.during("rows", pick)
        session.__dict__["networks"] = tuple(counts.during("network", network) for network in networks)
        try:
            with counts:
                inputs = UpdateInputs(session, 2, ready=False)
                body.set_rates(2)
                body.load(inputs.micro(0))
                loss, terms = counts.during("path, loss", micro_loss)(session, body.inputs)
                counts.during("backward", backward)(session, loss)
                norm, skipped = counts.during("norm, clip, AdamW", step_optimizer)(session, body.lr)
                counts.during("meters", meters.add)(skipped, **terms, grad_norm=norm)
                if session.ema is not None:
                    counts.during("averages", session.ema.move)(body.weights, skipped)
        finally:
            session.batches.pick = pick
            session.__dict__["networks"] = networks
    return {phase: counts.found[phase] for phase in PHASES}


@contextlib.contextmanager
def session_of(recipe: str, folder: Path, *overrides: str) -> Iterator[Session]:
    path = f"recipes/{recipe}.toml"
    made = load_recipe(path, [*SMALL, f"run.dir={folder}", *overrides])
    data = open_data(made) if "text" not in recipe else vectors()
    with environments.joined(made) as environment:
        session = build(made, environment, data, source="rows", run_dir=folder / "run")
        yield session
        session.pairing.close()
        session.batches.close()


def vectors() -> Dataset:
    return Dataset("embedding", np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32))


def times(updates: int, overrides: list[str]) -> None:
    """Print the milliseconds of an update, eager and recorded, in turns of one process on a GPU."""
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print("| recipe | eager ms | recorded ms | ratio |\n|---|---|---|---|")
    for recipe in RECIPES:
        more = ("run.device=cuda", "train.precision=auto", *overrides)
        with tempfile.TemporaryDirectory() as folder, session_of(recipe, Path(folder), *more) as session:
            meters, told = Meters(), []
            eager = eager_update(session, meters)
            recorded = make_update(session, meters, eager, told.append)
            for update in range(2 * WARM_UP):
                recorded(update)
            turns = []
            for turn in range(10):
                turn_of = []
                for perform in (eager, recorded):
                    synchronize()
                    start = time.perf_counter()
                    for update in range(updates):
                        perform(2 * WARM_UP + turn * updates + update)
                    synchronize()
                    turn_of.append((time.perf_counter() - start) / updates * 1e3)
                turns.append(turn_of)
            a, b = (statistics.median(one) for one in zip(*turns, strict=True))
        print(f"| {recipe} | {a:.3f} | {b:.3f} | {a / b:.2f} | {' '.join(told)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="override of the recipes")
    parser.add_argument("--time", type=int, default=0, metavar="UPDATES", help="measure so many updates, on a GPU")
    arguments = parser.parse_args()
    if arguments.time:
        times(arguments.time, arguments.overrides)
        return
    os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    print(f"| recipe | {' | '.join(PHASES)} | recorded | outside the network |")
    print("|---" * (len(PHASES) + 3) + "|")
    for recipe in RECIPES:
        with tempfile.TemporaryDirectory() as folder, session_of(recipe, Path(folder), *arguments.overrides) as session:
            found = operations(session)
        recorded = sum(found.values()) - found[PHASES[0]]
        outside = 1 - (found["network"] + found["backward"]) / sum(found.values())
        print(f"| {recipe} | {' | '.join(map(str, found.values()))} | {recorded} | {outside:.0%} |")


if __name__ == "__main__":
    main()
