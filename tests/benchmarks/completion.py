"""Completing drawings against plain samples, by a model that was trained to complete (`flow.given`).

    python -m tests.benchmarks.completion CKPT [--rows 64] [--rounds 9]

CKPT: a run, such as runs/quickstart. Both draw the same number of rows with the same solver, in turn, in one process.
--resample 8 measures the way without training instead, which costs that many times as much.
"""

from __future__ import annotations

import argparse

import numpy as np

import flowkit
from flowkit.domain import Given
from flowkit.sketch.strokes import exists
from tests.benchmarks.paired import machine, paired


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--resample", type=int, default=None)
    arguments = parser.parse_args()
    model = flowkit.load(arguments.ckpt)
    rows = model.sample(arguments.rows, class_label="all" if model.class_names else None).x
    given = Given(rows, np.arange(rows.shape[1]) < exists(rows).sum(1)[:, None] // 2)
    label = "all" if model.class_names else None
    a, b, ratio = paired(
        lambda: model.sample(arguments.rows, class_label=label, given=given, resample=arguments.resample),
        lambda: model.sample(arguments.rows, class_label=label),
        arguments.rounds,
    )
    print(f"{machine()}; {arguments.ckpt}: {arguments.rows} rows, {model.sampling.words}")
    print(f"completed {a * 1e3:.0f} ms, sampled {b * 1e3:.0f} ms; ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
