"""How much memory a run takes on a million vectors on disk, over one on ten thousand: `python -m tests.benchmarks.memory`.

Random numbers of 1,024 dimensions, 100 updates of the MLP, each in a process of its own; prints both peaks of resident memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from flowkit.data.files import write_json

RUN = """
import resource, sys, flowkit
recipe = {"run": {"name": "r", "dir": sys.argv[2]}, "data": {"source": sys.argv[1]}, "model": {"arch": "mlp"},
          "train": {"steps": 100, "batch_size": 256, "val_every": 50, "save_every": "never"}, "sample": {"every": 50}}
flowkit.train(recipe)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def write_rows(path: Path, rows: int, dimension: int) -> None:
    """Prepared data of random numbers, a block at a time."""
    header = {"x": {"dtype": "F32", "shape": [rows, dimension], "data_offsets": [0, rows * dimension * 4]}}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, rows, 10_000):
            file.write(rng.standard_normal((min(10_000, rows - start), dimension), np.float32).tobytes())
    write_json(path.with_suffix(".json"), {"kind": "embedding", "shape": [rows, dimension], "class_names": []})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs=2, default=[10_000, 1_000_000])
    parser.add_argument("--dimension", type=int, default=1024)
    asked = parser.parse_args()
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in asked.rows:
            path = Path(folder) / f"{rows}.safetensors"
            write_rows(path, rows, asked.dimension)
            command = [sys.executable, "-c", RUN, str(path), str(Path(folder) / f"runs-{rows}")]
            peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]))
            print(f"{rows:>9,} rows of {asked.dimension}: peak resident memory {peaks[-1] / 1e9:.2f} GB", flush=True)
    print(f"{(peaks[1] - peaks[0]) / 1e9:+.2f} GB for {asked.rows[1] / asked.rows[0]:.0f} times the rows")


if __name__ == "__main__":
    main()
