"""Settings of the miniature SONAR. Does not import torch.

Each recipe has its own folder in the cache, so a changed recipe is trained again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flowkit.errors import UserError, listing, nearest
from flowkit.text.mini import grammar

VERSION = 1  # increase it if a code change affects the result of a recipe
SIZE_VARIABLE = "FLOWKIT_MINI"  # default size; tests set it to "tiny", which trains in seconds


@dataclass(frozen=True)
class MiniRecipe:
    size: str  # its name in RECIPES
    dimension: int = 256  # of the vectors, and the width of both networks
    layers: int = 2  # in each network
    heads: int = 4
    inner_dimension: int = 512  # of the feed-forward networks
    pieces: int = 900  # vocabulary size including 256 bytes; every word of the grammar is one piece
    num_sentences: int = 80_000  # training sentences
    steps: int = 700
    batch_size: int = 64
    lr: float = 1.5e-3
    noise: float = 0.5  # maximum noise on the vectors in training, in units of their standard deviation
    seed: int = 0
    threads: int = 4  # at most; more do not help with networks this small

    @property
    def fingerprint(self) -> str:
        """Hash of everything that determines the result of training: recipe, code version and grammar."""
        content = [VERSION, asdict(self), grammar.PATTERNS, grammar.WORDS]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


RECIPES = {
    recipe.size: recipe
    for recipe in (
        MiniRecipe("full"),
        MiniRecipe(
            "tiny", dimension=96, inner_dimension=192, num_sentences=10_000, steps=300, lr=3e-3, noise=0.1, threads=1
        ),
    )
}


def recipe_of(described: Mapping[str, Any]) -> MiniRecipe:
    """Return the recipe of the miniature that a sidecar describes. Raises UserError for an unknown size."""
    size = str(described.get("size") or os.environ.get(SIZE_VARIABLE) or "full")
    if size not in RECIPES:
        raise UserError(
            f"codec: unknown size {size!r} of mini-sonar; expected {listing(RECIPES)}{nearest(size, RECIPES)}"
        )
    return RECIPES[size]
