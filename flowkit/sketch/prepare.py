"""Prepare sketches from files as one data set: read them, fit each into a row of cubics, write them, report all losses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from flowkit.data.dataset import SPLITS, Dataset, write_dataset
from flowkit.data.target import free_target
from flowkit.domain import Tell
from flowkit.errors import NothingLeft, Unreadable, UserError, nearest
from flowkit.sketch.budget import Budgeted, to_size
from flowkit.sketch.domain import MAX_COORDINATE
from flowkit.sketch.importers import quickdraw
from flowkit.sketch.importers.detect import detect
from flowkit.sketch.importers.items import Item
from flowkit.sketch.strokes import exists
from flowkit.sources.files import open_files

OVER = ("fit", "leave-out")
CUBICS = 32  # in a row, unless asked otherwise
MAX_SIMPLIFY = 0.2  # canvas units


@dataclass
class ClassReport:
    """Counts for one class: read = kept + left out; fitted drawings are among those kept."""

    name: str
    read: int = 0
    kept: int = 0
    errors: list[float] = field(default_factory=list)  # of fitted drawings: Hausdorff distance in canvas units
    left_out: Counter[str] = field(default_factory=Counter)  # reason -> how many
    dots: int = 0  # strokes of length 0 that were dropped from kept drawings
    remarks: Counter[str] = field(
        default_factory=Counter
    )  # what was read differently than written -> number of kept drawings

    @property
    def fitted(self) -> int:
        return len(self.errors)


@dataclass(frozen=True)
class PrepareReport:
    source: Path
    format: str  # "svg" | "controlsketch" | "quickdraw" | "stroke3"
    paths: tuple[Path, ...]  # .safetensors and .json, and .jsonl with captions
    shape: tuple[int, ...]
    splits: dict[str, int]  # rows by split; empty if the source has no splits
    classes: tuple[ClassReport, ...]
    examples: dict[str, str]  # reason -> the first drawing left out for it
    notes: tuple[str, ...] = ()  # what was not read, and doubtful choices

    @property
    def trainable(self) -> bool:
        """Whether there are training rows."""
        return not self.splits or self.splits["train"] > 0

    @property
    def total(self) -> ClassReport:
        return summed(self.classes)


def summed(reports: Iterable[ClassReport]) -> ClassReport:
    """Return the sum of all reports."""
    total = ClassReport("total")
    for report in reports:
        total.read += report.read
        total.kept += report.kept
        total.errors += report.errors
        total.left_out += report.left_out
        total.dots += report.dots
        total.remarks += report.remarks
    return total


def prepare(
    source: Path | str,
    out: Path | str,
    *,
    cubics: int | None = None,
    exactly: int | None = None,
    simplify: float = 0.0,
    over: str = "fit",
    max_per_class: int | None = None,
    recognized_only: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    tell: Tell | None = None,
) -> PrepareReport:
    """Read all sketches of `source` and write x on the canvas [-1, 1], with class labels and splits, to `out`.

    x is (N, S, 10) with the pen strokes of the files (see `flowkit.sketch.strokes`). S is the largest number of cubics that a
    sketch has, at most `cubics`, by default 32. exactly: write x (N, exactly, 8) instead, without pen strokes; sketches with
    fewer cubics are cut into more. simplify: merge the cubics of a stroke as long as it moves by less, in canvas units.
    Captions become the texts of the rows.

    over: "fit" or "leave-out" sketches of more cubics. max_per_class: keep only the first ones of each class and
    split. recognized_only: leave out drawings that Quick, Draw! did not recognize. Rows are shuffled by `seed`, so that the
    first k are a random subset. tell: receives progress in bytes. Writes nothing before everything is read. Raises UserError
    for a missing source, an unknown format, and an `out` that exists or cannot be written to; NothingLeft if no sketch is kept.
    """
    source = Path(source)
    over = over.replace("_", "-")
    if over not in OVER:
        raise UserError(f"over = {over!r}: expected {' or '.join(map(repr, OVER))}{nearest(over, OVER)}")
    if cubics is not None and exactly is not None:
        raise UserError("cubics and exactly (--cubics and --exactly) are mutually exclusive")
    size = exactly or (CUBICS if cubics is None else cubics)
    if size < 1 or (exactly is not None and exactly < 1):
        raise UserError(f"{size if exactly is None else exactly} cubics: expected at least 1 per sketch")
    if not 0 <= simplify <= MAX_SIMPLIFY:
        raise UserError(
            f"simplify = {simplify}: expected a distance from 0 to {MAX_SIMPLIFY}, where the canvas is 2 wide"
        )
    paths = free_target(out, overwrite=overwrite, sources=[source], example="sketches")
    fit = partial(to_size, size=size, fit=over == "fit", exactly=exactly is not None, tolerance=simplify)
    tally = _Tally(fit, max_per_class)
    with open_files(source) as files:
        name, read = detect(source, files)
        if name == "controlsketch":
            free_target(out, overwrite=overwrite, sources=[source], texts=True, example="sketches")
        if recognized_only:
            if name != "quickdraw":
                raise UserError(f"--recognized-only: requires Quick, Draw! data, and {source} holds {name}")
            read = partial(quickdraw.read, recognized_only=True)
        total = sum(entry.size for entry in files.entries)
        for item in read(files):
            tally.add(item)
            if tell is not None:
                tell("reading", min(files.consumed, total), total)
    data = tally.dataset(source, seed)
    if data.texts is not None:
        paths = (*paths, paths[0].with_suffix(".jsonl"))
    notes = (*files.notes, *tally.duplicates())
    asked = {"cubics": size} if exactly is None else {"exactly": exactly}
    prepared = {**asked, "simplify": simplify, "over": over, "seed": seed, **tally.summary(), "notes": list(notes)}
    data.info = {"source": {"name": source.resolve().name, "format": name}, "prepared": prepared}
    write_dataset(paths[0], data)
    splits = {} if data.split is None else {key: len(data.rows(key)) for key in SPLITS}
    return PrepareReport(source, name, paths, data.x.shape, splits, tally.reports(), tally.examples, notes)


class _Tally:
    """Collects rows and counts while reading."""

    def __init__(self, fit: Callable[[Sequence[np.ndarray]], Budgeted], max_per_class: int | None) -> None:
        self.fit, self.max_per_class = fit, max_per_class
        self.rows: list[np.ndarray] = []
        self.places: list[tuple[str, str]] = []  # (class, split) per row
        self.captions: list[str] = []
        self.by_class: dict[str, ClassReport] = {}
        self.examples: dict[str, str] = {}
        self.kept: Counter[tuple[str, str]] = Counter()
        self.alike: dict[bytes, list[str]] = {}  # digest of a row -> splits of all rows with that content

    def add(self, item: Item) -> None:
        report = self.by_class.setdefault(item.class_name, ClassReport(item.class_name))
        report.read += 1
        place = (item.class_name, item.split)
        try:
            if item.problem or item.strokes is None:
                raise item.problem or Unreadable("has no strokes")
            if self.max_per_class is not None and self.kept[place] >= self.max_per_class:
                raise Unreadable(f"beyond the first {self.max_per_class:,} of its class")
            found = self.fit(item.strokes)
            if (farthest := float(np.abs(found.x).max())) > MAX_COORDINATE:  # training would refuse the whole data set
                raise Unreadable("has coordinates far outside its canvas", f"{farthest:.3g} times half its longer side")
        except Unreadable as problem:
            report.left_out[problem.reason] += 1
            self.examples.setdefault(
                problem.reason, f"{item.where}" + (f": {problem.detail}" if problem.detail else "")
            )
            return
        self._keep(found, place, report)
        self.captions.append(item.caption)
        report.remarks.update(item.remarks)

    def _keep(self, found: Budgeted, place: tuple[str, str], report: ClassReport) -> None:
        self.rows.append(found.x)
        self.places.append(place)
        self.alike.setdefault(blake2b(found.x.tobytes(), digest_size=16).digest(), []).append(place[1])
        self.kept[place] += 1
        report.kept += 1
        report.dots += found.dots
        if found.fitted:
            report.errors.append(found.error)

    def dataset(self, source: Path, seed: int) -> Dataset:
        if not self.rows:
            counts = summed(self.by_class.values()).left_out
            why = "; ".join(f"{n:,}: {reason}, e.g. {self.examples[reason]}" for reason, n in counts.most_common(5))
            raise NothingLeft(f"{source}: no sketch of {counts.total():,} could be kept ({why}); nothing was written")
        names = self._class_names()
        numbers = {name: number for number, name in enumerate(names)}
        order = np.random.default_rng(seed).permutation(len(self.rows))
        labels = np.array([numbers[name] for name, _ in self.places], np.int64)
        split = None
        if any(split_name for _, split_name in self.places):
            split = np.array([SPLITS[split_name or "train"] for _, split_name in self.places], np.uint8)[order]
        longest = max(int(exists(row).sum()) for row in self.rows)
        return Dataset(
            "sketch", np.stack([self.rows[i][:longest] for i in order]), labels[order], split=split, class_names=names,
            texts=[self.captions[i] for i in order] if any(self.captions) else None,
        )  # fmt: skip

    def duplicates(self) -> list[str]:
        """Return notes on exact duplicates."""
        again = [splits for splits in self.alike.values() if len(splits) > 1]
        if not again:
            return []
        count, across = sum(len(splits) - 1 for splits in again), sum(len(set(splits)) > 1 for splits in again)
        are = "drawing is an exact copy of another" if count == 1 else "drawings are exact copies of others"
        in_splits = f"; {across:,} {'is' if across == 1 else 'are'} in more than one split" if across else ""
        return [f"{count:,} {are} and kept{in_splits}"]

    def _class_names(self) -> tuple[str, ...]:
        """Sort, with training classes first, so that class numbers do not depend on the test set."""
        trained = {name for name, split in self.places if split in ("", "train")}
        return tuple(sorted({name for name, _ in self.places}, key=lambda name: (name not in trained, name)))

    def reports(self) -> tuple[ClassReport, ...]:
        return tuple(sorted(self.by_class.values(), key=lambda report: report.name))

    def summary(self) -> dict[str, Any]:
        """Return what the sidecar stores about the preparation."""
        total = summed(self.by_class.values())
        errors, left_out = total.errors, total.left_out
        fit = {"sketches": len(errors), "error_median": median(errors or [0.0]), "error_max": max(errors, default=0.0)}
        return {
            "fitted": {**fit, "error_unit": "Hausdorff distance on the canvas [-1, 1]"},
            "left_out": dict(left_out.most_common()),
            "remarks": dict(total.remarks.most_common()),
        }
