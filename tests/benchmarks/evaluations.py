"""Quality against network evaluations: the Fréchet distance of each solver's samples, of any trained models.

    python -m tests.benchmarks.evaluations runs/kanji runs/kanji-distilled [--guidance-scale 1.5] [--seeds 3]

A model that learned average velocities is sampled with `mean_flow` too. The reference is midpoint with 50 steps of the first
model. Distances are those of `flowkit evaluate`: by ink for drawings, W2 for points, of the embeddings for sentences.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from flowkit.components import find, names
from flowkit.evaluate import evaluate_checkpoint
from flowkit.sampling.load import load

BUDGETS = (1, 2, 3, 4, 6, 8, 20)  # network evaluations of each sample, without guidance
REFERENCE = ("midpoint", 50)
DISTANCES = ("frechet_ink", "w2", "frechet")  # the first that a domain has


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt", nargs="+")
    parser.add_argument("--guidance-scale", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=3, help="sets of samples, of which the median is shown")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    arguments = parser.parse_args()

    def distances(ckpt: str, solver: str, steps: int) -> str:
        found, real = [], 0.0
        for seed in range(arguments.seeds):
            with tempfile.TemporaryDirectory() as folder:
                result = evaluate_checkpoint(
                    ckpt, solver=solver, steps=steps, guidance_scale=arguments.guidance_scale, seed=seed, decode=False,
                    out=Path(folder) / "evaluation",
                )  # fmt: skip
            figures = {figure.key: figure for figure in result.figures}
            figure = next(figures[key] for key in DISTANCES if key in figures)
            assert figure.samples is not None and figure.real is not None
            found.append(figure.samples.value)
            real = figure.real.value
        return f"{statistics.median(found) / real:.3f} ({min(found) / real:.3f} to {max(found) / real:.3f})"

    print(f"distance over that of real rows: median of {arguments.seeds} seeds, least and most")
    print("| model | solver | NFE | distance |\n|---|---|---|---|", flush=True)
    solver, steps = REFERENCE
    print(
        f"| {arguments.ckpt[0]} | {solver} | {2 * steps} | {distances(arguments.ckpt[0], solver, steps)} |", flush=True
    )
    for ckpt in arguments.ckpt:
        averages = load(ckpt).flow.objective.averages
        for budget in arguments.budgets:
            for name in names("solver"):
                one = find("solver", name)
                if one.adaptive or one.stochastic or budget % one.stages or one.averages != averages:
                    continue
                print(f"| {ckpt} | {name} | {budget} | {distances(ckpt, name, budget // one.stages)} |", flush=True)


if __name__ == "__main__":
    main()
