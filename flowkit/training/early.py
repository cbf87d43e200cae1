"""What can be said of a run before torch is loaded, which takes seconds: mistakes of names and places."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from flowkit.checkpoint import find_checkpoint
from flowkit.data.dataset import data_files, read_sidecar
from flowkit.data.source import open_data
from flowkit.domain import BUILTIN, check_arch
from flowkit.training.run_dir import open_run_dir

if TYPE_CHECKING:
    from flowkit.recipe import Recipe


def check_early(recipe: Recipe, *, resume: bool, overwrite: bool, init_from: Path | None) -> None:
    """Raise UserError: a run that exists, data or weights that do not, an architecture that does not fit the data."""
    if not resume and os.environ.get("RANK", "0") == "0":  # the others may come when the first has begun it
        open_run_dir(recipe, resume=False, overwrite=overwrite)
    if init_from is not None:
        find_checkpoint(init_from)
    source = recipe.data.source
    kind = BUILTIN.get(source)
    if kind is None:
        if not data_files(source)[0].exists():
            open_data(recipe)  # which says so
        kind = read_sidecar(source).get("kind")
    if isinstance(kind, str) and recipe.model.arch != "custom":
        check_arch(recipe.model.arch, kind)
