"""The domain of sentence embeddings: what the trainer, the sampler and the inspector need to know of text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit.data.dataset import Dataset, read_dataset, write_dataset
from flowkit.domain import Domain, Preview
from flowkit.errors import UserError, listing, nearest

if TYPE_CHECKING:
    from flowkit.metrics.comparison import Comparison
    from flowkit.text.evaluation import TextEvaluator
    from flowkit.text.presenter import TextPresenter

FRACTIONS = (0.8, 0.1, 0.1)  # of the built-in sentences: training, validation, test


class TextDomain(Domain):
    """Sentence vectors (D,), in the units of the codec that made them: 1024 numbers for SONAR, 256 for its miniature."""

    kind = "embedding"
    noun = "sentences"
    builtin = ("sentences",)
    compared_with = ("test", "validation")
    inverted_rows = 128

    def generate(self, name: str, num_samples: int, seed: int) -> Dataset:
        """Built-in sentences, encoded by the miniature SONAR, which is trained at its first use."""
        if name not in self.builtin:
            hint = nearest(name, self.builtin)
            raise UserError(f"there is no built-in set of sentences {name!r}; there is {listing(self.builtin)}{hint}")
        return generate_sentences(num_samples, seed)

    def check(self, data: Dataset, where: str) -> None:
        """Raise UserError unless `data.x` is (N, D), of the dimension that its codec says."""
        if data.x.ndim != 2 or data.x.shape[1] < 1:
            raise UserError(f"{where}: x has shape {tuple(data.x.shape)}; embeddings are (N, D): a vector a sentence")
        codec = data.info.get("codec")
        codec = codec if isinstance(codec, dict) else {}
        dimension = codec.get("dimension")
        if isinstance(dimension, int) and dimension != data.x.shape[1]:
            raise UserError(
                f"{where}: its vectors have {data.x.shape[1]} dimensions, and those of its codec {codec.get('name')!r} "
                f"have {dimension}; prepare the data again, or name the codec that made it"
            )

    def preview(self, rows: Dataset) -> list[Preview]:
        """The sentences themselves where they are at hand, else the vectors' norms."""
        norms = np.linalg.norm(rows.x, axis=1)
        texts = rows.texts if rows.texts is not None else ["(a vector without its sentence)"] * len(rows)
        return [
            Preview(title, (text,), f"norm {norm:.3g}")
            for title, text, norm in zip(rows.titles(), texts, norms, strict=True)
        ]

    def presenter(self, data: Dataset | None, *, decode: bool = True, device: str = "auto") -> TextPresenter:
        from flowkit.text.presenter import TextPresenter

        return TextPresenter(data, decode=decode, device=device)

    def inherited(self, data: Dataset) -> dict[str, Any]:
        """The codec and the language, which samples share with the rows that the model was trained on."""
        return {name: data.info[name] for name in ("codec", "lang") if name in data.info}

    def evaluator(self, comparison: Comparison, *, decode: bool = True, device: str = "auto") -> TextEvaluator:
        from flowkit.text.evaluation import TextEvaluator

        return TextEvaluator(comparison, decode=decode, device=device)


def generate_sentences(num_samples: int, seed: int) -> Dataset:
    """The data set "sentences": distinct ones of the miniature's grammar, with their vectors (N, D), split 80/10/10.

    The same for the same arguments. The miniature is trained where it is not at hand, and the vectors are kept beside it.
    Raises UserError as `open_codec` does, and for a number of sentences that the grammar does not have.
    """
    from flowkit.text.codec import ENGLISH, open_codec
    from flowkit.text.mini import cache, grammar
    from flowkit.text.mini.recipe import recipe_of

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
