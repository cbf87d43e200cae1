"""The cache of trained miniatures: weights, tokenizer, and a JSON manifest that is written last. Does not import torch."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from flowkit.data.files import read_json, replacing, write_json
from flowkit.errors import UserError
from flowkit.text.mini.recipe import MiniRecipe

FOLDER_VARIABLE = "FLOWKIT_CACHE"
WEIGHTS, TOKENIZER, MANIFEST, LOCK = "model.safetensors", "tokenizer.model", "mini.json", "lock"


@dataclass(frozen=True)
class Kept:
    """A complete miniature on disk."""

    folder: Path
    fingerprint: str  # hash of weights and tokenizer; vectors are comparable only if it is equal

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    @property
    def tokenizer(self) -> Path:
        return self.folder / TOKENIZER


def cache_folder() -> Path:
    """Return $FLOWKIT_CACHE, or the user's cache directory."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get(FOLDER_VARIABLE) or user_cache_dir("flowkit")).expanduser().absolute()


def folder_of(recipe: MiniRecipe) -> Path:
    return cache_folder() / "mini-sonar" / f"{recipe.size}-{recipe.fingerprint}"


def find(recipe: MiniRecipe) -> Kept | None:
    """Return the miniature of a recipe, or None if none was trained. Raises UserError if files are missing or corrupt."""
    folder = folder_of(recipe)
    if not (folder / MANIFEST).exists():
        return None
    kept = Kept(folder, str(read_json(folder / MANIFEST).get("fingerprint")))
    if fingerprint_of(kept.weights, kept.tokenizer) != kept.fingerprint:
        raise UserError(f"{folder}: checksum mismatch: the files of the miniature SONAR are corrupt")
    return kept


def fingerprint_of(weights: Path, tokenizer: Path) -> str:
    """Return a hash of both files. Raises UserError if one cannot be read."""
    digest = hashlib.sha256()
    for path in (weights, tokenizer):
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def writing(recipe: MiniRecipe) -> Iterator[Path]:
    """Yield the folder to write weights and tokenizer to. The miniature is valid once the block ends without an error.

    The manifest is removed first and written last, so an interruption leaves no incomplete miniature.
    """
    folder = folder_of(recipe)
    manifest = folder / MANIFEST
    manifest.unlink(missing_ok=True)
    yield folder
    fingerprint = fingerprint_of(folder / WEIGHTS, folder / TOKENIZER)
    write_json(manifest, {"name": "mini-sonar", "fingerprint": fingerprint, "recipe": asdict(recipe)})


@contextlib.contextmanager
def alone(recipe: MiniRecipe) -> Iterator[None]:
    """Hold a lock, so that of several processes on this machine one trains the miniature and the others wait."""
    from filelock import FileLock

    folder = folder_of(recipe)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire()
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written to ({error.strerror}); the miniature SONAR is cached there. "
            f"Set the environment variable {FOLDER_VARIABLE} to a writable folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


def write_bytes(path: Path, content: bytes) -> None:
    with replacing(path) as partial:
        partial.write_bytes(content)
