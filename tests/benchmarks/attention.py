"""Attention by its formula against the fused kernel, forward and backward, bf16: `python -m tests.benchmarks.attention`.

Prints both times and the ratio for several shapes, and the largest error of each against float64.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from flowkit.models.layers import attend
from tests.benchmarks.paired import machine, paired

SHAPES = [(64, 4, 12, 32), (64, 4, 32, 32), (256, 6, 16, 32), (1024, 4, 4, 64), (16, 8, 128, 64), (8, 8, 256, 64)]


def heads(shape: tuple[int, ...]) -> list[Tensor]:
    batch, count, tokens, size = shape
    projected = torch.randn(batch, tokens, 3 * count * size).bfloat16().requires_grad_()
    return list(projected.unflatten(-1, (3, count, size)).permute(2, 0, 3, 1, 4).unbind(0))


def update(attention: Callable[..., Tensor], parts: list[Tensor]) -> Callable[[], None]:
    def once() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            found = attention(*parts)
        found.sum().backward(retain_graph=True)

    return once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    print(f"{machine()}; rows x heads x tokens x size of a head")
    for shape in SHAPES:
        parts = heads(shape)
        plain, fused, ratio = paired(update(attend, parts), update(F.scaled_dot_product_attention, parts), rounds)
        exact = F.scaled_dot_product_attention(*(part.detach().double() for part in parts))
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            errors = [float((f(*parts).double() - exact).abs().max()) for f in (attend, F.scaled_dot_product_attention)]
        print(f"{' x '.join(map(str, shape)):18} formula {plain * 1e3:6.2f} ms, fused {fused * 1e3:6.2f} ms, ratio {ratio:.2f}; "
              f"largest errors {errors[0]:.1e}, {errors[1]:.1e}")  # fmt: skip


if __name__ == "__main__":
    main()
