"""Output for terminals and pipes of any encoding: characters that it lacks are replaced by similar ones."""

from __future__ import annotations

import codecs
import sys
import unicodedata
from typing import TextIO

HANDLER = "flowkit"
_PLAIN = {
    "×": "x", "·": "-", "±": "+-", "→": "->", "←": "<-", "…": "...", "–": "-", "—": "--", "−": "-", "≈": "~", "≤": "<=",
    "≥": ">=", "µ": "u",
    "σ": "sigma", "ε": "epsilon", "“": '"', "”": '"', "‘": "'", "’": "'", "•": "*", "●": "*", "✓": "v", "✗": "x",
}  # fmt: skip
_LEVELS = "_.-=+*#@"  # for the eight heights of ▁ to █
_DOTS = " .':;|#@@"  # for a braille cell with so many of its eight dots


def replace_unencodable() -> None:
    """Make stdout and stderr replace characters that their encoding lacks, instead of raising UnicodeEncodeError."""
    codecs.register_error(HANDLER, _replaced)
    for stream in (sys.stdout, sys.stderr):
        adapt(stream)


def stdout_is_unicode() -> bool:
    """Return whether stdout can encode all characters. If not, JSON must escape them, to stay valid."""
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")


def adapt(stream: TextIO | None) -> None:
    reconfigure = getattr(stream, "reconfigure", None)  # None for captured output and notebooks: all of Unicode is fine
    if reconfigure is not None:
        codecs.register_error(HANDLER, _replaced)
        reconfigure(errors=HANDLER)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_like(character, error.encoding) for character in missing), error.end


def _like(character: str, encoding: str) -> str:
    """Return the most similar text in that encoding, or else an escape, so that different names stay different."""
    code = ord(character)
    if 0xD800 <= code < 0xE000:  # a surrogate: a byte of a file name that is not valid UTF-8
        return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else "?"
    plain = _PLAIN.get(character)
    if plain is None and 0x2581 <= code <= 0x2588:
        plain = _LEVELS[code - 0x2581]
    if plain is None and 0x2800 <= code <= 0x28FF:
        plain = _DOTS[(code - 0x2800).bit_count()]
    if plain is None and 0x2500 <= code <= 0x257F:  # lines of boxes
        name = unicodedata.name(character)
        plain = "-" if "HORIZONTAL" in name and "VERTICAL" not in name else "|" if name.endswith("VERTICAL") else "+"
    if plain is None and 0x2580 <= code <= 0x259F:
        plain = "#"
    for likeness in (
        plain,
        "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c)),
    ):
        if likeness:
            try:
                likeness.encode(encoding)
                return likeness
            except UnicodeEncodeError:
                continue
    return character.encode("ascii", "backslashreplace").decode("ascii")
