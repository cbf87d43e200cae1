"""Codecs encode sentences to vectors and decode vectors to sentences: SONAR and its miniature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from flowkit.errors import UserError, listing, nearest

if TYPE_CHECKING:
    import numpy as np

    from flowkit.domain import Tell

ENGLISH = "eng_Latn"


@dataclass(frozen=True)
class Decoding:
    """How to decode vectors to text. Raises UserError for values out of range."""

    lang: str = ENGLISH
    beam_size: int = 5
    top_p: float | None = None  # nucleus sampling with this probability mass instead of beam search
    seed: int = 0  # of nucleus sampling
    block_ngrams: int = 0  # never repeat an n-gram of this length; 0 is off. 3 helps for sampled vectors
    max_seq_len: int = 128  # tokens; the decoder's own default depends on D

    def __post_init__(self) -> None:
        if self.beam_size < 1:
            raise UserError(f"beam_size: {self.beam_size}; expected 1 (greedy) or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p: {self.top_p}; expected 0 < top_p <= 1")
        if self.block_ngrams < 0 or self.block_ngrams == 1:  # 1 would block the end token, which also starts a sentence
            raise UserError(f"block_ngrams: {self.block_ngrams}; expected 0 (off), or 2 or more")
        if self.max_seq_len < 4:
            raise UserError(
                f"max_seq_len: {self.max_seq_len}; expected 4 or more (the language takes 2 tokens and the end 1)"
            )


BLOCKED = 3  # length of n-grams that are not repeated in sampled sentences; off the data manifold the decoder may loop


class Codec(Protocol):
    """Converts N sentences to vectors (N, D) float32 and back, in order."""

    name: str  # "sonar" | "mini-sonar"
    dimension: int  # D
    languages: tuple[str, ...]  # codes such as "eng_Latn"

    def identity(self) -> dict[str, Any]:
        """Return what files store about the codec: a "name", and what `open_codec` needs to open the same one again."""
        ...

    def encode(self, texts: Sequence[str], *, lang: str = ENGLISH, tell: Tell | None = None) -> np.ndarray:
        """Encode texts (N) to vectors (N, D) float32; `tell` receives progress. Raises UserError for an unknown language."""
        ...

    def decode(
        self,
        vectors: np.ndarray,
        how: Decoding | None = None,
        *,
        batch_size: int | None = None,
        tell: Tell | None = None,
    ) -> list[str]:
        """Decode vectors (N, D) to texts (N).

        batch_size: maximum number of vectors per batch; None takes as many as fit the device. tell: receives progress.
        Raises UserError for an unknown language or vectors of another dimension.
        """
        ...


CODECS = ("sonar", "mini-sonar")


def open_codec(identity: Mapping[str, Any] | str, *, device: str = "auto", dtype: str = "fp32") -> Codec:
    """Open a codec by its name, or by the "codec" of a sidecar. Downloads or trains what is missing.

    dtype: "fp32", "fp16" or "bf16". Raises UserError for an unknown name and for missing packages or weights.
    """
    described = {"name": identity} if isinstance(identity, str) else dict(identity)
    name = described.get("name")
    if name == "sonar":
        from flowkit.text.sonar import open_sonar

        return open_sonar(described, device=device, dtype=dtype)
    if name == "mini-sonar":
        from flowkit.text.mini.codec import open_mini

        return open_mini(described, device=device, dtype=dtype)
    raise unknown_codec(name)


def languages_of(identity: Mapping[str, Any] | str) -> tuple[str, ...]:
    """Return the languages of a codec without opening it. Downloads, trains and loads nothing.

    Raises UserError for an unknown name, missing packages, and missing files of SONAR.
    """
    described = {"name": identity} if isinstance(identity, str) else dict(identity)
    name = described.get("name")
    if name == "sonar":
        from flowkit.text.sonar import find_parts
        from flowkit.text.sonar_packages import why_not_importable

        if reason := why_not_importable():
            raise UserError(f"codec: {reason}")
        parts = find_parts(described)
        parts.places()
        return tuple(parts.tokenizer.languages())
    if name == "mini-sonar":
        from flowkit.text.mini.codec import LANGUAGES

        return LANGUAGES
    raise unknown_codec(name)


def unknown_codec(name: Any) -> UserError:
    return UserError(f"codec: unknown codec {name!r}; expected {listing(CODECS)}{nearest(str(name), CODECS)}")


def why_unavailable(identity: Mapping[str, Any] | str) -> str | None:
    """Return None if `open_codec` would download and train nothing; otherwise the reason, as part of a sentence."""
    described = {"name": identity} if isinstance(identity, str) else dict(identity)
    name = described.get("name")
    if name == "sonar":
        from flowkit.text.sonar import why_sonar_unavailable

        return why_sonar_unavailable(described)
    if name == "mini-sonar":
        from flowkit.text.mini.codec import why_mini_unavailable

        return why_mini_unavailable(described)
    return f"the data was made by the unknown codec {name!r}" if name else "its codec is not known"
