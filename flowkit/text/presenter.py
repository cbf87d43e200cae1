"""Present sampled vectors: decode them if the codec is available, and compare them with real vectors in any case."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from flowkit.data.arrays import gather
from flowkit.data.dataset import Dataset
from flowkit.domain import Presented, Preview, Tell
from flowkit.errors import UserError
from flowkit.text.codec import BLOCKED, ENGLISH, Codec, Decoding, open_codec, why_unavailable
from flowkit.text.cycle import cosines, decode_and_encode, nearest_rows

NEIGHBORS = 50_000  # training rows to compare with, evenly spread; with 1,024 dimensions they take 200 MB
BASELINE_ROWS = 32  # real vectors, Gaussian draws and noise that are decoded and encoded once as baselines
MAX_TOKENS = 64  # per sentence of a run's own samples; early in training, the decoder may not stop by itself


class TextPresenter:
    """data: the training data, for nearest sentences and baselines; None only decodes."""

    def __init__(self, data: Dataset | None, *, decode: bool, device: str):
        self.data, self.notice = data, ""
        self._decode, self._device = decode, device
        self._codec: Codec | None = None
        if data is not None:
            # Open the codec now, so that a missing decoder is reported before training starts.
            self._codec_of(data)

    def __call__(
        self, samples: Dataset, out: Path, *, shown: Sequence[int] = (), tell: Tell | None = None
    ) -> Presented:
        """Decode all samples. Writes no files: sentences are stored next to their vectors (`samples.jsonl`)."""
        codec = self._codec_of(self.data or samples)
        lang = samples.info.get("lang", ENGLISH)
        figures: dict[str, float] = {}
        texts: list[str] | None = None
        if codec is not None and self.data is None:
            texts = codec.decode(samples.x, Decoding(lang=lang, block_ngrams=BLOCKED), tell=tell)
        elif codec is not None:
            how = Decoding(lang=lang, max_seq_len=MAX_TOKENS, block_ngrams=BLOCKED)
            texts = codec.decode(samples.x, how, tell=tell)
            again = codec.encode(texts, lang=lang)
            figures["cycle"] = float(np.median(cosines(samples.x, again, self._center)))
            figures |= self._cycle_baselines
        if self.data is None:
            notes = [f"norm {norm:.3g}" for norm in np.linalg.norm(samples.x, axis=1)]
            lines, caption = texts or ["(not decoded)"] * len(samples), ""
        else:
            near, rows = nearest_rows(samples.x, self._train, np.arange(len(self._train)))
            figures["nearest_train"] = float(np.median(near))
            if len(self._held_out):
                new, _ = nearest_rows(samples.x, self._held_out, np.arange(len(self._held_out)))
                figures["nearest_held_out"] = float(np.median(new))
            notes, caption = [f"{cosine:.2f}" for cosine in near], "cosine to the nearest training sentence"
            lines = texts or self._neighbors(samples, self._train_rows[rows])
        previews = tuple(Preview(str(row), (lines[row],), notes[row]) for row in shown)
        return Presented(
            previews=previews, texts=None if texts is None else tuple(texts), figures=figures, caption=caption
        )

    def _codec_of(self, data: Dataset) -> Codec | None:
        """Return the codec that made `data`, or None, with the reason in `notice`."""
        if not self._decode:
            return None
        identity = data.info.get("codec") or {}
        if self._codec is None and not self.notice:
            reason = why_unavailable(identity)
            try:
                self._codec = None if reason else open_codec(identity, device=self._device)
            except UserError as error:
                reason = str(error)
            if reason:
                self.notice = f"sentences are not decoded: {reason}. `flowkit decode` can decode the samples later"
        return self._codec

    def _neighbors(self, samples: Dataset, rows: np.ndarray) -> list[str]:
        """Return the text for samples that are not decoded: the norm, and the nearest training sentence or its row."""
        assert self.data is not None
        known = self.data.texts
        near = [f"row {row}" if known is None else known[int(row)] for row in rows]
        norms = np.linalg.norm(samples.x, axis=1)
        return [f"norm {norm:.3g}, nearest: {text}" for norm, text in zip(norms, near, strict=True)]

    @cached_property
    def _train_rows(self) -> np.ndarray:
        assert self.data is not None
        rows = self.data.rows("train")
        return rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), NEIGHBORS)).astype(np.int64))]

    @cached_property
    def _train(self) -> np.ndarray:
        assert self.data is not None
        return gather(self.data.x, self._train_rows)

    @cached_property
    def _held_out(self) -> np.ndarray:
        """Test rows, or validation rows if there are none."""
        assert self.data is not None
        rows = self.data.rows("test") if len(self.data.rows("test")) else self.data.rows("validation")
        return gather(self.data.x, rows[:NEIGHBORS])

    @cached_property
    def _center(self) -> np.ndarray:
        return self._train.mean(axis=0)

    @cached_property
    def _cycle_baselines(self) -> dict[str, float]:
        """The cycle cosine of held-out vectors, of draws from a full Gaussian, and of noise with the overall variance."""
        assert self.data is not None and self._codec is not None
        generator = np.random.default_rng(0)
        centered = self._train - self._center
        mix = generator.standard_normal((BASELINE_ROWS, len(centered))) / np.sqrt(len(centered))
        noise = generator.standard_normal((BASELINE_ROWS, centered.shape[1])) * np.sqrt(centered.var(axis=0).mean())
        kinds = {
            "cycle_held_out": self._held_out[:BASELINE_ROWS],
            "cycle_gaussian": self._center + mix @ centered,  # with the covariance of the rows
            "cycle_noise": self._center + noise,
        }
        lang = self.data.info.get("lang", ENGLISH)
        found = {}
        for name, vectors in kinds.items():
            if len(vectors):
                vectors = vectors.astype(np.float32)
                again = decode_and_encode(self._codec, vectors, lang=lang)[1]
                found[name] = float(np.median(cosines(vectors, again, self._center)))
        return found
