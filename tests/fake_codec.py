"""A codec without a network: each sentence has a vector, and a vector is read as the sentence nearest to it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from flowkit.domain import Tell
from flowkit.errors import UserError
from flowkit.text.codec import ENGLISH, Decoding
from flowkit.text.languages import unknown_language

SENTENCES = (
    "The old doctor reads a letter near the bridge.",
    "My sister never forgets the small red boat that her neighbour sold to a tired farmer before the winter came.",
    "Two young nurses were waiting behind the school.",
    "Why did the quiet painter lose his green hat in the garden?",
    "Nobody knew.",
    "12 men row a boat.",
)
DIMENSION = 8
VECTORS = (np.random.default_rng(7).standard_normal((len(SENTENCES), DIMENSION)) * 0.2).astype(np.float32)


class FakeCodec:
    name = "mini-sonar"
    dimension = DIMENSION
    languages = (ENGLISH, "fra_Latn", "deu_Latn")

    def __init__(self) -> None:
        self.asked: list[tuple[int, Decoding, int | None]] = []  # rows, how and batch size of each call of decode

    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "dimension": self.dimension}

    def encode(self, texts: Sequence[str], *, lang: str = ENGLISH, tell: Tell | None = None) -> np.ndarray:
        vectors = [VECTORS[SENTENCES.index(text.removeprefix(f"{lang}: "))] for text in texts]
        return np.array(vectors, np.float32).reshape(-1, self.dimension)

    def decode(
        self,
        vectors: np.ndarray,
        how: Decoding | None = None,
        *,
        batch_size: int | None = None,
        tell: Tell | None = None,
    ) -> list[str]:
        how = how or Decoding()
        if how.lang not in self.languages:
            raise UserError(unknown_language(how.lang, self.languages, self.name))
        self.asked.append((len(vectors), how, batch_size))
        nearest = ((np.asarray(vectors)[:, None] - VECTORS) ** 2).sum(-1).argmin(1)
        if tell:
            tell("decoding", len(vectors), len(vectors))
        return [("" if how.lang == ENGLISH else f"{how.lang}: ") + SENTENCES[row] for row in nearest]


def install(monkeypatch: pytest.MonkeyPatch, not_at_hand: str | None = None) -> FakeCodec:
    """Replace the miniature, which is then available, or unavailable for the reason given."""
    codec, module = FakeCodec(), ModuleType("flowkit.text.mini.codec")

    def open_mini(described: dict[str, Any], *, device: str, dtype: str) -> FakeCodec:
        if not_at_hand:
            raise UserError(f"mini-sonar: {not_at_hand}")
        return codec

    module.__dict__.update(
        open_mini=open_mini, why_mini_unavailable=lambda described: not_at_hand, LANGUAGES=FakeCodec.languages
    )
    monkeypatch.setitem(sys.modules, "flowkit.text.mini.codec", module)
    return codec
