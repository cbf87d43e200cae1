"""How soon the command line answers: `flowkit --help` and `flowkit inspect` against `python -c "import typer, rich"`.

    python -m tests.benchmarks.startup [--rounds 15] [--path runs/quickstart]

Whole processes, in turn. Without --path, a checkpoint made for the occasion is inspected.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time


def run(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--path")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.path
        if path is None:
            overrides = [f"run.dir={folder}", "train.steps=1", "data.num_samples=200"]
            flags = [part for override in overrides for part in ("--set", override)]
            run(sys.executable, "-m", "flowkit", "train", "recipes/quickstart.toml", *flags)
            path = f"{folder}/quickstart"
        checkpoint = f"{path}/checkpoints/latest"
        commands = {
            "flowkit --help": (sys.executable, "-m", "flowkit", "--help"),
            "flowkit train --help": (sys.executable, "-m", "flowkit", "train", "--help"),
            "flowkit runs": (sys.executable, "-m", "flowkit", "runs", path),
            "flowkit inspect CHECKPOINT": (sys.executable, "-m", "flowkit", "inspect", checkpoint),
        }
        base = (sys.executable, "-c", "import typer, rich")
        for name, command in commands.items():
            run(*command), run(*base)
            pairs = [(run(*command), run(*base)) for _ in range(arguments.rounds)]
            ratio = statistics.median(a / b for a, b in pairs)
            print(f"{name:28} {statistics.median(a for a, _ in pairs) * 1e3:5.0f} ms, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
