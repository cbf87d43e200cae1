"""AdamW with decay on matrices only, and the learning rate as a function of the update."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

    from flowkit.recipe import Recipe

FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


def make_optimizer(model: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.AdamW:
    """Weight decay falls on matrices: not on biases, norms, embeddings or positions (`model.no_weight_decay()` names those).

    Fused where the device has it: one kernel an update, and one that can skip itself (`found_inf`) without a host sync.
    """
    import torch
    from timm.optim import param_groups_weight_decay

    named = getattr(model, "no_weight_decay", set)
    groups = param_groups_weight_decay(model, recipe.optim.weight_decay, no_weight_decay_list=list(named()))
    return torch.optim.AdamW(
        groups,
        lr=recipe.optim.lr,
        betas=recipe.optim.betas,
        eps=recipe.optim.eps,
        fused=device.type in FUSED_DEVICES,
    )


def lr_schedule(recipe: Recipe, total_steps: int, steps_per_epoch: float) -> Callable[[int], float]:
    """update (from 0) -> learning rate: a linear warm-up to `lr`, then cosine (or constant) to `lr * min_lr_factor`.

    The first update already has a rate above zero and the last one the lowest.
    """
    optim = recipe.optim
    warmup = min(optim.warmup.steps(total_steps, steps_per_epoch), total_steps)

    def rate(update: int) -> float:
        if update < warmup:
            return optim.lr * (update + 1) / warmup
        if optim.schedule == "constant":
            return optim.lr
        progress = min(1.0, (update - warmup) / max(1, total_steps - 1 - warmup))
        factor = optim.min_lr_factor + (1 - optim.min_lr_factor) * 0.5 * (1 + math.cos(math.pi * progress))
        return optim.lr * factor

    return rate
