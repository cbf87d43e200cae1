"""How far each solver's samples are from the flow's own, by network evaluations: of any trained model.

    python -m tests.benchmarks.solvers --ckpt runs/kanji [--num-samples 16] [--guidance-scale 2]

The reference is RK4 with 200 steps; the distance is the root mean square over samples and elements, in the data's units and
over the data's own spread, so that 0.01 is one part in a hundred.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import flowkit
from flowkit.components import find, names

BUDGETS = (4, 8, 12, 20, 40, 80)  # network evaluations of each sample, without guidance
FIXED = {name: find("solver", name) for name in names("solver")}
STAGES = {name: one.stages for name, one in FIXED.items() if not (one.adaptive or one.stochastic or one.averages)}
TOLERANCES = (1e-2, 1e-3, 1e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--num-samples", type=int, default=16)
    parser.add_argument("--guidance-scale", type=float, default=1.0)
    arguments = parser.parse_args()
    model = flowkit.load(arguments.ckpt)

    def draw(solver: Any, steps: int = 1, **more: Any) -> tuple[np.ndarray, float]:
        made = model.sample(
            arguments.num_samples, solver=solver, steps=steps, guidance_scale=arguments.guidance_scale, **more
        )
        return made.x, made.info["nfe"]

    reference, _ = draw("rk4", 200)
    spread = reference.std()

    def row(name: str, solver: Any, steps: int = 1, **more: Any) -> None:
        x, nfe = draw(solver, steps, **more)
        print(f"| {name} | {nfe:g} | {np.sqrt(np.square(x - reference).mean()) / spread:.4f} |")

    print(f"{arguments.ckpt}, guidance {arguments.guidance_scale:g}, {arguments.num_samples} samples")
    print("| solver | NFE | distance |\n|---|---|---|")
    for budget in BUDGETS:
        for solver, stages in STAGES.items():
            if budget % stages == 0:
                row(solver, solver, budget // stages)
        row("heun, power grid", "heun", budget // 2, grid={"name": "power", "exponent": 1.5})
    for tolerance in TOLERANCES:
        row(f"dopri5 at {tolerance:g}", {"name": "dopri5", "rtol": tolerance, "atol": tolerance})


if __name__ == "__main__":
    main()
