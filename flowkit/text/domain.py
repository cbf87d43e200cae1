"""The text domain: everything specific to sentences and their vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit.data.dataset import Dataset, read_dataset, write_dataset
from flowkit.domain import Bar, DecodeOptions, Domain, Example, Preview, Tell
from flowkit.errors import UserError, listing, nearest
from flowkit.registry import STORED_KINDS
from flowkit.sources.arrays import found_in
from flowkit.sources.kinds import SENTENCES, TENSORS

if TYPE_CHECKING:
    from flowkit.metrics.comparison import Comparison
    from flowkit.sources.files import Files
    from flowkit.text.decoding import DecodedSentences
    from flowkit.text.evaluation import TextEvaluator
    from flowkit.text.prepare_report import TextReport
    from flowkit.text.presenter import TextPresenter

FRACTIONS = (0.8, 0.1, 0.1)  # of the built-in sentences: training, validation, test
NEAR_CONSTANT = 0.1


class TextDomain(Domain):
    """Sentence vectors (D,) in the units of their codec: D is 1024 for SONAR and 256 for its miniature."""

    kind = STORED_KINDS["text"]
    noun = "sentences"
    builtin = ("sentences",)
    compared_with = ("test", "validation")
    inverted_rows = 128
    measures_memorization = True

    def generate(self, name: str, num_samples: int, seed: int) -> Dataset:
        """Return built-in sentences, encoded by the miniature SONAR. Trains it on first use."""
        if name not in self.builtin:
            hint = nearest(name, self.builtin)
            raise UserError(f"unknown built-in data set of sentences {name!r}; expected {listing(self.builtin)}{hint}")
        return generate_sentences(num_samples, seed)

    def prepares(self, source: Path, files: Files) -> bool:
        """Return whether there are sentences among the files, or one file of vectors. Raises UserError for several."""
        held, what = found_in(files)
        only = files.only
        if held == "vectors" and only is None:
            join = f"np.concatenate([np.load(f) for f in sorted(glob.glob('{source}/*.npy'))])"
            raise UserError(
                f"{source}: a folder or zip with vectors ({what.partition(':')[0]}); name one file of vectors, and the file of "
                f"its sentences with --texts. To join several: python -c \"import glob, numpy as np; np.save('vectors.npy', "
                f'{join})"'
            )
        if held:
            return held == "vectors" or (held == "unreadable" and only is not None and only.suffix == ".npy")
        found = {files.kind(entry) for entry in files.entries}
        return bool(found & {"text", *SENTENCES}) or (only is not None and (not only.size or bool(found & {*TENSORS})))

    def prepare(
        self, source: Path, out: Path, *, seed: int = 0, overwrite: bool = False, tell: Tell | None = None,
        notice: Callable[[str], object] | None = None, **options: Any,
    ) -> TextReport:  # fmt: skip
        from flowkit.text.prepare import prepare, settings_of

        given = settings_of({**options, "seed": seed})
        return prepare(source, out, **given, overwrite=overwrite, tell=tell, notice=notice)

    def read(self, path: Path) -> Dataset:
        from flowkit.text.vectors import read_vectors

        return Dataset(self.kind, read_vectors(path))

    def decode(
        self, data: Dataset, tensors: Path, out: Path | None, options: DecodeOptions | None, bar: Bar
    ) -> DecodedSentences:
        from flowkit.text.decoding import TextOptions, decode_file

        if not isinstance(options, TextOptions):
            super().decode(data, tensors, out, options, bar)
        return decode_file(data, tensors, out, options if isinstance(options, TextOptions) else TextOptions(), bar)

    def statistics(self, x: np.ndarray) -> dict[str, Any] | None:
        """Return norms, similarity and near-constant dimensions of vectors (N, D); None for fewer than two.

        mean_cosine: mean over all pairs of different rows. near_constant: dimensions whose standard deviation is below
        `NEAR_CONSTANT` times the median; a normalizer must not divide by it.
        """
        rows = np.asarray(x, np.float64)
        rows = rows[np.isfinite(rows).all(axis=1)]
        count = len(rows)
        if rows.ndim != 2 or count < 2:
            return None
        norms, spread = np.linalg.norm(rows, axis=1), rows.std(axis=0)
        directions = rows / np.maximum(norms, np.finfo(np.float64).tiny)[:, None]
        total = directions.sum(axis=0)
        alike = (total @ total - (directions**2).sum()) / (count * (count - 1))  # |sum u|^2 counts every pair twice
        flat = np.flatnonzero(spread <= NEAR_CONSTANT * np.median(spread))
        return {
            "norm_mean": float(norms.mean()), "norm_std": float(norms.std()), "mean_cosine": float(alike),
            "near_constant": [int(dimension) for dimension in flat],
        }  # fmt: skip

    def compares(self, source: str, inherited: dict[str, Any]) -> bool:
        """Return False for built-in sentences if their codec is not trained yet."""
        from flowkit.text.codec import why_unavailable

        return source not in self.builtin or not why_unavailable(inherited.get("codec") or {})

    def check(self, data: Dataset, where: str) -> None:
        """Raise UserError unless `data.x` is (N, D) with the dimension of its codec."""
        if data.x.ndim != 2 or data.x.shape[1] < 1:
            raise UserError(f"{where}: x has shape {tuple(data.x.shape)}; expected (N, D): one vector per sentence")
        codec = data.info.get("codec")
        codec = codec if isinstance(codec, dict) else {}
        dimension = codec.get("dimension")
        if isinstance(dimension, int) and dimension != data.x.shape[1]:
            raise UserError(
                f"{where}: its vectors have {data.x.shape[1]} dimensions, but its codec {codec.get('name')!r} has "
                f"{dimension}; prepare the data again with the codec that made the vectors"
            )

    def preview(self, rows: Dataset) -> list[Preview]:
        """Return the sentences with the norms of their vectors; only the norms if there are no sentences."""
        norms = np.linalg.norm(rows.x, axis=1)
        texts = rows.texts if rows.texts is not None else ["(vector without a sentence)"] * len(rows)
        return [
            Preview(title, (text,), f"norm {norm:.3g}")
            for title, text, norm in zip(rows.titles(), texts, norms, strict=True)
        ]

    def presenter(self, data: Dataset | None, *, decode: bool = True, device: str = "auto") -> TextPresenter:
        from flowkit.text.presenter import TextPresenter

        return TextPresenter(data, decode=decode, device=device)

    def example(
        self, source: str, row_shape: tuple[int, ...], inherited: dict[str, Any], *, part: bool = False
    ) -> Example:
        """Return the vector of a sentence. Raises UserError if the codec is not known or not available."""
        from flowkit.text.codec import ENGLISH, open_codec

        if not (codec := inherited.get("codec")):
            raise UserError(f"{source!r}: this model does not know the codec of its sentences; give a row of its data set, such "
                            "as DATA.safetensors#0")  # fmt: skip
        return Example(open_codec(codec).encode([source], lang=inherited.get("lang") or ENGLISH)[0])

    def inherited(self, data: Dataset) -> dict[str, Any]:
        """Return codec and language, which samples share with the training rows."""
        return {name: data.info[name] for name in ("codec", "lang") if name in data.info}

    def evaluator(self, comparison: Comparison, *, decode: bool = True, device: str = "auto") -> TextEvaluator:
        from flowkit.text.evaluation import TextEvaluator

        return TextEvaluator(comparison, decode=decode, device=device)


def generate_sentences(num_samples: int, seed: int) -> Dataset:
    """Return the data set "sentences": distinct sentences of the built-in grammar with vectors (N, D), split 80/10/10.

    The same arguments give the same data. Trains the miniature SONAR if the cache has none, and caches the vectors next to
    it. Raises UserError as `open_codec` does, and if the grammar has too few sentences.
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
        data = Dataset("text", codec.encode(texts), split=_split(num_samples, seed), info=info, texts=texts)
        write_dataset(path, data)
    data.texts = texts
    return data


def _split(count: int, seed: int) -> np.ndarray:
    """Return the split of each row: 0 training, 1 validation, 2 test."""
    from flowkit.text.prepare import split_sizes

    split = np.repeat(np.arange(3, dtype=np.uint8), split_sizes(count, FRACTIONS))
    return np.random.default_rng([abs(seed), count]).permutation(split)


def _kept(path: Path, info: dict[str, object]) -> Dataset | None:
    """Return the data that an earlier call cached, if it is complete and made by the same miniature."""
    try:
        data = read_dataset(path)
    except UserError:
        return None
    return data if data.info == info else None
