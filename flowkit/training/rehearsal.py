"""`flowkit train --dry-run`: build everything, run a few updates, a validation and a sample, and measure. Writes nothing."""

from __future__ import annotations

import contextlib
import math
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from flowkit.checkpoint import find_checkpoint, folders_of, verify_weights
from flowkit.checkpoint.resume import checkpoint_normalizer, restore
from flowkit.checkpoint.run_dir import open_run_dir
from flowkit.data_source import open_data
from flowkit.distributed import environment as environments
from flowkit.errors import UserError
from flowkit.events import RunStarted
from flowkit.training.capture import make_update
from flowkit.training.loop import eager_update, validate
from flowkit.training.meters import Meters, memory_bytes
from flowkit.training.preview import Sampler
from flowkit.training.profile import UPDATES, Profile, profiled
from flowkit.training.session import Session, build
from flowkit.training.trackers import check_trackers
from flowkit.training.train import check_module, chosen_threads

if TYPE_CHECKING:
    from flowkit.recipe import Recipe

MEASURED = (3, 20)  # updates that are timed: at least, at most
BUDGET = 3.0  # seconds for them, once the least number is done
ELEMENTS = {"fp16": 2, "bf16": 2, "fp32": 4}  # bytes


@dataclass(frozen=True)
class Memory:
    """Bytes on the device. `peak` was measured: of the device's allocator, or of the whole process on the CPU."""

    weights: int
    averages: int
    optimizer: int
    data: int  # rows that are kept on the device
    peak: int
    device_total: int | None  # of a GPU


@dataclass(frozen=True)
class Disk:
    """Bytes. Sizes follow from the tensors that a checkpoint would hold."""

    checkpoint: int
    kept: int  # checkpoints at the end
    snapshots: int  # of power-function averages, all of them
    free: int

    @property
    def needed(self) -> int:
        """All that is kept, and the checkpoint that is written before an old one is removed."""
        return self.checkpoint * (self.kept + 1) + self.snapshots


@dataclass(frozen=True)
class Rehearsal:
    started: RunStarted
    memory: Memory
    disk: Disk
    first_update: float  # seconds; includes what happens once, such as compilation
    update: float  # seconds, median of the others
    updates_measured: int
    validation: float | None  # seconds; None if the run has none
    validations: int  # how many there will be
    sampling: float | None  # seconds; None if it failed
    samplings: int
    nfe: float | None  # network evaluations per sample
    loss: float  # mean over the updates
    max_hours: float | None
    notes: tuple[str, ...]
    profile: Profile | None

    @property
    def total(self) -> float:
        """Seconds that the whole run will take, without saving, which happens in the background."""
        return (
            self.started.total_steps * self.update
            + self.validations * (self.validation or 0.0)
            + self.samplings * (self.sampling or 0.0)
        )


def rehearse(
    recipe: Recipe,
    *,
    init_from: Path | None = None,
    run_dir: Path | None = None,
    profile: bool = False,
    tell: Callable[[str], object] = lambda doing: None,
) -> Rehearsal:
    """Build the run and measure it. Called on every process with the same arguments.

    profile: also profile ten more updates. tell: called with what is being done. Raises UserError as `train`; a run that
    exists already is only a note.
    """
    here, run_dir = run_dir is None, run_dir or recipe.run.directory
    folders = folders_of(run_dir, recipe.to_dict())
    if here:
        folders = (Path(), *folders)
    notes: list[str] = []
    try:
        open_run_dir(run_dir, resume=False, overwrite=False)
    except UserError as error:
        notes.append(str(error))
    recipe = environments.with_precision(recipe)
    with environments.joined(recipe) as environment:
        check_module(recipe, None)
        if environment.accelerator.is_main_process:
            check_trackers(recipe)
        tell("preparing data")
        data = open_data(recipe, folders)
        start = (
            None if init_from is None else find_checkpoint(init_from, check=lambda files: verify_weights(files, "ema"))
        )
        normalizer = None if start is None else checkpoint_normalizer(start, data)
        session = build(recipe, environment, data, source=recipe.data.source, run_dir=run_dir, normalizer=normalizer,
                        folders=folders)  # fmt: skip
        if start is not None:
            restore(session, start, resume=False)
        notes += session.notices
        with chosen_threads(session):
            found = _measure(session, notes, profile, tell)
        session.pairing.close()
        session.batches.close()
        return found


def _measure(session: Session, notes: list[str], profile: bool, tell: Callable[[str], object]) -> Rehearsal:
    recipe, device, started, meters = session.recipe, session.device, session.announce(), Meters()
    done = 0

    perform = make_update(session, meters, eager_update(session, meters), notes.append)

    def update() -> float:
        nonlocal done
        begun = time.perf_counter()
        perform(done)
        done += 1
        _wait(device)
        return time.perf_counter() - begun

    tell("running updates")
    least, most = (min(count, started.total_steps) for count in MEASURED)
    first, times = update(), []
    while len(times) < least - 1 or (len(times) < most - 1 and sum(times) < BUDGET):
        times.append(update())
    found = None
    if profile:
        tell("profiling")
        with profiled(device) as profiling:
            for _ in range(min(UPDATES, started.total_steps)):
                update()
        found = profiling.result()
    if math.isnan(loss := meters.means()[0]["loss"]):
        notes.append("the loss is NaN; check the data, or lower optim.lr")

    per_epoch, total = session.steps_per_epoch, started.total_steps
    planned = lambda interval: _occurrences(interval.steps(per_epoch), total)  # noqa: E731
    validation, validations = None, 0
    if session.validator.count:
        tell("validating")
        begun = time.perf_counter()
        validate(session, done, saving=False)
        _wait(device)
        validation = time.perf_counter() - begun
        every = [recipe.train.val_every.steps(per_epoch), recipe.train.save_every.steps(per_epoch)]
        validations = len({step for one in every if one for step in range(one, total + 1, one)} | {total})
    tell("sampling")
    sampling, nfe = None, None
    try:
        sampler = Sampler(session, present=False)
        sampler.model.model.eval()
        begun = time.perf_counter()
        samples, _ = sampler.draw()
        _wait(device)
        sampling, nfe = time.perf_counter() - begun, float(samples.info["nfe"])
    except UserError as error:
        notes.append(f"sampling failed with the untrained weights: {error}")
    return Rehearsal(
        started=started, memory=_memory(session), disk=_disk(session), first_update=first,
        update=statistics.median(times or [first]), updates_measured=max(1, len(times)),
        validation=validation, validations=validations, sampling=sampling,
        samplings=planned(recipe.sample.every) if recipe.sample.every else 0, nfe=nfe, loss=loss,
        max_hours=recipe.train.max_hours, notes=tuple(notes), profile=found,
    )  # fmt: skip


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _occurrences(every: int, total: int) -> int:
    """Return how often something happens that is due every so many updates, and after the last one."""
    return math.ceil(total / every) if every else 1


def _memory(session: Session) -> Memory:
    averages = (
        [] if session.ema is None else [t for m in session.ema.modules().values() for t in m.state_dict().values()]
    )
    moments = [value for state in session.optimizer.state.values() for value in state.values()]
    rows = session.batches.resident and len(session.batches.train_rows)
    data = session.data
    per_row = sum(array[:1].nbytes for array in (data.x, data.condition, data.class_label) if array is not None)
    cuda = session.device.type == "cuda"
    return Memory(
        weights=_bytes(session.model.state_dict().values()),
        averages=_bytes(averages),
        optimizer=_bytes(moments),
        data=int(rows) * per_row,
        peak=memory_bytes(session.device),
        device_total=torch.cuda.get_device_properties(session.device).total_memory if cuda else None,
    )


def _disk(session: Session) -> Disk:
    recipe, total, per_epoch = session.recipe, session.total_steps, session.steps_per_epoch
    memory = _memory(session)
    normalizer = sum(array.nbytes for array in session.normalizer.tensors().values())
    every, keep = recipe.train.save_every.steps(per_epoch), recipe.train.keep_every.steps(per_epoch)
    saves = _occurrences(every, total)
    last = saves if recipe.train.keep_last == 0 else min(saves, recipe.train.keep_last)
    forever = sum(1 for step in range(keep, total + 1, keep) if every and step % every == 0) if keep else 0
    best = bool(session.validator.count)
    kept = min(saves, last + forever + best)
    snapshots = 0
    if recipe.ema.power:
        count = sum(parameter.numel() for parameter in session.model.state_dict().values())
        one = len(recipe.ema.power) * count * ELEMENTS[recipe.ema.snapshot_dtype]
        snapshots = one * _occurrences(recipe.ema.snapshot_every.steps(per_epoch), total)
    there = next(
        folder for folder in (session.run_dir.absolute(), *session.run_dir.absolute().parents) if folder.exists()
    )
    free = 0
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(there).free
    return Disk(memory.weights + memory.averages + memory.optimizer + normalizer, kept, snapshots, free)


def _bytes(tensors) -> int:
    """Return the size of whole tensors, also of those that are split among processes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, torch.Tensor))
