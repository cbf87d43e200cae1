"""Report on the tensors of a .safetensors file by module. Reads only the header."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowkit.data.header import TensorEntry, read_header

MAX_DEPTH = 40  # of nested modules; the rest of a longer name is not split


@dataclass
class Node:
    """A module: its own tensors and its children, by name."""

    tensors: dict[str, TensorEntry] = field(default_factory=dict)
    children: dict[str, Node] = field(default_factory=dict)

    @property
    def numel(self) -> int:
        return sum(entry.numel for entry in self.tensors.values()) + sum(c.numel for c in self.children.values())

    def shape_of_it(self) -> tuple:
        """Return a key that is equal for modules with the same structure."""
        own = tuple((name, entry.dtype, entry.shape) for name, entry in self.tensors.items())
        return own, tuple((name, child.shape_of_it()) for name, child in self.children.items())


def weights_report(path: Path, header: dict[str, TensorEntry] | None = None) -> dict[str, Any]:
    """Return sizes, dtypes and the module tree of a weight file. Raises UserError if the file is truncated."""
    header = read_header(path) if header is None else header
    dtypes = Counter()
    for entry in header.values():
        dtypes[entry.dtype] += entry.numel
    root = Node()
    for name, entry in sorted(header.items(), key=lambda item: item[1].start):  # in the order of the model, if possible
        *modules, last = name.replace("/", ".").split(".", MAX_DEPTH)
        node = root
        for module in modules:
            node = node.children.setdefault(module, Node())
        node.tensors[last] = entry
    return {
        "path": str(path), "bytes": path.stat().st_size, "tensors": len(header), "elements": root.numel,
        "dtypes": dict(dtypes), "modules": _describe("", root, 1)["modules"], "own_tensors": _own(root),
    }  # fmt: skip


def _describe(name: str, node: Node, repeat: int) -> dict[str, Any]:
    modules = [_describe(*child) for child in _grouped(_in_order(node.children))]
    if name and repeat == 1 and not node.tensors and len(modules) == 1:  # merge a module with its only child
        return {**modules[0], "name": f"{name}.{modules[0]['name']}"}
    return {"name": name, "repeat": repeat, "elements": repeat * node.numel, "tensors": _own(node), "modules": modules}


def _own(node: Node) -> dict[str, Any]:
    named = sorted(node.tensors.items(), key=lambda item: (item[0] != "weight", item[0]))
    return {name: {"shape": list(entry.shape), "dtype": entry.dtype} for name, entry in named}


def _in_order(children: dict[str, Node]) -> list[tuple[str, Node]]:
    """Sort numbered children by number. A file may list 10 before 2."""
    if children and all(map(_is_number, children)):
        return sorted(children.items(), key=lambda item: int(item[0]))
    return list(children.items())


def _grouped(children: list[tuple[str, Node]]) -> list[tuple[str, Node, int]]:
    """Return (name, module, count). Consecutive numbered modules with the same structure are merged, such as `0-7`."""
    groups: list[tuple[str, str, Node, int]] = []  # first name, last name, the first module, count
    for name, child in children:
        if groups and _is_number(name):
            first, last, like, count = groups[-1]
            if _is_number(last) and int(last) + 1 == int(name) and like.shape_of_it() == child.shape_of_it():
                groups[-1] = first, name, like, count + 1
                continue
        groups.append((name, name, child, 1))
    return [(first if first == last else f"{first}-{last}", child, count) for first, last, child, count in groups]


def _is_number(name: str) -> bool:
    return name.isdecimal() and len(name) < 10
