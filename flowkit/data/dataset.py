"""Prepared data: `<name>.safetensors` with the rows, and `<name>.json` that describes them. Torch-free.

The sentences of rows, if any, are in `<name>.jsonl`, one `{"text": ...}` per row, read on demand.

Samples have the same format.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit.data.arrays import forget_pages, gather, write_tensors
from flowkit.data.encoded import Encoded, encoded_file, read_encoded, write_encoded
from flowkit.data.files import json_text, read_json, replacing
from flowkit.data.header import NUMPY_NAMES, TensorEntry, read_header
from flowkit.data.texts import TextLines, write_texts
from flowkit.errors import UserError
from flowkit.html import ShownAsHtml
from flowkit.progress import Progress
from flowkit.registry import STORED_KINDS

if TYPE_CHECKING:
    from flowkit.data.normalizers import Normalizer

TRAIN, VALIDATION, TEST = 0, 1, 2
NORMALIZER = "normalizer."  # prefix of the names of the normalizer's tensors
SPLITS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
NULL = -1  # label of the null class, for a row without a label
NULL_NAMES = ("null", "<null>")  # name of the null class among others; the second if the first is taken


@dataclass(repr=False)
class Dataset(ShownAsHtml):
    """Rows of one kind. `x` may be a read-only memory map, which is never copied here."""

    kind: str  # "sketch", "text", "points", "array" or an import path; kept as files store it
    x: np.ndarray  # (N, ...) float32, in the domain's own units
    class_label: np.ndarray | None = None  # (N,) int64
    condition: np.ndarray | None = None  # (N, C) or (N, P, C) float32
    split: np.ndarray | None = None  # (N,) uint8: 0 train, 1 validation, 2 test
    class_names: tuple[str, ...] = ()
    info: dict[str, Any] = field(default_factory=dict)  # its origin; kept in the sidecar
    texts: Sequence[str] | None = None  # (N,) sentences of the rows
    noise: np.ndarray | None = None  # (N, ...) float32: noise that each sample came from, as the model saw it (reflow)
    normalizer: Normalizer | None = None  # with noise: the model's, which pairs x with the noise
    condition_mask: np.ndarray | None = None  # (N, P) bool: True for tokens of `condition`; None: all
    encoded: dict[str, Encoded] = field(default_factory=dict)  # images and texts of the rows, by "image" and "text"
    used: tuple[str, ...] | None = None  # the kinds of conditions that a model is given; None: all that there are

    def __post_init__(self) -> None:
        self.kind = STORED_KINDS.get(self.kind, self.kind)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: int | slice | Sequence[int] | np.ndarray) -> Dataset:
        """Return a data set with these rows: `data[:10]`, `data[[3, 1]]`, `data[labels == 0]`; `data[5]` has one."""
        if isinstance(rows, int | np.integer | slice):
            picked = range(len(self))[rows]
            return self.take(np.asarray([picked] if isinstance(picked, int) else picked, np.int64))
        return self.take(np.arange(len(self))[np.asarray(rows)])

    def __repr__(self) -> str:
        parts = [f"{len(self):,} row{'s' * (len(self) != 1)} of shape {self.x.shape[1:]}"]
        if self.class_label is not None:
            parts.append(f"{len(self.class_names):,} classes")
        if self.condition is not None:
            parts.append(f"condition {self.condition.shape[1:]}")
        parts += [f"{len(one.tokens):,} {kind}s as {one.shape}" for kind, one in self.encoded.items()]
        if self.split is not None:
            parts.append(" + ".join(f"{count:,} {name}" for name in SPLITS if (count := len(self.rows(name)))))
        parts += [name for name in ("texts", "noise") if getattr(self, name) is not None]
        return f"<Dataset {self.kind}: {', '.join(filter(None, parts))}>"

    def save(self, path: Path | str) -> Path:
        """Write `path`.safetensors and `path`.json (and .jsonl with texts); returns the first. Replaces earlier files."""
        return write_dataset(path, self)

    def rows(self, split: str) -> np.ndarray:
        """Return the row indices (int64) of a split. Without a split, every row is a training row."""
        if self.split is None:
            return np.arange(len(self)) if split == "train" else np.empty(0, np.int64)
        return np.flatnonzero(self.split == SPLITS[split])

    def take(self, rows: np.ndarray) -> Dataset:
        """Return a copy of the data set with only `rows`, in that order."""
        pick = lambda a: None if a is None else np.ascontiguousarray(a[rows])  # noqa: E731
        return Dataset(self.kind, np.ascontiguousarray(self.x[rows]), pick(self.class_label), pick(self.condition),
                       pick(self.split), self.class_names, self.info,
                       None if self.texts is None else [self.texts[int(row)] for row in rows], pick(self.noise),
                       self.normalizer, pick(self.condition_mask), {kind: one.take(rows) for kind, one in self.encoded.items()},
                       self.used)  # fmt: skip

    @property
    def condition_kinds(self) -> tuple[str, ...]:
        """The kinds of conditions that a model of the rows is given, by their names in a recipe."""
        told = {"class": self.class_label, "condition": self.condition, **self.encoded}
        return tuple(
            kind for kind, array in told.items() if array is not None and (self.used is None or kind in self.used)
        )

    def tokens(self, rows: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return copies of `condition` and `condition_mask` for those rows."""
        condition, mask = (
            None if array is None else gather(array, rows) for array in (self.condition, self.condition_mask)
        )
        return condition, mask

    def encoded_of(
        self, kinds: Iterable[str], rows: np.ndarray, turns: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Return copies of the images' and texts' tokens of those rows, by kind, and masks as "image_mask"; see `Encoded.of`."""
        found: dict[str, np.ndarray] = {}
        for kind in kinds:
            tokens, mask = self.encoded[kind].of(rows, None if turns is None else turns.get(kind))
            found |= {kind: tokens} if mask is None else {kind: tokens, f"{kind}_mask": mask}
        return found

    def titles(self) -> list[str]:
        """Return a title for each row: its class, or its number."""
        if self.class_label is None:
            return [str(i) for i in range(len(self))]
        return [self.class_names[label] for label in self.class_label]

    def class_counts(self) -> dict[str, int]:
        """Return the number of rows per class, in class order; empty without labels."""
        if self.class_label is None:
            return {}
        counts = np.bincount(self.class_label, minlength=len(self.class_names))
        return dict(zip(self.class_names, counts.tolist(), strict=True))


def null_name(class_names: Sequence[str]) -> str:
    """Return the name of the null class among these classes."""
    return NULL_NAMES["null" in class_names]


def data_files(path: Path | str) -> tuple[Path, Path]:
    """Return the (.safetensors, .json) pair for `path`: data with or without suffix, or a folder of samples."""
    path = Path(path)
    if path.is_dir():
        path = path / "samples.safetensors"
    elif path.suffix not in (".safetensors", ".json"):
        path = path.with_name(path.name + ".safetensors")
    return path.with_suffix(".safetensors"), path.with_suffix(".json")


def write_dataset(
    path: Path | str,
    data: Dataset,
    rows: np.ndarray | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write the files, all or none, and return the .safetensors. Raises UserError.

    rows: write only these, in that order, without reading all of a memory-mapped x. progress: called with bytes and total.
    """
    tensors_path, json_path = data_files(path)
    arrays: dict[str, np.ndarray] = {"x": data.x.astype(np.float32, copy=False)}
    if data.class_label is not None:
        arrays["class_label"] = data.class_label.astype(np.int64, copy=False)
    if data.condition is not None:
        arrays["condition"] = data.condition.astype(np.float32, copy=False)
    if data.condition_mask is not None:
        arrays["condition_mask"] = data.condition_mask.astype(bool, copy=False)
    if data.split is not None:
        arrays["split"] = data.split.astype(np.uint8, copy=False)
    if data.noise is not None:
        arrays["noise"] = data.noise.astype(np.float32, copy=False)
    fixed = {}  # tensors without a row dimension
    if data.normalizer is not None:
        fixed = {NORMALIZER + name: array for name, array in data.normalizer.tensors().items()}
    texts_path = tensors_path.with_suffix(".jsonl")
    assert data.texts is None or len(data.texts) == len(data.x), "one text per row"
    picked = slice(None) if rows is None else rows
    shape = (len(data.x) if rows is None else len(rows), *data.x.shape[1:])
    counts: dict[str, Any] = {"rows": shape[0]}
    if data.split is not None:
        counts["split"] = {name: int((data.split[picked] == number).sum()) for name, number in SPLITS.items()}
    if data.class_label is not None:
        counts["classes"] = replace(data, class_label=data.class_label[picked]).class_counts()
    sidecar = {"kind": data.kind, "shape": list(shape), "class_names": list(data.class_names), **data.info}
    if data.normalizer is not None:
        sidecar["normalizer"] = data.normalizer.to_json()
    if data.texts is not None:
        sidecar["texts"] = texts_path.name
    if data.encoded:
        sidecar["encoded"] = {kind: one.info for kind, one in data.encoded.items()}
    stale = stale_files(json_path, data)
    with ExitStack() as files:  # all replaced together, in reverse order, once all are written
        files.enter_context(replacing(json_path)).write_text(json_text({**sidecar, "counts": counts}), "utf-8")
        if data.texts is not None:
            texts = data.texts if rows is None else [data.texts[int(row)] for row in rows]
            write_texts(files.enter_context(replacing(texts_path)), texts)
        for kind, one in data.encoded.items():
            write_encoded(files.enter_context(replacing(encoded_file(tensors_path, kind))), one, rows)
        write_tensors(files.enter_context(replacing(tensors_path)), arrays, rows, progress, fixed)
    for path in stale:
        path.unlink(missing_ok=True)
    return tensors_path


def stale_files(json_path: Path, data: Dataset) -> list[Path]:
    """Return the files of the data set being replaced that `data` does not have: its texts, images and texts as tokens."""
    try:
        before = read_json(json_path)
    except UserError:
        return []
    lines = [json_path.with_suffix(".jsonl")] if before.get("texts") and data.texts is None else []
    return lines + [encoded_file(json_path, kind) for kind in before.get("encoded") or {} if kind not in data.encoded]


def read_sidecar(path: Path | str) -> dict[str, Any]:
    """Read and check the JSON next to a data file. Raises UserError."""
    _, json_path = data_files(path)
    sidecar = read_json(json_path)
    names = sidecar.get("class_names", [])
    if not isinstance(sidecar.get("kind"), str):
        raise UserError(f'{json_path}: has no "kind"; expected "sketch", "embedding" or "points"')
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError(f'{json_path}: "class_names" must be a list of strings')
    return sidecar


def read_dataset(path: Path | str, *, check: bool = True) -> Dataset:
    """Open prepared data or samples, memory-mapped. check: read every row once to find values that are not finite.

    Raises UserError for a missing or truncated file, wrong dtypes or lengths, labels out of range, NaN or infinity.
    """
    tensors_path, json_path = data_files(path)
    header = read_header(tensors_path)
    sidecar = read_sidecar(path)
    if "x" not in header:
        found = ", ".join(header) or "none"
        raise UserError(f"{tensors_path}: has no tensor 'x' (it has {found}); is it prepared data?")
    rows = header["x"].shape
    if not rows or (rows[0] and not header["x"].numel):
        raise UserError(f"{tensors_path}: x has shape {rows}; expected (N, ...) with numbers in each row")
    wanted = {
        "x": "F32",
        "class_label": "I64",
        "condition": "F32",
        "split": "U8",
        "noise": "F32",
        "condition_mask": "BOOL",
    }
    arrays: dict[str, np.ndarray] = {}
    for name, dtype in wanted.items():
        if name not in header:
            continue
        entry = header[name]
        if entry.dtype != dtype:
            raise UserError(f"{tensors_path}: tensor {name!r} is {entry.dtype}; expected {dtype}")
        if not entry.shape or entry.shape[0] != (header["x"].shape or (0,))[0]:
            raise UserError(f"{tensors_path}: tensor {name!r} has shape {entry.shape}; x has shape {header['x'].shape}")
        if name in ("class_label", "split") and len(entry.shape) != 1:
            raise UserError(f"{tensors_path}: tensor {name!r} has shape {entry.shape}; expected one number per row")
        if name == "condition" and len(entry.shape) not in (2, 3):
            raise UserError(f"{tensors_path}: tensor {name!r} has shape {entry.shape}; expected (N, C) or (N, P, C)")
        if name == "condition_mask" and entry.shape != arrays.get("condition", np.empty(0)).shape[:-1]:
            raise UserError(f"{tensors_path}: tensor {name!r} has shape {entry.shape}; expected (N, P), one per token of "
                            "'condition' (N, P, C)")  # fmt: skip
        arrays[name] = memory_map(tensors_path, entry)
    names = tuple(sidecar.get("class_names", ()))
    labels = arrays.get("class_label")
    if labels is not None and len(labels) and not (labels.min() >= 0 and labels.max() < len(names)):
        bad = int(np.flatnonzero((labels < 0) | (labels >= len(names)))[0])
        raise UserError(
            f"{tensors_path}: class_label of row {bad} is {labels[bad]}; expected 0 to {len(names) - 1}, "
            f"the {len(names)} class_names of {json_path.name}"
        )
    if check:
        for name in ("x", "condition", "noise"):
            if name in arrays:
                check_finite(tensors_path, name, arrays[name])
    info = {key: value for key, value in sidecar.items()
            if key not in ("format", "kind", "shape", "class_names", "counts", "texts", "normalizer", "encoded")}  # fmt: skip
    texts_path = tensors_path.with_suffix(".jsonl")
    texts = TextLines(texts_path, len(arrays["x"])) if sidecar.get("texts") and texts_path.is_file() else None
    return Dataset(
        sidecar["kind"], arrays["x"], labels, arrays.get("condition"), arrays.get("split"), names, info, texts,
        arrays.get("noise"), _read_normalizer(tensors_path, json_path, header, sidecar), arrays.get("condition_mask"),
        {kind: read_encoded(encoded_file(tensors_path, kind), len(arrays["x"]), one)
         for kind, one in (sidecar.get("encoded") or {}).items()},
    )  # fmt: skip


def _read_normalizer(
    tensors_path: Path, json_path: Path, header: dict[str, TensorEntry], sidecar: dict[str, Any]
) -> Normalizer | None:
    """Return the normalizer that pairs were made with. Raises UserError if it is corrupt."""
    from flowkit.data.normalizers import normalizer_from_json

    if "normalizer" not in sidecar:
        return None
    try:
        tensors = {
            name.removeprefix(NORMALIZER): np.array(memory_map(tensors_path, entry))
            for name, entry in header.items()
            if name.startswith(NORMALIZER)
        }
        normalizer = normalizer_from_json(sidecar["normalizer"], tensors)
        if not normalizer.fits(header["x"].shape[1:]):
            raise ValueError(f"it was not fitted on rows of shape {header['x'].shape[1:]}")
        return normalizer
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{json_path}: its normalizer is not valid ({error})") from None


def says_texts(json_path: Path) -> bool:
    """Return whether a sidecar says that the .jsonl next to it belongs to the data set."""
    try:
        return bool(read_json(json_path).get("texts"))
    except UserError:
        return False


def memory_map(path: Path, entry: TensorEntry) -> np.ndarray:
    """Map a tensor of a .safetensors, read-only; its dtype must be in `NUMPY_NAMES`."""
    if entry.numel == 0:
        return np.empty(entry.shape, NUMPY_NAMES[entry.dtype])
    return np.memmap(path, NUMPY_NAMES[entry.dtype], mode="r", offset=entry.start, shape=entry.shape)


def check_finite(path: Path, name: str, array: np.ndarray, chunk_bytes: int = 1 << 26) -> None:
    """Raise UserError with the numbers of rows that contain NaN or infinity. name: the array's name in the message."""
    rows = max(1, chunk_bytes // max(1, array[:1].nbytes))
    bad: list[int] = []
    for start in range(0, len(array), rows):
        chunk = array[start : start + rows].reshape(min(rows, len(array) - start), -1)
        with np.errstate(all="ignore"):
            finite = np.isfinite(chunk.sum(axis=1))  # fast check of whole rows; sums that overflow are checked again
        bad += [start + int(i) for i in np.flatnonzero(~finite) if not np.isfinite(chunk[i]).all()]
        forget_pages(array)
    if bad:
        shown = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
        raise UserError(
            f"{path}: {len(bad)} of {len(array)} rows of {name!r} contain NaN or infinity: {shown}. Remove those rows"
        )
