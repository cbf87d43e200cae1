"""What a recipe names as data: rows with a split, and what the flow starts from; built-in data sets, or prepared files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit.data.base import NORMAL, Base, DataBase, NormalBase
from flowkit.data.dataset import SPLITS, TRAIN, VALIDATION, Dataset, data_files, read_dataset
from flowkit.domain import builtin_sets, get_domain
from flowkit.errors import UserError, listing, nearest
from flowkit.rng import NUMERICS, key

if TYPE_CHECKING:
    from flowkit.data.normalizers import Normalizer
    from flowkit.recipe import Recipe


def open_data(recipe: Recipe, folders: Sequence[Path] = ()) -> Dataset:
    """Return the data that `recipe.data` names, checked, with `.split` resolved: the file's own, else keyed by `data.seed`.

    folders: as in `open_rows`.
    Raises UserError for a source that is neither built in nor a file, and for rows that the domain refuses.
    """
    settings = recipe.data
    try:
        data = open_rows(settings.source, settings.num_samples, settings.seed, folders, settings.domain)
    except UnknownSource as error:
        raise UserError(f"data.source: {error}") from None
    if settings.conditions != "all":
        there = data.condition_kinds
        if missing := [kind for kind in settings.conditions if kind not in there]:
            raise UserError(
                f"data.conditions: {settings.source} has no {listing(missing)}; it has {listing(there) or 'no conditions'}"
            )
        data = dataclasses.replace(data, used=tuple(settings.conditions))
    return with_split(data, settings.val_fraction, settings.subset, settings.seed, settings.source)


class UnknownSource(UserError):
    """Neither a built-in data set nor a file."""


def open_rows(
    source: str, num_samples: int, seed: int, folders: Sequence[Path] = (), domain: str | None = None
) -> Dataset:
    """Return the rows of `source`: `num_samples` of a built-in data set, generated from `seed`, or those of a prepared file.

    folders: where a relative path is looked for before the working directory, in this order. domain: what the rows are, in
    place of what the file says; its own built-in sets are known then, too.
    """
    known = builtin_sets()
    if domain is not None:
        known = {**known, **dict.fromkeys(get_domain(domain).builtin, domain)}
    if source in known:
        return get_domain(known[source]).generate(source, num_samples, seed)
    places = list(dict.fromkeys(folder / source for folder in (*folders, Path())))
    for place in places:
        tensors, _ = data_files(place)
        if tensors.exists():
            found = read_dataset(place)
            return found if domain is None else dataclasses.replace(found, kind=domain)
    tensors, _ = data_files(source)
    looked = listing(dict.fromkeys(str(folder.absolute()) for folder in (*folders, Path())))
    where = f"; looked in {looked}" if folders and not tensors.is_absolute() else ""
    raise UnknownSource(
        f"{source!r} is neither a built-in data set ({listing(known)}) nor a prepared "
        f"file ({tensors} does not exist{where}; `flowkit prepare` makes one){nearest(source, known)}"
    )


def with_split(data: Dataset, val_fraction: float, subset: int | None, seed: int, where: str) -> Dataset:
    """Return `data`, checked by its domain, with every row in a split. A subset is the first k training rows.

    Raises UserError: rows of the wrong shape, a subset larger than the training rows, no training rows left.
    """
    get_domain(data.kind).check(data, where)
    split = data.split
    if split is None:
        count = round(val_fraction * len(data))
        permutation = np.random.Generator(np.random.Philox(key(seed, "split"))).permutation(len(data))
        split = np.full(len(data), TRAIN, np.uint8)
        split[permutation[:count]] = VALIDATION
    train = np.flatnonzero(split == TRAIN)
    if subset is not None:
        if subset > len(train):
            raise UserError(
                f"data.subset: {subset} rows are asked for, and {where} has {len(train)} training rows; "
                f"ask for at most {len(train)}"
            )
        split = split.copy()
        split[train[subset:]] = 255  # in no split
    if not len(train):
        if data.split is None:
            raise UserError(f"{where}: no training rows are left of {len(data)}; lower data.val_fraction")
        held = ", ".join(f"{count:,} {name}" for name in SPLITS if (count := len(data.rows(name))))
        raise UserError(
            f"{where}: has no training rows ({held or 'no rows'}), by the splits that it was prepared with; prepare it again "
            "from a source with training rows, or without splits"
        )
    return dataclasses.replace(data, split=split)


def open_base(
    described: dict[str, Any],
    data_shape: tuple[int, ...],
    normalizer: Normalizer,
    folders: Sequence[Path] = (),
    numerics: int = NUMERICS,
) -> Base:
    """Return the base that `described` names: {"source": "normal"}, or a data set's source with "num_samples" and "seed".

    folders: where a relative path is looked for before the working directory. Of a file that was split only the training
    rows are taken. Raises UserError for an unknown source, and for rows that are not of the data's shape.
    """
    source = described["source"]
    if source == NORMAL:
        return NormalBase(numerics)
    try:
        data = open_rows(source, described["num_samples"], described["seed"], folders)
    except UserError as error:
        raise UserError(f"flow.base: {error}") from None
    if data.x.shape[1:] != data_shape:
        raise UserError(
            f"flow.base: the rows of {source!r} have shape {data.x.shape[1:]}, and those of the data {data_shape}; "
            "a flow needs rows of one shape at both ends"
        )
    return DataBase(normalizer.normalize_rows(data.x, data.rows("train"), lambda rows: rows))
