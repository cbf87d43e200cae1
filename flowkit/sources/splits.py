"""Recognize folders and files that are named like splits: training, validation or test."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from flowkit.errors import listing
from flowkit.sources.files import Entry

_NAMES = {
    "train": "train", "training": "train", "trn": "train", "trainset": "train",
    "val": "validation", "valid": "validation", "validation": "validation", "validate": "validation", "dev": "validation",
    "devel": "validation", "development": "validation", "eval": "validation", "evaluation": "validation", "valset": "validation",
    "test": "test", "testing": "test", "tst": "test", "testset": "test", "holdout": "test",
}  # fmt: skip
_ADDED = re.compile(
    r"^x_|-\d{4,6}-of-\d{4,6}$|[ _.-]*(?:set|split|data|images|drawings|sketches|svgs?|(?:19|20)\d\d)$"
)  # x_train of arrays, train-00000-of-00002 of tables in parts


def split_of(name: str) -> str:
    """Return "train", "validation" or "test" for the usual spellings ("val2017", "test-set", "x_test"), else ""."""
    plain = name.strip().lower()
    return _NAMES.get(plain) or _NAMES.get(_ADDED.sub("", plain), "")


@dataclass(frozen=True)
class Places:
    of: list[tuple[str, str]]  # (split, class) of each entry; the split is "" if the source has no splits
    notes: list[str] = field(default_factory=list)


def places(entries: Sequence[Entry], fallback: str) -> Places:
    """Return split and class of each entry from its folders: `class/...`, `split/class/...` or `class/split/...`.

    Leading folders that all entries share are ignored. A level of folders is a level of splits if every folder in it is
    named like a split. Files that are not in a class folder form one class, named after the folder that contains them all
    (`fallback` if there is none).
    """
    folders = [entry.parts[:-1] for entry in entries]
    if not folders:
        return Places([])
    shared = 0
    while all(len(f) > shared and f[shared] == folders[0][shared] for f in folders):
        if split_of(folders[0][shared]):
            break
        shared += 1
    fallback = folders[0][shared - 1] if shared else fallback
    rest = [f[shared:] for f in folders]
    level = _split_level(rest)
    notes, splits, below = [], [], []
    for f in rest:
        if level is None or len(f) <= level:
            splits.append("" if level is None else "train")
            below.append(f)
        else:
            splits.append(split_of(f[level]))
            below.append(f[:level] + f[level + 1 :])
    while all(len(f) > 1 and f[0] == below[0][0] for f in below):  # split/images/class/...
        below = [f[1:] for f in below]
    out = [(split, f[0] if f else fallback) for split, f in zip(splits, below, strict=True)]
    if level is not None:
        named = {f[level]: split_of(f[level]) for f in rest if len(f) > level}
        spelled = listing(
            (name if name.lower() == split else f"{name} ({split})" for name, split in sorted(named.items())), 8
        )
        several = len(named) > 1
        notes.append(
            f"{'folders' if several else 'folder'} {spelled}: {'splits, not classes' if several else 'a split, not a class'}"
        )
        if outside := sum(len(f) <= level for f in rest):
            notes.append(
                f"{outside:,} {'file is' if outside == 1 else 'files are'} not in the folder of a split: read as train"
            )
    else:
        alike = sorted({f[0] for f in rest if f and split_of(f[0])})
        if alike:
            others = sorted({f[0] for f in rest if f} - set(alike))
            as_what = "a class" if len(alike) == 1 else "classes"
            notes.append(
                f"{listing(alike)}: read as {as_what}, because other folders are not splits ({listing(others, 4)})"
            )
    loose = sum(not f for f in below)
    if loose and any(below):
        notes.append(
            f"{loose:,} {'file' if loose == 1 else 'files'} outside class folders: read as the class {fallback!r}"
        )
    alike_but = _alike({name for _, name in out})
    if alike_but:
        notes.append(f"classes whose names differ in case only: {listing(alike_but, 4)}")
    return Places(out, notes)


def _split_level(rest: Sequence[tuple[str, ...]]) -> int | None:
    """Return the first level at which every folder is named like a split.

    Below the first level, this requires two such folders, or one for each file."""
    for level in range(3):
        names = {f[level] for f in rest if len(f) > level}
        certain = level == 0 or len(set(map(split_of, names))) > 1 or all(len(f) > level for f in rest)
        if names and all(map(split_of, names)) and certain:
            return level
    return None


def _alike(names: set[str]) -> list[str]:
    by_lower: dict[str, list[str]] = {}
    for name in sorted(names):
        by_lower.setdefault(name.casefold(), []).append(name)
    return [" and ".join(same) for same in by_lower.values() if len(same) > 1]
