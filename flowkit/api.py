"""flowkit from Python: `flowkit.train(...)`, `flowkit.load(...)`, `flowkit.show(...)`."""

from __future__ import annotations

import contextlib
import copy
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
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

__all__ = ["LoadedModel", "load", "show", "train"]
Rows = Dataset | np.ndarray | Tensor | Mapping[str, Any]
# What messages name: commands to type, which stay as they are, and options of the command line.
_OPTION = re.compile(r"`[^`]*`|flowkit [a-z]+ [^;\n]*|--set ([^\s,;)]*[^\s,;:.)])|--([a-z][a-z-]+)")
_FLAGS = {"resume", "overwrite", "allow-changes", "trust-code"}


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
    listeners: Callable[[], Sequence[Listener]] | None = None,
) -> LoadedModel:
    """Train a model and return it, ready to sample. With `model`, a copy of it is returned; `model` itself is trained too.

    recipe: a `Recipe`, a TOML file, the name of a packaged recipe, a run directory, or the recipe's tables as a mapping.
    overrides: recipe keys to change, as with `--set`: `["optim.lr=3e-4"]`.
    model: your own module, called as `model(x (B, ...), t (B,))`, followed by `(class_label, condition, cfg_mask)` if the
    data has labels or conditions. The recipe must then say `model.arch = "custom"`. cfg_mask has shape (B,), or (B, 4), with a
    column each for class and condition, if flow.cond_drop is a table. The data's condition_mask is passed by that name.
    data: a `Dataset`, or x (N, ...) float, or {"x": ..., "class_label": ..., "condition": ..., "class_names": ...}.
    condition has shape (N, C), or (N, P, C) with an optional "condition_mask" (N, P) bool, False for padding tokens.
    resume: continue the run; "auto" starts it if it has no checkpoint. allow_changes: resume even if the recipe differs.
    overwrite: replace a run of the same name. init_from: a checkpoint to take the weights from.
    listeners: returns what is told of the run's events. By default, progress is shown in a terminal and in a notebook, and
    nothing is printed elsewhere. `listeners=list` is silent; `lambda: [flowkit.ui.listener()]` always prints.

    Raises UserError for bad input.
    """
    from flowkit.checkpoint.run_dir import load_run_recipe
    from flowkit.packaged import find_recipe
    from flowkit.training.train import train as run_training

    run_dir = None
    with _python_names():
        with trusting():  # the user's own recipe may name the user's own code
            if isinstance(recipe, Recipe):
                if overrides:
                    recipe = recipe_from_dict(recipe.to_dict(), overrides)
            elif isinstance(recipe, Mapping):
                recipe = recipe_from_dict(dict(recipe), overrides)
            else:
                recipe, run_dir = load_run_recipe(find_recipe(recipe), overrides)
        outcome = run_training(
            recipe, model=model, data=None if data is None else _dataset(data), resume=resume,
            allow_changes=allow_changes, overwrite=overwrite, init_from=init_from, run_dir=run_dir,
            listeners=listeners or _progress,
        )  # fmt: skip
    return load(outcome.run_dir, model=copy.deepcopy(model))


def show(what: Dataset | Path | str, rows: int = 8) -> None:
    """Print what `flowkit inspect` prints for a path; for a `Dataset`, one line about it and a preview of some rows.

    rows: how many to preview, at most; as many classes as possible are covered. Raises UserError if `what` is not a
    file that flowkit knows.
    """
    from rich.console import Console

    console = Console(highlight=False)
    if not isinstance(what, Dataset):
        from flowkit.inspect import inspect
        from flowkit.ui import inspect_view

        return inspect_view.show(inspect(what), console)
    from flowkit.inspect.dataset import pictures
    from flowkit.ui.previews import preview_grid

    console.print(repr(what), markup=False)
    for line in preview_grid(pictures(what, rows), console.width):
        console.print(line)


def _progress() -> list[Listener]:
    """Return the live view in a terminal, one cell that is redrawn in a notebook, nothing elsewhere."""
    from flowkit.ui import listener
    from flowkit.ui.plain import PlainListener

    if sys.stderr is not None and sys.stderr.isatty():
        return [listener()]
    if "ipykernel" not in sys.modules:
        return []
    try:
        from flowkit.notebook import NotebookListener

        return [NotebookListener()]
    except ImportError:  # a kernel without IPython's display
        return [PlainListener(sys.stdout)]


@contextlib.contextmanager
def _python_names() -> Iterator[None]:
    """Let messages name parameters of `train` instead of options of the command line."""

    def python(match: re.Match[str]) -> str:
        if match[1]:
            return f'overrides=["{match[1]}"]'
        return match[0] if not match[2] else match[2].replace("-", "_") + "=True" * (match[2] in _FLAGS)

    try:
        yield
    except UserError as error:
        error.args = (_OPTION.sub(python, str(error)), *error.args[1:])
        raise


def _dataset(data: Rows) -> Dataset:
    if isinstance(data, Dataset):
        return data
    table: dict[str, Any] = dict(data) if isinstance(data, Mapping) else {"x": data}
    unknown = table.keys() - {"x", "class_label", "condition", "condition_mask", "class_names", "kind"}
    if unknown or "x" not in table:
        raise UserError(
            "data: expected x, and optionally class_label, condition, condition_mask, class_names, kind; "
            f"found {', '.join(map(repr, table)) or 'nothing'}"
        )
    given = ("x", "class_label", "condition", "condition_mask")
    arrays = {name: _array(table[name]) for name in given if table.get(name) is not None}
    x = arrays["x"].astype(np.float32, copy=False)
    if not x.size:
        raise UserError(f"data: x has shape {x.shape}, which holds no numbers; expected (N, ...) with N > 0")
    for name, array in arrays.items():
        if array.shape[:1] != x.shape[:1]:
            raise UserError(f"data: {name} has {len(array)} rows and x has {len(x)}; expected the same number")
        bad = (~np.isfinite(array.reshape(len(array), -1)).all(axis=1)).sum()
        if bad:
            raise UserError(f"data: {name} holds NaN or infinity in {bad} of its {len(array)} rows; remove these rows")
    labels = arrays.get("class_label")
    names = tuple(table.get("class_names") or ())
    if labels is not None:
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min() < 0:
            raise UserError(
                f"data: class_label: expected integers >= 0 of shape (N,), found {labels.dtype} {labels.shape}"
            )
        labels = labels.astype(np.int64)
        names = names or tuple(map(str, range(int(labels.max()) + 1)))
        if labels.max() >= len(names):
            raise UserError(
                f"data: class_label goes up to {labels.max()}, but there are {len(names)} class_names; expected "
                f"{labels.max() + 1} or more"
            )
    condition, mask = arrays.get("condition"), arrays.get("condition_mask")
    if mask is not None and (mask.dtype != bool or condition is None or mask.shape != condition.shape[:-1]):
        shape = "none" if condition is None else condition.shape
        raise UserError(
            "data: condition_mask: expected bool of shape (N, P), with a condition of shape (N, P, C); found "
            f"{mask.dtype} {mask.shape}, with a condition of shape {shape}"
        )
    return Dataset(table.get("kind", "array"), x, labels, None if condition is None else condition.astype(np.float32),
                   None, names, {"source": "python"}, condition_mask=mask)  # fmt: skip


def _array(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()  # numpy has no bfloat16
    array = np.asarray(values)
    if array.dtype.kind not in "fiub" or not array.ndim:
        raise UserError(
            f"data: expected arrays of numbers with one entry per row; found {array.dtype} of shape {array.shape}"
        )
    return array
