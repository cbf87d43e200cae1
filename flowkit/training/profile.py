"""Where the time of an update goes: a profile of ten updates with torch.profiler."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from flowkit.data.files import replacing
from flowkit.errors import UserError
from flowkit.events import Event, Notice, RunStarted, Stepped

UPDATES = 10  # in one profile
WARM_UP = 10  # updates before it: the first ones allocate, compile and tune
SHOWN = 15  # operations in the table
OPTIMIZER, BACKWARD = "Optimizer.step#", "autograd::engine::evaluate_function: "


@dataclass(frozen=True)
class Operation:
    name: str
    calls: int  # per update
    seconds: float  # per update, without the operations inside it
    share: float  # of all operations


@dataclass(frozen=True)
class Profile:
    """Times per update in seconds. `phases` are of the host; `operations` of the device that does the work."""

    updates: int
    seconds: float
    phases: tuple[tuple[str, float], ...]
    operations: tuple[Operation, ...]  # the longest first
    others: int  # operations that are not listed
    device: str  # "CPU" | "GPU": whose times the operations have
    trace: Path | None = None


class Profiling:
    """A profile that is being made."""

    def __init__(self, device: torch.device) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or a build for CUDA complains where there is no GPU
        activities = [torch.profiler.ProfilerActivity.CPU]
        self.cuda = device.type == "cuda"
        if self.cuda:
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self.device, self._profiler = device, torch.profiler.profile(activities=activities)
        self._began, self._seconds = 0.0, 0.0
        self.updates = 0

    def start(self) -> None:
        self._wait()
        self._profiler.start()
        self._began = time.perf_counter()

    def stop(self) -> None:
        self._wait()
        self._seconds = time.perf_counter() - self._began
        self._profiler.stop()

    def write(self, path: Path) -> None:
        """Write the Chrome trace, for chrome://tracing or ui.perfetto.dev. Raises UserError if it cannot be written."""
        # The profiler compresses by the name's ending.
        with replacing(path) as partial, contextlib.ExitStack() as stack:
            gzipped = partial.with_name(f"{partial.name}.gz")
            stack.callback(gzipped.unlink, missing_ok=True)
            self._profiler.export_chrome_trace(str(gzipped))
            gzipped.replace(partial)

    def result(self, trace: Path | None = None) -> Profile:
        """Return the times per update."""
        events: list[Any] = list(self._profiler.key_averages())
        count = max(1, self.updates)
        self_time = lambda one: (one.self_device_time_total if self.cuda else one.self_cpu_time_total) / 1e6  # noqa: E731
        inside = lambda prefix: sum(one.cpu_time_total for one in events if one.key.startswith(prefix)) / 1e6  # noqa: E731
        optimizer, backward, whole = inside(OPTIMIZER), inside(BACKWARD), self._seconds
        rest = max(0.0, whole - optimizer - backward)
        phases = (("data, forward, averages", rest), ("backward", backward), ("optimizer", optimizer))
        timed = sorted(((self_time(one), one) for one in events), key=lambda pair: -pair[0])
        timed = [(seconds, one) for seconds, one in timed if seconds > 0]
        total = sum(seconds for seconds, _ in timed) or 1.0
        return Profile(
            updates=count,
            seconds=whole / count,
            phases=tuple((name, seconds / count) for name, seconds in phases),
            operations=tuple(Operation(one.key.removeprefix(BACKWARD), round(one.count / count), seconds / count, seconds / total)
                             for seconds, one in timed[:SHOWN]),
            others=max(0, len(timed) - SHOWN),
            device="GPU" if self.cuda else "CPU",
            trace=trace,
        )  # fmt: skip

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)


@contextlib.contextmanager
def profiled(device: torch.device) -> Iterator[Profiling]:
    """Profile the block, which runs `UPDATES` updates unless it sets `updates`."""
    profiling = Profiling(device)
    profiling.start()
    profiling.updates = UPDATES
    try:
        yield profiling
    finally:
        profiling.stop()


class ProfileListener:
    """Profiles ten updates of a run on the main process, after ten others, and writes `profile/` in the run directory.

    In a run of fewer updates it profiles those that there are.
    """

    def __init__(self, device: Callable[[], torch.device], tell: Callable[[Notice], object]) -> None:
        """device: called once the run has started. tell: receives a notice once the profile is written."""
        self._device, self._tell = device, tell
        self._profiling: Profiling | None = None
        self._folder, self._first, self._step = Path(), 0, 0
        self.result: Profile | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            left = event.total_steps - event.start_step
            self._folder = event.run_dir / "profile"
            self._first = event.start_step + min(WARM_UP, max(0, left - UPDATES))
            self._step = event.start_step
            if self._first == event.start_step:
                self._start()
        elif isinstance(event, Stepped):
            self._step = event.step
            if self._profiling is not None:
                self._profiling.updates += 1
                if self._profiling.updates == UPDATES:
                    self._finish()
            elif event.step == self._first and self.result is None:
                self._start()

    def _start(self) -> None:
        self._profiling = Profiling(self._device())
        self._profiling.start()

    def _finish(self) -> None:
        profiling, self._profiling = self._profiling, None
        assert profiling is not None
        profiling.stop()
        if not profiling.updates:
            return
        first = self._step - profiling.updates + 1
        path = self._folder / f"trace-{first:08d}-{self._step:08d}.json.gz"
        try:
            profiling.write(path)
        except UserError as error:
            self._tell(Notice(str(error)))
            path = None
        else:
            self._tell(Notice(f"profiled updates {first:,} to {self._step:,}: {path}"))
        self.result = profiling.result(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._profiling is not None:
            self._finish()
