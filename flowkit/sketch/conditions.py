"""Images and texts of drawings, encoded while a data set is prepared.

The tokens go to a partial file as they come, so that memory stays small, and the same command resumes after an interruption.
"""

from __future__ import annotations

import csv
import io
import json
import re
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.data.encoded import Encoded, encoded_file
from flowkit.encoders import Encoder
from flowkit.encoders.pictures import SUFFIXES, read_image
from flowkit.errors import Unreadable, UserError, listing
from flowkit.rng import key
from flowkit.sketch.importers.items import Item
from flowkit.sources.files import open_files

VARIANTS = 4  # renderings of a drawing, or selections of joined texts
NUMBERED = re.compile(r"[-_ ]\d+$")  # several images of a drawing, or drawings of an image: cat-1.jpg, cat-2.jpg


class Source(ABC):
    """Where the images or texts of drawings come from."""

    words: str  # for the sidecar: "photos", "rendered", "tags.json"

    @abstractmethod
    def of(self, item: Item, row: np.ndarray, number: int) -> list[tuple[str, Any]]:
        """Return the images or texts of a drawing: (what identifies it and its content, what the encoder reads)."""

    def notes(self) -> list[str]:
        """Return what was left over, for the report."""
        return []


class Folder(Source):
    """Photos by the name of their drawing: of cat/12.svg these are cat/12.jpg, cat/12-1.jpg, cat/12-2.png.

    A photo may also have several drawings: cat/12-1.svg and cat/12-2.svg show cat/12.jpg. Folders matter only if names repeat.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(f"--images: {folder} is {'not a folder' if folder.exists() else 'missing'}; expected a folder of "
                            "photos with the names of the drawings, or `render`")  # fmt: skip
        self.words, self.folder = folder.resolve().name, folder
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not found:
            raise UserError(f"--images: {folder} has no pictures ({listing(SUFFIXES)})")
        self.unused, self.missing = dict.fromkeys(found), list[str]()
        self.by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in found:
            self.by_stem[path.stem].append(path)
            if plain := _unnumbered(path.stem):
                self.by_stem[plain].append(path)

    def of(self, item: Item, row: np.ndarray, number: int) -> list[tuple[str, Any]]:
        where = Path(item.where)
        paths = self.by_stem.get(where.stem) or self.by_stem.get(_unnumbered(where.stem), [])
        same_folder = [path for path in paths if path.parent.name == where.parent.name]
        paths = same_folder or paths
        if not paths:
            self.missing.append(item.where)
        for path in paths:
            self.unused.pop(path, None)
        return [
            (f"{path.relative_to(self.folder)} {path.stat().st_size} {path.stat().st_mtime_ns}", path) for path in paths
        ]

    def notes(self) -> list[str]:
        return _left_over("an image", self.missing, [str(path.relative_to(self.folder)) for path in self.unused])


@dataclass
class Rendered(Source):
    """Pictures of the drawing itself, as a person may have drawn and scanned it."""

    seed: int
    variants: int = VARIANTS
    words: str = "rendered"

    def of(self, item: Item, row: np.ndarray, number: int) -> list[tuple[str, Any]]:
        digest = _digest(row)
        return [
            (f"{digest} {self.seed} {number} {turn}", (row, self.seed, number, turn)) for turn in range(self.variants)
        ]


class Own(Source):
    """The images that the source itself has, such as ControlSketch's photos."""

    words = "of the source"

    def of(self, item: Item, row: np.ndarray, number: int) -> list[tuple[str, Any]]:
        return [] if item.picture is None else [(item.where, item.picture)]


class Captions(Source):
    """The captions that the source itself has."""

    words = "of the source"

    def of(self, item: Item, row: np.ndarray, number: int) -> list[tuple[str, Any]]:
        return [(item.caption, item.caption)] if item.caption else []


class Texts(Source):
    """Texts by the name of their drawing, from a .json, .jsonl, .csv or .tsv file. One name may have several texts.

    join: the texts of a name are tags: all of them make one text, and `variants - 1` random selections of them make others.
    """

    def __init__(self, path: Path, source: Path, *, join: bool, variants: int, seed: int) -> None:
        self.words, self.join, self.variants, self.seed = path.name, join, variants, seed
        self.named = _read_texts(path, source)
        self.unused, self.missing = dict.fromkeys(self.named), list[str]()
        stems = Counter(Path(name).stem for name in self.named)
        self.by_stem = {Path(name).stem: name for name in self.named if stems[Path(name).stem] == 1}

    def of(self, item: Item, row: np.ndarray, number: int) -> list[tuple[str, Any]]:
        where, texts = item.where.replace("\\", "/"), list[str]()
        inner = where.partition("/")[2]  # below the folder that holds all
        plain = str(Path(where).with_suffix(""))
        for name in (where, inner, plain, Path(where).name, self.by_stem.get(Path(where).stem, "")):
            if name in self.named:
                texts = self.named[name]
                self.unused.pop(name, None)
                break
        if not texts:
            self.missing.append(item.where)
        if self.join and texts:
            rng = np.random.Generator(np.random.Philox(key(self.seed, "tags", number)))
            joined = [", ".join(texts)]
            for _ in range(self.variants - 1):
                few = 1 + int(rng.random() * len(texts))
                order = sorted(range(len(texts)), key=lambda _: rng.random())[:few]
                joined.append(", ".join(texts[place] for place in order))
            texts = joined
        return [(text, text) for text in texts]

    def notes(self) -> list[str]:
        return _left_over("a text", self.missing, list(self.unused))


@dataclass
class Encoding:
    """Encodes the images or texts of the kept drawings, in batches, and remembers what it could not read."""

    encoder: Encoder
    source: Source
    out: Path  # the data set's .safetensors
    batch_size: int = 32
    first_texts: list[str] = field(default_factory=list)  # the first text of each row, or ""
    _waiting: list[tuple[str, Any]] = field(default_factory=list)  # (what identifies it, what to read)
    _known: dict[str, int | None] = field(default_factory=dict)  # by identity: the item, None if unreadable
    _names: dict[int, list[str]] = field(default_factory=dict)  # by row: what identifies its items
    unreadable: Counter[str] = field(default_factory=Counter)  # by reason
    examples: dict[str, str] = field(default_factory=dict)
    shortened: int = 0  # texts that the encoder read only the start of
    resumed: int = 0  # items found in the partial file

    def __post_init__(self) -> None:
        kind = self.encoder.kind
        self.path = encoded_file(self.out, kind)
        self.partial, self.index = (self.path.with_name(f".{self.path.name}.{part}") for part in ("partial", "index"))
        self._item = self.encoder.tokens * self.encoder.width
        head = {"encoder": self.encoder.name, "fingerprint": self.encoder.fingerprint, "source": self.source.words}
        self._masks: list[np.ndarray | None] = []  # of each item in the partial file; None: all tokens exist
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        if not self._resume(head):
            self.partial.write_bytes(b"")
            self.index.write_text(json.dumps(head) + "\n", "utf-8")

    def _resume(self, head: dict[str, str]) -> bool:
        """Read what an interrupted call has encoded. False if there is nothing, or it was encoded otherwise."""
        try:
            lines = self.index.read_text("utf-8").splitlines()
            if not lines or json.loads(lines[0]) != head:
                return False
            size, whole = self.partial.stat().st_size, self._item * 2
            for line in lines[1:]:
                name, mask = json.loads(line)
                if (len(self._masks) + 1) * whole > size:
                    break
                self._known[name] = len(self._masks)
                self._masks.append(None if mask is None else np.array(mask, bool))
        except (OSError, ValueError):
            self._known, self._masks = {}, []
            return False
        self.resumed = len(self._masks)
        with self.partial.open("r+b") as file:
            file.truncate(self.resumed * whole)
        self.index.write_text("".join([lines[0] + "\n", *map(_line, self._known, self._masks)]), "utf-8")
        return True

    def add(self, item: Item, row: np.ndarray, number: int) -> None:
        """Encode what belongs to the drawing `row`, the `number`-th that is kept."""
        found = self.source.of(item, row, number)
        if self.encoder.kind == "text":
            self.first_texts.append(found[0][1] if found else "")
        self._names[number] = [name for name, _ in found]
        for name, what in found:
            if name in self._known:
                continue
            self._waiting.append((name, what))
            if len(self._waiting) >= self.batch_size:
                self.flush()

    def flush(self) -> None:
        """Encode what waits, and append it to the partial file."""
        waiting, self._waiting = self._waiting, []
        ready: dict[str, Any] = {}
        for name, what in waiting:
            if name in ready or name in self._known:
                continue
            try:
                ready[name] = self._read(what)
            except Unreadable as problem:
                self._known[name] = None
                self.unreadable[problem.reason] += 1
                self.examples.setdefault(problem.reason, name.split(" ")[0])
        if ready:
            tokens, masks = self.encoder.encode(list(ready.values()))
            masks = [None if masks is None or mask.all() else mask for mask in (tokens if masks is None else masks)]
            with self.partial.open("ab") as file:
                file.write(np.ascontiguousarray(tokens, np.float16).tobytes())
            with self.index.open("a", encoding="utf-8") as file:
                file.writelines(map(_line, ready, masks))
            for name, mask in zip(ready, masks, strict=True):
                self._known[name] = len(self._masks)
                self._masks.append(mask)

    def _read(self, what: Any) -> Any:
        """Return what the encoder reads: an image in RGB, or a text. Raises Unreadable."""
        if self.encoder.kind == "text":
            self.shortened += self.encoder.too_long(what)
            return what
        if isinstance(what, tuple):
            from flowkit.sketch.rendering import rendered

            row, seed, number, turn = what
            return rendered(row, seed, number, turn)
        picture: Any = what() if callable(what) else what
        return read_image(picture)

    def encoded(self, order: np.ndarray) -> Encoded:
        """Return the items of the rows in `order`. Raises UserError if there are none at all."""
        self.flush()
        kind = self.encoder.kind
        items = [
            [self._known[name] for name in self._names[int(row)] if self._known[name] is not None] for row in order
        ]
        picked = [item for some in items for item in some]
        if not picked:
            self.clear()
            why = "; ".join(
                f"{n:,}: {reason}, e.g. {self.examples[reason]}" for reason, n in self.unreadable.most_common(3)
            )
            raise UserError(
                f"no drawing has {'an image' if kind == 'image' else 'a text'}"
                + (f" ({why})" if why else "")
                + _pairs(kind)
            )
        counts = [len(some) for some in items]
        tokens = np.memmap(
            self.partial, np.float16, "r", shape=(len(self._masks), self.encoder.tokens, self.encoder.width)
        )
        masks = None
        if any(mask is not None for mask in self._masks):
            masks = np.ones(tokens.shape[:2], bool)
            for place, mask in enumerate(self._masks):
                masks[place] = True if mask is None else mask
        if kind == "text" and masks is not None:  # without columns that no text reaches
            longest = int(np.flatnonzero(masks.any(axis=0)).max(initial=0)) + 1
            tokens, masks = tokens[:, :longest], masks[:, :longest]
        info = {"encoder": self.encoder.name, "fingerprint": self.encoder.fingerprint, "source": self.source.words,
                "items": len(picked)}  # fmt: skip
        return Encoded(tokens, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), masks, info,
                       np.array(picked, np.int64))  # fmt: skip

    def notes(self) -> list[str]:
        """Return what was not read or only in part, for the report."""
        kind, found = self.encoder.kind, self.source.notes()
        found += [f"{n:,} {kind}{'s' * (n > 1)} not read: {reason}, e.g. {self.examples[reason]}"
                  for reason, n in self.unreadable.most_common()]  # fmt: skip
        if self.shortened:
            found.append(f"{self.shortened:,} text{'s are' if self.shortened > 1 else ' is'} longer than {self.encoder.name} "
                         f"reads ({self.encoder.tokens} tokens): only the start counts")  # fmt: skip
        if self.resumed:
            found.append(f"{self.resumed:,} {kind}s had been encoded by an earlier call that was interrupted")
        return found

    def clear(self) -> None:
        """Remove the partial file, once the data set is written."""
        self.partial.unlink(missing_ok=True)
        self.index.unlink(missing_ok=True)


def _left_over(a: str, drawings: list[str], others: list[str]) -> list[str]:
    """Return `2 drawings without an image: ...` and `1 image without a drawing: ...`, if there are any."""
    kind = a.split(" ")[1]
    said = ((f"drawing{'s' * (len(drawings) > 1)} without {a}", drawings),
            (f"{kind}{'s' * (len(others) > 1)} without a drawing", others))  # fmt: skip
    return [f"{len(names):,} {what}: {listing(names, 5)}" for what, names in said if names]


def _pairs(kind: str) -> str:
    return (
        ": images are paired with drawings by file name, such as cat/12.jpg with cat/12.svg"
        if kind == "image"
        else (': texts are paired with drawings by file name, such as {"cat/12.svg": "a cat"}')
    )


def _unnumbered(stem: str) -> str:
    """Return `cat-12` for `cat-12-3`, and "" for a name without a number at its end."""
    return NUMBERED.sub("", stem) if NUMBERED.search(stem) else ""


def _line(name: str, mask: np.ndarray | None) -> str:
    return json.dumps([name, None if mask is None else mask.astype(int).tolist()]) + "\n"


def _digest(row: np.ndarray) -> str:
    return blake2b(np.ascontiguousarray(row).tobytes(), digest_size=8).hexdigest()


def _read_texts(path: Path, source: Path) -> dict[str, list[str]]:
    """Return the texts by name, from a file on the disk or inside `source`.

    Raises UserError for a file that is missing, none of the formats, or not in UTF-8 or UTF-16.
    """
    inside = not path.exists() and (source.is_dir() or source.suffix.lower() == ".zip")
    try:
        with open_files(source if inside else path) as files:
            entry = next((one for one in files.entries if not inside or one.name == str(path)), None)
            if entry is None:
                raise UserError(f"--texts: {path} is neither a file nor in {source}")
            data = files.read(entry, 1 << 30)
    except Unreadable as problem:
        raise UserError(f"--texts: {path}: {problem}") from None
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"--texts: {path}: is not in UTF-8 (byte {error.start}); save it as UTF-8") from None
    suffix = next((one for one in reversed(path.suffixes) if one != ".gz"), "")
    try:
        pairs = list(_parsed(text, suffix))
    except (ValueError, AttributeError, KeyError, IndexError, TypeError) as error:
        raise UserError(
            f'--texts: {path}: expected .json {{"cat/12.svg": "a cat"}} (or a list of texts for each name), .jsonl with '
            f'"file" and "text", or .csv or .tsv with a name and a text per line ({error})'
        ) from None
    named: dict[str, list[str]] = defaultdict(list)
    for name, texts in pairs:
        kept = [" ".join(str(one).split()) for one in ([texts] if isinstance(texts, str) else texts)]
        named[str(name).replace("\\", "/")] += [one for one in kept if one]
    if not any(named.values()):
        raise UserError(f"--texts: {path}: has no texts")
    return dict(named)


def _parsed(text: str, suffix: str) -> Iterable[tuple[str, Any]]:
    if suffix == ".json":
        return json.loads(text).items()
    if suffix == ".jsonl":
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        return [(row["file"], row.get("texts", row.get("text"))) for row in rows]
    if suffix not in (".csv", ".tsv"):
        raise ValueError(f"{suffix or 'no suffix'} is none of these")
    lines = [line for line in csv.reader(io.StringIO(text), delimiter="\t" if suffix == ".tsv" else ",") if line]
    if lines and [cell.strip().lower() for cell in lines[0][:2]] in (
        ["file", "text"],
        ["name", "text"],
        ["image", "caption"],
    ):
        lines = lines[1:]
    return [(line[0], line[1:2] or [""]) for line in lines]
