"""The SVG reader against resvg as an independent renderer and svgelements as an independent parser, and hostile files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flowkit.errors import UserError
from flowkit.sketch import bezier
from flowkit.sketch.svg_path import parse_transform, path_cubics
from flowkit.sketch.svg_read import MAX_BYTES, read_svg
from tests.conftest import SHARED

resvg_py = pytest.importorskip("resvg_py")
svgelements = pytest.importorskip("svgelements")
SIDE = 400
WHITE = {"fill": 'fill="black"', "stroke": 'fill="none" stroke="black" stroke-width="2.5" stroke-linecap="round"'}


def document(body: str, paint: str = "fill", view_box: str = "0 0 100 100") -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{SIDE}" '
        f'height="{SIDE}" viewBox="{view_box}"><g {WHITE[paint]}>{body}</g></svg>'
    )


def ink(svg: str) -> np.ndarray:
    png = resvg_py.svg_to_bytes(svg_string=svg, dpi=96, skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))[..., 3] > 127


def redrawn(strokes: list[np.ndarray], paint: str, units: float = 100.0) -> str:
    """What was read, drawn on the canvas [-1, 1] with the original's stroke width."""
    d = ""
    for stroke in strokes:
        d += "M{:.9f} {:.9f}".format(*stroke[0, :2])
        d += "".join("C{:.9f} {:.9f} {:.9f} {:.9f} {:.9f} {:.9f}".format(*cubic[2:]) for cubic in stroke)
    width = f'fill="none" stroke="black" stroke-linecap="round" stroke-width="{2.5 * 2 / units}"'
    style = 'fill="black"' if paint == "fill" else width
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{SIDE}" height="{SIDE}" viewBox="-1 -1 2 2">'
        f'<path {style} d="{d}"/></svg>'
    )


def overlap(svg: str, paint: str, units: float = 100.0) -> float:
    a, b = ink(svg), ink(redrawn(read_svg(svg.encode()), paint, units))
    assert a.sum() > 100, "the original must draw something"
    return (a & b).sum() / (a | b).sum()


PATHS = {
    "lines": "M10 10 L90 20 l-10 30 H40 h-10 V80 v-10 Z",
    "pairs after a move": "m10,10 50,0 0,50 z",
    "cubics": "M10 50 C20 0 40 0 50 50 S 80 100 90 50 s5-20-10-40 c-10 2-20 3-30 5",
    "quadratics": "M10 50 Q30 0 50 50 T90 50 t-20 30 q-20 10 -40 0",
    "smooth after another": "M10 50 S30 0 50 50 L60 60 S80 20 90 60 M10 90 L20 70 T50 90 Q40 20 50 90 S 60 20 70 90",
    "smooth after a cubic": "M10 50 C10 10 40 10 40 50 T 80 50 T 90 90",
    "arcs": "M10 50 A40 25 30 0 1 90 50 a40 25 30 0 1 -80 0 z",
    "large and swept arcs": "M50 20 A30 20 -20 1 0 70 40 M20 70 A15 10 45 1 1 30 80",
    "arc too small for its ends": "M10 50 A5 5 0 0 1 90 50",
    "arc without radius": "M10 10 A0 5 0 0 1 90 50 L 10 90 Z",
    "compact flags": "M50 50a20 20 0 1120 20z",
    "several subpaths": "M10 10h20v20h-20z m50 50h20v20h-20z M10 70 L30 70 30 90Z",
    "goes on after closing": "M10 10 H40 V40 Z L 10 90 40 90 Z",
    "exponents and tight signs": "M1e1 1.0e+1L9e1.5-1e-05 90-.5-.5 50.5.5.5Z",
    "an error at the end": "M10 10 L90 10 90 90 L 10 foo 20 20",
    "no comma": "M10-10 10,90 90.5.5z",
}
SHAPES = {
    "rect": '<rect x="10" y="20" width="60" height="40"/>',
    "round rect": '<rect x="10" y="20" width="60" height="40" rx="10"/>',
    "rect of two radii": '<rect x="10" y="20" width="60" height="40" rx="50" ry="5"/>',
    "rect in percent and mm": '<rect x="10%" y="1mm" width="40%" height="60%"/>',
    "circle": '<circle cx="50" cy="50" r="30"/>',
    "ellipse": '<ellipse cx="50" cy="50" rx="40" ry="10"/>',
    "polygon": '<polygon points="10,10 90,10 50 90"/>',
    "polyline": '<polyline points="10 10 90 10 50-5e0 20,80"/>',
    "nothing to draw": '<rect width="0" height="5"/><circle r="-1"/><circle cx="50" cy="50" r="20"/>',
}
TREES = {
    "translate": '<g transform="translate(20)"><rect width="30" height="50"/></g>',
    "rotate about": '<rect transform="rotate(30 50 50)" x="20" y="20" width="50" height="30"/>',
    "a list": '<g transform="translate(10,10) scale(.5 , 1.5)\trotate(-10)"><circle cx="60" cy="30" r="20"/></g>',
    "skews": '<g transform="skewX(20)"><rect transform="skewY(-10)" x="5" y="40" width="40" height="30"/></g>',
    "matrix": '<g transform="matrix(.8 .3 -.2 .7 20 5)"><ellipse cx="40" cy="50" rx="30" ry="20"/></g>',
    "nested": '<g transform="translate(50 0)"><g transform="scale(2)"><path d="M0 0h20v20h-20z"/></g></g>',
    "inner svg": '<svg x="10" y="20" width="50" height="30" viewBox="0 0 10 10"><circle cx="5" cy="5" r="4"/></svg>',
    "inner svg, stretched": '<svg x="10" y="20" width="50" height="30" viewBox="-5 0 10 10" preserveAspectRatio="none">'
    '<circle cy="5" r="4"/></svg>',
    "inner svg, aligned": '<svg width="80" height="30" viewBox="0 0 10 10" preserveAspectRatio="xMaxYMin meet">'
    '<circle cx="5" cy="5" r="4"/></svg>',
    "use": '<defs><rect id="r" width="20" height="30" transform="rotate(5)"/></defs><use href="#r" x="10" y="5"/>'
    '<use xlink:href="#r" transform="translate(60 40) scale(1.5)"/>',
    "use of a symbol": '<symbol id="s" viewBox="0 0 4 4"><circle cx="2" cy="2" r="2"/></symbol>'
    '<use href="#s" x="10" y="20" width="40" height="40"/>',
    "not strokes": '<text x="5" y="50">no</text><clipPath id="c"><rect width="90" height="5"/></clipPath><defs><path d='
    '"M0 0h90v90z"/></defs><marker><path d="M0 0h9v9z"/></marker><pattern><circle r="9"/></pattern><mask><circle r="90"/>'
    '</mask><symbol><circle r="90"/></symbol><title>x</title><circle cx="50" cy="50" r="20"/>',
    "invisible": '<g display="none"><circle r="90"/></g><rect style="visibility: hidden" width="90" height="90"/>'
    '<path fill="none" d="M0 0h90v90z"/><g visibility="hidden"><circle visibility="visible" cx="50" cy="50" r="9"/></g>',
}


@pytest.mark.parametrize("name", PATHS)
def test_paths_match_resvg(name: str) -> None:
    body = f'<path d="{PATHS[name]}"/>'
    assert overlap(document(body), "fill") > 0.99
    assert overlap(document(body, "stroke"), "stroke") > 0.96


@pytest.mark.parametrize("body", [*SHAPES.values(), *TREES.values()], ids=[*SHAPES, *TREES])
def test_shapes_and_trees_match_resvg(body: str) -> None:
    assert overlap(document(body), "fill") > 0.99


@pytest.mark.parametrize("view_box", ["0 0 100 100", "-20 10 150 150", "0,0,200,100", "10 -40 60 200"])
def test_view_box_is_the_canvas(view_box: str) -> None:
    body = '<rect x="20" y="20" width="40" height="20"/><circle cx="50" cy="70" r="20"/>'
    assert overlap(document(body, view_box=view_box), "fill") > 0.99


def test_everything_in_one_drawing() -> None:
    body = "".join(f'<g transform="translate({i % 4 * 100} {i // 4 * 100})"><path d="{d}"/></g>' for i, d in
                   enumerate(PATHS.values()))  # fmt: skip
    assert overlap(document(body, "stroke", "0 0 400 400"), "stroke", 400.0) > 0.95


def as_array(d: str) -> np.ndarray:
    return np.array([c for subpath in path_cubics(d) for c in subpath]).view(float).reshape(-1, 8)


number = st.floats(-100, 100).map(lambda v: f"{v:.4g}")
commands = st.one_of(
    *[
        st.tuples(st.sampled_from([name, name.lower()]), st.lists(number, min_size=count, max_size=count))
        for name, count in {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "S": 4, "Q": 4, "T": 2, "Z": 0}.items()
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(commands, min_size=1, max_size=12))
def test_paths_match_svgelements(parts: list[tuple[str, list[str]]]) -> None:
    d, before = "M 3 4 ", "M"
    for name, args in parts:
        # svgelements reflects a control point whatever came before; resvg judges that case above.
        if name in "STst" and before not in {"S": "CS", "T": "QT"}[name.upper()]:
            name = "L"
        before = name.upper()
        d += f"{name} {' '.join(args)} "
    expected = []
    for segment in svgelements.Path(d):
        if isinstance(segment, svgelements.Move) or segment.start == segment.end == getattr(segment, "control", None):
            continue
        if isinstance(segment, svgelements.Close) and segment.start == segment.end:
            continue
        expected.append([complex(*segment.point(t)) for t in (0, 0.3, 0.7, 1)])
    found = bezier.points(as_array(d), np.array([0, 0.3, 0.7, 1])) if as_array(d).size else np.zeros((0, 4, 2))
    found = [list(map(complex, piece[:, 0], piece[:, 1])) for piece in found]
    moving = lambda pieces: [p for p in pieces if np.ptp(np.array(p).view(float).reshape(-1, 2), axis=0).max() > 1e-6]  # noqa: E731
    np.testing.assert_allclose(np.array(moving(found)), np.array(moving(expected)), atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(*[st.floats(1, 50)] * 2, st.floats(-180, 180), st.booleans(), st.booleans(), *[st.floats(-60, 60)] * 2)
def test_arcs_lie_on_their_ellipse(rx, ry, turn, large, sweep, x, y) -> None:
    if abs(x) + abs(y) < 1:
        return
    d = f"M0 0A{rx!r} {ry!r} {turn!r} {int(large)} {int(sweep)} {x!r} {y!r}"
    arc = svgelements.Path(d)[1]
    dense = bezier.points(as_array(d), np.linspace(0, 1, 50)).reshape(-1, 2) - np.array(arc.center)
    angle = np.radians(turn)
    along = dense @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(np.hypot(along[:, 0] / arc.rx, along[:, 1] / arc.ry), 1, atol=4e-4)
    swept = np.unwrap(np.arctan2(along[:, 1] / arc.ry, along[:, 0] / arc.rx))
    assert abs((swept[-1] - swept[0]) - arc.sweep) < 1e-3  # in the same direction, and as far
    assert len(as_array(d)) <= 4


@pytest.mark.parametrize(
    "text", ["rotate(30)", "translate(3 4) scale(2) skewX(10)", "matrix(1,2,3,4,5,6)rotate(5 6 7)"]
)
def test_transforms_match_svgelements(text: str) -> None:
    x, y, shift = parse_transform(text)
    m = svgelements.Matrix(text)
    np.testing.assert_allclose([x, y, shift], [complex(m.a, m.b), complex(m.c, m.d), complex(m.e, m.f)], rtol=1e-9)


@pytest.mark.parametrize("text", ["matrix(1 2 3)", "foo(3)", "scale()", "rotate(1 2)", "none"])
def test_invalid_transform_is_ignored(text: str) -> None:
    assert parse_transform(text) == (1, 1j, 0)


def test_width_and_height_replace_a_missing_view_box() -> None:
    (stroke,) = read_svg(b'<svg width="512" height="512"><path d="M0 512 C256 256 128 1e-05 512 0"/></svg>')
    expected = np.array([0, 512, 256, 256, 128, 1e-05, 512, 0]) / 512 * 2 - 1
    np.testing.assert_array_equal(stroke, expected[None])


def test_subpaths_are_strokes_of_their_own() -> None:
    assert [len(subpath) for subpath in path_cubics("M0 0h1v1z h1 v1 M5 5 M6 6 l1 1 M7 7 m1 1 1 1")] == [3, 2, 1, 1]


def test_without_a_canvas_the_drawing_is_fitted() -> None:
    (stroke,) = read_svg(b'<svg width="100%"><path d="M100 100 h40 v10"/></svg>')
    assert np.abs(stroke).max() == pytest.approx(0.9)
    assert stroke[:, ::2].min() == -stroke[:, ::2].max() and stroke[:, 1::2].min() == -stroke[:, 1::2].max()


def test_background_is_left_out_but_a_frame_is_not() -> None:
    shape = '<rect width="100%" height="100%" {}/><circle cx="50" cy="50" r="9"/>'
    assert len(read_svg(document(shape.format('fill="white"')).encode())) == 1
    assert len(read_svg(document(shape.format('stroke="red"')).encode())) == 2


def test_foreign_prefixes() -> None:
    """KanjiVG's prefix may be bound nowhere, and ElementTree writes every name with ns0."""
    path = 'd="M0 0L9 9"'
    assert len(read_svg(f'<svg viewBox="0 0 9 9"><g kvg:element="x"><path {path}/></g></svg>'.encode())) == 1
    text = f'<ns0:svg xmlns:ns0="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><ns0:path {path}/><x:path {path}/></ns0:svg>'
    assert len(read_svg(text.encode())) == 1


DOCTYPE = '<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.0//EN" "http://www.w3.org/TR/svg10.dtd" [{}]>'
BOMB = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
USES = (
    '<svg viewBox="0 0 9 9">'
    + "".join(f'<g id="g{i}">' + f'<use href="#g{i + 1}"/>' * 10 + "</g>" for i in range(9))
    + '<g id="g9"><path d="M0 0h1"/></g></svg>'
)
HOSTILE = {
    "empty": (b"", "empty"),
    "blank": (b" \n", "empty"),
    "text": (b"hello", "not valid XML"),
    "cut off": (b"<svg><path d='M0 0", "not valid XML"),
    "binary": (bytes(range(256)), "not valid XML"),
    "unknown encoding": (b'<?xml version="1.0" encoding="klingon"?><svg/>', "not valid XML"),
    "html": (b"<html><svg/></html>", "not SVG"),
    "bomb": ((DOCTYPE.format('<!ENTITY l0 "lol">' + BOMB) + "<svg>&l9;</svg>").encode(), "entities"),
    "an element as an entity": ((DOCTYPE.format('<!ENTITY a "<g/>">') + "<svg>&a;</svg>").encode(), "entities"),
    "a long entity": ((DOCTYPE.format(f'<!ENTITY a "{"b" * 3000}">') + "<svg/>").encode(), "entities"),
    "a short entity, often": ((DOCTYPE.format(f'<!ENTITY a "{"b" * 2000}">') + "<svg>" + "&a;" * 9000 + "</svg>").encode(),
                              "5,000,000 characters"),
    "external": ((DOCTYPE.format('<!ENTITY a SYSTEM "file:///etc/passwd">') + "<svg>&a;</svg>").encode(), "entities"),
    "parameter": ((DOCTYPE.format('<!ENTITY % a SYSTEM "http://x.test/y"> %a;') + "<svg/>").encode(), "entities"),
    "huge": (b"<svg>" + b" " * MAX_BYTES + b"</svg>", "larger than 10 MB"),
    "many curves": (b'<svg viewBox="0 0 9 9"><path d="M0 0' + b"h1" * 30_000 + b'"/></svg>', "20,000 curves"),
    "long path": (b'<svg viewBox="0 0 9 9"><path d="M0 0' + b"h1" * 2_000_000 + b'"/></svg>', "3,000,000 characters"),
    "deep": (b"<svg>" + b"<g>" * 100_000 + b"</g>" * 100_000 + b"</svg>", "nested"),
    "use, exponentially": (USES.replace("<path", "<title").encode(), "200,000 elements"),
    "use, exponentially drawn": (USES.encode(), "20,000 subpaths"),
    "infinite": (b'<svg viewBox="0 0 9 9"><path d="M0 0L1e400 1"/></svg>', "not finite"),
    "far away": (b'<svg viewBox="0 0 9 9"><path d="M0 0L1e39 1"/></svg>', "far outside"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str) -> None:
    data, expected = HOSTILE[name]
    with pytest.raises(UserError, match=expected):
        read_svg(data)


def test_a_doctype_alone_is_accepted() -> None:
    attributes = '<!ATTLIST g xmlns:kvg CDATA #FIXED "http://kanjivg.tagaini.net" kvg:element CDATA #IMPLIED >'
    data = DOCTYPE.format(attributes) + '<svg viewBox="0 0 9 9"><g kvg:element="x"><path d="M0 0L9 9"/></g></svg>'
    assert len(read_svg(data.encode())) == 1


def finite_or_refused(data: bytes) -> None:
    try:
        strokes = read_svg(data)
    except UserError:
        return
    assert all(len(s) and s.shape[1] == 8 and np.isfinite(s).all() for s in strokes)


WORDS = st.sampled_from(
    ["M", "m", "L", "C", "S", "q", "T", "A", "a", "Z", "0", "1", "-5", ".5", "1e9", "1e-9", "e", "-", "nan", ",", " "]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=30), st.text(max_size=20), st.lists(WORDS, max_size=8))
def test_any_path_data_is_drawn_or_refused(words: list[str], text: str, view_box: list[str]) -> None:
    clean = "".join(c for c in text if c.isprintable() and c not in "<&\"'")
    body = (
        f'<path d="{"".join(words)}{clean}" transform="scale({"".join(view_box)})"/><rect width="{clean}" height="5"/>'
    )
    finite_or_refused(f'<svg viewBox="{" ".join(view_box)}">{body}</svg>'.encode("utf-8", "replace"))
    finite_or_refused(f'<svg viewBox="0 0 9 9" width="{clean}">{body}</svg>'.encode("utf-8", "replace"))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_bytes_are_read_or_refused(data: st.DataObject) -> None:
    """Real documents with stretches cut out, doubled, or overwritten."""
    text = bytearray(document("".join([*SHAPES.values(), *TREES.values()])).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at, to = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        to = min(to, at + 40)
        kind = data.draw(st.sampled_from(["cut", "double", "write"]))
        text[at:to] = {"cut": b"", "double": bytes(text[at:to]) * 2, "write": data.draw(st.binary(max_size=6))}[kind]
    finite_or_refused(bytes(text))


REAL = SHARED / "kanjivg-left-components.zip"


@pytest.mark.skipif(not REAL.exists(), reason="the real characters are not at hand")
def test_real_characters_match_resvg() -> None:
    import re
    import zipfile

    with zipfile.ZipFile(REAL) as archive:
        names = [name for name in archive.namelist() if name.endswith(".svg")]
        for name in names[::100]:
            text = archive.read(name).decode()
            text = re.sub(r'<text.*?</text>| kvg:\w+="[^"]*"', "", text).replace("stroke-width:3", "stroke-width:2.5")
            text = text.replace('width="109" height="109"', f'width="{SIDE}" height="{SIDE}"')
            assert overlap(text, "stroke", 109.0) > 0.97, name
