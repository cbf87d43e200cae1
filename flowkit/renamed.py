"""Keys of a recipe that were renamed: the one table of old and new names.

What flowkit itself saved (a run's recipe.toml, the tables of a model.json) is translated as it is read. In a recipe that a
user wrote, an old name is an error that tells the new one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

KEYS = {
    "loss": "aux_loss",  # the whole section
    "flow.loss_space": "flow.loss.space",
    "flow.error": "flow.loss.error",
    "flow.weights": "flow.loss.weights",
    "flow.coupling.regularisation": "flow.coupling.regularization",
    "flow.cond_drop.label": "flow.cond_drop.class",
}
ALONG_NETWORK = 4  # the first version of the numerics with a choice of `flow.objective.along`
VALUES = {"train.precision": {"no": "fp32"}}


def translated(tables: Mapping[str, Any], numerics: int | None = None) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return a recipe's tables with old names replaced by new ones, and (old key, what replaced it) for each.

    If the new name is already present, it keeps its value. numerics: version of the run that saved the tables, if one did; a
    setting that was the only way at that time, and is not the default any more, is then added.
    """
    tables = copy.deepcopy(dict(tables))
    found: list[tuple[str, str]] = []
    for old, new in KEYS.items():
        table, key = _table(tables, old), old.rpartition(".")[2]
        if table is None or key not in table:
            continue
        value = table.pop(key)
        whole = "." not in old and isinstance(value, dict) and value
        found += (
            [(f"{old}.{name}", f"renamed to {new}.{name}") for name in value] if whole else [(old, f"renamed to {new}")]
        )
        target = _table(tables, new, make=True)
        if target is not None:
            target.setdefault(new.rpartition(".")[2], value)
    for key, values in VALUES.items():
        table, name = _table(tables, key), key.rpartition(".")[2]
        value = None if table is None else table.get(name)
        if table is not None and isinstance(value, str) and value in values:
            table[name] = values[value]
            found.append((key, f'"{value}" was renamed to "{values[value]}"'))
    flow = tables.get("flow")
    objective = flow.get("objective") if isinstance(flow, dict) else None
    objective = {"name": objective} if isinstance(objective, str) else objective
    earlier = numerics is not None and numerics < ALONG_NETWORK
    if earlier and isinstance(flow, dict) and isinstance(objective, dict) and objective.get("name") == "mean_flow":
        flow["objective"] = {"along": "pair", **objective}
    return tables, found


def translated_sidecar(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a model.json, its fields checked, with new names in its recipe and its flow."""
    numerics, recipe = content.get("numerics", 1), content.get("recipe")
    flow = translated({"flow": content["flow"]}, numerics)[0]["flow"]
    return {**content, "flow": flow, **({} if recipe is None else {"recipe": translated(recipe, numerics)[0]})}


def _table(tables: dict[str, Any], key: str, *, make: bool = False) -> dict[str, Any] | None:
    """Return the table that contains `key`; None if it does not exist or is not a table."""
    table: Any = tables
    for name in key.split(".")[:-1]:
        if not isinstance(table, dict):
            return None
        table = table.setdefault(name, {}) if make else table.get(name)
    return table if isinstance(table, dict) else None
