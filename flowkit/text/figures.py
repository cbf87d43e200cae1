"""The metrics of sentence vectors in the order of the table, with a description and which direction is better."""

from __future__ import annotations

from typing import Any

LEGEND = (
    "noise: isotropic Gaussian with the data's mean and overall variance. Vectors: Euclidean distances, 5 neighbors. The Fréchet "
    "distance of the Gaussian is low there by construction, because it was fitted to the data's moments. Copying: cosine "
    "similarity; the real rows are held out. A memorization ratio well below 1 means that training rows were copied."
)
DECODED_LEGEND = (
    " Cycle: each vector z is compared with encode(decode(z)); the Fréchet distance of the Gaussian is informative there. "
    "Sentences: decoded text; for real rows the original text."
)

_PERCENT, _THOUSANDTHS = {"unit": "%", "scale": 100.0}, {"unit": "10⁻³", "scale": 1e3}
_FRECHET = "squared Fréchet distance between the Gaussians with the same moments, divided by the total variance of the reference"
_BALLS = "balls extend to the 5th nearest neighbor; Euclidean"
_TOKENS = "tokens are lower-cased words and single punctuation marks"
_CHECK = (
    "informative only: the miniature's decoder was trained on the grammar and writes grammatical text even for noise"
)
FIGURES: dict[str, dict[str, Any]] = {
    "frechet": {
        "group": "Vectors", "name": "Fréchet distance", "good": "lower is better", **_THOUSANDTHS, "about": _FRECHET,
    },
    "kernel_mmd": {
        "group": "Vectors", "name": "RBF-MMD²", "good": "0 is perfect", **_THOUSANDTHS,
        "about": "unbiased; the bandwidth is the median distance within the reference; Euclidean",
    },
    "precision": {
        "group": "Vectors", "name": "precision", "good": "higher is better", **_PERCENT,
        "about": f"fraction of vectors within the ball of a reference vector; {_BALLS}",
    },
    "recall": {
        "group": "Vectors", "name": "recall", "good": "higher is better", **_PERCENT,
        "about": f"fraction of reference vectors within the ball of a vector; {_BALLS}",
    },
    "density": {
        "group": "Vectors", "name": "density", "good": "1 is perfect",
        "about": f"mean number of reference balls that a vector lies in, divided by 5; {_BALLS}",
    },
    "coverage": {
        "group": "Vectors", "name": "coverage", "good": "higher is better", **_PERCENT,
        "about": f"fraction of reference vectors with a vector in their ball; {_BALLS}",
    },
    "nearest_train": {
        "group": "Copying", "name": "nearest training", "good": "like real",
        "about": "median cosine similarity to the nearest training row; real: of held-out rows, or of training rows to each "
        "other if none are held out",
    },
    "nearest_held_out": {
        "group": "Copying", "name": "nearest held-out", "good": "like real",
        "about": "median cosine similarity to the nearest of up to 1,000 held-out rows; real: of these to each other",
    },
    "memorisation": {
        "group": "Copying", "name": "memorization ratio", "good": "1 is perfect",
        "about": "median of 1 - cosine to the nearest training row, divided by that of held-out rows; well below 1 means copies",
    },
    "cycle": {
        "group": "Cycle", "name": "cycle cosine", "good": "like real",
        "about": "median cosine of z and encode(decode(z)), both minus the mean of the training rows; real: of the reference",
    },
    "frechet_cycle": {
        "group": "Cycle", "name": "Fréchet after cycle", "good": "lower is better", **_THOUSANDTHS,
        "about": f"between encode(decode(z)) of the samples and of the reference; {_FRECHET}",
    },
    "distinct_1": {
        "group": "Sentences", "name": "distinct-1", "good": "like real", **_PERCENT,
        "about": f"distinct tokens divided by all tokens; {_TOKENS}",
    },
    "distinct_2": {
        "group": "Sentences", "name": "distinct-2", "good": "like real", **_PERCENT,
        "about": f"distinct bigrams divided by all bigrams; {_TOKENS}",
    },
    "distinct_3": {
        "group": "Sentences", "name": "distinct-3", "good": "like real", **_PERCENT,
        "about": f"distinct trigrams divided by all trigrams; {_TOKENS}",
    },
    "self_bleu": {
        "group": "Sentences", "name": "self-BLEU", "good": "like real", **_PERCENT,
        "about": f"mean BLEU-4 of each sentence with all others of its column as references; {_TOKENS}",
    },
    "words": {
        "group": "Sentences", "name": "words per sentence", "good": "like real", "about": "mean number of words",
    },
    "new": {
        "group": "Sentences", "name": "new", "good": "like real", **_PERCENT,
        "about": "fraction of sentences that do not occur verbatim in the training data; real: of held-out sentences",
    },
    "grammatical": {
        "group": "Sentences", "name": "grammatical", "good": "informative only", **_PERCENT,
        "about": f"fraction of sentences that the built-in grammar generates; {_CHECK}",
    },
}  # fmt: skip
