"""Check model.json once, as it is read, so that later code can rely on it. Torch-free.

`check_fields` checks the types of the fields without pydantic. `recipe.load.saved_settings` checks [flow] and [sample].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowkit.errors import UserError, listing, nearest

MAX_ROW = 1 << 24  # numbers in one row of data


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _shape(value: Any) -> bool:
    sizes = isinstance(value, list) and all(_count(size) and size for size in value)
    return sizes and 0 < len(value) < 16 and math.prod(value) <= MAX_ROW


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _scalars(value: Any) -> bool:
    return isinstance(value, dict) and all(
        one is None or isinstance(one, str | int | float) or (isinstance(one, list) and all(map(_number, one)))
        for one in value.values()
    )


def _source(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("source"), str)


def _data(value: Any) -> bool:
    return isinstance(value, dict) and all(_count(value[name]) for name in ("train_rows", "val_rows") if name in value)


def _base(value: Any) -> bool:
    if not _source(value):
        return False
    rows, seed = value.get("num_samples"), value.get("seed")
    return value["source"] == "normal" or (_count(rows) and rows <= 10**8 and _count(seed))


def _losses(value: Any) -> bool:
    numbers = lambda one: isinstance(one, dict) and all(map(_number, one.values()))  # noqa: E731
    return isinstance(value, dict) and all(
        one is None or numbers(one) or (name != "ema_losses" and (_number(one) or isinstance(one, list)))
        for name, one in value.items()
    )


def _normalizer(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return False
    file = value.get("file", "plain.safetensors")
    return isinstance(file, str) and Path(file).name == file and file not in ("", ".", "..") and "\0" not in file


def _sections(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, dict) for one in value.values())


def _encoded(value: Any) -> bool:
    return _sections(value) and all(
        kind in ("image", "text") and isinstance(one.get("encoder", ""), str) and isinstance(one.get("fingerprint", ""), str)
        and _shape(one.get("shape")) and len(one["shape"]) == 2 for kind, one in value.items()
    )  # fmt: skip


_DICT: Callable[[Any], bool] = lambda value: isinstance(value, dict)  # noqa: E731
_TEXT: Callable[[Any], bool] = lambda value: isinstance(value, str)  # noqa: E731
_REQUIRED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "architecture": (_TEXT, "a name"),
    "model_args": (_scalars, "a table of plain values"),
    "kind": (_TEXT, "a name"),
    "shape": (_shape, f"a list of sizes, of at most {MAX_ROW:,} numbers in all"),
    "normalizer": (_normalizer, "a table with a name and an optional file"),
    "flow": (_DICT, "a table"),
}
_OPTIONAL: dict[str, tuple[Callable[[Any], bool], str]] = {
    "class_names": (_texts, "a list of strings"),
    "condition_shape": (_shape, "a list of sizes"),
    "encoded": (_encoded, "a table of encoders"),
    "base": (_base, "a table with a source"),
    "sampling": (_DICT, "a table"),
    "step": (_count, "a whole number"),
    "numerics": (_count, "a whole number"),
    "ema": (_DICT, "a table"),
    "validation": (_losses, "a table of numbers"),
    "data": (_data, "a table with counts of rows"),
    "inherited": (_DICT, "a table"),
    "recipe": (_sections, "a table of tables"),
}


def check_fields(path: Path, content: dict[str, Any]) -> None:
    """Raise UserError for a field that is missing or of the wrong type."""
    for name, (fits, expected) in _REQUIRED.items():
        if name not in content:
            raise UserError(f"{path}: {name!r} is missing; expected the sidecar of a flowkit model")
        if not fits(content[name]):
            raise UserError(f"{path}: {name!r} is not {expected}; expected the sidecar of a flowkit model")
    for name, (fits, expected) in _OPTIONAL.items():
        if content.get(name) is not None and not fits(content[name]):
            raise UserError(f"{path}: {name!r} is not {expected}; the file is corrupt or not from flowkit")


def class_number(label: str | int, class_names: tuple[str, ...]) -> int:
    """Return the number of a class given by name or number, NULL for "null". Raises UserError for an unknown class."""
    from flowkit.data.dataset import NULL, NULL_NAMES, null_name

    if isinstance(label, str) and label in class_names:
        return class_names.index(label)
    if label in NULL_NAMES:
        return NULL
    number = int(label) if isinstance(label, int) or label.isdecimal() else -1
    if 0 <= number < len(class_names):
        return number
    raise UserError(
        f"class_label: unknown class {label!r}; the {len(class_names)} classes are {listing(class_names)} "
        f'(or 0 to {len(class_names) - 1}, or "{null_name(class_names)}" for none of them){nearest(str(label), class_names)}'
    )
