"""A training step with the auxiliary loss `raster` (64, 32 and 16 pixels) against one without.

    python -m tests.benchmarks.raster_loss [--recipe recipes/quickstart.toml] [--rounds 15] [--set KEY=VALUE]

A DiT of 128 dimensions and 4 layers with batches of 64, unless --set says otherwise. Both sessions are in one process and take
updates in turn. The pictures' cost depends on how much ink the predicted sketches have, and so on how far the training is:
an untrained network predicts the mean drawing. --trained N trains both for N updates first.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from pathlib import Path

import torch

from flowkit.data_source import open_data
from flowkit.distributed import environment as environments
from flowkit.recipe import load_recipe
from flowkit.training.meters import Meters
from flowkit.training.session import Session, build
from flowkit.training.step import one_update
from tests.benchmarks.paired import machine, paired

SIZES = ["model.arch=bezier_sketch_dit", "model.num_layers=4", "train.batch_size=64", "data.num_samples=4000"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/quickstart.toml")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--trained", type=int, default=0, metavar="N")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    with tempfile.TemporaryDirectory() as folder:
        base = [*SIZES, f"run.dir={folder}", *arguments.overrides]
        recipes = [load_recipe(arguments.recipe, [*base, f"aux_loss.raster={weight}"]) for weight in (0.1, 0)]
        environment = environments.start(recipes[0])
        data = open_data(recipes[0])
        sessions = [build(recipe, environment, data, source="data", run_dir=Path(folder) / "run") for recipe in recipes]

        def updates(session: Session):
            meters, number = Meters(), itertools.count()
            return lambda: one_update(session, next(number), meters)

        with_raster, without = map(updates, sessions)
        for _ in range(arguments.trained):
            with_raster(), without()
        a, b, ratio = paired(with_raster, without, arguments.rounds)
        recipe = recipes[0]
        print(f"{machine()}; {recipe.run.name}: {recipe.model.arch}, {recipe.train.batch_size} rows")
        print(f"with raster {a * 1e3:.1f} ms, without {b * 1e3:.1f} ms an update; ratio {ratio:.3f}")
        environments.leave(environment)


if __name__ == "__main__":
    main()
