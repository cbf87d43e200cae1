"""Encoders turn pictures and texts into condition tokens. They are opened by name: `open_encoder("clip", "image")`."""

from __future__ import annotations

import contextlib
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from flowkit.errors import UserError, listing, nearest

if TYPE_CHECKING:
    import numpy as np

# The short names, and what they stand for. The first two work without a network: a package has their weights.
SHORT = {
    "image": {
        "efficientnet-lite0": "efficientnet-lite0",
        "clip": "timm:vit_base_patch16_clip_224.openai",
        "clip-rn101": "timm:resnet101_clip.openai@16",  # 14 x 14 x 1024, as SwiftSketch conditions (arXiv 2502.08642)
    },
    "text": {"minilm": "minilm"},
}
LIBRARIES = {"image": "timm", "text": "transformers"}


class Encoder(ABC):
    """Turns items into condition tokens. Subclass it for an encoder of your own, `"my_package.encoders:Mine"`.

    The constructor of a subclass is called as `Mine(weights=Path | None, device=str, batch_size=int | None)`. Weights stay fixed:
    the network is in eval mode, without gradients, in fp32.
    """

    kind: ClassVar[str]  # "image" | "text"
    name: str  # opens the same encoder again, with its level: "efficientnet-lite0@16x2"
    tokens: int  # most tokens of an item, P; 1 for a vector
    width: int  # C
    fingerprint: str  # hex digest of the weights, the preprocessing and the level

    @abstractmethod
    def encode(self, items: Sequence[Any]) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the tokens (B, P, C) float16 of B items, in order, and which of them exist, (B, P) bool; None: all.

        items: pictures as PIL images in RGB (or anything that `read_image` reads), or texts as str. Missing tokens are 0.
        """

    def too_long(self, text: str) -> bool:
        """Return whether the encoder reads only the start of a text."""
        return False


def open_encoder(
    name: str, kind: str, *, weights: Path | None = None, device: str = "auto", batch_size: int | None = None
) -> Encoder:
    """Return the encoder `name` of "image" or "text".

    name: a short name (SHORT), `timm:MODEL` for pictures, `transformers:MODEL` for texts, each with an optional @LEVEL, an import
    path "module:Class", or the name of an entry point "encoder.NAME". Import paths are allowed inside `components.trusting`.
    weights: a file to load instead of a download; for transformers also a folder. batch_size: items at a time; None suits the
    device. Raises UserError, which says what to do, for an unknown name, a missing package, weights that cannot be had or do
    not fit, and an encoder of the other kind.
    """
    other = next(one for one in SHORT if one != kind)
    plain, at, level = name.partition("@")
    library, colon, model = plain.partition(":")
    if plain in SHORT[other] or library == LIBRARIES[other]:
        raise UserError(
            f"encoder {name!r} is for {other}s; expected one for {kind}s: {listing(SHORT[kind])}, {LIBRARIES[kind]}:MODEL"
        )
    if plain in SHORT[kind]:
        full = SHORT[kind][plain]
        return _open(full.partition("@")[0] + "@" + level if at else full, kind, weights, device, batch_size)
    if library == LIBRARIES[kind] and colon:
        if not model:
            example = "timm:resnet18" if kind == "image" else "transformers:sentence-transformers/all-MiniLM-L6-v2"
            raise UserError(f"encoder {name!r} names no model; expected for example {example}")
        return _open(name, kind, weights, device, batch_size)
    from flowkit.components import find, is_import_path, names

    if is_import_path(name) or name in names("encoder"):
        found = find("encoder", name)(weights=weights, device=device, batch_size=batch_size)
        if found.kind != kind:
            raise UserError(f"encoder {name!r} is for {found.kind}s; expected one for {kind}s")
        return found
    known = (*SHORT[kind], *names("encoder"))
    other_forms = f"{LIBRARIES[kind]}:MODEL or module:Class"
    raise UserError(f"unknown {kind} encoder {name!r}; expected {listing(known)}, {other_forms}{nearest(plain, known)}")


def _open(name: str, kind: str, weights: Path | None, device: str, batch_size: int | None) -> Encoder:
    plain, _, level = name.partition("@")
    if re.search(r"\s", name) or name.endswith("@"):
        raise UserError(f"encoder {name!r}: expected NAME or NAME@LEVEL, without spaces")
    with _without_retries():
        if kind == "image":
            from flowkit.encoders.images import TimmEncoder

            return TimmEncoder(plain, level, weights=weights, device=device, batch_size=batch_size)
        from flowkit.encoders.texts import TransformersEncoder

        return TransformersEncoder(plain, level, weights=weights, device=device, batch_size=batch_size)


@contextlib.contextmanager
def _without_retries() -> Iterator[None]:
    """Silence what the Hub's library logs of every attempt to reach it. The error that ends them is told once, by flowkit."""
    with contextlib.suppress(ImportError):
        import huggingface_hub.utils  # noqa: F401  (sets the level as it is imported)
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
