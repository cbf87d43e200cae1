"""How a miniature is made. Torch-free.

A recipe makes its own place in the cache, so that another design is trained anew.
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

VERSION = 1  # to be raised when code changes what a recipe gives
SIZE_VARIABLE = "FLOWKIT_MINI"  # the size where nobody names one; tests set it, so that commands train for seconds


@dataclass(frozen=True)
class MiniRecipe:
    size: str  # its name in RECIPES
    dimension: int = 256  # of the vectors, and the width of both networks
    layers: int = 2  # of the encoder, and of the decoder
    heads: int = 4
    inner_dimension: int = 512  # of the feed-forward networks
    pieces: int = 900  # of the tokenizer, 256 bytes among them: every word of the grammar is one
    num_sentences: int = 80_000  # that it is trained on
    steps: int = 700
    batch_size: int = 64
    lr: float = 1.5e-3
    noise: float = 0.5  # most noise on the vectors in training, in their standard deviations
    seed: int = 0
    threads: int = 4  # at most; more only wait for each other in networks this small

    @property
    def fingerprint(self) -> str:
        """Of all that decides what training gives: this recipe, the code's version and the grammar."""
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
    """The recipe of the miniature that a sidecar describes. Raises UserError for a size that there is not."""
    size = str(described.get("size") or os.environ.get(SIZE_VARIABLE) or "full")
    if size not in RECIPES:
        raise UserError(f"codec: mini-sonar has no size {size!r}; known are {listing(RECIPES)}{nearest(size, RECIPES)}")
    return RECIPES[size]
