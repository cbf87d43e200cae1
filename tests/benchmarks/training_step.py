"""A training step through flowkit's loop against a bare PyTorch loop of the same model, optimizer, EMA and batch.

    python -m tests.benchmarks.training_step [--recipe recipes/quickstart.toml] [--updates 200] [--set KEY=VALUE]

Both run in one process, ten updates in turn: the bare ones inside a listener of the run's own events. Prints the median
ratio and flowkit's overhead in microseconds an update.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import torch

from flowkit.data_source import open_data
from flowkit.distributed import environment as environments
from flowkit.events import Event, Stepped
from flowkit.recipe import load_recipe
from flowkit.training import loop
from flowkit.training.session import Session, build
from tests.benchmarks.paired import machine, synchronize

BLOCK = 10


class Bare:
    """The least that trains the same model: rows and noise by one generator, no keys, no events, no meters, no guard."""

    def __init__(self, session: Session):
        from timm.utils import ModelEmaV3

        from flowkit.models import create_model

        device, recipe = session.device, session.recipe
        self.model = create_model(recipe.model.arch, **session.model_args).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.05, fused=True)
        self.ema = ModelEmaV3(self.model, decay=recipe.ema.decay, use_warmup=True, exclude_buffers=True)
        rows = session.batches._all
        assert rows is not None, "data that lies on the device"
        self.x, self.labels = rows.x, rows.conditions.class_label
        self.batch, self.device, self.step = recipe.train.batch_size, device, 0
        self.precision = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[recipe.train.precision]

    def update(self) -> None:
        picked = torch.randint(len(self.x), (self.batch,), device=self.device)
        x1 = self.x[picked]
        x0 = torch.randn_like(x1)
        t = torch.sigmoid(torch.randn(self.batch, device=self.device))
        drop = torch.rand(self.batch, device=self.device) < 0.1
        t_ = t.view(-1, *[1] * (x1.ndim - 1))
        given = () if self.labels is None else (self.labels[picked], None, drop)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            output = self.model(t_ * x1 + (1 - t_) * x0, t, *given)
        loss = (output.float() - (x1 - x0)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.ema.update(self.model, step=self.step)


class Alternating:
    """Hears the run's steps: times flowkit's updates, and after each ten of them runs and times ten bare ones."""

    def __init__(self, bare: Bare):
        self.bare = bare
        self.flowkit: list[float] = []
        self.plain: list[float] = []
        self.start = 0.0

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Stepped) or event.step % BLOCK:
            return
        synchronize()
        now = time.perf_counter()
        if self.start:
            self.flowkit.append((now - self.start) / BLOCK)
        for _ in range(BLOCK):
            self.bare.update()
        synchronize()
        if self.start:
            self.plain.append((time.perf_counter() - now) / BLOCK)
        self.start = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="recipes/quickstart.toml")
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        quiet = ["sample.every=never", "train.val_every=never", "train.save_every=never", f"run.dir={folder}"]
        length = [f"train.steps={arguments.updates}", "data.num_samples=4000"]
        recipe = load_recipe(arguments.recipe, [*quiet, *length, *arguments.overrides])
        environment = environments.start(recipe)
        from pathlib import Path

        session = build(recipe, environment, open_data(recipe), source="doodles", run_dir=Path(folder) / "run")
        hearing = Alternating(Bare(session))
        loop.run(session, hearing)
        ratio = statistics.median(a / b for a, b in zip(hearing.flowkit, hearing.plain, strict=True))
        flowkit, plain = statistics.median(hearing.flowkit), statistics.median(hearing.plain)
        print(
            f"{machine()}; {recipe.run.name}: {recipe.train.batch_size} rows, precision {session.recipe.train.precision}"
        )
        print(f"flowkit {flowkit * 1e3:.2f} ms, bare {plain * 1e3:.2f} ms an update; ratio {ratio:.3f}; "
              f"overhead {(flowkit - plain) * 1e6:+.0f} us")  # fmt: skip


if __name__ == "__main__":
    main()
