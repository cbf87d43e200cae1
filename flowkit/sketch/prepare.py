"""Prepare sketches from files as one data set: read them, fit each into a row of cubics, write them, report all losses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit.data.dataset import SPLITS, Dataset, write_dataset
from flowkit.data.target import free_target
from flowkit.domain import Tell
from flowkit.errors import NothingLeft, Unreadable, UserError, listing, nearest
from flowkit.rng import key
from flowkit.sketch.budget import Budgeted, to_size
from flowkit.sketch.domain import MAX_COORDINATE
from flowkit.sketch.importers import quickdraw
from flowkit.sketch.importers.detect import detect
from flowkit.sketch.importers.items import Item
from flowkit.sketch.strokes import exists
from flowkit.sources.files import open_files

if TYPE_CHECKING:
    from flowkit.sketch.conditions import Encoding

OFFLINE = {"image": "efficientnet-lite0", "text": "minilm"}  # encoders whose weights a package has
VALIDATION = 0.1  # fraction of the rows that validate, if classes are held out
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
    encoded: dict[str, str] = field(default_factory=dict)  # of images and texts: how many, and as what

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
    hold_out: Sequence[str] = (),
    images: str | None = None,
    image_encoder: str | None = None,
    texts: Path | None = None,
    text_encoder: str | None = None,
    join_texts: bool = False,
    variants: int | None = None,
    encoder_weights: Mapping[str, Path] | None = None,
    device: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    tell: Tell | None = None,
) -> PrepareReport:
    """Read all sketches of `source` and write x on the canvas [-1, 1], with class labels and splits, to `out`.

    x is (N, S, 10) with the pen strokes of the files (see `flowkit.sketch.strokes`). S is the largest number of cubics that a
    sketch has, at most `cubics`, by default 32. exactly: write x (N, exactly, 8) instead, without pen strokes; sketches with
    fewer cubics are cut into more. simplify: merge the cubics of a stroke as long as it moves by less, in canvas units.
    Captions become the texts of the rows.

    images: a folder of photos with the names of the drawings, or "render": the drawings themselves as pictures, `variants` of
    each (by default 4). image_encoder: encodes them, or the images of the source (ControlSketch). texts: a file with texts by
    the names of the drawings; text_encoder: encodes them, or the captions of the source. join_texts: the texts of a drawing are
    tags, to be joined to one text, and to `variants - 1` random selections. encoder_weights: a file by kind, "image" or "text".
    hold_out: these classes become the test split, to measure unseen classes; a tenth of the other rows validates.

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
    asked = _Asked(
        images, image_encoder, texts, text_encoder, join_texts, variants, encoder_weights or {}, device, seed
    )
    encodings = asked.encodings(source, paths[0])
    with open_files(source) as files:
        name, read = detect(source, files)
        if name == "controlsketch" or text_encoder is not None:
            free_target(out, overwrite=overwrite, sources=[source], texts=True, example="sketches")
        if recognized_only:
            if name != "quickdraw":
                raise UserError(f"--recognized-only: requires Quick, Draw! data, and {source} holds {name}")
            read = partial(quickdraw.read, recognized_only=True)
        total = sum(entry.size for entry in files.entries)
        for item in read(files):
            row = tally.add(item)
            if row is not None:
                for encoding in encodings:
                    encoding.add(item, row, len(tally.rows) - 1)
            if tell is not None:
                tell("reading", min(files.consumed, total), total)
        for encoding in encodings:  # while the source is open
            encoding.flush()
    data, order = tally.dataset(source, seed, tuple(hold_out))
    for encoding in encodings:
        data.encoded[encoding.encoder.kind] = encoding.encoded(order)
        if any(encoding.first_texts):
            data.texts = [encoding.first_texts[row] for row in order]
    if data.texts is not None:
        paths = (*paths, paths[0].with_suffix(".jsonl"))
    notes = (*files.notes, *tally.duplicates(), *(note for encoding in encodings for note in encoding.notes()))
    shape = {"cubics": size} if exactly is None else {"exactly": exactly}
    prepared = {**shape, "simplify": simplify, "over": over, "seed": seed, **tally.summary(), "notes": list(notes)}
    data.info = {"source": {"name": source.resolve().name, "format": name}, "prepared": prepared}
    write_dataset(paths[0], data)
    for encoding in encodings:
        encoding.clear()
    splits = {} if data.split is None else {key: len(data.rows(key)) for key in SPLITS}
    encoded = {kind: f"{one.info['items']:,} {kind}s of {int((one.counts > 0).sum()):,} drawings, each {one.shape[0]} x "
               f"{one.shape[1]} by {one.info['encoder']}" for kind, one in data.encoded.items()}  # fmt: skip
    return PrepareReport(source, name, paths, data.x.shape, splits, tally.reports(), tally.examples, notes, encoded)


@dataclass(frozen=True)
class _Asked:
    """What to encode as conditions."""

    images: str | None
    image_encoder: str | None
    texts: Path | None
    text_encoder: str | None
    join_texts: bool
    variants: int | None
    weights: Mapping[str, Path]
    device: str
    seed: int

    def encodings(self, source: Path, out: Path) -> list[Encoding]:
        """Return what encodes, with its sources and encoders open. Raises UserError for options that do not go together."""
        for kind, asked, encoder in (
            ("image", self.images, self.image_encoder),
            ("text", self.texts, self.text_encoder),
        ):
            if asked is not None and encoder is None:
                raise UserError(
                    f"--{kind}s: needs --{kind}-encoder, such as {OFFLINE[kind]}, which works without a network"
                )
        if self.join_texts and self.texts is None:
            raise UserError("--join-texts: only used with --texts; add it, or leave out --join-texts")
        if self.variants is not None and not (self.images == "render" or self.join_texts):
            raise UserError("--variants: only used with --images render or --join-texts; leave out --variants")
        if self.weights and not (self.image_encoder or self.text_encoder):
            raise UserError("--encoder-weights: needs --image-encoder or --text-encoder")
        if self.image_encoder is None and self.text_encoder is None:
            return []
        from flowkit.encoders import open_encoder
        from flowkit.sketch.conditions import VARIANTS, Captions, Encoding, Folder, Own, Rendered, Texts

        variants, found = self.variants or VARIANTS, []
        if self.image_encoder is not None:
            photos = Own() if self.images is None else None
            if photos is None:
                photos = Rendered(self.seed, variants) if self.images == "render" else Folder(Path(str(self.images)))
            found.append((self.image_encoder, "image", photos))
        if self.text_encoder is not None:
            texts = Captions()
            if self.texts is not None:
                texts = Texts(self.texts, source, join=self.join_texts, variants=variants, seed=self.seed)
            found.append((self.text_encoder, "text", texts))
        return [Encoding(open_encoder(name, kind, weights=self.weights.get(kind), device=self.device), of, out)
                for name, kind, of in found]  # fmt: skip


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

    def add(self, item: Item) -> np.ndarray | None:
        """Count a drawing, and return its row if it is kept."""
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
            return None
        self._keep(found, place, report)
        self.captions.append(item.caption)
        report.remarks.update(item.remarks)
        return found.x

    def _keep(self, found: Budgeted, place: tuple[str, str], report: ClassReport) -> None:
        self.rows.append(found.x)
        self.places.append(place)
        self.alike.setdefault(blake2b(found.x.tobytes(), digest_size=16).digest(), []).append(place[1])
        self.kept[place] += 1
        report.kept += 1
        report.dots += found.dots
        if found.fitted:
            report.errors.append(found.error)

    def dataset(self, source: Path, seed: int, hold_out: Sequence[str] = ()) -> tuple[Dataset, np.ndarray]:
        """Return the rows, shuffled, and which of the drawings as read each one is."""
        if not self.rows:
            counts = summed(self.by_class.values()).left_out
            why = "; ".join(f"{n:,}: {reason}, e.g. {self.examples[reason]}" for reason, n in counts.most_common(5))
            raise NothingLeft(f"{source}: no sketch of {counts.total():,} could be kept ({why}); nothing was written")
        if hold_out:
            self._hold_out(source, hold_out, seed)
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
        ), order  # fmt: skip

    def _hold_out(self, source: Path, held: Sequence[str], seed: int) -> None:
        """Put the classes `held` into the test split, and a tenth of the other rows into the validation split."""
        known = {name for name, _ in self.places}
        if any(split for _, split in self.places):
            raise UserError(f"--hold-out: {source} has splits of its own; leave out --hold-out")
        for name in held:
            if name not in known:
                raise UserError(
                    f"--hold-out {name}: no such class; the classes are {listing(sorted(known))}{nearest(name, known)}"
                )
        others = [row for row, (name, _) in enumerate(self.places) if name not in held]
        if not others:
            raise UserError("--hold-out: names all classes, so no training rows are left")
        rng = np.random.Generator(np.random.Philox(key(seed, "validation rows")))
        validation = {others[place] for place in rng.permutation(len(others))[: round(VALIDATION * len(others))]}
        self.places = [(name, "test" if name in held else "validation" if row in validation else "train")
                       for row, (name, _) in enumerate(self.places)]  # fmt: skip

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
