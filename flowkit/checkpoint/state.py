"""`state.json`: what resuming needs besides tensors, checked as it is read."""

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
    """Sums since the last log step: `values` (processes, names + 2), over `updates` updates."""

    names: list[str]
    updates: Count
    values: Annotated[list[list[float]], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits(self) -> MeterState:
        if {len(row) for row in self.values} != {len(self.names) + 2}:
            raise ValueError(f"expected {len(self.names) + 2} values per process")
        return self


class ScalerState(_Part):
    """The state of torch's GradScaler, for fp16."""

    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    growth_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)]
    backoff_factor: Annotated[float, Field(gt=0, lt=1)]
    growth_interval: Annotated[int, Field(gt=0, lt=2**31)]
    growth_tracker: Annotated[int, Field(ge=0, lt=2**31, alias="_growth_tracker")]


class ResumeState(_Part):
    """The state of a run at a checkpoint. best: step and validation loss of the best checkpoint."""

    step: Count
    best: Annotated[tuple[int, float], Field(strict=False)] | None = None  # a list in JSON
    skipped: Count = 0  # updates, up to the last log step
    scaler: ScalerState | None = None
    meters: MeterState | None = None


def read_resume_state(directory: Path) -> ResumeState:
    """Read state.json. Raises UserError if the checkpoint is for sampling only, or the file is not valid."""
    path = directory / STATE
    if not path.is_file() or not (directory / OPTIMIZER).is_file():
        raise UserError(
            f"{directory}: has no {STATE} and {OPTIMIZER}, so it cannot be resumed; start a new run from it with --init-from"
        )
    verify(path)
    try:
        return ResumeState.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "its content"
        raise UserError(
            f"{path}: {place}: {first['msg']}; the file is corrupt; resume from another checkpoint"
        ) from None


def check_resumable(files: CheckpointFiles) -> None:
    """Raise UserError unless every file that was saved with the checkpoint is there and intact."""
    read_resume_state(files.directory)
    listed = files.directory / CHECKSUMS
    sums = read_json(listed).get("crc32") if listed.is_file() else {}
    for name in sums if isinstance(sums, dict) else ():
        if not (files.directory / name).is_file():
            raise UserError(f"{files.directory / name}: no such file; it was saved with the checkpoint")
        verify(files.directory / name)
