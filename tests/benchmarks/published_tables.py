"""The field's published tables on two-dimensional distributions, trained and measured anew.

    python -m tests.benchmarks.published_tables --quick                    # minutes: one seed, 500 updates, 2,000 points
    python -m tests.benchmarks.published_tables --seeds 2 --updates 5000   # what published_tables.json holds at least
    python -m tests.benchmarks.published_tables --show                     # what was measured so far
    python -m tests.benchmarks.published_tables --readme                   # the tables of README.md: by the papers' protocol
    python -m tests.benchmarks.published_tables --table A --rows I-CFM --seeds 5 --updates 20000

A. [SF]2M (arXiv 2307.03672), table 2: W2 = root of the exact transport cost between 10,000 samples (100 Euler steps) and
   10,000 test points; NPE = |E integral |v|^2 dt - W2(q0, q1)^2| / W2(q0, q1)^2. Its networks (3 x 64 SELU), AdamW 1e-3,
   weight decay 1e-5, batch 512, 10,000 training points, sigma 0.1 (1 for SB-CFM).
B. C2OT (arXiv 2503.10636), figure 1: 8gaussians -> moons, the squared W2 of 10,000 samples by one Euler step and by an
   adaptive solver. Three residual blocks of 128, Adam 3e-4, batch 256, coupling blocks of 1,024. Each block is a new draw
   of the moons, as in the authors' code: their angles are equally spaced, so that the data of every block is all of the
   moons, and half of it of either class. Rows picked from one large draw have another share and other angles in each
   block, which the couplings take for the distribution's own.

Every run is one recipe, trained by `flowkit.train`. Results go to --out as they come; what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.metrics import distances
from tests.benchmarks import toy_sets

OUT = Path(__file__).with_name("published_tables.json")
TEST_POINTS, TRAIN_POINTS = 10_000, 10_000
BLOCK_B, BATCH_B = 1024, 256
UPDATES, SEEDS = 20_000, {"A": 5, "B": 10}  # the papers'
COLUMNS_A = {
    "N->8gauss": ("normal", "8gaussians"), "moons->8gauss": ("wide moons", "wide 8gaussians"),
    "N->moons": ("normal", "moons"), "N->scurve": ("normal", "scurve"),
}  # fmt: skip
BRIDGE = {"name": "icfm", "sigma": 0.1}
ROWS_A: dict[str, dict[str, Any]] = {
    "OT-CFM": {"path": BRIDGE, "coupling": "ot"},
    "I-CFM": {"path": BRIDGE},
    "FM": {"path": {"name": "linear", "sigma_min": 0.1}},
    "SB-CFM": {"path": "schrodinger_bridge", "coupling": {"name": "sinkhorn", "regularization": 2.0}},
}
PAPER_A = {  # W2, NPE
    "OT-CFM": ((0.303, 0.031), (0.601, 0.015), (0.130, 0.083), (0.144, 0.027)),
    "I-CFM": ((0.373, 0.202), (1.557, 2.680), (0.178, 0.891), (0.242, 0.856)),
    "FM": ((0.343, 0.190), None, (0.209, 0.762), (0.198, 0.743)),
    "SB-CFM": ((2.314, 1.000), None, (0.434, 0.995), (0.341, 0.745)),
}
COLUMNS_B = {"uncond.": "moons", "class": "moons-labelled", "continuous": "moons-conditioned"}
COUPLINGS_B: dict[str, Any] = {
    "FM": "independent", "OT": {"name": "ot", "block": BLOCK_B}, "C2OT": {"name": "c2ot", "block": BLOCK_B},
}  # fmt: skip
PAPER_B = {  # squared W2 by one Euler step, by the adaptive solver
    ("uncond.", "FM"): (6.232, 0.120), ("uncond.", "OT"): (0.072, 0.050),
    ("class", "FM"): (2.573, 0.059), ("class", "OT"): (0.483, 0.462), ("class", "C2OT"): (0.048, 0.018),
    ("continuous", "FM"): (0.732, 0.028), ("continuous", "OT"): (8.276, 2.143), ("continuous", "C2OT"): (0.077, 0.013),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One recipe of a table, and what the paper measured with it: {figure: value}."""

    table: str
    row: str
    column: str
    paper: dict[str, float]

    @property
    def name(self) -> str:
        return f"{self.table} / {self.row} / {self.column}"


def cells() -> list[Cell]:
    found = []
    for row, values in PAPER_A.items():
        for column, paper in zip(COLUMNS_A, values, strict=True):
            if paper is not None:
                found.append(Cell("A", row, column, dict(zip(("W2", "NPE"), paper, strict=True))))
    for (column, row), paper in PAPER_B.items():
        found.append(Cell("B", row, column, dict(zip(("W2^2, 1 Euler step", "W2^2, dopri5"), paper, strict=True))))
    return found


def recipe(cell: Cell, seed: int, updates: int, run_dir: str) -> dict[str, Any]:
    """The recipe of a cell, as in the paper and without flowkit's additions (no EMA, schedule, clipping, warm-up)."""
    if cell.table == "A":
        rng, ends = np.random.default_rng([seed, 0]), COLUMNS_A[cell.column]
        base, source = (
            end if end == "normal" else toy_sets.write(end, TRAIN_POINTS, rng, Path(run_dir)) for end in ends
        )
        flow = {"base": base, "times": "uniform", **ROWS_A[cell.row]}
        model = {"arch": "selu_mlp", "hidden_dim": 64, "num_layers": 3}
        optim, batch, order = {"lr": 1e-3, "weight_decay": 1e-5}, 512, "shuffled"
    else:
        source = toy_sets.write_blocks(COLUMNS_B[cell.column], BLOCK_B, updates * BATCH_B, seed, Path(run_dir))
        flow = {"base": "8gaussians", "times": "uniform", "cond_drop": 0.0, "coupling": COUPLINGS_B[cell.row]}
        model = {"arch": "residual_mlp", "hidden_dim": 128, "num_layers": 3}
        optim, batch, order = {"lr": 3e-4, "weight_decay": 0.0}, BATCH_B, "stored"
    return {
        "run": {"name": "run", "dir": run_dir, "seed": seed},
        "data": {"source": source, "order": order, "val_fraction": 0.0, "normalizer": "none"},
        "model": model, "flow": flow,
        "optim": {**optim, "schedule": "constant", "warmup": 0, "max_grad_norm": 0.0},
        "ema": {"decay": 0.0},
        "train": {"steps": updates, "batch_size": batch, "log_every": updates, "val_every": 0, "save_every": 0},
        "sample": {"every": 0},
    }  # fmt: skip


def measure(cell: Cell, seed: int, updates: int, points: int, between: float | None) -> dict[str, float]:
    """Train a cell and return its figures. Deterministic up to the machine's rounding.

    between: W2(q0, q1) of this column, seed and number of points, where another row has it already.
    """
    import time

    import torch

    import flowkit
    from flowkit.conditions import Conditions
    from flowkit.flow.solvers import integrate
    from flowkit.points.distributions import draw
    from flowkit.sampling.draw import velocity_of

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as run_dir:
        described = recipe(cell, seed, updates, run_dir)
        start = time.perf_counter()
        flowkit.train(described)
        seconds = time.perf_counter() - start
        model = flowkit.load(Path(run_dir) / "run", weights="raw", device="cpu")
    rng = np.random.default_rng([seed, 1])  # the test points are not training points
    if cell.table == "A":
        x0, x1 = (toy_sets.draw(end, points, rng) for end in COLUMNS_A[cell.column])
        label = condition = None
    else:
        x1, label, condition = draw(COLUMNS_B[cell.column], points, rng)
        x0 = draw("8gaussians", points, rng)[0]
    velocity = velocity_of(model, Conditions.of_arrays(class_label=label, tokens=condition))
    start_points = torch.from_numpy(x0)
    with torch.inference_mode():
        if cell.table == "A":
            end = integrate(velocity, start_points, solver="euler", steps=100).x
            energy = distances.path_energy(velocity, start_points, steps=100)
            between = between or distances.wasserstein2(x0, x1)  # of the two distributions, by their test points
            return {"W2": distances.wasserstein2(end.numpy(), x1), "NPE": distances.normalized_path_energy(energy, between),
                    "path energy": energy, "W2(q0, q1)": between, "seconds": seconds}  # fmt: skip
        one = integrate(velocity, start_points, solver="euler", steps=1).x
        adaptive = integrate(velocity, start_points, solver={"name": "dopri5", "rtol": 1e-4, "atol": 1e-4})
        return {"W2^2, 1 Euler step": distances.wasserstein2(one.numpy(), x1) ** 2,
                "W2^2, dopri5": distances.wasserstein2(adaptive.x.numpy(), x1) ** 2,
                "NFE, dopri5": float(adaptive.nfe.double().mean()), "seconds": seconds}  # fmt: skip


def key_of(cell: Cell, updates: int, points: int) -> str:
    return f"{cell.name} / {updates} updates / {points} points"


def store(out: Path, command: str, key: str, seed: int, figures: dict[str, float]) -> None:
    """Add one run to the results, whole or not at all."""
    import torch

    results = read(out)
    entry = results["cells"].setdefault(key, {"command": command, "torch": torch.__version__, "seeds": {}})
    entry["seeds"][str(seed)] = {name: round(value, 5) for name, value in figures.items()}
    partial_file = out.with_suffix(".partial")
    partial_file.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    os.replace(partial_file, out)


def read(out: Path) -> dict[str, Any]:
    return json.loads(out.read_text()) if out.exists() else {"cells": {}}


def table(results: dict[str, Any], wanted: list[Cell], updates: int, points: int) -> str:
    """Our results next to the paper's: mean and standard deviation over the seeds."""
    lines = ["| cell | figure | ours | paper | seeds |", "|---|---|---|---|---|"]
    for cell in wanted:
        seeds = results["cells"].get(key_of(cell, updates, points), {"seeds": {}})["seeds"]
        for figure, paper in cell.paper.items():
            values = [seed[figure] for seed in seeds.values()]
            if values:
                lines.append(f"| {cell.name} | {figure} | {mean(values)} | {paper:.3f} | {len(values)} |")
    return "\n".join(lines)


def mean(values: list[float]) -> str:
    """Their mean, and from two on their standard deviation."""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def readme(results: dict[str, Any]) -> str:
    """The cells with all of the papers' protocol, as one table for A and one for B; the paper's figures in brackets."""

    def entry(cell: Cell, figure: str) -> str | None:
        seeds = results["cells"].get(key_of(cell, UPDATES, TEST_POINTS), {"seeds": {}})["seeds"]
        if len(seeds) < SEEDS[cell.table]:
            return None
        return f"{mean([seed[figure] for seed in seeds.values()])} ({cell.paper[figure]:.3f})"

    a = [f"| A | figure | {' | '.join(COLUMNS_A)} |", "|---|---|" + "---|" * len(COLUMNS_A)]
    for row in ROWS_A:
        for figure in ("NPE", "W2"):
            found = {cell.column: entry(cell, figure) for cell in cells() if (cell.table, cell.row) == ("A", row)}
            if any(found.values()):
                a.append(f"| {row} | {figure} | {' | '.join(found.get(column) or '-' for column in COLUMNS_A)} |")
    figures = ("W2^2, 1 Euler step", "W2^2, dopri5")
    b = ["| B | conditions | W2², 1 Euler step | W2², dopri5 |", "|---|---|---|---|"]
    for cell in cells():
        found = [entry(cell, figure) for figure in figures] if cell.table == "B" else [None]
        if all(found):
            b.append(f"| {cell.row} | {cell.column} | {' | '.join(map(str, found))} |")
    return "\n\n".join("\n".join(lines) for lines in (a, b) if len(lines) > 2)


def known_between(out: Path, cell: Cell, seed: int, points: int) -> float | None:
    """W2(q0, q1) among the results: it depends on the column and the test points alone."""
    for key, entry in read(out)["cells"].items():
        table_, _, column, _, its_points = key.split(" / ")
        if (table_, column, its_points) == ("A", cell.column, f"{points} points") and str(seed) in entry["seeds"]:
            return entry["seeds"][str(seed)]["W2(q0, q1)"]
    return None


def _measured(job: tuple[Cell, int], updates: int, points: int, out: Path) -> tuple[Cell, int, dict[str, float]]:
    cell, seed = job
    return cell, seed, measure(cell, seed, updates, points, known_between(out, cell, seed, points))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, 500 updates, 2,000 points, to a temporary file")
    parser.add_argument("--show", action="store_true", help="print what --out holds, and run nothing")
    parser.add_argument(
        "--readme", action="store_true", help="print the tables of tests/benchmarks/README.md, and run nothing"
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--updates", type=int, default=5000)
    parser.add_argument("--table", choices=["A", "B"])
    parser.add_argument("--rows", nargs="*", help="of a table: OT-CFM I-CFM FM SB-CFM, or FM OT C2OT")
    parser.add_argument("--columns", nargs="*", help=f"{' '.join(COLUMNS_A)}, or {' '.join(COLUMNS_B)}")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    points = TEST_POINTS
    if args.quick:
        args.seeds, args.updates, points = 1, 500, 2000
        args.out = Path(tempfile.mkdtemp()) / "quick.json" if args.out == OUT else args.out
    wanted = [cell for cell in cells()
              if (not args.table or cell.table == args.table) and (not args.rows or cell.row in args.rows)
              and (not args.columns or cell.column in args.columns)]  # fmt: skip
    if args.readme:
        print(readme(read(args.out)))
        return
    done = read(args.out)["cells"]
    if args.show:
        protocols = {tuple(int(part.split()[0]) for part in key.split(" / ")[-2:]) for key in done}
        for updates, its_points in sorted(protocols):
            print(f"{updates} updates, {its_points} points\n\n{table(read(args.out), wanted, updates, its_points)}\n")
        return
    jobs = [(cell, seed) for seed in range(args.seeds) for cell in wanted
            if str(seed) not in done.get(key_of(cell, args.updates, points), {"seeds": {}})["seeds"]]  # fmt: skip
    # Where the results went and how many ran at a time is nothing that they depend on.
    asked = re.sub(r"--(out|jobs)[ =]\S+ ?", "", " ".join(sys.argv[1:])).strip()
    command = f"python -m tests.benchmarks.published_tables {asked}"
    # A process a run: each finishes with its own threads, and what one leaves behind does not slow the next.
    with get_context("spawn").Pool(args.jobs, maxtasksperchild=1) as pool:
        runs = pool.imap_unordered(partial(_measured, updates=args.updates, points=points, out=args.out), jobs)
        for number, (cell, seed, figures) in enumerate(runs, 1):
            store(args.out, command, key_of(cell, args.updates, points), seed, figures)
            shown = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
            print(f"[{number}/{len(jobs)}] {cell.name}, seed {seed}: {shown}", file=sys.stderr, flush=True)
    print(table(read(args.out), wanted, args.updates, points))


if __name__ == "__main__":
    main()
