"""flowkit from Python: `flowkit.load(...)` and `flowkit.train(...)`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor, nn

from flowkit.components import trusting
from flowkit.data.dataset import Dataset
from flowkit.errors import UserError
from flowkit.recipe import Recipe, recipe_from_dict
from flowkit.sampling.load import LoadedModel, load

if TYPE_CHECKING:
    from flowkit.events import Listener

__all__ = ["LoadedModel", "load", "train"]
Rows = Dataset | np.ndarray | Tensor | Mapping[str, Any]


def train(
    recipe: Recipe | Path | str | Mapping[str, Any],
    *,
    model: nn.Module | None = None,
    data: Rows | None = None,
    overrides: Sequence[str] = (),
    resume: bool | Literal["auto"] = False,
    allow_changes: bool = False,
    overwrite: bool = False,
    init_from: Path | str | None = None,
    listeners: Callable[[], Sequence[Listener]] = tuple,
) -> LoadedModel:
    """Train, and return the trained model, ready to sample: a copy, where `model` is given, which itself is left as trained.

    recipe: a `Recipe`, the path of a TOML file or of a run, or its tables as a mapping. `overrides` as in `--set`:
    `"optim.lr=3e-4"`.
    model: a module of one's own, called `model(x (B, ...), t (B,))`, and with `(class_label, condition, cfg_mask)` after
    those where the data has labels or conditions; `model.arch = "custom"` in the recipe then stands for it. cfg_mask is (B,),
    or (B, 2), the label's and the condition's, where flow.cond_drop is a table. The data's condition_mask goes by that name.
    data: a `Dataset`, or x (N, ...) float, or {"x": ..., "class_label": ..., "condition": ..., "class_names": ...}.
        condition: (N, C), or (N, P, C) with a "condition_mask" (N, P) bool where some of the P tokens are padding.
    listeners: makes what hears the run's events, e.g. `lambda: [listener()]` with the live view of `flowkit.ui`.

    Raises UserError for whatever the caller can mend.
    """
    from flowkit.checkpoint.run_dir import load_run_recipe
    from flowkit.packaged import find_recipe
    from flowkit.training.train import train as run_training

    run_dir = None
    with trusting():  # what one's own recipe names
        if isinstance(recipe, Recipe):
            if overrides:
                recipe = recipe_from_dict(recipe.to_dict(), overrides)
        elif isinstance(recipe, Mapping):
            recipe = recipe_from_dict(dict(recipe), overrides)
        else:
            recipe, run_dir = load_run_recipe(find_recipe(recipe), overrides)
    outcome = run_training(
        recipe, model=model, data=None if data is None else _dataset(data), resume=resume,
        allow_changes=allow_changes, overwrite=overwrite, init_from=init_from, run_dir=run_dir, listeners=listeners,
    )  # fmt: skip
    return load(outcome.run_dir, model=copy.deepcopy(model))


def _dataset(data: Rows) -> Dataset:
    if isinstance(data, Dataset):
        return data
    table: dict[str, Any] = dict(data) if isinstance(data, Mapping) else {"x": data}
    unknown = table.keys() - {"x", "class_label", "condition", "condition_mask", "class_names", "kind"}
    if unknown or "x" not in table:
        raise UserError(
            "data: expected x, class_label, condition, condition_mask, class_names, kind (all but x may be left out); "
            f"found {', '.join(map(repr, table)) or 'nothing'}"
        )
    given = ("x", "class_label", "condition", "condition_mask")
    arrays = {name: _array(table[name]) for name in given if table.get(name) is not None}
    x = arrays["x"].astype(np.float32, copy=False)
    if not x.size:
        raise UserError(f"data: x has shape {x.shape}, so there is nothing to learn from; expected (N, ...) with rows")
    for name, array in arrays.items():
        if array.shape[:1] != x.shape[:1]:
            raise UserError(f"data: {name} has {len(array)} rows and x has {len(x)}; expected one for each row of x")
        bad = (~np.isfinite(array.reshape(len(array), -1)).all(axis=1)).sum()
        if bad:
            raise UserError(
                f"data: {name} holds NaN or infinity in {bad} of its {len(array)} rows; leave those rows out"
            )
    labels = arrays.get("class_label")
    names = tuple(table.get("class_names") or ())
    if labels is not None:
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min() < 0:
            raise UserError(
                f"data: class_label must be whole numbers from 0, of shape (N,); found {labels.dtype} {labels.shape}"
            )
        labels = labels.astype(np.int64)
        names = names or tuple(map(str, range(int(labels.max()) + 1)))
        if labels.max() >= len(names):
            raise UserError(
                f"data: class_label goes up to {labels.max()}, and there are {len(names)} class_names; expected a name "
                "for each number from 0"
            )
    condition, mask = arrays.get("condition"), arrays.get("condition_mask")
    if mask is not None and (mask.dtype != bool or condition is None or mask.shape != condition.shape[:-1]):
        shape = "none" if condition is None else condition.shape
        raise UserError(
            f"data: condition_mask must be (N, P) bool, beside a condition (N, P, C); found {mask.dtype} {mask.shape}, and the "
            f"condition is {shape}"
        )
    return Dataset(table.get("kind", "array"), x, labels, None if condition is None else condition.astype(np.float32),
                   None, names, {"source": "python"}, condition_mask=mask)  # fmt: skip


def _array(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()  # numpy has no bfloat16
    array = np.asarray(values)
    if array.dtype.kind not in "fiub" or not array.ndim:
        raise UserError(f"data: expected arrays of numbers, a row each; found {array.dtype} of shape {array.shape}")
    return array
