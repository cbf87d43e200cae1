"""Encode sentences in shards that are kept on disk, so that interrupted encoding can resume."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.data.files import read_json, write_json
from flowkit.domain import Tell
from flowkit.errors import UserError
from flowkit.text.codec import Codec

SHARD = 2048  # sentences; at most this many are lost if the process is killed


class Scratch:
    """A hidden folder next to the future data set that collects its vectors in `vectors.f32`, described by `encoding.json`.

    Vectors are only appended. The JSON is replaced after each shard is on disk and says how many vectors are valid; anything
    that a killed process left beyond them is cut off.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self.folder = out.with_name(f".{out.stem}.partial")
        self._vectors, self._about = self.folder / "vectors.f32", self.folder / "encoding.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Create and lock the folder for this process until the block ends. An empty folder is removed.

        Raises UserError if another process uses it, or it cannot be created.
        """
        import fcntl

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written to ({error.strerror}); choose another --out") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    f"{self.folder}: another process is preparing this data set; wait for it, or choose another --out"
                ) from None
            for suffix in (".safetensors", ".jsonl", ".json"):
                name = self._out.with_suffix(suffix).name
                for stale in self._out.parent.glob(f".{glob.escape(name)}.*.partial"):
                    stale.unlink(missing_ok=True)  # a partial file of a killed process
            try:
                yield
            finally:
                if not self._about.exists():  # nothing to keep
                    self.remove()

    def encoded(self) -> int:
        """Return the number of encoded sentences in the folder."""
        return int(read_json(self._about)["done"]) if self._about.exists() else 0

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def resume(self, described: dict[str, Any], row_bytes: int) -> tuple[dict[str, Any], str]:
        """Return the JSON for vectors so described ("done": 0 if there are none), and a notice for the user."""
        if not self._about.exists():
            return {**described, "done": 0, "truncated": 0}, ""
        try:
            found = read_json(self._about)
            changed = [name for name, value in described.items() if found.get(name) != value]
            told = f"the earlier vectors are not reused, because the {' and '.join(changed)} changed" if changed else ""
            done = min(int(found["done"]), self._vectors.stat().st_size // row_bytes)
            truncated = int(found["truncated"])
        except (UserError, OSError, KeyError, TypeError, ValueError):
            done, truncated = 0, 0
            told = f"the earlier vectors are not reused, because {self._about} cannot be read"
        if told:
            self._about.unlink()  # before its vectors are overwritten, so that it never describes others
            done, truncated = 0, 0
        return {**described, "done": done, "truncated": truncated}, told

    def append(self, vectors: np.ndarray, about: dict[str, Any]) -> None:
        """Append `vectors` after the first `about["done"]` rows, and count them."""
        with self._vectors.open("r+b" if self._vectors.exists() else "w+b") as file:
            file.truncate(about["done"] * vectors[0].nbytes)
            file.seek(0, os.SEEK_END)
            file.write(np.ascontiguousarray(vectors, np.float32).data)
            file.flush()
            os.fsync(file.fileno())
        about["done"] += len(vectors)
        write_json(self._about, about)

    def rows(self, count: int, dimension: int) -> np.ndarray:
        """Return the first `count` vectors, memory-mapped."""
        return np.memmap(self._vectors, "<f4", mode="r", shape=(count, dimension))


def encode(
    texts: Sequence[str],
    codec: Codec,
    lang: str,
    scratch: Scratch,
    *,
    dtype: str = "fp32",
    tell: Tell | None = None,
    notice: Callable[[str], object] | None = None,
) -> tuple[np.ndarray, int]:
    """Return vectors (N, D) float32, memory-mapped in `scratch`, and the number of truncated sentences.

    Resumes an interrupted call with the same texts, codec, language and dtype. Anything else in `scratch` is discarded, with
    a `notice`. Call it inside `scratch.locked()`. Raises UserError if the disk is full.
    """
    described = {"sentences": _digest(texts), "codec": codec.identity(), "language": lang, "dtype": dtype}
    described = json.loads(json.dumps(described))  # as it is read back from the file
    about, told = scratch.resume(described, row_bytes=4 * codec.dimension)
    if about["done"]:
        told = f"{about['done']:,} of {len(texts):,} sentences are already encoded; resuming"
    if told and notice is not None:
        notice(told)
    before = getattr(codec, "truncated", 0) - about["truncated"]
    try:
        while about["done"] < len(texts):
            done = about["done"]
            shard = texts[done : done + SHARD]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # about truncated sentences: the summary counts them all
                vectors = codec.encode(
                    shard,
                    lang=lang,
                    tell=tell and (lambda what, more, _, done=done: tell(what, done + more, len(texts))),
                )
            assert vectors.shape == (len(shard), codec.dimension) and vectors.dtype == np.float32, "the Codec protocol"
            about["truncated"] = getattr(codec, "truncated", 0) - before
            scratch.append(vectors, about)
    except OSError as error:
        kept = f"{about['done']:,} of {len(texts):,} encoded sentences are kept"
        raise UserError(
            f"{scratch.folder}: cannot be written to ({error.strerror}); {kept}. Free some space, and rerun to resume"
        ) from None
    return scratch.rows(len(texts), codec.dimension), about["truncated"]


def _digest(texts: Sequence[str]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for text in texts:
        found.update(text.encode() + b"\n")  # texts have no line feeds
    return found.hexdigest()
