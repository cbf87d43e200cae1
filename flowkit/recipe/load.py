"""Recipes from files and dicts. All mistakes are reported at once, in one UserError."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flowkit.errors import UserError, listing
from flowkit.recipe.flow import Flow
from flowkit.recipe.messages import first_mistake, mistakes
from flowkit.recipe.overrides import apply_overrides
from flowkit.recipe.recipe import Recipe
from flowkit.recipe.sample import SampleSettings
from flowkit.renamed import translated

MAX_STEPS = 10_000  # limit on the solver steps that a model.json may ask for
MAX_BYTES = 1 << 20  # a larger file is not a recipe; do not read a whole checkpoint


def load_recipe(path: Path | str, overrides: Sequence[str] = (), *, saved: int | None = None) -> Recipe:
    """Read the recipe in the TOML file `path`, with `overrides` such as "optim.lr=3e-4".

    saved: the numerics of the run that wrote the recipe, perhaps of an earlier version, so that keys are translated. Raises
    UserError for a missing or unreadable file or invalid TOML; else with all unknown or renamed keys and wrong types; else with
    all impossible combinations.
    """
    data = _read(Path(path))
    return _validated(translated(data, saved)[0] if saved else data, overrides, str(path))


def recipe_from_dict(data: dict[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from nested dicts, one per section, as TOML would give them. Raises UserError as `load_recipe`."""
    return _validated(data, overrides, "recipe")


def saved_settings(path: Path, content: dict[str, Any]) -> tuple[Flow, SampleSettings]:
    """Return the "flow" and "sampling" of a model.json.

    Raises UserError for settings that are not valid in a recipe, and for too many solver steps.
    """
    sampling = content.get("sampling") or {}
    if content.get("numerics", 1) == 1:
        sampling = {"solver": "heun", **sampling}  # the default of old sidecars
    if missing := {"path", "prediction"} - content["flow"].keys():
        raise UserError(f"{path}: 'flow' is not valid: missing {listing(sorted(missing))}")
    found: list[Any] = []
    for name, section, table in (("flow", Flow, content["flow"]), ("sampling", SampleSettings, sampling)):
        known = {key: value for key, value in table.items() if key in section.model_fields}
        try:
            found.append(section.model_validate(known))
        except ValidationError as error:
            raise UserError(f"{path}: {name}.{first_mistake(error, known, section)}") from None
    if found[1].steps > MAX_STEPS:
        raise UserError(f"{path}: sampling.steps is {sampling['steps']:,}; expected at most {MAX_STEPS:,}")
    return found[0], found[1]


def _validated(data: dict[str, Any], overrides: Sequence[str], where: str) -> Recipe:
    data, places, problems = apply_overrides(data, overrides)
    data, renamed = translated(data)
    problems = [*problems, *renamed]
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        problems = [*problems, *mistakes(error, data, Recipe)]
    else:
        if not problems:
            return recipe
    lines = [f"{key}: {text}{_place(key, places)}" for key, text in problems]
    if len(lines) == 1:
        raise UserError(f"{where}: {lines[0]}")
    raise UserError(f"{where}: {len(lines)} mistakes:\n" + "\n".join(f"  {line}" for line in lines))


def _place(key: str, places: dict[str, str]) -> str:
    """Return ` (from --set ...)` if an override set the key, the table that holds it, or something in it."""
    hits = [text for at, text in places.items() if f"{key}.".startswith(f"{at}.") or at.startswith(f"{key}.")]
    return f" (from --set {hits[-1]})" if hits else ""


def _read(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file{_offer(path)}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder{_offer(path / 'recipe.toml')}") from None  # perhaps a run
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if len(raw) > MAX_BYTES:
        raise UserError(f"{path}: is larger than 1 MiB; expected a recipe in TOML")
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}); expected a recipe in TOML") from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not valid TOML: {error}{_quote_line(text, str(error))}") from None


def _quote_line(text: str, message: str) -> str:
    match = re.search(r"at line (\d+)", message)
    return f"\n  line {match[1]}: {text.splitlines()[int(match[1]) - 1].strip()[:120]}" if match else ""


def _offer(path: Path) -> str:
    """Suggest the recipes with the nearest names in that folder, else list all of them."""
    try:
        names = sorted(file.name for file in path.parent.glob("*.toml"))
    except OSError:
        names = []
    if not path.parent.is_dir():
        return f"; there is no folder '{path.parent}' either"
    if near := get_close_matches(path.stem, [name.removesuffix(".toml") for name in names]):
        return "; did you mean " + " or ".join(f"'{path.parent / name}.toml'" for name in near) + "?"
    return f"; recipes in that folder: {listing(names)}" if names else "; that folder has no recipes (*.toml)"
