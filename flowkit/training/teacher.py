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
from flowkit.sampling.draw import as_network
from flowkit.sampling.load import check_alike, load_beside
from flowkit.sampling.model import SamplingModel

if TYPE_CHECKING:
    from flowkit.data.normalizers import Normalizer

KEY = "flow.objective.teacher"
INPUT = "input.linear.weight"  # of the networks that take the span and the guidance scale as further columns


class Teacher:
    """A trained model; called with x (B, ...), t (B,) and conditions, it returns its velocity (B, ...)."""

    def __init__(self, ckpt: str, folders: Sequence[Path], device: torch.device, precision: str):
        """Load it; a relative path is searched in `folders` first. precision: the recipe's. Raises UserError if it is missing."""
        self.model = load_beside(ckpt, folders, device, KEY)
        self.precision, self.device = precision, device

    @property
    def normalizer(self) -> Normalizer:
        return self.model.normalizer

    def check(self, student: SamplingModel) -> None:
        """Raise UserError if the student cannot learn from it."""
        mine, needs = self.model, "distillation needs a trained model of the same data"
        check_alike(mine, student, KEY, needs)
        where = mine.files.run_dir or mine.files.directory
        if mine.info.get("base") != student.info.get("base"):
            raise UserError(f"{KEY}: {where} starts from another flow.base than this model; {needs}")
        if mine.flow.objective.averages:
            raise UserError(f"{KEY}: {where} learned average velocities; distill a model of flow matching")
        if mine.objective.prediction == "noise":
            raise UserError(f"{KEY}: {where} predicts the noise, which tells nothing of the velocity at t = 0; distill a model "
                            "that predicts the velocity or the data")  # fmt: skip
        if mine.info["model_args"].get("augmented", 0) != student.info["model_args"].get("augmented", 0):
            raise UserError(f"{KEY}: {where} and this run must both have [data.augment], or neither")
        kinds = student.condition_kinds
        if kinds and not student.why_not_without(kinds) and (why := mine.why_not_without(kinds)):
            raise UserError(
                f"{KEY}: {why.replace('this model', str(where), 1)} rows without conditions; set flow.cond_drop = 0"
            )

    def give_weights(self, student: nn.Module) -> None:
        """Copy the weights to a student that only has additional inputs, which have no effect at first.

        A wider input layer gets zeros for the additional columns. Does nothing if the networks differ otherwise, or if this one
        does not predict velocities.
        """
        theirs, ours = self.model.model.state_dict(), student.state_dict()
        added = {name for name in ours.keys() - theirs.keys() if name.startswith(("span.", "guidance."))}
        wider = {name for name, tensor in theirs.items() if name in ours and ours[name].shape != tensor.shape}
        if (
            ours.keys() - added != theirs.keys()
            or any(name != INPUT or ours[name].shape[1] - theirs[name].shape[1] not in (1, 2) for name in wider)
            or self.model.objective.prediction != "velocity"
        ):
            return
        with torch.no_grad():
            for name, tensor in theirs.items():
                if name in wider:
                    ours[name].zero_()[:, : tensor.shape[1]].copy_(tensor)
                else:
                    ours[name].copy_(tensor)
            for name in added:
                if name.endswith((".mlp.2.weight", ".mlp.2.bias")):  # the last layer of the embedding
                    ours[name].zero_()

    def __call__(self, x: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            output = as_network(self.model.model)(x, t, replace(conditions, guidance=None))
        return self.model.objective.exact.to_velocity(output, x, t)  # never called at t = 1
