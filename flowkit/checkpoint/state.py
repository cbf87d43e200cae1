"""`state.json`: what resuming needs beside tensors, checked where it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flowkit.checkpoint import OPTIMIZER, STATE, CheckpointFiles
from flowkit.data.checksums import CHECKSUMS, verify
from flowkit.data.files import read_json
from flowkit.errors import UserError

Count = Annotated[int, Field(ge=0, lt=2**53)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class MeterState(_Part):
    """What a run had summed since its last log step: `values` (processes, names + 2) and over how many updates."""

    names: list[str]
    updates: Count
    values: Annotated[list[list[float]], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits(self) -> MeterState:
        if {len(row) for row in self.values} != {len(self.names) + 2}:
            raise ValueError(f"expected {len(self.names) + 2} values a process")
        return self


class ScalerState(_Part):
    """torch's GradScaler, of a run in fp16."""

    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    growth_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)]
    backoff_factor: Annotated[float, Field(gt=0, lt=1)]
    growth_interval: Annotated[int, Field(gt=0, lt=2**31)]
    growth_tracker: Annotated[int, Field(ge=0, lt=2**31, alias="_growth_tracker")]


class ResumeState(_Part):
    """Where a run was when its checkpoint was saved. `best`: the step and the validation loss of its best one."""

    step: Count
    best: Annotated[tuple[int, float], Field(strict=False)] | None = None  # JSON knows no tuples
    skipped: Count = 0  # updates, up to the last log step
    scaler: ScalerState | None = None
    meters: MeterState | None = None


def read_resume_state(directory: Path) -> ResumeState:
    """Raises UserError where the directory was saved for sampling only, or where its state.json is not one of flowkit's."""
    path = directory / STATE
    if not path.is_file() or not (directory / OPTIMIZER).is_file():
        raise UserError(
            f"{directory}: holds no {STATE} and {OPTIMIZER}, so it cannot be resumed; --init-from starts a new run from it"
        )
    verify(path)
    try:
        return ResumeState.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "its content"
        raise UserError(f"{path}: {place}: {first['msg']}; it is damaged: resume from another checkpoint") from None


def check_resumable(files: CheckpointFiles) -> None:
    """Raise UserError unless all that was saved of a checkpoint is there, and as it was saved."""
    read_resume_state(files.directory)
    listed = files.directory / CHECKSUMS
    sums = read_json(listed).get("crc32") if listed.is_file() else {}
    for name in sums if isinstance(sums, dict) else ():
        if not (files.directory / name).is_file():
            raise UserError(f"{files.directory / name}: no such file; it was saved with the checkpoint")
        verify(files.directory / name)
