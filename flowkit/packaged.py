"""The recipes that come with flowkit: by name in `flowkit train quickstart`, listed by `flowkit recipes`."""

from __future__ import annotations

from pathlib import Path

from flowkit.errors import UserError, nearest

FOLDER = Path(__file__).parent / "recipes"


def packaged_recipes() -> dict[str, Path]:
    """Return the packaged recipes: {name: file}, in alphabetical order."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def packaged_recipe(name: str) -> Path:
    """Return the file of a packaged recipe. Raises UserError for an unknown name."""
    known = packaged_recipes()
    if name not in known:
        raise UserError(
            f"{name}: no such file, and no recipe of this name{nearest(name, known)}\n"
            "List the recipes that come with flowkit: flowkit recipes"
        )
    return known[name]


def find_recipe(path: Path | str) -> Path:
    """Return the file or run that `path` names, or else the recipe of that name.

    Files come first: NAME, then NAME.toml in this folder, then the recipe NAME that comes with flowkit. A path with a folder
    or a suffix is returned as it is. Raises UserError for a bare name that is none of these.
    """
    path = Path(path)
    bare = path.name == str(path) and not path.suffix
    if not bare or path.is_file() or (path / "recipe.toml").is_file():
        return path
    own = path.with_suffix(".toml")
    return own if own.is_file() else packaged_recipe(path.name)


def summary(path: Path) -> str:
    """Return the first sentence of a recipe's opening comment; empty if it has none."""
    words: list[str] = []
    for line in path.read_text("utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#") or not text:
            break
        words.append(text)
    return " ".join(words).partition(". ")[0].rstrip(".")
