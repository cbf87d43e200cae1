"""Where trained miniatures are kept: weights, tokenizer, and a JSON that says what they are, written last. Torch-free."""

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
    """A whole miniature on disk."""

    folder: Path
    fingerprint: str  # of its weights and tokenizer: what makes vectors comparable

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    @property
    def tokenizer(self) -> Path:
        return self.folder / TOKENIZER


def cache_folder() -> Path:
    """$FLOWKIT_CACHE, or the user's cache directory."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get(FOLDER_VARIABLE) or user_cache_dir("flowkit")).expanduser().absolute()


def folder_of(recipe: MiniRecipe) -> Path:
    return cache_folder() / "mini-sonar" / f"{recipe.size}-{recipe.fingerprint}"


def find(recipe: MiniRecipe) -> Kept | None:
    """The miniature of that recipe, None where none was trained. Raises UserError where files are missing or damaged."""
    folder = folder_of(recipe)
    if not (folder / MANIFEST).exists():
        return None
    kept = Kept(folder, str(read_json(folder / MANIFEST).get("fingerprint")))
    if fingerprint_of(kept.weights, kept.tokenizer) != kept.fingerprint:
        raise UserError(f"{folder}: the files are not those that were written")
    return kept


def fingerprint_of(weights: Path, tokenizer: Path) -> str:
    """Raises UserError where one cannot be read."""
    digest = hashlib.sha256()
    for path in (weights, tokenizer):
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def writing(recipe: MiniRecipe) -> Iterator[Path]:
    """The folder to put weights and tokenizer into; the miniature is there once the block ends well.

    The JSON goes first and comes last: who is stopped in between leaves no miniature.
    """
    folder = folder_of(recipe)
    manifest = folder / MANIFEST
    manifest.unlink(missing_ok=True)
    yield folder
    fingerprint = fingerprint_of(folder / WEIGHTS, folder / TOKENIZER)
    write_json(manifest, {"name": "mini-sonar", "fingerprint": fingerprint, "recipe": asdict(recipe)})


@contextlib.contextmanager
def alone(recipe: MiniRecipe) -> Iterator[None]:
    """One process of this machine at a time: of several that need the miniature, one trains it and the others wait."""
    from filelock import FileLock

    folder = folder_of(recipe)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire()
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); the miniature SONAR is kept there: "
            f"set {FOLDER_VARIABLE} to a folder that you may write to"
        ) from None
    try:
        yield
    finally:
        lock.release()


def write_bytes(path: Path, content: bytes) -> None:
    with replacing(path) as partial:
        partial.write_bytes(content)
