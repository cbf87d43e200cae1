"""The built-in data set "sentences": sentences of the miniature's grammar, as vectors of the miniature."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flowkit.data.dataset import Dataset, read_dataset, write_dataset
from flowkit.errors import UserError
from flowkit.text.codec import ENGLISH, open_codec
from flowkit.text.mini import cache, grammar
from flowkit.text.mini.recipe import recipe_of

FRACTIONS = (0.8, 0.1, 0.1)  # training, validation, test


def generate_sentences(num_samples: int, seed: int) -> Dataset:
    """`num_samples` distinct sentences with their vectors (N, D), split 80/10/10; the same for the same arguments.

    The miniature is trained where it is not at hand, and the vectors are kept beside it. Raises UserError as `open_codec`
    does, and for a number of sentences that the grammar does not have.
    """
    texts = grammar.generate(num_samples, seed)
    codec = open_codec("mini-sonar", device="cpu")
    path = cache.folder_of(recipe_of({})) / f"sentences-{num_samples}-{seed}"
    info = {"source": "sentences", "seed": seed, "codec": codec.identity(), "lang": ENGLISH}
    data = _kept(path, info)
    if data is None:
        data = Dataset("embedding", codec.encode(texts), split=_split(num_samples, seed), info=info, texts=texts)
        write_dataset(path, data)
    data.texts = texts
    return data


def _split(count: int, seed: int) -> np.ndarray:
    """Each row's part: 0 training, 1 validation, 2 test."""
    from flowkit.text.prepare import split_sizes

    split = np.repeat(np.arange(3, dtype=np.uint8), split_sizes(count, FRACTIONS))
    return np.random.default_rng([abs(seed), count]).permutation(split)


def _kept(path: Path, info: dict[str, object]) -> Dataset | None:
    """What an earlier call wrote, if it is whole and of this very miniature."""
    try:
        data = read_dataset(path)
    except UserError:
        return None
    return data if data.info == info else None
