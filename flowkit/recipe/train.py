"""[train]: length, batches, precision, and how often to log, validate and save."""

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

AutoOrBool = Annotated[Literal["auto"] | bool, Says('"auto", true or false')]


class Train(Section):
    steps: int | None = Field(
        default=None,
        ge=1,
        le=MAX_COUNT,
        description="length of the run in optimizer updates; mutually exclusive with epochs",
    )
    epochs: int | float | None = Field(
        default=None,
        gt=0,
        le=MAX_COUNT,
        description="length of the run in passes over the training rows; mutually exclusive with steps",
    )
    max_hours: float | None = Field(
        default=None, gt=0, description="wall-clock limit; the run saves and stops in time, and --resume continues it"
    )
    timeout_hours: float = Field(
        default=2.0,
        gt=0,
        le=8760,
        description="time that a process waits for the others, which may be sampling, before it aborts",
    )
    batch_size: int = Field(
        default=256,
        ge=1,
        le=10**9,
        description="global batch size: rows per update, over all processes and accumulation steps",
    )
    micro_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="rows per forward pass and process; by default the process's share of batch_size",
    )
    precision: Literal["auto", "fp32", "fp16", "bf16"] = Field(
        default="auto",
        description="fp32, or mixed precision with fp16 or bf16; auto is bf16 on a GPU that supports it, else fp32, and stays "
        "the same when the run is resumed",
    )
    compile: bool = Field(
        default=False,
        description="compile for speed, which takes up to a minute at the start: on one CPU process the whole update, elsewhere "
        "the model",
    )
    capture: AutoOrBool = Field(
        default=False,  # until it has run on a GPU
        description="replay updates as CUDA graphs, for less work of the host (never run on a GPU yet); auto does so on one GPU "
        "if it can",
    )
    log_every: Always = Field(default=Interval(50), description="how often to log metrics")
    val_every: Interval = Field(
        default=Interval(500), description="how often to validate; the lowest loss marks the best checkpoint"
    )
    val_rows: int = Field(
        default=1024, ge=1, description="maximum number of validation rows; their noise and times are fixed"
    )
    val_batch_size: CountOrAuto = Field(
        default="auto",
        description="validation rows per forward pass and process; does not change the losses; auto is 64 on CPU and 1024 "
        "on GPU, halved if memory runs out",
    )
    save_every: Interval = Field(
        default=Interval(1000), description="how often to save a checkpoint; the end of the run is always saved"
    )
    max_skipped: int = Field(
        default=100,
        ge=0,
        description="abort after this many consecutive updates with non-finite gradients; 0 never aborts",
    )
    keep_last: int = Field(
        default=3, ge=0, description="number of recent checkpoints to keep, besides the best; 0 keeps all"
    )

    keep_every: Interval = Field(
        default=Interval(0), description="never delete checkpoints whose step is a multiple of this"
    )

    def total_steps(self, rows: int) -> int:
        """Return the updates of a run over `rows` training rows: N epochs are ceil(N x rows / batch_size)."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None, "a recipe has steps or epochs"
        return max(1, whole_steps(self.epochs * rows / self.batch_size))
