"""What vectors have in common with the vectors of sentences: the cycle through a codec, and the nearest rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowkit.text.codec import BLOCKED, ENGLISH, Codec, Decoding

if TYPE_CHECKING:
    from flowkit.domain import Tell

CHUNK_BYTES = 1 << 26


def cosines(a: np.ndarray, b: np.ndarray, centre: np.ndarray | None = None) -> np.ndarray:
    """Cosine of each row of a to the same row of b, both (N, D), after `centre` (D,) is taken off -> (N,). 0 for no length."""
    return np.einsum("nd,nd->n", unit(a, centre), unit(b, centre))


def unit(x: np.ndarray, centre: np.ndarray | None = None) -> np.ndarray:
    """Rows (N, D) less `centre`, of length 1, in float32; those of no length stay zero."""
    moved = np.asarray(x, np.float32) if centre is None else (x - centre).astype(np.float32)
    return moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def decode_and_encode(
    codec: Codec, vectors: np.ndarray, *, lang: str = ENGLISH, tell: Tell | None = None
) -> tuple[list[str], np.ndarray]:
    """Decode vectors (N, D) and encode the result: returns (texts (N), their vectors (N, D)). tell: progress of decoding."""
    texts = codec.decode(vectors, Decoding(lang=lang, block_ngrams=BLOCKED), tell=tell)
    return texts, codec.encode(texts, lang=lang)


def cycle_cosines(codec: Codec, vectors: np.ndarray, centre: np.ndarray, *, lang: str = ENGLISH) -> np.ndarray:
    """Centred cosine of z to encode(decode(z)): vectors (N, D), centre (D,) the training rows' mean -> (N,).

    Near 1 where z is the vector of a sentence. A decoder is a language model too, and writes fluent sentences for
    noise; but those sentences have vectors of their own, far from the noise. Not centred, what all sentences share
    would hide that.
    """
    return cosines(vectors, decode_and_encode(codec, vectors, lang=lang)[1], centre)


def nearest_rows(
    queries: np.ndarray, x: np.ndarray, rows: np.ndarray, *, own: np.ndarray | None = None,
    tell: Tell | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The nearest of `x[rows]` by plain cosine: queries (M, D) -> (cosines (M,), which row of x (M,) int64).

    x may be memory-mapped; it is read once, a chunk at a time, and the chunk's cosines stay within CHUNK_BYTES. own:
    (M,) the row of x that a query is itself, which does not count; -1 for none. progress: how many rows are done.
    Raises ValueError where there is no row.
    """
    if not len(rows):
        raise ValueError("there are no rows to be near to")
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
