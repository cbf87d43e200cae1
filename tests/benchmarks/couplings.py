"""Exact transport against torchcfm with POT, and what a coupling costs a training step without and with workers.

    python -m tests.benchmarks.couplings [--sizes 256 1024 4096] [--dims 2 256 1024]

Both sides start at the tensors x0, x1 and end with a pairing. The ratio is the median of pairs taken in turn. Gaussian to
eight Gaussians in 2-d, Gaussian to an anisotropic Gaussian elsewhere. Needs torchcfm (and POT).
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowkit.components import choose
from flowkit.data.dataset import Dataset
from flowkit.rng import Draws
from flowkit.training.batches import Batches, Layout
from flowkit.training.pairing import Pairing, workers
from tests.benchmarks.paired import machine, paired

BATCH = 256
ROUNDS = 5


def ends(rows: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    normal = partial(torch.randn, generator=generator)
    if dim > 2:
        return normal(rows, dim), normal(rows, dim) * (0.5 * normal(dim)).exp()
    angle = torch.randint(0, 8, (rows,), generator=generator) * torch.pi / 4
    return normal(rows, 2), 5 * torch.stack([angle.cos(), angle.sin()], 1) + 0.3 * normal(rows, 2)


def against_torchcfm(sizes: list[int], dims: list[int]) -> None:
    from torchcfm.optimal_transport import OTPlanSampler

    ours, theirs = choose("coupling", "ot"), OTPlanSampler(method="exact")
    print(
        f"{'rows':>6} {'dims':>5} {'flowkit':>10} {'torchcfm':>10} {'ratio':>6}   mean squared distance, ours and the plan's"
    )
    for size in sizes:
        for dim in dims:
            x0, x1 = ends(size, dim)
            rounds = 7 if size <= 256 else 3 if size <= 1024 else 1
            a, b, ratio = paired(
                partial(ours, x0, x1), partial(theirs.sample_plan, x0, x1), rounds, warmup=int(size <= 256)
            )
            mine = (x1 - x0[ours(x0, x1)]).square().sum(1).mean().item()
            plan = "" if size > 1024 else f"{(theirs.get_map(x0, x1) * torch.cdist(x0, x1).square().numpy()).sum():.4f}"
            print(
                f"{size:>6} {dim:>5} {a * 1e3:>7.1f} ms {b * 1e3:>7.1f} ms {ratio:>6.2f}   {mine:.4f} {plan}",
                flush=True,
            )


def share_of_a_step(dim: int, width: int, block: int, updates: int) -> None:
    """A 3-layer SELU network of the papers, its optimizer and this coupling, batch 256; ms an update."""
    x = ends(20_000, dim)[1].numpy()
    data, device = Dataset("points", x), torch.device("cpu")
    layout = Layout(BATCH, BATCH, 1, 0, 1)
    batches = Batches(data, choose("normalizer", "none").fit(x, np.arange(len(x))), layout, 0, device)
    draws = Draws(0, device)
    network = nn.Sequential(nn.Linear(dim + 1, width), nn.SELU(), nn.Linear(width, width), nn.SELU(),
                            nn.Linear(width, width), nn.SELU(), nn.Linear(width, dim))  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, fused=True)

    def milliseconds(choice: Any, ahead: int) -> float:
        draw = lambda update: draws.normal("noise", update, (BATCH, dim))  # noqa: E731
        pairing = Pairing(choose("coupling", choice), batches, draw, seed=0, ahead=ahead)
        pairing.noise(0)
        start = time.perf_counter()
        for update in range(updates):
            x0, x1 = pairing.noise(update), batches.of(update).x
            t = draws.uniform("times", update, (BATCH,))[:, None]
            loss = (network(torch.cat([t * x1 + (1 - t) * x0, t], 1)) - (x1 - x0)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        taken = (time.perf_counter() - start) / updates * 1e3
        pairing.close()
        return taken

    choice = {"name": "ot", "block": block}
    most = workers(block)
    runs = [
        [milliseconds("independent", 0), *(milliseconds(choice, ahead) for ahead in (0, 1, most))]
        for _ in range(ROUNDS)
    ]
    plain, without, one, several = np.median(runs, axis=0)
    share = lambda taken: f"{(taken - plain) / taken:.0%}"  # noqa: E731
    print(f"{dim:>5}-d, 3 x {width:<5} block {block:>5}: independent {plain:.2f} ms; without a worker {without:.2f} ms "
          f"({share(without)} of the step), with one {one:.2f} ms ({share(one)}), with {most} {several:.2f} ms "
          f"({share(several)})", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 256, 1024])
    arguments = parser.parse_args()
    print(machine())
    against_torchcfm(arguments.sizes, arguments.dims)
    for dim, width, block in ((2, 64, 256), (2, 64, 1024), (2, 1024, 1024), (256, 1024, 1024)):
        share_of_a_step(dim, width, block, updates=48)


if __name__ == "__main__":
    main()
