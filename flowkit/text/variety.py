"""How varied a set of sentences is, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flowkit.metrics import resampling
from flowkit.metrics.resampling import Estimate, half_sampling
from flowkit.text.diversity import DistinctN, SelfBleu, count_words, tokenize

SELF_BLEU_REPEATS = 50


def variety(texts: Sequence[str]) -> dict[str, Estimate | None]:
    """distinct-1 to 3, self-BLEU (0 to 1) and mean length in words of at least two texts."""
    tokens = [tokenize(text) for text in texts]
    size, bounds = (len(tokens),), (0.0, 1.0)
    words = np.array([count_words(sentence) for sentence in tokens], np.float64)
    repeats = min(resampling.REPEATS, SELF_BLEU_REPEATS)
    return {
        **{f"distinct_{n}": half_sampling(DistinctN(tokens, n), size, bounds=bounds)[0] for n in (1, 2, 3)},
        "self_bleu": half_sampling(SelfBleu(tokens), size, repeats=repeats, bounds=bounds)[0],
        "words": half_sampling(lambda rows: float(words[rows].mean()), size)[0],
    }


def share(holds: Sequence[bool]) -> Estimate:
    """Of how many it holds, 0 to 1."""
    values = np.asarray(holds, np.float64)
    return half_sampling(lambda rows: float(values[rows].mean()), (len(values),), bounds=(0.0, 1.0))[0]
