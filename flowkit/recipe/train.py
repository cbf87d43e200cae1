"""[train]: how long, in what batches, in what precision, and how often to look."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from flowkit.recipe.interval import MAX_COUNT, Interval, whole_steps
from flowkit.settings import Says, Section


def _not_off(interval: Interval) -> Interval:
    if not interval:
        raise ValueError("cannot be off")
    return interval


Always = Annotated[Interval, AfterValidator(_not_off), Says('a number of steps >= 1 or "N epochs"')]

CountOrAuto = Annotated[Annotated[int, Field(ge=1)] | Literal["auto"], Says('"auto" or a whole number >= 1')]


class Train(Section):
    steps: int | None = Field(
        default=None, ge=1, le=MAX_COUNT, description="length of the run in optimizer updates; or epochs"
    )
    epochs: int | float | None = Field(
        default=None, gt=0, le=MAX_COUNT, description="length of the run in passes over the training rows; or steps"
    )
    max_hours: float | None = Field(
        default=None, gt=0, description="wall-clock limit: the run saves and stops before it; continue with --resume"
    )
    timeout_hours: float = Field(
        default=2.0,
        gt=0,
        le=8760,
        description="how long a process waits for the others, which may be drawing samples, before it gives the run up",
    )
    batch_size: int = Field(
        default=256, ge=1, le=10**9, description="rows in one update, over all processes and accumulation steps"
    )
    micro_batch_size: int | None = Field(
        default=None, ge=1, description="rows in one forward pass of one process; without it, the process's whole share"
    )
    precision: Literal["fp32", "fp16", "bf16"] = Field(
        default="fp32", description="fp32, or mixed precision in fp16 or bf16"
    )
    compile: bool = Field(default=False, description="torch.compile the model")
    log_every: Always = Field(default=Interval(50), description="how often metrics are read off the device and logged")
    val_every: Interval = Field(
        default=Interval(500), description="how often to validate; it decides which checkpoint is the best"
    )
    val_rows: int = Field(
        default=1024, ge=1, description="at most so many validation rows are used; their noises and times are fixed"
    )
    val_batch_size: CountOrAuto = Field(
        default="auto",
        description="validation rows in one forward pass of one process; the losses do not depend on it; auto is 64 on a "
        "CPU, 1024 on a GPU, fewer where memory runs out",
    )
    save_every: Interval = Field(
        default=Interval(1000), description="how often to save a checkpoint; the end of a run is saved always"
    )
    max_skipped: int = Field(
        default=100,
        ge=0,
        description="the run gives up after so many updates in a row whose gradients were not finite; 0 is never",
    )
    keep_last: int = Field(
        default=3, ge=0, description="how many of the last checkpoints to keep, beside the best; 0 keeps all"
    )

    keep_every: Interval = Field(
        default=Interval(0), description="checkpoints whose step is a multiple of this are kept for good"
    )

    def total_steps(self, rows: int) -> int:
        """Updates in the run over `rows` training rows: N epochs are ceil(N x rows / batch_size)."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None, "a recipe has steps or epochs"
        return max(1, whole_steps(self.epochs * rows / self.batch_size))
