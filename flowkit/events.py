"""Events of a training run: torch-free dataclasses that the loop emits for the UI and trackers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from flowkit.domain import Preview


@dataclass(frozen=True)
class RunStarted:
    name: str
    run_dir: Path
    arch: str
    num_parameters: int
    data: str  # "doodles (15 classes)"
    noun: str  # name of the rows: "sketches"
    train_rows: int
    val_rows: int
    x_shape: tuple[int, ...]
    device: str  # "cpu (2 threads)", "NVIDIA H100 80GB HBM3"
    num_processes: int
    precision: str  # "fp32" | "fp16" | "bf16"
    batch_size: int  # global
    micro_batch_size: int  # per process and accumulation step
    accumulation: int
    start_step: int
    total_steps: int
    steps_per_epoch: float
    ema_decay: float  # at the end of the run; 0.0 without EMA
    best: tuple[int, float] | None = None  # step and validation loss of the best checkpoint, if resumed


@dataclass(frozen=True)
class Notice:
    """One line to show to the user once, such as a precision that differs from the launcher's."""

    text: str
    urgent: bool = False  # also shown with --quiet


@dataclass(frozen=True)
class Stepped:
    """An update was enqueued. Emitted every update, so listeners must be cheap."""

    step: int


@dataclass(frozen=True)
class Doing:
    """What keeps the next update waiting, such as "validating"; empty when training continues."""

    what: str


@dataclass(frozen=True)
class Logged:
    step: int
    epoch: float
    loss: float  # mean over the updates since the last log step
    lr: float
    grad_norm: float  # before clipping, mean over the same updates without skipped ones
    ema_decay: float  # at this step
    rows_per_second: float
    seconds_left: float
    memory_bytes: int  # device memory, or resident memory on the CPU
    skipped: int = 0  # updates skipped so far because of non-finite gradients
    terms: dict[str, float] = field(default_factory=dict)  # auxiliary losses by name, unweighted


@dataclass(frozen=True)
class Validated:
    step: int
    loss: float  # of the EMA weights, with fixed noise and times
    raw_loss: float  # of the raw weights
    zero_loss: float  # of predicting zero
    bins: tuple[tuple[float, float, float], ...]  # (t from, t to, loss)
    best: bool  # lowest loss of all saved checkpoints; a checkpoint of this step follows
    gaussian_losses: dict[str, float] = field(default_factory=dict)  # of the "diagonal" and "full" Gaussian baselines
    ema_losses: dict[str, float] = field(
        default_factory=dict
    )  # of the other averages by label, if a checkpoint follows
    one_step_error: float | None = None  # MeanFlow: RMS distance between one step and the end of the flow

    def losses(self) -> dict[str, Any]:
        """Return the losses that a checkpoint's sidecar keeps."""
        further: dict[str, Any] = {"ema_losses": self.ema_losses} if self.ema_losses else {}
        if self.one_step_error is not None:
            further["one_step_error"] = self.one_step_error
        return {"loss": self.loss, "raw_loss": self.raw_loss, "zero_loss": self.zero_loss, **further}


@dataclass(frozen=True)
class Sampled:
    step: int
    previews: tuple[Preview, ...]
    path: Path
    nfe: int | float  # per sample, on average
    seconds: float
    image: Path | None = None
    caption: str = ""  # explains the previews' remarks
    figures: dict[str, float] = field(default_factory=dict)  # by their names in metrics.jsonl
    count: int = field(kw_only=True)  # number of samples; not all may have a preview


@dataclass(frozen=True)
class Saved:
    step: int
    path: Path
    best: bool
    seconds: float


@dataclass(frozen=True)
class Finished:
    step: int
    seconds: float
    run_dir: Path
    reason: str  # "done" | "interrupted" | "out of time" (train.max_hours)


Event = RunStarted | Notice | Stepped | Doing | Logged | Validated | Sampled | Saved | Finished


class Listener(Protocol):
    """Receives a run's events on the main process, between entering and leaving it as a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __call__(self, event: Event) -> None: ...
