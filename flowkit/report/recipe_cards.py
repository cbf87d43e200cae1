"""A recipe as HTML: one card per table, for a report and for notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowkit.errors import UserError
from flowkit.html import Markup, element
from flowkit.ui.facts import plain


def recipe_cards(recipe: Mapping[str, Any]) -> Markup:
    """Lay out the tables of a recipe, with keys at their defaults dimmed."""
    defaults = _defaults(recipe)
    cards = []
    for section, table in recipe.items():
        if not isinstance(table, Mapping) or not table:
            continue
        lines = [element("div", element("span", key), element("span", plain(setting)),
                         class_="default" if f"{section}.{key}" in defaults else None)
                 for key, setting in table.items()]  # fmt: skip
        cards.append(
            element("div", element("h3", f"[{section}]"), element("div", lines, class_="lines"), class_="card")
        )
    return element("div", cards, class_="recipe")


def _defaults(recipe: Mapping[str, Any]) -> set[str]:
    """Return the keys at their defaults; none for a recipe that this version cannot read, or whose code is not trusted."""
    from flowkit.recipe import recipe_from_dict
    from flowkit.recipe.dump import default_keys

    try:
        return default_keys(recipe_from_dict(dict(recipe)))
    except UserError:
        return set()
