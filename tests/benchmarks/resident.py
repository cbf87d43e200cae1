"""Peak host memory of making a data set resident, over the set's own size: `python -m tests.benchmarks.resident`.

Random vectors on disk are fitted with a normalizer and then normalized for training (`Batches`), each normalizer in a process
of its own. The peak is that of resident memory from before the fit, or from before the normalization, on; what the imports
take is subtracted. Linux only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.memory import write_rows

RUN = """
import sys
from pathlib import Path
import torch
from flowkit.components import choose
from flowkit.data.dataset import read_dataset
from flowkit.training.batches import Batches, Layout

torch.set_num_threads(1)
torch.randn(64, 64) @ torch.randn(64, 64), torch.linalg.eigh(torch.eye(4))  # load the libraries


def figure(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def peak_of(work):
    before = figure("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    found = work()
    return found, figure("VmHWM") - before


data = read_dataset(sys.argv[1], check=False)
normalizer, fitting = peak_of(lambda: choose("normalizer", sys.argv[2]).fit(data.x, data.rows("train")))
layout = Layout(256, 256, 1, 0, 1)
batches, making = peak_of(lambda: Batches(data, normalizer, layout, 0, torch.device("cpu")))
size = batches._all.x.nbytes
print(size, fitting / size, making / size)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dimension", type=int, default=1024)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.safetensors"
        write_rows(path, asked.rows, asked.dimension)
        print(f"{asked.rows:,} rows of {asked.dimension}, {asked.rows * asked.dimension * 4 / 1e9:.2f} GB in float32")
        for name in ("none", "global", "zscore", "robust", "whitening"):
            command = [sys.executable, "-c", RUN, str(path), name]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            _, fitting, making = map(float, said.split())
            print(
                f"{name:10} peak while fitting {fitting:.2f}, while normalizing {making:.2f} times the set", flush=True
            )


if __name__ == "__main__":
    main()
