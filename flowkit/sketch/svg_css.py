"""The part of CSS that drawings use: style sheets, selectors and the cascade. No file is fetched.

Rules that matter but are not interpreted (some at-rules and pseudo-classes) are counted by cause.
Source: CSS Syntax 3, Selectors 4, CSS Cascade 4.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from flowkit.errors import Unreadable
from flowkit.sketch.svg_document import Node

MAX_RULES = 20_000  # selectors
MAX_VARIABLES = 1_000  # per element
MAX_TRIES = 300_000  # comparisons of a selector with an element, weighted by their cost

_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)", re.DOTALL)
_MARK = re.compile(r""""(?:[^"\\]|\\.)*+"?|'(?:[^'\\]|\\.)*+'?|\\.|[{};()\[\],]""", re.DOTALL)
_IMPORTANT = re.compile(r"!\s*important$", re.IGNORECASE)
_NAME = r"(?:[\w-]|[^\x00-\x7f]|\\[0-9a-fA-F]{1,6}\s?|\\.)++"
_PART = re.compile(
    rf"(?P<tag>(?:(?:{_NAME}|\*)?\|)?(?:{_NAME}|\*))|\.(?P<cls>{_NAME})|\#(?P<id>{_NAME})"
    rf"|\[\s*(?P<attr>{_NAME})\s*(?:(?P<op>[~|^$*]?=)\s*(?P<value>\"[^\"]*\"|'[^']*'|{_NAME})\s*(?P<case>[iIsS])?\s*)?\]"
    rf"|(?P<pseudo>::?{_NAME})(?:\((?P<inner>[^()]*)\))?",
    re.DOTALL,
)
_COMBINATOR = re.compile(r"\s*([>+~])\s*|\s+")
# Pseudo-classes that depend on user interaction never match in a static drawing.
_NEVER = {"hover", "active", "focus", "focus-within", "focus-visible", "visited", "target", "checked", "disabled"}
_MATTERS = re.compile(r"\b(display|visibility|opacity|fill|stroke|color|transform|clip-path|mask)\b", re.IGNORECASE)
_APPLIES = re.compile(r"(only\s+)?(all|screen)|\(\s*prefers-color-scheme\s*:\s*light\s*\)|", re.IGNORECASE)
_UNRELATED = {
    "font-face",
    "keyframes",
    "-webkit-keyframes",
    "-moz-keyframes",
    "charset",
    "namespace",
    "page",
    "property",
}

Test = Callable[[Node], bool]


@dataclass(frozen=True)
class _Rule:
    compounds: tuple[tuple[Test, ...], ...]  # from left to right
    combinators: tuple[str, ...]  # between them: " ", ">", "+" or "~"
    rank: tuple[int, int, int, int]  # specificity (ids, classes, elements) and position in the source
    declarations: list[tuple[str, str, bool]]  # name, value, important


class Cascade:
    """The style sheets of one document."""

    def __init__(
        self, sheets: list[str], properties: frozenset[str], css_only: frozenset[str], valid: Callable[[str, str], bool]
    ) -> None:
        self.causes: Counter[str] = Counter()
        self._attributes, self._properties, self._valid = properties, properties | css_only, valid
        self._rules: dict[str, list[_Rule]] = {}  # by the key of the last compound: "#id", ".class", "tag" or "*"
        self._count = self._tries = 0
        for sheet in sheets:
            self._read(_COMMENT.sub(" ", sheet).replace("<!--", " ").replace("-->", " "), depth=0)

    def _read(self, css: str, depth: int) -> None:
        for prelude, block in _statements(css):
            if prelude.startswith("@"):
                self._at_rule(prelude, block, depth)
            elif block is not None:
                declarations = [d for d in _declarations(block) if d[0] in self._properties or d[0].startswith("--")]
                if "{" in block and _MATTERS.search(block):
                    self.causes["nested style rules are not interpreted"] += 1
                for selector in _split(prelude, ",") if declarations else ():
                    self._add(selector.strip(), declarations)

    def _at_rule(self, prelude: str, block: str | None, depth: int) -> None:
        name = re.split(r"[^\w-]", prelude[1:], maxsplit=1)[0].lower()
        if name == "media" and block is not None and depth < 8:
            queries = [query.strip() for query in prelude[6:].split(",")]
            if any(_APPLIES.fullmatch(query) for query in queries):
                self._read(block, depth + 1)
                return
            if all(re.search(r"prefers-color-scheme\s*:\s*dark|\bprint\b", query) for query in queries):
                return  # does not apply: drawings are read as on a white screen
        if name == "layer" and block is not None and depth < 8:
            self._read(block, depth + 1)
        elif name == "import":
            self.causes["style sheets in other files are not read"] += 1
        elif name not in _UNRELATED and _MATTERS.search(block or ""):
            self.causes[f"style rules in @{name[:20]} are not interpreted"] += 1

    def _add(self, selector: str, declarations: list[tuple[str, str, bool]]) -> None:
        self._count += 1
        if self._count > MAX_RULES:
            raise Unreadable(f"has more than {MAX_RULES:,} style rules")
        try:
            compounds, combinators, key, rank = _selector(selector)
        except LookupError:
            return  # never matches
        except ValueError:
            self.causes["style selectors are not interpreted"] += 1
            return
        rule = _Rule(tuple(compounds), tuple(combinators), (*rank, self._count), declarations)
        self._rules.setdefault(key, []).append(rule)

    def declared(self, node: Node) -> dict[str, str]:
        """Return the winning declarations of an element.

        In increasing precedence: attributes, rules, inline style, important declarations.
        """
        if node.declared is not None:
            return node.declared
        attributes = node.attributes
        found: list[tuple[tuple[int, ...], str, str]] = []
        if self._rules:
            keys = ["*", node.tag, *(f".{name}" for name in set(attributes.get("class", "").split()))]
            if "id" in attributes:
                keys.append(f"#{attributes['id']}")
            for key in keys:
                for rule in self._rules.get(key, ()):
                    if self._matches(rule, node):
                        self.causes["a style sheet was applied"] = 1
                        found += [((imp, 0, *rule.rank), name, value) for name, value, imp in rule.declarations]
        if "style" in attributes:
            own = _declarations(
                _COMMENT.sub(" ", attributes["style"]) if "/*" in attributes["style"] else attributes["style"]
            )
            found += [((imp, 1), name, value) for name, value, imp in own]
        found.reverse()  # the last of equal declarations wins; sorting is stable
        node.declared = out = {}
        variables = 0
        found.sort(key=lambda one: one[0], reverse=True)
        for _, name, value in found:
            if name.startswith("--"):
                if variables < MAX_VARIABLES:
                    variables += name not in out
                    out.setdefault(name, value[:1000])
            elif name not in out and name in self._properties and self._valid(name, value):
                out[name] = value
        for name, value in attributes.items():
            if name in self._attributes and name not in out and self._valid(name, value := value.strip()):
                out[name] = value
        return out

    def _matches(self, rule: _Rule, node: Node) -> bool:
        """Match compounds from right to left, trying all ancestors. Raises Unreadable beyond MAX_TRIES comparisons."""
        waiting = [(len(rule.compounds) - 1, node)]
        while waiting:
            at, here = waiting.pop()
            self._tries += 1 + sum(map(len, here.attributes.values())) // 256
            if self._tries > MAX_TRIES:
                raise Unreadable("has a style sheet with too many rules for its elements")
            if not all(test(here) for test in rule.compounds[at]):
                continue
            if at == 0:
                return True
            how = rule.combinators[at - 1]
            if how in " >":
                above = here.parent
                while above is not None and above.parent is not None:
                    waiting.append((at - 1, above))
                    above = above.parent if how == " " else None
            elif here.parent is not None:
                siblings = here.parent.children
                before = siblings.index(here)
                self._tries += before
                waiting += [(at - 1, s) for s in siblings[max(0, before - 1) if how == "+" else 0 : before]]
        return False


def _statements(css: str) -> Iterator[tuple[str, str | None]]:
    """Yield (prelude, block) of every top-level statement. The block of `@import ...;` is None.

    A block that is still open at the end of the text is closed.
    """
    depth = start = opened = 0
    for match in _MARK.finditer(css):
        mark = match[0]
        if mark == "{":
            if depth == 0:
                opened = match.start()
            depth += 1
        elif mark == "}" and depth:
            depth -= 1
            if depth == 0:
                yield css[start:opened].strip(), css[opened + 1 : match.start()]
                start = match.end()
        elif mark == ";" and depth == 0 and css[start : start + 200].lstrip().startswith("@"):
            yield css[start : match.start()].strip(), None
            start = match.end()
    if depth:
        yield css[start:opened].strip(), css[opened + 1 :]


def _split(text: str, at: str) -> list[str]:
    """Split `text` at a character, except inside strings and brackets."""
    if not any(c in text for c in "\"'([{\\"):
        return text.split(at)
    out, depth, start = [], 0, 0
    for match in _MARK.finditer(text):
        mark = match[0]
        if mark in "([{":
            depth += 1
        elif mark in ")]}":
            depth = max(0, depth - 1)
        elif mark == at and depth == 0:
            out.append(text[start : match.start()])
            start = match.end()
    return [*out, text[start:]]


def _declarations(block: str) -> Iterator[tuple[str, str, bool]]:
    for part in _split(block, ";"):
        name, colon, value = part.partition(":")
        value = value.strip()
        if not colon or not value:
            continue
        name = name.strip()
        plain = _IMPORTANT.sub("", value)
        yield name if name.startswith("--") else name.lower(), plain.strip(), plain != value


def _selector(text: str) -> tuple[list[tuple[Test, ...]], list[str], str, tuple[int, int, int]]:
    """Parse a selector. Return its compounds, combinators, lookup key and specificity.

    Raises ValueError if it is not supported, LookupError if it cannot match in a static drawing.
    """
    compounds: list[tuple[Test, ...]] = []
    combinators: list[str] = []
    at, ids, classes, tags, key = 0, 0, 0, 0, "*"
    while True:
        tests: list[Test] = []
        key, first = "*", at
        while match := _PART.match(text, at):
            if match["tag"] and at != first:
                raise ValueError(text)
            test, part_key, rank = _part(match)
            tests.append(test)
            ids, classes, tags = ids + rank[0], classes + rank[1], tags + rank[2]
            if part_key and (key == "*" or part_key[0] in ".#"):
                key = part_key
            at = match.end()
        if at == first:
            raise ValueError(text)
        compounds.append(tuple(tests))
        if at == len(text):
            return compounds, combinators, key, (ids, classes, tags)
        match = _COMBINATOR.match(text, at)
        if not match:
            raise ValueError(text)
        combinators.append(match[1] or " ")
        at = match.end()


def _part(match: re.Match[str]) -> tuple[Test, str, tuple[int, int, int]]:
    """Return the test, the lookup key and the specificity of a simple selector."""
    if tag := match["tag"]:
        tag = _plain(tag.rpartition("|")[2])
        return (lambda node: True, "", (0, 0, 0)) if tag == "*" else (lambda node: node.tag == tag, tag, (0, 0, 1))
    if match["cls"]:
        name = _plain(match["cls"])
        return lambda node: name in node.attributes.get("class", "").split(), f".{name}", (0, 1, 0)
    if match["id"]:
        name = _plain(match["id"])
        return lambda node: node.attributes.get("id") == name, f"#{name}", (1, 0, 0)
    if match["attr"]:
        return _attribute(match), "", (0, 1, 0)
    pseudo, inner = match["pseudo"].lower(), match["inner"]
    if pseudo.startswith("::") or pseudo[1:] in _NEVER:
        raise LookupError(pseudo)
    if pseudo == ":not" and inner:
        compounds, _, _, rank = _selector(inner.strip())
        if len(compounds) == 1:
            return lambda node: not all(test(node) for test in compounds[0]), "", rank
    simple: dict[str, Test] = {
        ":root": lambda node: node.parent is not None and node.parent.parent is None,
        ":first-child": lambda node: node.parent is not None and node.parent.children[0] is node,
        ":last-child": lambda node: node.parent is not None and node.parent.children[-1] is node,
        ":only-child": lambda node: node.parent is not None and len(node.parent.children) == 1,
    }
    if inner is None and pseudo in simple:
        return simple[pseudo], "", (0, 1, 0)
    raise ValueError(pseudo)


def _attribute(match: re.Match[str]) -> Test:
    name, op, value = _plain(match["attr"]), match["op"], match["value"] or ""
    value = value[1:-1] if value[:1] in ("'", '"') else _plain(value)
    if not op:
        return lambda node: name in node.attributes
    holds: dict[str, Callable[[str], bool]] = {
        "=": lambda a: a == value,
        "~=": lambda a: value in a.split(),
        "|=": lambda a: a == value or a.startswith(f"{value}-"),
        "^=": lambda a: value != "" and a.startswith(value),
        "$=": lambda a: value != "" and a.endswith(value),
        "*=": lambda a: value != "" and value in a,
    }
    test = holds[op]
    return lambda node: name in node.attributes and test(node.attributes[name])


def _plain(name: str) -> str:
    """Return a name with its escapes resolved."""
    if "\\" not in name:
        return name
    name = re.sub(r"\\([0-9a-fA-F]{1,6})\s?", lambda m: chr(min(int(m[1], 16), 0xFFFD)), name)
    return re.sub(r"\\(.)", r"\1", name)
