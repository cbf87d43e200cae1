"""Report on a recipe: its resolved settings, checked as `train` does, and derived facts."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowkit.data.dataset import data_files, read_sidecar
from flowkit.domain import builtin_sets
from flowkit.errors import UserError
from flowkit.renamed import translated

if TYPE_CHECKING:
    from flowkit.recipe import Recipe


def recipe_report(path: Path) -> dict[str, Any]:
    """Report on a recipe. Raises UserError with all of its mistakes."""
    from flowkit.checkpoint.run_dir import load_run_recipe

    recipe, _ = load_run_recipe(path)
    given, _ = translated(tomllib.loads(path.read_text("utf-8-sig")))
    facts, remarks = _facts(recipe)
    return {
        "what": "recipe",
        "path": str(path),
        "recipe": recipe.to_dict(),
        "given": {section: sorted(keys) for section, keys in given.items() if isinstance(keys, dict)},
        "facts": facts,
        "remarks": remarks,
    }


def _facts(recipe: Recipe) -> tuple[dict[str, Any], list[str]]:
    """Return the numbers of rows, updates and epochs, without loading the data. Remarks if they are not known."""
    facts: dict[str, Any] = {"run_dir": str(recipe.run.directory), "run_exists": recipe.run.directory.exists()}
    try:
        rows = _train_rows(recipe)
    except UserError as error:
        return facts, [f"data.source: {error}"]
    steps = recipe.train.total_steps(rows)
    seen = steps * recipe.train.batch_size
    return {**facts, "train_rows": rows, "steps": steps, "rows_seen": seen, "epochs": seen / rows if rows else None}, []


def _train_rows(recipe: Recipe) -> int:
    data = recipe.data
    if data.source in builtin_sets():
        rows, split = data.num_samples, {}
    else:
        tensors, _ = data_files(data.source)
        if not tensors.exists():
            raise UserError(f"{tensors} does not exist yet; create it with `flowkit prepare`")
        counts = read_sidecar(data.source).get("counts", {})
        rows, split = counts.get("rows", 0), counts.get("split") or {}
    training = split.get("train", rows - round(data.val_fraction * rows))
    return min(training, data.subset or training)
