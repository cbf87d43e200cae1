"""A codec on the two pipelines of sonar-space, used by SONAR and by its miniature.

The parts of the pipelines are called instead of their `predict`, which sets the process-wide matmul precision while it
runs (this would change the results of a concurrent training step), tokenizes again, samples from the global generator, and
hides out-of-memory errors of the GPU behind an exception of its data pipeline.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from flowkit.device import pick_device
from flowkit.errors import UserError, listing
from flowkit.rng import key, seed_generator
from flowkit.text.codec import ENGLISH, Decoding
from flowkit.text.languages import unknown_language

if TYPE_CHECKING:
    from fairseq2.data.tokenizers import Tokenizer
    from sonar.inference_pipelines.text import EmbeddingToTextModelPipeline, TextToEmbeddingModelPipeline

    from flowkit.domain import Tell

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MAX_SOURCE_LEN = 512  # maximum tokens per sentence, as in SONAR's training
WINDOW = 8192  # sentences whose tokens are in memory at once
ENCODE_TOKENS = {"cpu": 1024, "cuda": 32768}  # padded tokens per batch; tuned on a CPU, ample on a GPU
DECODE_ROWS = {"cpu": 32, "cuda": 256}  # vectors per batch; multiplied by the beam size
FIRST_LOOK = 1024  # of 256,000 probabilities; sorting all at each step would take longer than the decoder


class PipelineCodec:
    """A `Codec` (flowkit.text.codec) of a SONAR encoder, decoder and tokenizer.

    load_encoder and load_decoder return the models on first use, so that encoding does not need the decoder.
    dimension: D of the vectors. identity: returned by `identity()`. dtype: "fp32", "fp16" or "bf16".
    `truncated` counts the sentences that were cut to `max_source_len` tokens.
    """

    def __init__(
        self,
        *,
        name: str,
        dimension: int,
        languages: Sequence[str],
        identity: Mapping[str, Any],
        tokenizer: Tokenizer,
        load_encoder: Callable[[], nn.Module],
        load_decoder: Callable[[], nn.Module],
        device: str | torch.device = "auto",
        dtype: str = "fp32",
        max_source_len: int = MAX_SOURCE_LEN,
    ):
        self.name, self.dimension, self.languages = name, dimension, tuple(languages)
        self.device, self.dtype = pick_device(device, cuda_only=True), pick_dtype(dtype)
        self.truncated = 0
        self._identity, self._tokenizer = dict(identity), tokenizer
        self._load_encoder, self._load_decoder = load_encoder, load_decoder
        self._max_source_len = max_source_len
        self._share = 1.0  # factor of the batch size; halved whenever a batch does not fit on the GPU

    def identity(self) -> dict[str, Any]:
        return dict(self._identity)

    def encode(self, texts: Sequence[str], *, lang: str = ENGLISH, tell: Tell | None = None) -> np.ndarray:
        """Encode texts (N) to vectors (N, D) float32, in order. Truncates sentences that are too long, with a warning.

        Sentences of similar length share a batch, because all are padded to the longest. `tell` receives progress.
        Raises UserError for an unknown language, invalid Unicode, and overflow in half precision.
        """
        self._check_language(lang)
        vectors = np.empty((len(texts), self.dimension), np.float32)
        cut: list[int] = []
        done = _counter(tell, "encoding", len(texts))
        for start in range(0, len(texts), WINDOW):
            tokens = [self._tokens(text, lang, start + i) for i, text in enumerate(texts[start : start + WINDOW])]
            cut += [start + i for i, sequence in enumerate(tokens) if len(sequence) > self._source_limit]
            tokens = [sequence[: self._source_limit] for sequence in tokens]

            def work(rows: Sequence[int], start: int = start, tokens: list[Tensor] = tokens) -> None:
                vectors[[start + row for row in rows]] = self._embed([tokens[row] for row in rows])

            lengths = [len(sequence) for sequence in tokens]
            budget = int(_for_device(ENCODE_TOKENS, self.device) * self._share)
            self._in_batches(list(batches_of_tokens(lengths, budget)), work, done)
        _check_finite(vectors, f"encoding in {self.dtype} gave NaN or infinity", "use fp32 or bf16")
        if cut:
            self.truncated += len(cut)
            warnings.warn(
                f"{len(cut)} of {len(texts)} sentences have more than {self._source_limit} tokens and were truncated "
                f"(rows {listing(map(str, cut), 10)}); split long texts into sentences",
                stacklevel=2,
            )
        return vectors

    def decode(
        self,
        vectors: np.ndarray,
        how: Decoding | None = None,
        *,
        batch_size: int | None = None,
        tell: Tell | None = None,
    ) -> list[str]:
        """Decode vectors (N, D) to texts (N), in order. A text depends on its vector, row number and `how`, not on the batch.

        Does not use global random state, so it can run during training. Raises UserError for an unknown language, vectors
        of another dimension, and NaN (naming the rows).
        """
        how = how or Decoding()
        self._check_language(how.lang)
        vectors = np.asarray(vectors, np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            found = f"{vectors.shape[1]} dimensions" if vectors.ndim == 2 else f"the shape {vectors.shape}"
            raise UserError(
                f"vectors: have {found}; the codec {self.name!r} decodes vectors of {self.dimension} dimensions"
            )
        _check_finite(vectors, "vectors: NaN or infinity", "remove these rows")
        texts = [""] * len(vectors)

        def work(rows: Sequence[int]) -> None:
            for row, text in zip(rows, self._decode_batch(vectors[rows], how, rows), strict=True):
                texts[row] = text

        size = max(1, int(_for_device(DECODE_ROWS, self.device) * self._share))
        size = min(size, batch_size or size)
        batches = [range(start, min(start + size, len(texts))) for start in range(0, len(texts), size)]
        self._in_batches(batches, work, _counter(tell, "decoding", len(texts)))
        return texts

    def _check_language(self, lang: str) -> None:
        if lang not in self.languages:
            raise UserError(unknown_language(lang, self.languages, f"the codec {self.name!r}"))

    def _in_batches(
        self,
        batches: Sequence[Sequence[int]],
        work: Callable[[Sequence[int]], None],
        done: Callable[[int], None],
    ) -> None:
        """Call `work` on each batch, and `done` with its size. If one does not fit the GPU, all remaining ones are halved."""
        pending = list(reversed(batches))
        while pending:
            batch = pending.pop()
            try:
                work(batch)
                fits = True
            except torch.OutOfMemoryError:  # the exception keeps tensors alive, so retry outside this block
                fits = False
            if fits:
                done(len(batch))
                continue
            if len(batch) == 1:
                raise UserError(f"codec: out of memory on {self.device} even for one sentence; use --device cpu")
            torch.cuda.empty_cache()
            self._share /= 2
            pending = [half for whole in (*pending, batch) for half in _halves(whole)]

    @cached_property
    def _encoder(self) -> TextToEmbeddingModelPipeline:
        from sonar.inference_pipelines.text import TextToEmbeddingModelPipeline

        model = self._load_encoder().to(device=self.device, dtype=self.dtype)
        return TextToEmbeddingModelPipeline(model, self._tokenizer, self.device, self.dtype)  # type: ignore[arg-type]

    @cached_property
    def _decoder(self) -> EmbeddingToTextModelPipeline:
        from sonar.inference_pipelines.text import EmbeddingToTextModelPipeline

        model = self._load_decoder().to(device=self.device, dtype=self.dtype)
        return EmbeddingToTextModelPipeline(model, self._tokenizer, self.device, self.dtype)  # type: ignore[arg-type]

    @cached_property
    def _source_limit(self) -> int:
        positions: Any = getattr(self._encoder.model.encoder_frontend, "pos_encoder", None)
        return self._max_source_len if positions is None else min(self._max_source_len, positions.max_seq_len)

    @cached_property
    def _token_encoders(self) -> dict[str, Callable[[str], Tensor]]:
        return {}

    def _tokens(self, text: str, lang: str, row: int) -> Tensor:
        """Return the token numbers (S) of a text."""
        encoders = self._token_encoders
        if lang not in encoders:
            encoders[lang] = self._tokenizer.create_encoder(lang=lang)
        try:
            return encoders[lang](text)
        except TypeError:  # raised by the C++ binding for a string that UTF-8 cannot encode
            raise UserError(f"texts: row {row} is not valid Unicode ({text[:40]!a}); expected a sentence") from None

    @torch.inference_mode()
    def _embed(self, tokens: Sequence[Tensor]) -> np.ndarray:
        """Encode token sequences to vectors (B, D)."""
        from fairseq2.nn import BatchLayout

        padding = self._tokenizer.vocab_info.pad_idx or 0
        padded = nn.utils.rnn.pad_sequence(list(tokens), batch_first=True, padding_value=padding).to(self.device)
        layout = BatchLayout.of(padded, [len(sequence) for sequence in tokens])
        return self._encoder.model(padded, layout).sentence_embeddings.float().cpu().numpy()

    @torch.inference_mode()
    def _decode_batch(self, vectors: np.ndarray, how: Decoding, rows: Sequence[int]) -> list[str]:
        """Decode vectors (B, D) with row numbers `rows` to texts."""
        from fairseq2.generation.generator import SequenceGenerationError
        from fairseq2.nn import BatchLayout
        from sonar.inference_pipelines.utils import SequenceToTextConverter

        source = torch.from_numpy(vectors).to(self.device, self.dtype)
        converter = SequenceToTextConverter(
            self._generator(how, rows), self._tokenizer, task="translation", target_lang=how.lang
        )
        try:
            return converter.batch_convert(source, BatchLayout.of(source))[0]
        except SequenceGenerationError:
            worst = int(np.abs(vectors).max(1).argmax())
            raise UserError(
                f"decoding in {self.dtype} gave NaN; the largest absolute value of these vectors is "
                f"{np.abs(vectors[worst]).max():.3g} (row {rows[worst]}). Use fp32, or vectors closer to real ones"
            ) from None

    def _generator(self, how: Decoding, rows: Sequence[int]) -> Any:
        from fairseq2.generation.beam_search.generator import BeamSearchSeq2SeqGenerator
        from fairseq2.generation.sampling import SamplingSeq2SeqGenerator
        from fairseq2.generation.step_processor import NGramRepeatBlockProcessor

        model, vocabulary = self._decoder.model, self._tokenizer.vocab_info
        options: dict[str, Any] = {
            "max_seq_len": how.max_seq_len,
            "max_gen_len": (
                0.0,
                how.max_seq_len,
            ),  # the default depends on D, which is taken for the length of the source
            "step_processors": [NGramRepeatBlockProcessor(how.block_ngrams)] if how.block_ngrams else [],
        }
        if how.top_p is None:
            return BeamSearchSeq2SeqGenerator(model, vocabulary, beam_size=how.beam_size, **options)
        assert vocabulary.eos_idx is not None
        uniforms = torch.stack([_uniforms(key(how.seed, "decode", row), how.max_seq_len) for row in rows])
        sampler: Any = KeyedNucleus(how.top_p, uniforms.to(self.device), vocabulary.eos_idx)
        return SamplingSeq2SeqGenerator(
            model, vocabulary, sampler, temperature=1.0, **options
        )  # its own default is 0.6


def _counter(tell: Tell | None, what: str, total: int) -> Callable[[int], None]:
    """Return a function that adds up the rows done and reports them to `tell`."""
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        if tell is not None:
            tell(what, done, total)

    return add


def pick_dtype(dtype: str) -> torch.dtype:
    """Return the torch dtype of "fp32", "fp16" or "bf16". Raises UserError for another name."""
    if dtype not in DTYPES:
        raise UserError(f"dtype: unknown dtype {dtype!r}; expected {listing(DTYPES)}")
    return DTYPES[dtype]


def batches_of_tokens(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield batches of rows of similar length, longest first, with a padded size of at most `budget` tokens.

    A sentence longer than the budget gets its own batch.
    """
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _halves(batch: Sequence[int]) -> list[Sequence[int]]:
    """Return both halves, the second first, because batches are taken from the end of a list."""
    middle = (len(batch) + 1) // 2
    return [half for half in (batch[middle:], batch[:middle]) if len(half)]


def _for_device(sizes: Mapping[str, int], device: torch.device) -> int:
    return sizes["cpu" if device.type == "cpu" else "cuda"]


def _uniforms(seed: int, count: int) -> Tensor:
    return torch.rand(count, generator=seed_generator(torch.Generator(), seed), dtype=torch.float64)


def _check_finite(vectors: np.ndarray, what: str, fix: str) -> None:
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise UserError(f"{what} in {len(broken)} of {len(vectors)} rows ({listing(map(str, broken), 10)}); {fix}")


class KeyedNucleus:
    """A fairseq2 `Sampler` that draws the next token from the smallest set of most likely tokens with a mass above p.

    Nucleus sampling (arXiv 1904.09751) with draws keyed by the row, so that a text does not depend on the batch.

    uniforms: (B, S) on [0, 1): one for each row and step. fairseq2 drops a row after its end token; so does this.
    """

    def __init__(self, p: float, uniforms: Tensor, eos_idx: int):
        self._p, self._uniforms, self._eos_idx, self._step = p, uniforms, eos_idx, 0

    def sample(self, probs: Tensor) -> Tensor:
        """probs: (B', V), not necessarily normalized -> token numbers (B')."""
        probs = probs / probs.sum(-1, keepdim=True)
        looked_at = min(FIRST_LOOK, probs.size(1))
        while True:
            likeliest, tokens = probs.topk(looked_at, -1)
            before = likeliest.cumsum(-1, dtype=torch.float64) - likeliest
            if looked_at == probs.size(1) or bool((before[:, -1] > self._p).all()):
                break
            looked_at = min(16 * looked_at, probs.size(1))
        nucleus = before <= self._p
        mass = (likeliest * nucleus).sum(-1, dtype=torch.float64)
        reached = before <= (self._uniforms[:, self._step] * mass).unsqueeze(-1)  # inverse of the cumulative sum
        place = (reached & nucleus).sum(-1, keepdim=True) - 1
        drawn = tokens.gather(-1, place).squeeze(-1)
        self._step += 1
        self._uniforms = self._uniforms[drawn != self._eos_idx]
        return drawn
