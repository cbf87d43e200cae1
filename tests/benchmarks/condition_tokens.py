"""A training step with 49 and with 196 image tokens against one with a single, pooled one.

    python -m tests.benchmarks.condition_tokens [--rounds 15] [--set KEY=VALUE]

The network of recipes/image_sketch.toml with batches of 64 sketches of 32 pen cubics; the tokens are random numbers of the sizes
that efficientnet-lite0 gives: 1 x 1280, 49 x 448, 196 x 112. Sessions are in one process and take updates in turn. The tokens
are read from a memory map, as in training.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from flowkit.data.dataset import write_dataset
from flowkit.data.encoded import Encoded
from flowkit.data_source import open_data, open_rows
from flowkit.distributed import environment as environments
from flowkit.recipe import load_recipe
from flowkit.training.meters import Meters
from flowkit.training.session import Session, build
from flowkit.training.step import one_update
from tests.benchmarks.paired import machine, paired

SHAPES = {"pooled": (1, 1280), "49 tokens": (49, 448), "196 tokens": (196, 112)}
ROWS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    with tempfile.TemporaryDirectory() as folder:
        rows, rng = open_rows("pen_doodles", ROWS, 0), np.random.default_rng(0)
        steps, environment = {}, None
        for name, shape in SHAPES.items():
            tokens = rng.standard_normal((ROWS, *shape), np.float32).astype(np.float16)
            encoded = Encoded(tokens, np.arange(ROWS + 1))
            path = write_dataset(
                Path(folder) / name.replace(" ", "-"), dataclasses.replace(rows, encoded={"image": encoded})
            )
            overrides = [f"run.dir={folder}", f"data.source={path}", *arguments.overrides]
            recipe = load_recipe("recipes/image_sketch.toml", overrides)
            environment = environment or environments.start(recipe)
            session = build(recipe, environment, open_data(recipe), source="data", run_dir=Path(folder) / "run")
            steps[name] = _updates(session)
        assert environment is not None
        print(f"{machine()}; recipes/image_sketch.toml")
        for name in list(SHAPES)[1:]:
            a, b, ratio = paired(steps[name], steps["pooled"], arguments.rounds)
            print(f"{name} {a * 1e3:.1f} ms, pooled {b * 1e3:.1f} ms an update; ratio {ratio:.3f}")
        environments.leave(environment)


def _updates(session: Session):
    meters, number = Meters(), itertools.count()
    return lambda: one_update(session, next(number), meters)


if __name__ == "__main__":
    main()
