"""Parse the bytes of an SVG file into a tree of elements. No file is fetched, and entities expand to plain text only.

expat is used directly, without namespace processing. KanjiVG declares its prefix in the DOCTYPE only. Copies that lost
the DOCTYPE are not well-formed with namespaces, although every stroke in them can be read.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn
from xml.parsers import expat

from flowkit.errors import Unreadable

MAX_ELEMENTS = 200_000
MAX_DEPTH = 100
MAX_TEXT = 5_000_000  # characters of expanded entities; also of style sheets
MAX_ATTRIBUTES = 30_000_000  # characters of attributes, including defaults that a DTD adds to every element
MAX_ENTITY = 2_000  # characters per entity
MAX_ENTITIES = 1_000
MAX_SPACES = 1_000  # namespaces
SVG_SPACE = "http://www.w3.org/2000/svg"

_DECLARATION = re.compile(r"<\?xml\s[^>]{0,300}?\?>", re.IGNORECASE)
_ENCODING = re.compile(rb"<\?xml[^>]{0,200}?\sencoding\s*=\s*[\"']([A-Za-z0-9._:-]{1,40})[\"']", re.IGNORECASE)
# Python also calls escapes and host names "encodings".
_TEXT_ENCODING = re.compile(
    r"(utf-?(8|16|32)|ascii|iso|latin|cp\d|gb|big5|shift|euc|koi8|mac|hz|johab|tis|ptcp|kz1048).*"
)
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
    (b"<\0\0\0", "utf-32-le"), (b"\0\0\0<", "utf-32-be"), (b"<\0", "utf-16-le"), (b"\0<", "utf-16-be"),
)  # fmt: skip


@dataclass(eq=False, slots=True)
class Node:
    tag: str  # without prefix for elements of the SVG namespace, with prefix for all others
    attributes: dict[str, str]
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)
    text: bool = False  # whether it or a descendant contains text other than whitespace
    declared: dict[str, str] | None = None  # cached style declarations; None until computed


@dataclass
class Document:
    root: Node
    ids: dict[str, Node]
    sheets: list[str] = field(default_factory=list)  # the content of each <style>, in order
    linked: int = 0  # style sheets in other files


def parse(data: bytes) -> Document:
    """Parse an SVG document.

    Raises Unreadable: not XML, not SVG, entities other than plain text, or elements too many or too deeply nested.
    """
    text = _decoded(data)
    if declaration := _DECLARATION.match(text):
        text = text[declaration.end() :]
    builder = _Builder(text)
    # The text is already decoded, so this overrides the encoding of the declaration.
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.characters
    parser.ProcessingInstructionHandler = builder.instruction
    parser.EntityDeclHandler = builder.entity
    # expat itself never fetches external entities.
    parser.UnparsedEntityDeclHandler = parser.ExternalEntityRefHandler = _refuse_entity
    try:
        parser.Parse(text.encode("utf-8", "replace"), True)
    except expat.ExpatError as error:
        raise Unreadable("is not valid XML", str(error)) from None
    except (LookupError, UnicodeError, ValueError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable("is not valid XML", str(error)) from None
    root = builder.top.children[0]
    if root.tag != "svg":
        raise Unreadable("is XML but not SVG", f"its root is <{root.tag}>")
    return Document(root, builder.ids, ["".join(parts) for parts in builder.sheets], builder.linked)


def fits(node: Node) -> bool:
    """Return whether an element's conditional attributes hold (SVG 2, 5.10), for English and without extensions."""
    a = node.attributes
    if a.get("requiredExtensions") is not None:
        return False
    if (languages := a.get("systemLanguage")) is not None:
        return any(one.strip().lower().partition("-")[0] == "en" for one in languages.split(","))
    # SVG 2 dropped feature strings. Of those of SVG 1, all but Extensibility (embedded HTML) are supported.
    features = a.get("requiredFeatures")
    return features is None or all(
        re.match(r"http://www\.w3\.org/(TR/SVG|Graphics/SVG/feature)|org\.w3c\.", one)
        and not one.endswith("#Extensibility")
        for one in features.split()
    )


def _decoded(data: bytes) -> str:
    """Decode by the byte order mark, else by the XML declaration, else as UTF-8.

    Invalid bytes are replaced. They occur in names and titles, never in coordinates.
    """
    data = data.lstrip(b" \t\r\n")  # templates leave blank lines before the declaration
    name = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)
    if name is None:
        declared = _ENCODING.match(data)
        name = declared[1].decode("ascii") if declared else "utf-8"
        if declared and re.match(r"utf-?(16|32)|ucs-?[24]|unicode$", name.lower()):
            name = "utf-8"  # a declaration that is readable as ASCII bytes cannot be in UTF-16 or UTF-32
    try:
        name = codecs.lookup(name).name
        if not _TEXT_ENCODING.fullmatch(name):
            raise LookupError(name)
        text = data.decode(name, "replace")
    except (LookupError, UnicodeError, ValueError):
        raise Unreadable("is not valid XML", f"unreadable encoding: {name}") from None
    return text.strip("\ufeff\0 \t\r\n")


def _is_sheet(node: Node) -> bool:
    return node.tag == "style" and node.attributes.get("type", "").strip().lower() in ("text/css", "")


def _refuse_entity(*_: Any) -> NoReturn:
    raise Unreadable("declares XML entities other than short plain text, which are refused; save it as plain SVG")


class _Builder:
    """Handlers for expat."""

    def __init__(self, text: str) -> None:
        self.source = text
        self.top = Node("", {})
        self.stack = [self.top]
        self.spaces: list[dict[str, str]] = [{}]  # prefix -> namespace, for each open element
        self.own = ""  # namespace of the root, or its prefix if that is undeclared
        self.ids: dict[str, Node] = {}
        self.sheets: list[list[str]] = []
        self.linked = self.count = self.characters_read = self.attributes_read = self.entities = self.expanded = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self.count += 1
        if self.count > MAX_ELEMENTS:
            raise Unreadable(f"has more than {MAX_ELEMENTS:,} elements")
        if len(self.stack) > MAX_DEPTH:
            raise Unreadable(f"is nested deeper than {MAX_DEPTH} elements")
        self.attributes_read += sum(map(len, attributes.values()))
        if self.attributes_read > MAX_ATTRIBUTES:
            raise Unreadable(f"has more than {MAX_ATTRIBUTES:,} characters of attributes")
        spaces = self.spaces[-1]
        bound = {key.partition(":")[2]: value for key, value in attributes.items() if key.split(":")[0] == "xmlns"}
        if bound and len(spaces) < MAX_SPACES:
            spaces = {**spaces, **bound}
        self.spaces.append(spaces)
        prefix, _, local = name.rpartition(":")
        space = spaces.get(prefix, prefix)
        if len(self.stack) == 1:
            self.own = space
        ours = space in (self.own, SVG_SPACE, "")
        node = Node(local if ours else f"{prefix or 'other'}:{local}", attributes, self.stack[-1])
        self.stack[-1].children.append(node)
        self.stack.append(node)
        if _is_sheet(node):
            media = attributes.get("media", "")
            self.sheets.append(["@media ", media, "{"] if media else [])
        if node.tag == "link" and "stylesheet" in attributes.get("rel", ""):
            self.linked += 1
        if "id" in attributes:
            self.ids.setdefault(attributes["id"], node)

    def end(self, _: str) -> None:
        node = self.stack.pop()
        self.spaces.pop()
        self.stack[-1].text |= node.text

    def characters(self, data: str) -> None:
        node = self.stack[-1]
        node.text = node.text or not data.isspace()
        if _is_sheet(node):
            self.characters_read += len(data)
            if self.characters_read > MAX_TEXT:
                raise Unreadable(f"has more than {MAX_TEXT:,} characters of style sheets")
            self.sheets[-1].append(data)

    def instruction(self, target: str, _: str) -> None:
        self.linked += target == "xml-stylesheet"

    def entity(self, name: str, parameter: bool, value: str | None, *_: Any) -> None:
        """Accept short entities of plain text. Illustrator and CorelDRAW declare namespaces and styles as entities."""
        if not parameter and name in ("lt", "gt", "amp", "apos", "quot"):
            return  # predefined in XML
        self.entities += 1
        if parameter or value is None or len(value) > MAX_ENTITY or "<" in value or "&" in value:
            _refuse_entity()
        if self.entities > MAX_ENTITIES:
            raise Unreadable(f"declares more than {MAX_ENTITIES:,} XML entities")
        self.expanded += self.source.count(f"&{name};") * len(value)
        if self.expanded > MAX_TEXT:
            raise Unreadable(f"has entities that expand to more than {MAX_TEXT:,} characters")
