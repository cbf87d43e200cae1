"""AdamW with weight decay on matrices only, its step, and the learning rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.autograd import profiler
from torch.distributed.tensor import DTensor

from flowkit.device import host_may_read
from flowkit.distributed.sharding import full

if TYPE_CHECKING:
    from flowkit.recipe import Recipe
    from flowkit.training.session import Session

FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


class AdamW(torch.optim.AdamW):
    """torch's AdamW, whose `update` keeps its lists: in a small network, making them takes longer than the kernel."""

    def __init__(self, groups: list[dict[str, Any]], **settings: Any):
        super().__init__(groups, **settings)
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        kinds = {(parameter.dtype, parameter.device) for parameter in parameters}
        # Whether all parameters can be handled by single calls for lists.
        self.alike = len(kinds) == 1 and next(iter(kinds))[1].type in ("cpu", "cuda") and not any(
            isinstance(parameter, DTensor) for parameter in parameters
        )  # fmt: skip
        self._lists: list[tuple[list[Tensor], ...]] | None = None  # by group: parameters, both moments, steps
        self._shared: Tensor | None = None  # the count of steps of all parameters, if they share one

    @torch.no_grad()
    def update(self, skipped: Tensor, lr: Tensor | None = None) -> None:
        """Do what `step` does, to the bit, unless `skipped` () is 1. On a GPU the host does not read it.

        The state must not be replaced after the first call. lr: overrides the groups', in a recorded update. Raises
        RuntimeError if that is not possible.
        """
        gradients = [[parameter.grad for parameter in group["params"]] for group in self.param_groups]
        if self._lists is None or any(gradient is None for group in gradients for gradient in group):
            if lr is not None:
                raise RuntimeError("some parameters have no gradient, or several dtypes")
            # Fused AdamW does nothing if found_inf is 1; GradScaler uses the same hook.
            self.found_inf = skipped
            self._part_steps()
            self.step()
            self._lists = self._kept() if self.alike else None
            return
        found_inf = None if host_may_read(skipped.device) else skipped
        if found_inf is None and skipped:
            return
        if self._shared is not None:
            self._shared += 1
            if found_inf is not None:
                self._shared -= found_inf
        with profiler.record_function("Optimizer.step#AdamW") if profiler._is_profiler_enabled else nullcontext():
            for group, grads, (parameters, first, second, steps) in zip(
                self.param_groups, gradients, self._lists, strict=True
            ):
                beta1, beta2 = group["betas"]
                if self._shared is None:
                    torch._foreach_add_(steps, 1)
                rate: Any = group["lr"] if lr is None else lr
                torch._fused_adamw_(
                    parameters, grads, first, second, [], steps, amsgrad=False, lr=rate, beta1=beta1, beta2=beta2,
                    weight_decay=group["weight_decay"], eps=group["eps"], maximize=False, found_inf=found_inf,
                )  # fmt: skip
                if found_inf is not None and self._shared is None:
                    torch._foreach_sub_(steps, [found_inf] * len(steps))

    def start(self) -> None:
        """Make the state that the first update would make, for parameters with gradients. A skipped update does."""
        if self._lists is None:
            self.update(torch.ones((), device=self.param_groups[0]["params"][0].device))

    def _kept(self) -> list[tuple[list[Tensor], ...]] | None:
        """Return the lists of each group; None while some parameter has no state, as it had no gradient yet."""
        found: list[tuple[list[Tensor], ...]] = []
        for group in self.param_groups:
            states = [self.state.get(parameter, {}) for parameter in group["params"]]
            if not all(states):
                return None
            moments = ([state[part] for state in states] for part in ("exp_avg", "exp_avg_sq", "step"))
            found.append((list(group["params"]), *moments))
        steps = [step for *_, each in found for step in each]
        # On the CPU, to add 1 to a tensor takes as long as the kernel for a small layer. One for all parameters is enough.
        if steps[0].device.type == "cpu" and all(torch.equal(step, steps[0]) for step in steps):
            shared = self._shared = steps[0]
            for state in self.state.values():
                state["step"] = shared
            found = [(*lists, [shared] * len(each)) for *lists, each in found]
        return found

    def _part_steps(self) -> None:
        """Give every parameter its own count of steps again, as torch's `step` expects."""
        for state in self.state.values() if self._shared is not None else ():
            state["step"] = state["step"].clone()
        self._shared = None


def make_optimizer(model: nn.Module, recipe: Recipe, device: torch.device) -> AdamW:
    """Create AdamW with weight decay on matrices: not on biases, norms, embeddings or positions (`model.no_weight_decay()`).

    Fused if the device supports it: one kernel per update, which can skip itself (`found_inf`) without a host sync.
    """
    named = getattr(model, "no_weight_decay", set)
    groups = param_groups_weight_decay(model, recipe.optim.weight_decay, no_weight_decay_list=list(named()))
    return AdamW(
        groups,
        lr=recipe.optim.lr,
        betas=recipe.optim.betas,
        eps=recipe.optim.eps,
        fused=device.type in FUSED_DEVICES,
    )


def step_optimizer(session: Session, lr: Tensor | None = None, *, keep: bool = False) -> tuple[Tensor, Tensor]:
    """Clip and apply the gradients. Return (gradient norm before clipping, 1.0 if the update was skipped), on the device.

    lr: overrides the optimizer's. keep: set the gradients to 0 in place, for a recorded update, instead of removing them.

    After DDP's reduction the norm is the same on every rank, so all ranks skip together without a host sync. With sharded
    gradients the norm is a reduction of its own.
    """
    optimizer, scaler = session.optimizer, session.environment.accelerator.scaler
    if scaler is not None:
        scaler.unscale_(optimizer)
    gradients = [parameter.grad for parameter in session.parameters if parameter.grad is not None]
    alike, largest = optimizer.alike and bool(gradients), session.recipe.optim.max_grad_norm
    # What torch's functions do, without sorting the gradients by device and dtype.
    if alike:
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    else:
        norm = full(torch.nn.utils.get_total_norm(gradients))
    if largest and alike:
        factor = torch.clamp(largest / (norm + 1e-6), max=1.0)
        if not host_may_read(norm.device) or factor != 1:
            torch._foreach_mul_(gradients, factor)
    elif largest:
        torch.nn.utils.clip_grads_with_norm_(session.parameters, largest, norm)
    if host_may_read(norm.device):
        skipped = torch.zeros(()) if math.isfinite(norm) else torch.ones(())
    else:
        skipped = (~torch.isfinite(norm)).float()
    optimizer.update(skipped, lr)
    if scaler is not None:
        scaler.update()
    if keep:
        torch._foreach_zero_(gradients)
    else:
        for parameter in session.parameters:
            parameter.grad = None
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
