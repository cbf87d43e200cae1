"""Sampling through `flowkit.load(...).sample` against a bare Heun loop over the same model, in bf16 against fp32, and compiled
against eager.

    python -m tests.benchmarks.sampling [--ckpt runs/quickstart] [--num-samples 64] [--rounds 7] [--compile]

Without --ckpt a fresh network of the quickstart's size is timed: its weights do not matter to the clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import flowkit
from flowkit.data.dataset import Dataset
from flowkit.sampling.load import LoadedModel
from tests.benchmarks.paired import machine, paired


@torch.inference_mode()
def bare_heun(loaded: LoadedModel, noise: torch.Tensor, labels: torch.Tensor, steps: int, scale: float) -> np.ndarray:
    model, x, count = loaded.model, noise, len(noise)
    twice = torch.cat((labels, labels))
    mask = torch.arange(2 * count, device=x.device) >= count
    times = torch.linspace(0, 1, steps + 1, device=x.device)

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if scale == 1:
            return model(x, t.expand(count), labels)
        given, null = model(torch.cat((x, x)), t.expand(2 * count), twice, None, mask).chunk(2)
        return null + scale * (given - null)

    for i in range(steps):
        k1 = velocity(x, times[i])
        k2 = velocity(x + k1 / steps, times[i + 1])
        x = x + (k1 + k2) / (2 * steps)
    return (x * float(loaded.normalizer.scale) + float(loaded.normalizer.shift)).cpu().numpy()


def fresh(folder: str) -> LoadedModel:
    rows = np.random.default_rng(0).standard_normal((640, 32, 8)).astype(np.float32)
    data = Dataset("sketch", rows, np.arange(640) % 20, class_names=tuple(map(str, range(20))))
    overrides = [f"run.dir={folder}", "train.steps=1", "sample.every=never", "train.val_every=never"]
    return flowkit.train(Path("recipes/quickstart.toml"), data=data, overrides=overrides)


def compiled_and_eager(loaded: LoadedModel, count: int, steps: int, scale: float, precision: str, rounds: int) -> None:
    drawn: dict[bool, np.ndarray] = {}

    def draw(compile: bool) -> None:
        drawn[compile] = loaded.sample(
            count, seed=0, solver="heun", steps=steps, guidance_scale=scale, batch_size=count, precision=precision,
            compile=compile,
        ).x  # fmt: skip

    def programs() -> int:
        return torch._dynamo.utils.counters["stats"]["unique_graphs"]

    before, start = programs(), time.perf_counter()
    draw(True)
    took = time.perf_counter() - start
    compiled, eager, ratio = paired(lambda: draw(True), lambda: draw(False), rounds)
    difference = np.abs(drawn[True] - drawn[False]).max()
    loaded.sample(
        count + count // 3, steps=1, guidance_scale=scale, precision=precision, batch_size=count, compile=True
    )
    print(f"guidance {scale:g}, {precision}: compiled {compiled:.3f} s, eager {eager:.3f} s; ratio {ratio:.3f}; first call "
          f"{took:.1f} s; {programs() - before} program(s), with a smaller last batch; largest difference of a coordinate "
          f"{difference:.1e}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ckpt")
    parser.add_argument("--num-samples", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="only compare compiled with eager sampling")
    arguments = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        loaded = flowkit.load(arguments.ckpt) if arguments.ckpt else fresh(folder)
        count, steps = arguments.num_samples, arguments.steps
        labels = (torch.arange(count) * len(loaded.class_names) // count).to(loaded.device)
        for scale in (1.0, 2.0):
            if arguments.compile:
                for precision in ("fp32", "bf16"):
                    compiled_and_eager(loaded, count, steps, scale, precision, arguments.rounds)
                continue
            drawn: dict[str, np.ndarray] = {}

            def through_flowkit(scale: float = scale, drawn: dict[str, np.ndarray] = drawn) -> None:
                drawn["flowkit"] = loaded.sample(
                    count, seed=0, solver="heun", steps=steps, guidance_scale=scale, batch_size=count
                ).x

            def through_a_bare_loop(scale: float = scale, drawn: dict[str, np.ndarray] = drawn) -> None:
                from flowkit.data.base import NormalBase

                noise = NormalBase().sample(0, range(count), loaded.shape).to(loaded.device)
                drawn["bare"] = bare_heun(loaded, noise, labels, steps, scale)

            ours, bare, ratio = paired(through_flowkit, through_a_bare_loop, arguments.rounds)
            difference = np.abs(drawn["flowkit"] - drawn["bare"]).max()
            print(f"guidance {scale:g}: flowkit {ours:.3f} s, bare {bare:.3f} s for {count} samples of {steps} Heun steps; "
                  f"ratio {ratio:.3f}; largest difference of a coordinate {difference:.1e}")  # fmt: skip

            def in_bf16(scale: float = scale) -> None:
                loaded.sample(
                    count, seed=0, solver="heun", steps=steps, guidance_scale=scale, batch_size=count, precision="bf16"
                )

            low, full, ratio = paired(in_bf16, through_flowkit, arguments.rounds)
            print(f"guidance {scale:g}: bf16 {low:.3f} s, fp32 {full:.3f} s; ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
