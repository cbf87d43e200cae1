"""What can be said of a run before torch is loaded, which takes seconds: mistakes of names and places."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from flowkit.checkpoint import find_checkpoint, folders_of
from flowkit.checkpoint.run_dir import open_run_dir
from flowkit.data.dataset import data_files, read_sidecar
from flowkit.data_source import open_data
from flowkit.domain import BUILTIN, check_arch

if TYPE_CHECKING:
    from flowkit.recipe import Recipe


def check_early(recipe: Recipe, run_dir: Path | None, *, resume: bool, overwrite: bool, init_from: Path | None) -> None:
    """Raise UserError: a run that exists, data or weights that do not, an architecture that does not fit the data.

    run_dir: the run's directory where that is not as the recipe says.
    """
    here, run_dir = run_dir is None, run_dir or recipe.run.directory
    if not resume and os.environ.get("RANK", "0") == "0":  # the others may come when the first has begun it
        open_run_dir(run_dir, resume=False, overwrite=overwrite)
    if init_from is not None:
        find_checkpoint(init_from)
    kind = BUILTIN.get(recipe.data.source)
    if kind is None:
        folders = (*([Path()] if here else []), *folders_of(run_dir, recipe.to_dict()), Path())
        places = [folder / recipe.data.source for folder in folders]
        found = next((place for place in places if data_files(place)[0].exists()), None)
        if found is None:
            open_data(recipe, folders)  # which says so
        else:
            kind = read_sidecar(found).get("kind")
    if isinstance(kind, str) and recipe.model.arch != "custom":
        check_arch(recipe.model.arch, kind)
