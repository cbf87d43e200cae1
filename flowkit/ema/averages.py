"""The moving averages of a run's weights: fp32, outside of accelerate, updated together after every optimizer step."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from flowkit.checkpoint import MODEL, CheckpointFiles, average_files, decay_in_effect, read_model_json, read_weights
from flowkit.distributed.sharding import full_tensors, load_full_tensors, local_parts
from flowkit.ema.power import power_gamma

if TYPE_CHECKING:
    from flowkit.recipe import Recipe


class Average(ModelEmaV3):
    """timm's EMA of `model`, with the warm-up of [ema].

    Walking through modules costs more than the sum in small networks, so it is done once.
    """

    def __init__(self, model: nn.Module, decay: float, settings: Mapping[str, Any]):
        """settings: the recipe's [ema]."""
        super().__init__(model, decay=decay, exclude_buffers=True)
        self.settings = settings
        self.module.float().requires_grad_(False)
        self._model = [model]  # in a list, for it is no part of this module

    def get_decay(self, step: int | None = None) -> float:
        """The decay at update `step`, counted from 1; without one, what it goes towards."""
        return self.decay if step is None else decay_in_effect(self.settings, self.decay, step)

    @cached_property
    def _parameters_of(self) -> tuple[list[Tensor], ...]:
        """Of the average and of the model; listed at the first step, since sharding makes new ones."""
        (model,) = self._model
        return list(self.module.parameters()), list(model.parameters())

    @cached_property
    def _buffers_of(self) -> tuple[list[Tensor], ...]:
        (model,) = self._model
        return list(self.module.buffers()), list(model.buffers())

    @torch.no_grad()
    def update(self, step: int, skipped: Tensor) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take the step that follows update `step` (from 1), or none where `skipped` () is 1: nobody asks a GPU which."""
        averaged, current = map(local_parts, self._parameters_of)
        weight = 1 - self.get_decay(step)
        if skipped.device.type == "cpu":  # reading it costs nothing there, and less than the arithmetic below
            if not skipped:
                torch._foreach_lerp_(averaged, current, weight=weight)
        else:
            moves = torch._foreach_sub(current, averaged)
            torch._foreach_mul_(moves, weight * (1 - skipped))
            torch._foreach_add_(averaged, moves)
        for mine, its in zip(*self._buffers_of, strict=True):
            mine.copy_(its)


class PowerAverage(Average):
    """The average with the profile t^gamma of the steps t so far (arXiv 2312.02696, eq. 4), whose width grows with the run."""

    def __init__(self, model: nn.Module, sigma_rel: float):
        super().__init__(model, 1.0, {})
        self.gamma = power_gamma(sigma_rel)

    def get_decay(self, step: int | None = None) -> float:
        """beta(t) = (1 - 1/t)^(gamma + 1) at step t >= 1."""
        assert step is not None and step >= 1
        return (1 - 1 / step) ** (self.gamma + 1)


class Averages:
    """All averages of a run by label ("0.9999", "power-0.05"); samples come from the first."""

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
        """The first average's decay at a step."""
        return self.first.get_decay(step)

    def update(self, step: int, skipped: Tensor) -> None:
        """Once after every optimizer update; `step` counts them from 1, the skipped ones too."""
        for average in self.by_label.values():
            average.update(step, skipped)

    def modules(self) -> dict[str, nn.Module]:
        """By the names of the files that a checkpoint keeps them in."""
        return {self.files[label]: average.module for label, average in self.by_label.items()}

    def power_tensors(self) -> dict[str, dict[str, Tensor]]:
        """The power-function averages by label. A collective where they are split among the processes."""
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
        """Each from its own file; one that the checkpoint did not know (--allow-changes) starts from its raw weights.

        Raises UserError where a file is missing or not whole.
        """
        known = average_files(read_model_json(files.sidecar).get("ema"))
        for label, average in self.by_label.items():
            path = files.directory / known.get(label, MODEL)
            load_full_tensors(average.module, read_weights(average.module, path))


def make_averages(model: nn.Module, recipe: Recipe) -> Averages | None:
    """None where the recipe keeps no average. The decay warms up by default, or a short run would sample its own start."""
    return Averages(model, recipe) if recipe.ema.decays or recipe.ema.power else None
