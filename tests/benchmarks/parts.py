"""Parts of an update and of sampling against what they replace, in turn: `python -m tests.benchmarks.parts`.

The optimizer: norm, clipping and AdamW by kept lists against torch's functions, for networks of three sizes. The
noise of a stochastic solver: all steps of a sample in one draw against a draw for each.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from types import SimpleNamespace

import torch

from flowkit.models import create_model
from flowkit.sampling.draw import step_noise
from flowkit.training.optimizer import AdamW, step_optimizer
from tests.benchmarks.paired import machine, paired

NETWORKS = {
    "points, 3 x 64": ("selu_mlp", {"input_dim": 2}),
    "sketch DiT, 4 x 128": (
        "bezier_sketch_dit",
        {"embed_dim": 128, "num_layers": 4, "num_heads": 4, "num_classes": 20},
    ),
    "sketch DiT, 8 x 256": ("bezier_sketch_dit", {"num_classes": 20}),
}


def kept(parameters: list[torch.nn.Parameter], gradients: list[torch.Tensor]) -> Callable[[], None]:
    session = SimpleNamespace(
        parameters=parameters, optimizer=AdamW([{"params": parameters}], lr=1e-6, fused=True),
        environment=SimpleNamespace(accelerator=SimpleNamespace(scaler=None)),
        recipe=SimpleNamespace(optim=SimpleNamespace(max_grad_norm=1.0)),
    )  # fmt: skip

    def once() -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        step_optimizer(session)  # type: ignore[arg-type]

    return once


def torchs(parameters: list[torch.nn.Parameter], gradients: list[torch.Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True)

    def once() -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.found_inf = (~torch.isfinite(norm)).float()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    print(machine())
    for name, (arch, settings) in NETWORKS.items():
        parameters = list(create_model(arch, **settings).parameters())
        # Small ones: as in most of a run, nothing is clipped.
        gradients = [torch.randn_like(parameter) * 1e-5 for parameter in parameters]
        ours, theirs, ratio = paired(kept(parameters, gradients), torchs(parameters, gradients), rounds)
        print(f"{name}, {len(parameters)} parameters: kept lists {ours * 1e6:.0f} us, torch's functions {theirs * 1e6:.0f} us; "
              f"ratio {ratio:.2f}")  # fmt: skip
    for shape in ((32, 8), (256,), (1024,)):

        def noise(steps: int, shape: tuple[int, ...] = shape) -> None:
            of_step = step_noise(0, range(64), shape, steps=steps)
            for step in range(25):
                of_step(step)

        ours, theirs, ratio = paired(lambda: noise(25), lambda: noise(1), max(5, rounds // 10))
        print(f"noise of 25 steps, 64 samples of {shape}: one draw {ours * 1e3:.1f} ms, one a step {theirs * 1e3:.1f} ms; "
              f"ratio {ratio:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
