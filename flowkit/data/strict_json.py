"""Parse untrusted JSON, and reject valid JSON that would break its users."""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 60  # recursive code must not hit the recursion limit
LARGEST = 2**64  # limit of integers in numpy and torch


def parse_json(raw: bytes | str) -> Any:
    """Return the content of a JSON document. Raises ValueError with the reason if it is not valid.

    Also rejects integers of more than 64 bits, nesting deeper than `MAX_DEPTH`, and unpaired surrogates, which cannot be
    written to files or terminals.
    """
    try:
        content = json.loads(raw, parse_int=_whole)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels") from None
    _check(content)
    return content


def _whole(digits: str) -> int:
    if len(digits) > 21 or abs(number := int(digits)) > LARGEST:
        raise ValueError(f"the number {digits[:24]} has more than 64 bits")
    return number


def _check(content: Any) -> None:
    level = [content]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, str):
                _check_text(one)
            elif isinstance(one, list):
                inner += one
            elif isinstance(one, dict):
                for key, value in one.items():
                    _check_text(key)
                    inner.append(value)
        if not inner:
            return
        level = inner
    raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("it contains an unpaired surrogate, which is not a character") from None
