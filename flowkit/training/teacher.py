"""The model that a student learns from (`flow.objective = {name = "distillation", teacher = ...}`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from flowkit.conditions import Conditions
from flowkit.errors import UserError
from flowkit.flow.objective import Objective
from flowkit.sampling.draw import as_network
from flowkit.sampling.load import check_alike, load_beside
from flowkit.sampling.model import SamplingModel

if TYPE_CHECKING:
    from flowkit.data.normalizers import Normalizer

KEY = "flow.objective.teacher"


class Teacher:
    """A trained model; called with x (B, ...), t (B,) and conditions, it returns its velocity (B, ...)."""

    def __init__(self, ckpt: str, folders: Sequence[Path], device: torch.device, precision: str):
        """folders: searched first for a relative path. precision: of the recipe. Raises UserError if there is no such model."""
        self.model = load_beside(ckpt, folders, device, KEY)
        self.precision, self.device = precision, device

    @property
    def normalizer(self) -> Normalizer:
        return self.model.normalizer

    def check(self, student: SamplingModel, objective: Objective) -> None:
        """Raise UserError if the student cannot learn from it."""
        check_alike(self.model, student, KEY, "distillation needs a trained model of the same data")
        if self.model.flow.objective.averages:
            raise UserError(
                f"{KEY}: {self.model.files.directory} learned average velocities; distill a model of flow matching"
            )
        guides = any(getattr(objective, name) != 1 for name in ("omega", "omega_max"))
        if guides and (why := self.model.why_not_without(student.condition_kinds)):
            raise UserError(f"{KEY}: {why} dropped conditions to guide away from; set omega and omega_max to 1")

    def give_weights(self, student: nn.Module) -> None:
        """Copy the weights to a student that only has additional inputs, which have no effect at first.

        A wider input layer gets zeros for the additional columns. Does nothing if the networks differ otherwise, or if this one
        does not predict velocities.
        """
        theirs, ours = self.model.model.state_dict(), student.state_dict()
        added = {name for name in ours.keys() - theirs.keys() if name.startswith(("span.", "guidance."))}
        fits = ours.keys() - added == theirs.keys() and all(
            ours[name].shape == tensor.shape or (ours[name].ndim == 2 and ours[name].shape[0] == tensor.shape[0])
            for name, tensor in theirs.items()
        )
        if not fits or self.model.objective.prediction != "velocity":
            return
        with torch.no_grad():
            for name, tensor in theirs.items():
                if ours[name].shape != tensor.shape:
                    ours[name].zero_()
                ours[name][..., : tensor.shape[-1] if tensor.ndim else None].copy_(tensor)
            for name in added:
                if name.endswith((".mlp.2.weight", ".mlp.2.bias")):  # the last layer of the embedding
                    ours[name].zero_()

    def __call__(self, x: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            output = as_network(self.model.model)(x, t, replace(conditions, guidance=None))
        return self.model.objective.to_velocity(output, x, t)
