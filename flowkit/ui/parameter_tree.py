"""A model's modules as a tree, with aligned parameter counts."""

from __future__ import annotations

import math
from typing import Any

from rich.text import Text
from rich.tree import Tree

from flowkit.ui.quantities import shape

INDENT = 4  # cells by which Rich's tree indents a level


def parameter_tree(weights: dict[str, Any], what: str = "parameters") -> Tree:
    """Show `weights`, a report of `flowkit.inspect.weights.weights_report`. Repeated modules share a line: `0-7 × 8`."""
    rows = [weights["own_tensors"]] if weights["own_tensors"] else []
    modules = weights["modules"]
    names = max(
        [_name_width(module, 1) for module in modules] + [len(name) + INDENT for one in rows for name in one] + [12]
    )
    total = weights["elements"]
    tree = Tree(_line("all", names, total, total, Text(what, "dim")), guide_style="bright_black")
    for name, entry in weights["own_tensors"].items():
        tree.add(_line(name, names - INDENT, math.prod(entry["shape"]), total, _tensors({"": entry})))
    for module in modules:
        _add(tree, module, names - INDENT, total)
    return tree


def _add(parent: Tree, module: dict[str, Any], names: int, total: int) -> None:
    branch = parent.add(_line(_name(module), names, module["elements"], total, _tensors(module["tensors"])))
    for child in module["modules"]:
        _add(branch, {**child, "elements": child["elements"] * module["repeat"], "repeat": child["repeat"] * module["repeat"],
                      "shown": child["repeat"]}, names - INDENT, total)  # fmt: skip


def _line(name: str, names: int, count: int, total: int, detail: Text) -> Text:
    share = f"{100 * count / total:5.1f}%" if total else ""
    text = Text.assemble((f"{name:<{names}}", "bold"), f"{count:>14,}", (f" {share}  ", "cyan"))
    text.append_text(detail)
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _tensors(tensors: dict[str, Any]) -> Text:
    described = (f"{name} {shape(entry['shape'])}".strip() for name, entry in tensors.items())
    return Text(", ".join(described), "dim")


def _name(module: dict[str, Any]) -> str:
    count = module.get("shown", module["repeat"])
    return f"{module['name']}  × {count}" if count > 1 else module["name"]


def _name_width(module: dict[str, Any], depth: int) -> int:
    return max([depth * INDENT + len(_name(module))] + [_name_width(child, depth + 1) for child in module["modules"]])
