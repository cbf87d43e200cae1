"""Diversity of sentences, computed on tokens: lower-cased words and single punctuation marks."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import groupby

import numpy as np

from flowkit.metrics import resampling
from flowkit.metrics.resampling import Estimate, half_sampling

ORDER = 4  # of BLEU
SMOOTHING = 0.1  # replaces a count of 0 matches (method 1 of Chen and Cherry, 2014)

Tokens = tuple[str, ...]
SELF_BLEU_REPEATS = 50


def tokenize(text: str) -> Tokens:
    """Split lower-cased text at whitespace. Marks at the ends of a word are tokens, inside it ("don't", "3.5") they are not.

    Chinese characters, kana and Thai letters are one token each, because their words are not separated by spaces.
    """
    tokens: list[str] = []
    for chunk in text.lower().split():
        kinds = [_kind(character) for character in chunk]
        words = [place for place, kind in enumerate(kinds) if kind == "word"]
        for place in range(words[0], words[-1]) if words else ():
            if kinds[place] == "mark":
                kinds[place] = "word"
        places = groupby(range(len(chunk)), key=lambda place: "word" if kinds[place] == "word" else place)
        tokens += ["".join(chunk[place] for place in group) for _, group in places]
    return tuple(tokens)


@cache
def _kind(character: str) -> str:
    if unicodedata.category(character)[0] in "PS":
        return "mark"
    return (
        "alone"
        if unicodedata.name(character, "").startswith(("CJK UNIFIED", "HIRAGANA", "KATAKANA", "THAI"))
        else "word"
    )


def count_words(tokens: Tokens) -> int:
    """Return the number of tokens that are words, not punctuation."""
    return sum(any(_kind(character) != "mark" for character in token) for token in tokens)


def ngrams(tokens: Tokens, n: int) -> list[Tokens]:
    return [tokens[i : i + n] for i in range(len(tokens) - n + 1)]


class DistinctN:
    """Distinct n-grams divided by all n-grams of a set of sentences (arXiv 1510.03055).

    It decreases with the number of sentences, so compare sets of equal size.
    """

    def __init__(self, sentences: Sequence[Tokens], n: int) -> None:
        numbers: dict[Tokens, int] = {}
        self._grams = [
            np.array([numbers.setdefault(gram, len(numbers)) for gram in ngrams(tokens, n)], np.int64)
            for tokens in sentences
        ]
        self._kinds = len(numbers)

    def __call__(self, rows: np.ndarray) -> float:
        """Return the value for the sentences `rows`, 0 to 1. 0 if none has n tokens."""
        picked = [self._grams[row] for row in rows]
        total = sum(map(len, picked))
        return np.count_nonzero(np.bincount(np.concatenate(picked), minlength=self._kinds)) / total if total else 0.0


class SelfBleu:
    """Mean BLEU-4 of each sentence with all others as its references (1802.01886): 1 where all are the same.

    BLEU as usual: n-gram matches clipped by the reference that has most of them, geometric mean of the precisions of
    orders 1 to 4 (of those that the sentence is long enough for; none found counts as SMOOTHING), brevity penalty
    by the reference nearest in length, of two the shorter. Exact: for a sentence's n-grams only the two largest counts
    of any sentence matter, since one of the two is another's.
    """

    def __init__(self, sentences: Sequence[Tokens]) -> None:
        self.lengths = np.array([len(tokens) for tokens in sentences], np.int64)
        self._orders = [_counted(sentences, n) for n in range(1, ORDER + 1)]

    def __call__(self, rows: np.ndarray) -> float:
        """Return the mean BLEU of the sentences `rows` with each other. 0 for fewer than two."""
        return float(self.scores(rows).mean()) if len(rows) > 1 else 0.0

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Return the BLEU of each of the sentences `rows` (at least two), 0 to 1."""
        size = len(self.lengths)
        chosen = np.zeros(size, bool)
        chosen[rows] = True
        logarithm, orders = np.zeros(size), np.zeros(size)
        for n, (sentence, gram, count) in enumerate(self._orders, start=1):
            keep = chosen[sentence]
            matches = np.bincount(sentence[keep], _clipped_matches(gram[keep], count[keep]), minlength=size)
            total = np.maximum(self.lengths - n + 1, 0)
            there = total > 0
            precision = np.where(matches > 0, matches, SMOOTHING) / np.maximum(total, 1)
            logarithm += np.where(there, np.log(precision), 0.0)
            orders += there
        mean = np.exp(logarithm[rows] / np.maximum(orders[rows], 1))
        own = self.lengths[rows]
        brevity = np.exp(np.minimum(0.0, 1.0 - _nearest_length(own) / np.maximum(own, 1)))
        return np.where(own > 0, mean * brevity, 0.0)


def _counted(sentences: Sequence[Tokens], n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (sentence, gram, count) for each n-gram of each sentence, sorted by gram, then by decreasing count."""
    numbers: dict[Tokens, int] = {}
    entries = [
        (row, numbers.setdefault(gram, len(numbers)), count)
        for row, tokens in enumerate(sentences)
        for gram, count in Counter(ngrams(tokens, n)).items()
    ]
    sentence, gram, count = np.array(entries, np.int64).reshape(-1, 3).T
    order = np.lexsort((-count, gram))
    return sentence[order], gram[order], count[order]


def _clipped_matches(gram: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return for each entry its count, at most the largest count in another sentence. Entries are sorted by `_counted`."""
    if not len(gram):
        return np.zeros(0)
    first = np.flatnonzero(np.concatenate([[True], gram[1:] != gram[:-1]]))
    runs = np.diff(np.append(first, len(gram)))
    second = np.where(runs > 1, count[np.minimum(first + 1, len(count) - 1)], 0)
    others = np.repeat(count[first], runs)
    others[first] = second
    return np.minimum(count, others)


def _nearest_length(lengths: np.ndarray) -> np.ndarray:
    """Return for each of the lengths (N,) the nearest other length; the shorter one for ties."""
    order = np.argsort(lengths, kind="stable")
    ascending = lengths[order].astype(np.float64)
    below = np.concatenate([[-np.inf], ascending[:-1]])
    above = np.concatenate([ascending[1:], [np.inf]])
    nearest = np.empty(len(lengths))
    nearest[order] = np.where(above - ascending < ascending - below, above, below)
    return nearest


def variety(texts: Sequence[str]) -> dict[str, Estimate | None]:
    """Return distinct-1 to 3, self-BLEU (0 to 1) and the mean length in words of at least two texts."""
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
    """Return the fraction of True values, 0 to 1, with its interval."""
    values = np.asarray(holds, np.float64)
    return half_sampling(lambda rows: float(values[rows].mean()), (len(values),), bounds=(0.0, 1.0))[0]
