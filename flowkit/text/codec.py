"""A codec turns sentences into vectors and vectors into sentences. SONAR is one, its miniature another."""

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
    """How vectors become text. Raises UserError for what no decoder could do."""

    lang: str = ENGLISH
    beam_size: int = 5
    top_p: float | None = None  # nucleus sampling with this mass, in place of beams
    seed: int = 0  # of nucleus sampling
    block_ngrams: int = 0  # no n-gram of this length twice in a sentence; 0 is off. 3 helps vectors off the manifold
    max_seq_len: int = 128  # tokens; without it a vector would count as a source of 1,024 tokens and decode up to 512

    def __post_init__(self) -> None:
        if self.beam_size < 1:
            raise UserError(f"beam_size: {self.beam_size}; expected 1 (greedy) or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p: {self.top_p}; expected a mass above 0 and up to 1")
        if (
            self.block_ngrams < 0 or self.block_ngrams == 1
        ):  # one: the end is a token too, and has stood at the beginning
            raise UserError(f"block_ngrams: {self.block_ngrams}; expected 0 (off) or 2 and more")
        if self.max_seq_len < 4:
            raise UserError(
                f"max_seq_len: {self.max_seq_len}; expected 4 or more, of which the language takes two, the end one"
            )


BLOCKED = 3  # n-grams that no sampled vector's sentence repeats: off the manifold a decoder may fall into a loop


class Codec(Protocol):
    """Vectors (N, D) float32 for N sentences, in their order, and back."""

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
    """The codec of that name, or the one that a sidecar's "codec" describes; it may download or train what it lacks.

    dtype: "fp32", "fp16" or "bf16". Raises UserError, with how to mend it: unknown name, missing packages or weights.
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
    """The languages of a codec that is not opened: this downloads, trains and loads nothing.

    Raises UserError: unknown name, missing packages, a file of SONAR's that is not there.
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
    return UserError(f"codec: {name!r} is unknown; known are {listing(CODECS)}{nearest(str(name), CODECS)}")


def why_not_at_hand(identity: Mapping[str, Any] | str) -> str | None:
    """None where `open_codec` would need no download and no training; else the reason, as part of a sentence."""
    described = {"name": identity} if isinstance(identity, str) else dict(identity)
    name = described.get("name")
    if name == "sonar":
        from flowkit.text.sonar import why_sonar_not_at_hand

        return why_sonar_not_at_hand(described)
    if name == "mini-sonar":
        from flowkit.text.mini.codec import why_mini_not_at_hand

        return why_mini_not_at_hand(described)
    return f"the data was made by {name!r}, which is no codec that flowkit knows" if name else "its codec is not known"
