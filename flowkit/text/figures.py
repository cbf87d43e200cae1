"""The figures of an evaluation of sentence vectors, in the order of the table: what each is, and which way is good."""

from __future__ import annotations

from typing import Any

LEGEND = (
    "noise: round, with the data's mean and overall variance. Vectors: Euclidean, 5 neighbours; a fitted Gaussian has the data's "
    "moments by construction, so its Fréchet distance there is as good as real. Copying: plain cosines; real are held-out rows, "
    "and a memorisation ratio well below 1 means copies."
)
LEGEND_OF_SPEECH = (
    " Cycle: a vector z beside encode(decode(z)); there a Gaussian's Fréchet distance is honest. Sentences: as decoded, real "
    "ones as they were written."
)

_PERCENT, _THOUSANDTHS = {"unit": "%", "scale": 100.0}, {"unit": "10⁻³", "scale": 1e3}
_FRECHET = "squared Fréchet distance of the Gaussians with the same moments, over the reference's total variance"
_BALLS = "balls reach to the 5th neighbour; Euclidean"
_TOKENS = "tokens are lower-cased words and single punctuation marks"
_CHECK = "gates nothing: the miniature's decoder was trained on the grammar, and writes it for noise too"
FIGURES: dict[str, dict[str, Any]] = {
    "frechet": {
        "group": "Vectors", "name": "Fréchet distance", "good": "lower is better", **_THOUSANDTHS, "about": _FRECHET,
    },
    "kernel_mmd": {
        "group": "Vectors", "name": "RBF-MMD²", "good": "0 is perfect", **_THOUSANDTHS,
        "about": "unbiased, bandwidth the reference's median distance; Euclidean",
    },
    "precision": {
        "group": "Vectors", "name": "precision", "good": "higher is better", **_PERCENT,
        "about": f"vectors within a reference vector's ball; {_BALLS}",
    },
    "recall": {
        "group": "Vectors", "name": "recall", "good": "higher is better", **_PERCENT,
        "about": f"reference vectors within a vector's ball; {_BALLS}",
    },
    "density": {
        "group": "Vectors", "name": "density", "good": "1 is perfect",
        "about": f"reference balls that a vector lies in, over 5; {_BALLS}",
    },
    "coverage": {
        "group": "Vectors", "name": "coverage", "good": "higher is better", **_PERCENT,
        "about": f"reference vectors with a vector in their ball; {_BALLS}",
    },
    "nearest_train": {
        "group": "Copying", "name": "nearest training", "good": "like real",
        "about": "median cosine to the nearest of all training rows; real: held-out rows (where there are none, training rows to "
        "each other)",
    },
    "nearest_held_out": {
        "group": "Copying", "name": "nearest held-out", "good": "like real",
        "about": "median cosine to the nearest of up to 1,000 held-out rows; real: these to each other",
    },
    "memorisation": {
        "group": "Copying", "name": "memorisation ratio", "good": "1 is perfect",
        "about": "median of 1 - cosine to the nearest training row, over that of held-out rows; well below 1 are copies",
    },
    "cycle": {
        "group": "Cycle", "name": "cycle cosine", "good": "like real",
        "about": "median cosine of z to encode(decode(z)), less the training rows' mean; real: the reference's vectors",
    },
    "frechet_cycle": {
        "group": "Cycle", "name": "Fréchet after cycle", "good": "lower is better", **_THOUSANDTHS,
        "about": f"of encode(decode(z)), what the sentences say, to the same of the reference; {_FRECHET}",
    },
    "distinct_1": {
        "group": "Sentences", "name": "distinct-1", "good": "like real", **_PERCENT,
        "about": f"different tokens over all tokens; {_TOKENS}",
    },
    "distinct_2": {
        "group": "Sentences", "name": "distinct-2", "good": "like real", **_PERCENT,
        "about": f"different pairs of tokens over all pairs; {_TOKENS}",
    },
    "distinct_3": {
        "group": "Sentences", "name": "distinct-3", "good": "like real", **_PERCENT,
        "about": f"different triples of tokens over all triples; {_TOKENS}",
    },
    "self_bleu": {
        "group": "Sentences", "name": "self-BLEU", "good": "like real", **_PERCENT,
        "about": f"mean BLEU-4 of a sentence with all others of its column as references; {_TOKENS}",
    },
    "words": {
        "group": "Sentences", "name": "words a sentence", "good": "like real", "about": "mean number of words",
    },
    "new": {
        "group": "Sentences", "name": "new", "good": "like real", **_PERCENT,
        "about": "sentences that are no training sentence, letter for letter; real: held-out ones",
    },
    "grammatical": {
        "group": "Sentences", "name": "grammatical", "good": "gates nothing", **_PERCENT,
        "about": f"sentences of the built-in grammar; {_CHECK}",
    },
}  # fmt: skip
