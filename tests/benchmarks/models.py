"""Both sketch networks, trained as flowkit does, against the plain construction of the same networks.

    python -m tests.benchmarks.models [--embed-dim 256 --num-layers 8 --num-heads 8 --batch 64 --rounds 7]

Plain: `nn.MultiheadAttention` that returns its weights, AdamW as it comes, an EMA that loops over parameters, `.item()`
every step. flowkit's: fused attention, fused AdamW, foreach EMA, nothing read from the device. Both networks have the
same layers otherwise, and the same number of parameters but for attention's biases.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from flowkit.models import create_model
from flowkit.models.layers import Attention
from tests.benchmarks.paired import machine, paired


class PlainAttention(nn.Module):
    """What most code has where flowkit has `Attention`."""

    def __init__(self, embed_dim: int, num_heads: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(embed_dim, num_heads, batch_first=True)

    def forward(self, x: Tensor, memory: Tensor | None = None, visible: Tensor | None = None) -> Tensor:
        memory = x if memory is None else memory
        return self.attention(x, memory, memory, key_padding_mask=None if visible is None else ~visible)[0]

    def of_one(self, x: Tensor) -> Tensor:
        return self(x)


def plain(model: nn.Module, embed_dim: int, num_heads: int) -> nn.Module:
    """Replace every `Attention` in `model`."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Attention):
                setattr(parent, name, PlainAttention(embed_dim, num_heads))
    return model


def flowkit_step(model: nn.Module, batch: tuple[Tensor, ...]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ema, total = ModelEmaV3(model, decay=0.9999, exclude_buffers=True), torch.zeros((), device=batch[0].device)

    def step() -> None:
        loss = _loss(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(model, step=10)
        total.add_(loss.detach())

    return step


def plain_step(model: nn.Module, batch: tuple[Tensor, ...]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ema = [parameter.detach().clone() for parameter in model.parameters()]
    losses = []

    def step() -> None:
        loss = _loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for average, parameter in zip(ema, model.parameters(), strict=True):
                average.mul_(0.9999).add_(parameter, alpha=1e-4)
        losses.append(loss.item())

    return step


def _loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    x, t, labels, drop, target = batch
    return (model(x, t, labels, None, drop) - target).square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("embed-dim", 256), ("num-layers", 8), ("num-heads", 8), ("batch", 64), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = arguments.batch
    batch = (torch.randn(rows, 32, 8), torch.rand(rows), torch.arange(rows) % 15, torch.rand(rows) < 0.1,
             torch.randn(rows, 32, 8))  # fmt: skip
    batch = tuple(part.to(device) for part in batch)
    sizes = {"embed_dim": arguments.embed_dim, "num_layers": arguments.num_layers, "num_heads": arguments.num_heads}
    print(f"{machine()}; batch {rows}, {sizes}")
    for arch in ("bezier_sketch_dit", "bezier_sketch_transformer"):
        ours = create_model(arch, num_classes=15, **sizes).to(device)
        theirs = plain(create_model(arch, num_classes=15, **sizes), arguments.embed_dim, arguments.num_heads).to(device)
        fast, slow, ratio = paired(flowkit_step(ours, batch), plain_step(theirs, batch), arguments.rounds)
        print(f"{arch:26} flowkit {fast * 1e3:7.1f} ms, plain {slow * 1e3:7.1f} ms a step; ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
