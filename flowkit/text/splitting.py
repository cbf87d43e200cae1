"""Paragraphs into sentences, by the rules of the sentencex package (Wikimedia's, made for some 300 languages)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flowkit.errors import UserError
from flowkit.text.reading import Sentences

# sentencex knows the languages that have rules of their own by ISO 639-1; it finds the relatives of others itself.
_TWO_LETTERS = {
    "amh": "am", "arb": "ar", "bul": "bg", "ben": "bn", "cat": "ca", "dan": "da", "deu": "de", "ell": "el", "eng": "en",
    "spa": "es", "fin": "fi", "fra": "fr", "guj": "gu", "hin": "hi", "hye": "hy", "ita": "it", "jpn": "ja", "kan": "kn",
    "kaz": "kk", "mal": "ml", "mar": "mr", "mya": "my", "nld": "nl", "pan": "pa", "pol": "pl", "por": "pt", "rus": "ru",
    "slk": "sk", "tam": "ta", "tel": "te", "ukr": "uk",
}  # fmt: skip


def split_sentences(
    paragraphs: Sentences, lang: str, progress: Callable[[int, int], object] | None = None
) -> Sentences:
    """Each text cut into its sentences; `numbers` still says in which line each stands. Raises UserError without sentencex."""
    try:
        from sentencex import segment  # type: ignore[reportAttributeAccessIssue]
    except ImportError:
        raise UserError("--split-sentences needs the package sentencex: pip install sentencex") from None
    code = lang.split("_")[0]
    code = _TWO_LETTERS.get(code, code)
    texts: list[str] = []
    lines: list[int] = []
    for done, (text, line) in enumerate(zip(paragraphs.texts, paragraphs.numbers.tolist(), strict=True), 1):
        found = [sentence for sentence in (part.strip() for part in segment(code, text)) if sentence]
        texts += found
        lines += [line] * len(found)
        if progress and (done % 1024 == 0 or done == len(paragraphs)):
            progress(done, len(paragraphs))
    return Sentences(
        texts, np.array(lines, np.int64), paragraphs.read, paragraphs.empty, paragraphs.notes, paragraphs.unit
    )
