"""flowkit's loop against plain loops of the sizes that two other projects train, ten updates in turn, in one process.

    python -m tests.benchmarks.loops [drift mlp dit1 dit16] [--updates 120] [--precision fp32 bf16] [--compile]

The plain loop stands for driftsketch (drift: a DiT of 4 layers, 128 wide, on 32 strokes, 64 rows) and rielbo (mlp, dit1, dit16:
an MLP and a DiT of 1 and 16 tokens on 1,024-d vectors, 256 rows). Their own code was not at hand. It is written from these sizes,
as such loops usually are: `nn.MultiheadAttention`, AdamW as it comes, clipping, an average by parameter, rows by `randint`,
`loss.item()` at every update, float32. The networks have flowkit's layers otherwise, so what is compared is the loop and the
precision.

`--losses N` instead trains N updates each in fp32 and bf16, and prints both validation losses.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import flowkit
from flowkit.data.dataset import Dataset
from flowkit.data_source import with_split
from flowkit.distributed import environment as environments
from flowkit.events import Validated
from flowkit.models import create_model
from flowkit.recipe import Recipe, recipe_from_dict
from flowkit.sketch.doodles import generate_doodles
from flowkit.training import loop
from flowkit.training.session import Session, build
from tests.benchmarks.models import plain
from tests.benchmarks.paired import machine
from tests.benchmarks.training_step import Alternating

SIZES: dict[str, dict[str, Any]] = {
    "drift": {"arch": "bezier_sketch_dit", "embed_dim": 128, "num_layers": 4, "num_heads": 4},
    "mlp": {"arch": "mlp", "hidden_dim": 256},
    "dit1": {"arch": "dit", "hidden_dim": 384, "num_layers": 3, "num_heads": 6, "num_tokens": 1},
    "dit16": {"arch": "dit", "hidden_dim": 384, "num_layers": 3, "num_heads": 6, "num_tokens": 16},
}
BATCH = {"drift": 64}  # the others 256


class Plain:
    """What most code does."""

    def __init__(self, session: Session):
        arch, width = session.recipe.model.arch, session.model_args.get("embed_dim") or session.model_args["hidden_dim"]
        heads = session.model_args.get("num_heads", 1)
        self.model = plain(create_model(arch, **session.model_args), width, heads)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.05)
        self.ema = [parameter.detach().clone() for parameter in self.model.parameters()]
        rows = session.batches._all
        assert rows is not None, "data that stays in memory"
        self.x, self.labels, self.batch = rows.x, rows.conditions.class_label, session.recipe.train.batch_size
        self.losses: list[float] = []

    def update(self) -> None:
        picked = torch.randint(len(self.x), (self.batch,))
        x1 = self.x[picked]
        x0, t = torch.randn_like(x1), torch.sigmoid(torch.randn(self.batch))
        t_ = t.view(-1, *[1] * (x1.ndim - 1))
        given = () if self.labels is None else (self.labels[picked], None, torch.rand(self.batch) < 0.1)
        output = self.model((1 - t_) * x0 + t_ * x1, t, *given)
        loss = torch.nn.functional.mse_loss(output, x1 - x0)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            for average, parameter in zip(self.ema, self.model.parameters(), strict=True):
                average.mul_(0.9999).add_(parameter, alpha=1e-4)
        self.losses.append(loss.item())


def rows_of(size: str) -> Dataset:
    if size == "drift":
        return generate_doodles(4000, 0)
    # A mixture, so that there is something to learn.
    rng = np.random.default_rng(0)
    centers, which = rng.standard_normal((40, 1024)), rng.integers(40, size=4000)
    return Dataset("text", (centers[which] + 0.5 * rng.standard_normal((4000, 1024))).astype(np.float32))


def recipe_of(size: str, folder: str, updates: int, precision: str, compiled: bool) -> Recipe:
    return recipe_from_dict({
        "run": {"name": f"{size}-{precision}", "dir": folder, "device": "cpu", "threads": torch.get_num_threads()},
        "data": {"source": "rows", "val_fraction": 0.1, "normalizer": "zscore"},
        "model": SIZES[size],
        "optim": {"lr": 1e-3 if size in ("drift", "mlp") else 3e-4},
        "train": {"steps": updates, "batch_size": BATCH.get(size, 256), "precision": precision, "compile": compiled,
                  "val_every": "never", "save_every": "never"},
        "sample": {"every": "never"},
    })  # fmt: skip


def compare(size: str, updates: int, precision: str, compiled: bool) -> str:
    with tempfile.TemporaryDirectory() as folder:
        recipe = recipe_of(size, folder, updates, precision, compiled)
        data = with_split(rows_of(size), 0.1, None, 0, "rows")
        environment = environments.start(recipe)
        session = build(recipe, environment, data, source="rows", run_dir=Path(folder) / "run")
        hearing = Alternating(Plain(session))  # type: ignore[arg-type]
        loop.run(session, hearing)
        session.batches.close()
        environments.leave(environment)
    ratios = [b / a for a, b in zip(hearing.flowkit, hearing.plain, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    ours, theirs = statistics.median(hearing.flowkit), statistics.median(hearing.plain)
    how = f"{precision}{', compiled' if compiled else ''}"
    return (f"{size:6} {how:15} flowkit {ours * 1e3:7.1f} ms, plain {theirs * 1e3:7.1f} ms an update; {middle:.2f} times as many "
            f"updates (quartiles {low:.2f}, {high:.2f})")  # fmt: skip


def losses(size: str, updates: int) -> str:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("fp32", "bf16"):
            seen: list[Validated] = []
            listener = type("Listener", (), {"__enter__": lambda self: self, "__exit__": lambda self, *error: None,
                                             "trouble": None, "__call__": lambda self, event, seen=seen: (
                                                 seen.append(event) if isinstance(event, Validated) else None)})  # fmt: skip
            recipe = recipe_of(size, folder, updates, precision, False)
            flowkit.train(recipe, data=rows_of(size), listeners=lambda listener=listener: [listener()])
            found[precision] = seen[-1].raw_loss
    apart = found["bf16"] / found["fp32"] - 1
    values = ", ".join(f"{precision} {loss:.4f}" for precision, loss in found.items())
    return f"{size:6} validation loss after {updates:,} updates: {values} ({apart:+.2%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", default=list(SIZES))
    parser.add_argument("--updates", type=int, default=120)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--losses", type=int)
    asked = parser.parse_args()
    print(machine())
    for size in asked.sizes:
        if asked.losses:
            print(losses(size, asked.losses), flush=True)
            continue
        for precision in asked.precision:
            print(compare(size, asked.updates, precision, asked.compile), flush=True)


if __name__ == "__main__":
    main()
