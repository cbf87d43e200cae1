"""Quality against network evaluations: how far the samples of trained models are from real rows, by solver and steps.

    python -m tests.benchmarks.evaluations runs/kanji runs/kanji-distilled [--guidance-scale 1.5] [--budgets 1 2 4 8]

Distances are over that of other real rows: the Fréchet distance of 40 components of the ink for drawings, and of the embeddings
for sentences; W2 for points. A model of average velocities is sampled with its own solver. The first line is midpoint with 50
steps of the first model. They are single estimates, unlike those of `flowkit evaluate`, which take minutes each.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import numpy as np

from flowkit.components import find, names
from flowkit.data.dataset import Dataset
from flowkit.evaluate import training_data
from flowkit.metrics.comparison import choose_sides
from flowkit.metrics.distances import wasserstein2
from flowkit.metrics.moments import frechet
from flowkit.sampling.load import LoadedModel, load
from flowkit.sketch.evaluation import COMPONENTS
from flowkit.sketch.features import blurred_grid
from flowkit.text.distribution import Reference

BUDGETS = (1, 2, 3, 4, 6, 8)  # network evaluations of each sample, without guidance
REFERENCE = ("midpoint", 50)


def distance_to(reference: np.ndarray, kind: str) -> Callable[[np.ndarray], float]:
    """Return the distance of rows (N, ...) from `reference`, which is of the same size."""
    if kind == "points":
        return lambda x: wasserstein2(x, reference)
    if kind == "embedding":
        scaled = Reference(reference)
        return lambda x: frechet(scaled.rows, scaled.scaled(x))
    grid = blurred_grid(reference)
    center = grid.mean(0)
    basis = np.linalg.svd(grid - center, full_matrices=False)[2][:COMPONENTS].T
    return lambda x: frechet((grid - center) @ basis, (blurred_grid(x) - center) @ basis)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt", nargs="+")
    parser.add_argument("--guidance-scale", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=3, help="sets of samples, of which the median is shown")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--rows", type=int, default=1000, help="at most so many rows on each side")
    arguments = parser.parse_args()

    first = load(arguments.ckpt[0])
    data: Dataset = training_data(first, None)[0]
    sides = choose_sides(data, None, arguments.rows, preferred=first.domain.compared_with)
    distance = distance_to(np.array(data.x[sides.reference]), data.kind)
    real = distance(np.array(data.x[sides.real]))

    def row(model: LoadedModel, name: str, solver: str, steps: int) -> None:
        given, found = model.given_with(data, sides.reference, "the reference rows"), []
        for seed in range(arguments.seeds):
            made = model.sample(len(sides.reference), seed=seed, conditions=given, solver=solver, steps=steps,
                                guidance_scale=arguments.guidance_scale)  # fmt: skip
            found.append(distance(made.x) / real)
        print(f"| {name} | {solver} | {made.info['nfe']} | {statistics.median(found):.2f} ({min(found):.2f}, {max(found):.2f}) |",
              flush=True)  # fmt: skip

    print(f"{len(sides.reference)} rows of {sides.split}; medians of {arguments.seeds} seeds (least, most)")
    print("| model | solver | NFE | distance / real |\n|---|---|---|---|", flush=True)
    row(first, arguments.ckpt[0], *REFERENCE)
    for ckpt in arguments.ckpt:
        model = first if ckpt == arguments.ckpt[0] else load(ckpt)
        for budget in arguments.budgets:
            for solver in names("solver"):
                one = find("solver", solver)
                if (
                    one.adaptive
                    or one.stochastic
                    or budget % one.stages
                    or one.averages != model.flow.objective.averages
                ):
                    continue
                row(model, ckpt, solver, budget // one.stages)


if __name__ == "__main__":
    main()
