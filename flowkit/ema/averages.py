"""Moving averages of a run's weights: fp32, outside accelerate, updated together after every optimizer step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from flowkit.checkpoint import MODEL, CheckpointFiles, average_files, decay_in_effect, read_model_json, read_weights
from flowkit.device import held_exactly, host_may_read
from flowkit.distributed.sharding import full_tensors, load_full_tensors, local_parts
from flowkit.ema.power import power_gamma

if TYPE_CHECKING:
    from flowkit.recipe import Recipe


class Average(ModelEmaV3):
    """timm's EMA of `model`, with the warm-up of [ema].

    Lists parameters once: walking the modules costs more than the update in small networks.
    """

    def __init__(self, model: nn.Module, decay: float, settings: Mapping[str, Any]):
        """settings: the recipe's [ema]."""
        super().__init__(model, decay=decay, exclude_buffers=True)
        self.settings = settings
        self.module.float().requires_grad_(False)
        self._model = [model]  # in a list, so that it is not registered as a submodule

    def get_decay(self, step: int | None = None) -> float:
        """Return the decay at update `step`, counted from 1; without one, its limit."""
        return self.decay if step is None else decay_in_effect(self.settings, self.decay, step)

    @cached_property
    def _parameters_of(self) -> tuple[list[Tensor], ...]:
        """Parameters of the average and of the model; listed at the first step, since sharding replaces them."""
        (model,) = self._model
        return list(self.module.parameters()), list(model.parameters())

    @cached_property
    def _buffers_of(self) -> tuple[list[Tensor], ...]:
        (model,) = self._model
        return list(self.module.buffers()), list(model.buffers())

    @cached_property
    def _same_dtypes(self) -> bool:
        return len({tensor.dtype for tensors in self._parameters_of for tensor in tensors}) == 1

    def weight(self, step: int, device: torch.device) -> float:
        """Return the fraction by which the average moves at update `step`, from 1."""
        return held_exactly(1 - self.get_decay(step), device)

    @torch.no_grad()
    def update(self, weight: float | Tensor, skipped: Tensor) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move by the fraction `weight` towards the model, unless `skipped` () is 1. On a GPU the host reads neither."""
        averaged, current = map(local_parts, self._parameters_of)
        if host_may_read(skipped.device):
            if not skipped:
                torch._foreach_lerp_(averaged, current, weight=float(weight))
        elif skipped.device.type in ("cpu", "cuda") and self._same_dtypes:
            move_unless(skipped, averaged, current, weight)
        else:
            moves = torch._foreach_sub(current, averaged)
            torch._foreach_mul_(moves, weight * (1 - skipped))
            torch._foreach_add_(averaged, moves)
        for mine, its in zip(*self._buffers_of, strict=True):
            mine.copy_(its)


def move_unless(skipped: Tensor, averaged: list[Tensor], current: list[Tensor], weight: float | Tensor) -> None:
    """Move `averaged` towards `current` by the fraction `weight`, in place, unless `skipped` () float32 is 1. One dtype.

    Uses the kernel of fused SGD, x -= lr (gradient + decay x) with lr = -weight and decay = -1: one pass without a temporary,
    which reads `skipped` on the device. It never writes gradients, here `current`, as it is given no factor to scale them by.
    """
    torch._fused_sgd_(
        averaged, current, [], weight_decay=-1.0, momentum=0.0, lr=-weight, dampening=0.0, nesterov=False, maximize=False,
        is_first_step=False, found_inf=skipped,
    )  # fmt: skip


class PowerAverage(Average):
    """The average with profile t^gamma over the steps t so far (arXiv 2312.02696, eq. 4). Its width grows with the run."""

    def __init__(self, model: nn.Module, sigma_rel: float):
        super().__init__(model, 1.0, {})
        self.gamma = power_gamma(sigma_rel)

    def get_decay(self, step: int | None = None) -> float:
        """Return beta(t) = (1 - 1/t)^(gamma + 1) at step t >= 1."""
        assert step is not None and step >= 1
        return (1 - 1 / step) ** (self.gamma + 1)


class Averages:
    """All averages of a run by label ("0.9999", "power-0.05"). Samples come from the first."""

    def __init__(self, model: nn.Module, recipe: Recipe):
        settings, ema = recipe.to_dict()["ema"], recipe.ema
        made = [Average(model, decay, settings) for decay in ema.decays]
        made += [PowerAverage(model, sigma_rel) for sigma_rel in ema.power]
        self.files = average_files(settings)  # file names by label
        self.by_label = dict(zip(self.files, made, strict=True))

    @property
    def first(self) -> Average:
        return next(iter(self.by_label.values()))

    @property
    def module(self) -> nn.Module:
        """The weights that samples come from."""
        return self.first.module

    def get_decay(self, step: int) -> float:
        """Return the first average's decay at a step."""
        return self.first.get_decay(step)

    def update(self, step: int, skipped: Tensor) -> None:
        """Update all averages. Call once after every optimizer update; `step` counts them from 1, including skipped ones."""
        self.move(self.weights(step, skipped.device), skipped)

    def weights(self, step: int, device: torch.device) -> list[float]:
        """Return the fraction by which each average moves at update `step`, from 1."""
        return [average.weight(step, device) for average in self.by_label.values()]

    def move(self, weights: Sequence[float | Tensor], skipped: Tensor) -> None:
        """Move each average by its fraction, unless `skipped` () is 1."""
        for average, weight in zip(self.by_label.values(), weights, strict=True):
            average.update(weight, skipped)

    def modules(self) -> dict[str, nn.Module]:
        """Return the averages by the names of their checkpoint files."""
        return {self.files[label]: average.module for label, average in self.by_label.items()}

    def power_tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the power-function averages by label. A collective if they are sharded."""
        power = {label: one for label, one in self.by_label.items() if isinstance(one, PowerAverage)}
        return {label: full_tensors(one.module.state_dict()) for label, one in power.items()}

    @property
    def averaged(self) -> list[str]:
        """The names of the tensors that are averages; the others are buffers."""
        return [name for name, _ in self.module.named_parameters(remove_duplicate=False)]

    def start_from(self, model: nn.Module) -> None:
        for average in self.by_label.values():
            average.module.load_state_dict(model.state_dict())

    def restore(self, files: CheckpointFiles) -> None:
        """Load each average from its file. One that is new (--allow-changes) starts from the raw weights.

        Raises UserError if a file is missing or corrupt.
        """
        known = average_files(read_model_json(files.sidecar).get("ema"))
        for label, average in self.by_label.items():
            path = files.directory / known.get(label, MODEL)
            load_full_tensors(average.module, read_weights(average.module, path))


def make_averages(model: nn.Module, recipe: Recipe) -> Averages | None:
    """Return the averages of a recipe, or None if it keeps none."""
    return Averages(model, recipe) if recipe.ema.decays or recipe.ema.power else None
