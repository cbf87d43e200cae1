"""AdamW with weight decay on matrices only, its step, and the learning rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from flowkit.distributed.sharding import full

if TYPE_CHECKING:
    from flowkit.recipe import Recipe
    from flowkit.training.session import Session

FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


def make_optimizer(model: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.AdamW:
    """Create AdamW with weight decay on matrices: not on biases, norms, embeddings or positions (`model.no_weight_decay()`).

    Fused if the device supports it: one kernel per update, which can skip itself (`found_inf`) without a host sync.
    """
    named = getattr(model, "no_weight_decay", set)
    groups = param_groups_weight_decay(model, recipe.optim.weight_decay, no_weight_decay_list=list(named()))
    return torch.optim.AdamW(
        groups,
        lr=recipe.optim.lr,
        betas=recipe.optim.betas,
        eps=recipe.optim.eps,
        fused=device.type in FUSED_DEVICES,
    )


def step_optimizer(session: Session) -> tuple[Tensor, Tensor]:
    """Clip and apply the gradients. Return (gradient norm before clipping, 1.0 if the update was skipped), on the device.

    After DDP's reduction the norm is the same on every rank, so all ranks skip together without a host sync. With sharded
    gradients the norm is a reduction of its own.
    """
    optimizer, scaler = session.optimizer, session.environment.accelerator.scaler
    if scaler is not None:
        scaler.unscale_(optimizer)
    gradients = [parameter.grad for parameter in session.parameters if parameter.grad is not None]
    norm = full(torch.nn.utils.get_total_norm(gradients))
    if session.recipe.optim.max_grad_norm:
        torch.nn.utils.clip_grads_with_norm_(session.parameters, session.recipe.optim.max_grad_norm, norm)
    skipped = (~torch.isfinite(norm)).float()
    # Fused AdamW does nothing if found_inf is 1; GradScaler uses the same hook.
    optimizer.found_inf = skipped  # type: ignore[attr-defined]
    optimizer.step()
    if scaler is not None:
        scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return norm, skipped


def lr_schedule(recipe: Recipe, total_steps: int, steps_per_epoch: float) -> Callable[[int], float]:
    """Return a function from update (from 0) to learning rate.

    A linear warm-up to `optim.lr`, then cosine (or constant) to `lr * min_lr_factor`. The first update has a learning rate
    above zero, the last one the lowest.
    """
    optim = recipe.optim
    warmup = min(optim.warmup.steps(total_steps, steps_per_epoch), total_steps)

    def lr(update: int) -> float:
        if update < warmup:
            return optim.lr * (update + 1) / warmup
        if optim.schedule == "constant":
            return optim.lr
        progress = min(1.0, (update - warmup) / max(1, total_steps - 1 - warmup))
        factor = optim.min_lr_factor + (1 - optim.min_lr_factor) * 0.5 * (1 + math.cos(math.pi * progress))
        return optim.lr * factor

    return lr
