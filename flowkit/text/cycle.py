"""How close vectors are to vectors of real sentences: the cycle through a codec, and the nearest rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowkit.text.codec import BLOCKED, ENGLISH, Codec, Decoding

if TYPE_CHECKING:
    from flowkit.domain import Tell

CHUNK_BYTES = 1 << 26


def cosines(a: np.ndarray, b: np.ndarray, center: np.ndarray | None = None) -> np.ndarray:
    """Return row-wise cosines (N,) of a and b, both (N, D), minus `center` (D,). 0 for rows of length 0."""
    return np.einsum("nd,nd->n", unit(a, center), unit(b, center))


def unit(x: np.ndarray, center: np.ndarray | None = None) -> np.ndarray:
    """Return rows (N, D) minus `center`, scaled to length 1, in float32. Rows of length 0 stay zero."""
    moved = np.asarray(x, np.float32) if center is None else (x - center).astype(np.float32)
    return moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def decode_and_encode(
    codec: Codec, vectors: np.ndarray, *, lang: str = ENGLISH, tell: Tell | None = None
) -> tuple[list[str], np.ndarray]:
    """Decode vectors z (N, D) and encode the result: returns (texts (N), their vectors (N, D)). tell: progress of decoding.

    The centered cosine of z and the new vector is near 1 if z is the vector of a sentence. The decoder writes fluent sentences
    even for noise, but their vectors are far from the noise. Without centering, the component that all sentences share would
    hide this.
    """
    texts = codec.decode(vectors, Decoding(lang=lang, block_ngrams=BLOCKED), tell=tell)
    return texts, codec.encode(texts, lang=lang)


def nearest_rows(
    queries: np.ndarray, x: np.ndarray, rows: np.ndarray, *, own: np.ndarray | None = None,
    tell: Tell | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Find the nearest of `x[rows]` by cosine for queries (M, D): returns cosines (M,) and row indices of x (M,) int64.

    x may be memory-mapped; it is read once, in chunks whose cosines fit in CHUNK_BYTES. own: (M,) index of each query in x,
    which is not compared with itself; -1 for none. tell: receives progress. Raises ValueError if there are no rows.
    """
    if not len(rows):
        raise ValueError("no rows to compare with")
    directions = unit(queries).T
    best, found = np.full(len(queries), -np.inf, np.float32), np.full(len(queries), -1, np.int64)
    step = max(1, CHUNK_BYTES // max(4 * len(queries), x[:1].nbytes))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        near = unit(x[some]) @ directions  # (rows, M)
        if own is not None:
            near[some[:, None] == own] = -np.inf
        top = near.argmax(axis=0)
        value = near[top, np.arange(len(queries))]
        better = value > best
        best[better], found[better] = value[better], some[top[better]]
        if tell is not None:
            tell("searching the nearest training rows", min(start + step, len(rows)), len(rows))
    return best, found
