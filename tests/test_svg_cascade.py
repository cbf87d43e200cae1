"""Which ink of an SVG is seen: against resvg's picture of the same file, and by count where resvg does otherwise."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from flowkit.errors import UserError
from flowkit.sketch import svg_css
from flowkit.sketch.prepare import prepare
from flowkit.sketch.svg_read import read_svg
from flowkit.ui.prepare_view import summary
from tests.mutations import read

pytest.importorskip("resvg_py")
compared = pytest.importorskip("tests.benchmarks.svg_against_resvg").compared

SPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
RING = '<circle cx="70" cy="70" r="20" fill="none" stroke="black" stroke-width="2"/>'
BOX = '<rect x="5" y="5" width="30" height="20" {}/>'  # seen or not, far from the ring


def svg(inside: str, root: str = 'viewBox="0 0 100 100"') -> str:
    return f"<svg {SPACES} {root}>{inside}</svg>"


def agrees(text: str) -> None:
    """Everything read is painted by resvg, and vice versa."""
    found = compared("", text.encode())
    assert not isinstance(found, str), found
    assert found[0].unpainted < 0.01, "read, but not painted"
    assert found[0].missed < 0.01, "painted, but not read"


def strokes(inside: str, root: str = 'viewBox="0 0 100 100"') -> int:
    return len(read_svg(svg(inside, root).encode()))


def sheet(css: str, inside: str) -> str:
    return f"<style>{css}</style>{inside}"


PAINT = {
    "no paint": 'fill="none"',
    "transparent": 'fill="transparent"',
    "rgba of 0": 'fill="rgba(255, 0, 0, 0)"',
    "hsla of 0": 'style="fill:hsla(120, 50%, 50%, 0)"',
    "hex with alpha 0": 'fill="#ff000000"',
    "short hex with alpha 0": 'fill="#f000"',
    "fill-opacity 0": 'fill="red" fill-opacity="0"',
    "opacity 0%": 'opacity="0%"',
    "opacity of the style": 'opacity="1" style="opacity:0"',
    "stroke-opacity 0": 'fill="none" stroke="red" stroke-opacity="0"',
    "stroke-width 0px": 'fill="none" stroke="red" stroke-width="0px"',
    "stroke-width 0%": 'fill="none" stroke="red" style="stroke-width:0%"',
    "half a pixel wide": 'fill="none" stroke="red" stroke-width=".1mm"',
    "visibility": 'visibility="hidden" stroke="red"',
    "collapsed": 'visibility="collapse"',
    "not displayed": 'stroke="red" style="display : none"',
    "another display": 'display="block"',
    "a display that is none of CSS's": 'display="nothing"',
    "current color": 'fill="currentColor" color="red"',
    "current color, transparent": 'fill="currentColor" color="transparent"',
    "a color that is none": 'fill="nocolor" stroke="nocolor"',
    "important in an attribute": 'fill="none !important" stroke="none"',
    "an opacity that is none": 'fill="red" fill-opacity="a"',
    "no such gradient": 'fill="url(#nowhere)"',
    "no such gradient, but a color": 'fill="url(#nowhere) red"',
    "no such gradient, or none": 'stroke="blue" fill="url(#nowhere) none"',
    "a fallback that is transparent": 'fill="url(#nowhere) transparent"',
    "an icc color": 'fill="#00f icc-color(a, 1, 2)"',
    "upper case": 'fill="NONE" stroke="BLACK"',
    "empty": 'fill="" stroke=""',
    "initial": 'fill="none" style="fill:initial"',
}


@pytest.mark.parametrize("paint", PAINT.values(), ids=PAINT)
def test_paints(paint: str) -> None:
    agrees(svg(RING + BOX.format(paint)))


GROUPS = {
    "opacities multiply": f'<g opacity=".04"><g opacity=".04">{BOX.format("")}</g></g>',
    "opacities that are still seen": f'<g opacity=".5"><g opacity=".5">{BOX.format("")}</g></g>',
    "fill-opacity is inherited, not multiplied": '<g fill-opacity="0">' + BOX.format('fill-opacity="1"') + '</g>',
    "a visible child of a hidden parent": '<g visibility="hidden">' + BOX.format('visibility="visible"') + '</g>',
    "nothing of what is not displayed": '<g display="none">' + BOX.format('display="inline" visibility="visible"') + '</g>',
    "inherited stroke-width 0": f'<g stroke-width="0" stroke="red" fill="none">{BOX.format("")}</g>',
    "inherit": '<g fill="none" stroke="red"><g fill="red" stroke="none">' + BOX.format('fill="inherit"') + '</g></g>',
    "current color of the parent": f'<g color="transparent" fill="currentColor">{BOX.format("")}</g>',
    "a gradient without stops": '<linearGradient id="g"/>' + BOX.format('fill="url(#g)"') + '',
    "a gradient of clear stops": '<linearGradient id="g"><stop stop-opacity="0"/><stop offset="1" stop-opacity="0"/>'
    "</linearGradient>" + BOX.format('fill="url(#g)"') + "",
    "a gradient by reference": '<linearGradient id="g"><stop/><stop offset="1" stop-color="red"/></linearGradient>'
    '<radialGradient id="h" xlink:href="#g"/>' + BOX.format("fill='url(#h)'") + '',
    "gradients in a circle": '<linearGradient id="g" href="#h"/><linearGradient id="h" href="#g"/>'
    "" + BOX.format('fill="url(#g)"') + "",
    "a gradient in units of a box without height": '<linearGradient id="g"><stop/><stop offset="1"/></linearGradient>'
    '<path d="M5 5H40" stroke="url(#g)" stroke-width="3"/>',
    "the same in user space": '<linearGradient id="g" gradientUnits="userSpaceOnUse" x2="99"><stop/><stop offset="1"/>'
    '</linearGradient><path d="M5 5H40" stroke="url(#g)" stroke-width="3"/>',
    "a line has no area": '<line x1="5" y1="5" x2="40" y2="20" fill="red"/>',
    "a flat area": '<path d="M5 5L40 20L10 7.142857" fill="red"/>',
    "an open area": '<path d="M5 5H40V20" fill="red"/>',
    "an open area without any paint": '<path d="M5 5H40V20H5"/>',
    "an open outline": '<path d="M5 5H40V20" fill="none" stroke="red"/>',
    "dashes that hide all": '<path d="M5 5H40" fill="none" stroke="red" stroke-dasharray="50" stroke-dashoffset="50"/>',
    "dashes of no length at all": '<path d="M5 5H40" fill="none" stroke="red" stroke-dasharray="0 0"/>',
}  # fmt: skip


@pytest.mark.parametrize("inside", GROUPS.values(), ids=GROUPS)
def test_groups_and_servers(inside: str) -> None:
    agrees(svg(RING + inside))


SHEETS = {
    "class": (".a{display:none}", 'class="a"'),
    "one of several classes": (".b{display:none}", 'class=" a  b c"'),
    "another class": (".b{display:none}", 'class="bb"'),
    "id": ("#a{fill:none}", 'id="a"'),
    "element": ("rect{visibility:hidden}", ""),
    "everything": ("*{stroke:none} circle{stroke:red}", 'fill="none" stroke="blue"'),
    "compound": ("rect.a#b{opacity:0}", 'class="a" id="b"'),
    "compound of another element": ("circle.a{opacity:0}", 'class="a"'),
    "a list": (".x, .a ,#y{display:none}", 'class="a"'),
    "class before element": (".a{fill:none}rect{fill:red}", 'class="a"'),
    "id before class": ("#b{fill:none}.a.a{fill:red}", 'class="a" id="b"'),
    "the later one": (".a{fill:red}.a{fill:none}", 'class="a"'),
    "important before id": (".a{fill:none!important}#b{fill:red}", 'class="a" id="b"'),
    "important before style": (".a{fill:none !important}", 'class="a" style="fill:red"'),
    "style before a rule": ("#a{fill:red}", 'id="a" style="fill:none"'),
    "a rule before an attribute": ("rect{fill:none}", 'fill="red"'),
    "comments": ("/*.a{}*/.a/*x*/{/* ; */fill:none;/*}*/}", 'class="a"'),
    "CDATA": ("<![CDATA[ .a > .b {} .a { display : none } ]]>", 'class="a"'),
    "an XML comment in it": ("<!-- .a{display:none} -->", 'class="a"'),
    "what has nothing to do with it": (
        "@font-face{font-family:x;src:url(data:font/woff;base64,AA==)}.b{display:none}",
        "",
    ),
    "animation": ("@keyframes k{from{opacity:0}to{opacity:1}}.b{fill:none}", 'class="a"'),
    "child": ("svg>g>rect{display:none}", ""),
    "descendant": ("svg rect{display:none}", ""),
    "child of another": ("svg>rect{display:none}", ""),
    "attribute": ('[data-x="1"]{display:none}', 'data-x="1"'),
    "first child": ("rect:first-child{display:none}", ""),
    "a broken rule, and a whole one": (".{fill:red}}.a{x}.a{display:none}", 'class="a"'),
    "empty rules": (".a{}.b{;;}.a{fill:none;;stroke:red}", 'class="a"'),
}


@pytest.mark.parametrize(("css", "attributes"), SHEETS.values(), ids=SHEETS)
def test_style_sheets(css: str, attributes: str) -> None:
    agrees(svg(sheet(css, f"<g>{BOX.format(attributes)}</g>{RING}")))


BEYOND_RESVG = {
    "a rule for the dark": ("@media (prefers-color-scheme: dark){.a{display:none}}", 2),
    "a rule for paper": ("@media print{.a{display:none}}", 2),
    "a rule for screens": ("@media screen{.a{display:none}}", 1),
    "a rule in a layer": ("@layer x{.a{display:none}}", 1),
    "hovering": (".a:hover{display:none}", 2),
    "all but one": ("rect:not(.b){display:none}", 1),
    "the last child": ("rect:last-child{display:none}", 1),
    "a sibling": ("circle + rect{display:none}", 1),
    "any sibling after": ("circle ~ .a{display:none}", 1),
    "an escaped name": (".\\61{display:none}", 1),
    "an escaped digit": ('[class="a"]:not(.\\31 0){display:none}', 1),
    "a variable": (":root{--x:none}.a{fill:var(--x)}", 1),
    "a variable that is not set": (".a{fill:var(--x, none)}", 1),
    "light and dark": (".a{fill:light-dark(transparent, red)}", 1),
    "a value that is none": (".a{fill:none;fill:nocolor}", 1),
    "an opacity in percent": (".a{fill:hsla(120, 50%, 50%, 0%)}", 1),
    "an opacity after a slash": (".a{fill:rgb(0 0 0 / 0)}", 1),
    "a comment without an end": (".a/**/{fill:none;/* stroke:red}", 1),
    "upper case": (".A{display:none}.a{DISPLAY:NONE}", 1),
}


@pytest.mark.parametrize(("css", "count"), BEYOND_RESVG.values(), ids=BEYOND_RESVG)
def test_style_sheets_as_browsers_read_them(css: str, count: int) -> None:
    assert strokes(sheet(css, RING + BOX.format('class="a"'))) == count


@pytest.mark.parametrize("kind", ["text/css", "", "text/less", None])
def test_only_css_is_a_style_sheet(kind: str | None) -> None:
    attribute = "" if kind is None else f'type="{kind}"'
    assert strokes(f"<style {attribute}>rect{{display:none}}</style>{RING}{BOX.format('')}") == 1 + (
        kind == "text/less"
    )


def test_a_style_sheet_that_comes_last() -> None:
    agrees(svg(f"{RING}" + BOX.format('class="a"') + "<defs><style>.a{{fill:none}}</style></defs>"))


SWITCHES = {
    "language": '<switch><g systemLanguage="de">{a}</g><g systemLanguage="en-US">{b}</g>{c}</switch>',
    "a list of languages": '<switch><g systemLanguage="fr, en">{a}</g>{b}</switch>',
    "an empty language": '<switch><g systemLanguage="">{a}</g>{b}</switch>',
    "extensions": '<switch><g requiredExtensions="http://x.test/">{a}</g>{b}{c}</switch>',
    "unknown features": '<switch><g requiredFeatures="http://x.test/">{a}</g>{b}</switch>',
    "html, with a drawing instead": '<switch><foreignObject requiredExtensions="x"/><g>{b}</g>{c}</switch>',
    "nothing fits": '<switch><g systemLanguage="de">{a}</g></switch>',
    "the first without conditions": "<switch>{b}{a}</switch>",
    "outside of a switch": '<g systemLanguage="de">{a}</g>{b}',
    "not displayed, but chosen": '<switch><g display="none">{a}</g>{b}</switch>',
}


@pytest.mark.parametrize("inside", SWITCHES.values(), ids=SWITCHES)
def test_switches(inside: str) -> None:
    at = [f'<rect x="{x}" y="5" width="20" height="20"/>' for x in (5, 40, 75)]
    agrees(svg(RING + inside.format(a=at[0], b=at[1], c=at[2])))


USES = {
    "of itself": '<g id="a"><use href="#a"/>{box}</g>',
    "of what is not there": '<use href="#nowhere"/>{box}',
    "a symbol and its frame": '<symbol id="s" viewBox="0 0 40 40"><circle cx="20" cy="20" r="22" fill="none" stroke="red"/>'
    '</symbol><use xlink:href="#s" x="2" y="3" width="40" height="30"/>',
    "a symbol that overflows": '<symbol id="s" viewBox="0 0 10 10" overflow="visible"><circle cx="5" cy="5" r="6" '
    'fill="none" stroke="red"/></symbol><use href="#s" x="10" y="10" width="30" height="20"/>',
    "styles of the use": '<defs><rect id="r" width="20" height="20"/></defs><use href="#r" fill="none"/>'
    '<use href="#r" x="30" fill="red"/>',
    "a hidden use": '<defs><rect id="r" width="20" height="20"/></defs><use href="#r" visibility="hidden"/>',
    "what is in defs that are not displayed": '<defs style="display:none"><rect id="r" width="20" height="20"/></defs>'
    '<use href="#r"/>',
    "what is not displayed": '<rect id="r" width="20" height="20" display="none"/><use href="#r"/>',
    "an svg": '<defs><svg id="s" width="30" height="20" viewBox="0 0 10 10"><circle cx="5" cy="5" r="4"/></svg></defs>'
    '<use href="#s" x="5" y="5"/>',
    "rules go by where it stands": '<style>defs rect{{fill:none}}</style><defs><rect id="r" width="20" height="20"/></defs>'
    '<use href="#r"/>',
    "of a use": '<defs><rect id="r" width="9" height="9"/><use id="u" href="#r" x="10" y="5"/></defs><use href="#u" x="9"/>',
}


@pytest.mark.parametrize("inside", USES.values(), ids=USES)
def test_uses(inside: str) -> None:
    agrees(svg(RING + inside.format(box=BOX.format(""))))


def test_loops_of_use_draw_each_element_once() -> None:
    path = '<path d="M5 5H40" stroke="red"/>'
    assert strokes(f'<g id="a"><use href="#a"/>{path}</g>') == 1
    assert strokes(f'{path}<g id="a"><use href="#b"/></g><g id="b"><use href="#a"/></g>') == 1
    assert strokes(f'<g id="a">{path}<use href="#b"/></g><g id="b"><use href="#a"/></g>') == 2
    loop = "".join(f'<g id="g{i}"><use href="#g{(i + 1) % 5}"/></g>' for i in range(5))
    assert strokes(f'{loop}{path}<use id="u" href="#u"/>') == 1


CLIPS = {
    "a rectangle through an area": '<clipPath id="c"><rect x="10" y="10" width="30" height="30"/></clipPath>'
    '<circle cx="20" cy="20" r="18" clip-path="url(#c)"/>',
    "a rectangle through a line": '<clipPath id="c"><rect x="10" y="10" width="30" height="30"/></clipPath>'
    '<circle cx="20" cy="20" r="18" fill="none" stroke="red" clip-path="url(#c)"/>',
    "a circle through a group": '<clipPath id="c"><circle cx="25" cy="25" r="20"/></clipPath><g clip-path="url(#c)">'
    '<rect width="25" height="25" fill="red"/><path d="M0 40L50 10" stroke="blue"/></g>',
    "a large circle": '<clipPath id="c"><circle cx="50" cy="50" r="40"/></clipPath><rect x="10" y="2" width="33" height="14" '
    'clip-path="url(#c)"/>',
    "its own outline": '<clipPath id="c"><circle cx="20" cy="20" r="18"/></clipPath><circle cx="20" cy="20" r="18" '
    'clip-path="url(#c)"/><circle cx="20" cy="20" r="18" clip-path="url(#c)" fill="none" stroke="red"/>',
    "all of it": '<clipPath id="c"><rect width="99" height="99"/></clipPath><circle cx="20" cy="20" r="18" '
    'style="clip-path:url(#c)"/>',
    "nothing of it": '<clipPath id="c"><rect x="50" width="9" height="9"/></clipPath><circle cx="20" cy="20" r="18" '
    'clip-path="url(#c)"/>',
    "empty": '<clipPath id="c"/><circle cx="20" cy="20" r="18" clip-path="url(#c)"/>',
    "not there": '<circle cx="20" cy="20" r="18" clip-path="url(#nowhere)"/>',
    "by a class": '<style>.c{{clip-path:url(#c)}}</style><clipPath id="c"><rect width="20" height="20"/></clipPath>'
    '<circle cx="20" cy="20" r="18" class="c"/>',
    "with a hole": '<clipPath id="c"><path clip-rule="evenodd" d="M0 0h40v40h-40zM10 10h20v20h-20z"/></clipPath>'
    '<circle cx="20" cy="20" r="18" clip-path="url(#c)"/>',
    "two shapes": '<clipPath id="c"><rect width="15" height="40"/><rect x="10" y="10" width="30" height="10"/></clipPath>'
    '<circle cx="20" cy="20" r="18" clip-path="url(#c)"/>',
    "a used shape": '<defs><rect id="r" width="20" height="40"/></defs><clipPath id="c"><use href="#r"/></clipPath>'
    '<circle cx="20" cy="20" r="18" clip-path="url(#c)"/>',
    "of a use": '<defs><circle id="r" r="18"/></defs><clipPath id="c"><rect width="9" height="40"/></clipPath>'
    '<use href="#r" x="20" y="20" clip-path="url(#c)"/>',
    "in units of the box": '<clipPath id="c" clipPathUnits="objectBoundingBox"><rect width=".5" height="1"/></clipPath>'
    '<circle cx="20" cy="20" r="18" clip-path="url(#c)"/>',
    "transformed": '<clipPath id="c" transform="rotate(20)"><rect width="20" height="40"/></clipPath>'
    '<circle transform="translate(5 5)" cx="20" cy="20" r="18" clip-path="url(#c)"/>',
    "one in another": '<clipPath id="b"><rect width="30" height="15"/></clipPath><clipPath id="c" clip-path="url(#b)">'
    '<rect width="20" height="40"/></clipPath><circle cx="20" cy="20" r="18" clip-path="url(#c)"/>',
    "a child that is not displayed": '<clipPath id="c"><rect width="99" height="99" display="none"/><rect width="20" '
    'height="40"/></clipPath><circle cx="20" cy="20" r="18" clip-path="url(#c)"/>',
    "a white mask": '<mask id="c"><rect width="20" height="40" fill="white"/></mask>'
    '<circle cx="20" cy="20" r="18" mask="url(#c)"/>',
    "a mask with a black hole": '<mask id="c"><rect width="50" height="50" fill="#fff"/><circle cx="30" cy="20" r="9"/>'
    '</mask><circle cx="20" cy="20" r="18" mask="url(#c)"/>',
    "a mask that inherits its white": '<g fill="#fff"><mask id="c"><rect width="20" height="40"/></mask></g>'
    '<circle cx="20" cy="20" r="18" mask="url(#c)"/>',
    "a mask by alpha": '<mask id="c" style="mask-type:alpha"><rect width="20" height="40" fill="#000"/></mask>'
    '<circle cx="20" cy="20" r="18" mask="url(#c)"/>',
    "a mask of black": '<mask id="c"><rect width="50" height="50"/></mask><circle cx="20" cy="20" r="18" mask="url(#c)"/>',
    "an empty mask": '<mask id="c"/><circle cx="20" cy="20" r="18" mask="url(#c)"/>',
    "a mask with a frame": '<mask id="c" maskUnits="userSpaceOnUse" x="10" y="0" width="10%" height="50"><rect width="50" '
    'height="50" fill="#fff"/></mask><g mask="url(#c)"><circle cx="20" cy="20" r="18"/></g>',
    "a mask with a frame in units of the box": '<mask id="c" x="0" width=".5"><rect width="50" height="50" fill="#fff"/>'
    '</mask><circle cx="20" cy="20" r="18" mask="url(#c)"/>',
    "a mask whose frame is empty": '<mask id="c" width="0"><rect width="50" height="50" fill="#fff"/></mask>'
    '<circle cx="20" cy="20" r="18" mask="url(#c)"/>',
    "a square in a diamond": '<clipPath id="c"><path d="M20 0L40 20L20 40L0 20z"/></clipPath>'
    '<path d="M5 5h30v30h-30z" clip-path="url(#c)"/>',
    "the nested svg's frame": '<svg x="5" y="5" width="30" height="20"><circle cx="15" cy="10" r="12"/></svg>',
    "the nested svg's frame, sliced": '<svg width="40" height="20" viewBox="0 0 30 30" preserveAspectRatio="xMinYMax slice">'
    '<circle cx="15" cy="15" r="12" fill="none" stroke="red"/></svg>',
    "a nested svg that overflows": '<svg x="9" y="9" width="20" height="20" overflow="visible"><circle cx="10" cy="10" '
    'r="15"/></svg>',
    "percentages in a nested svg": '<svg width="40" height="20"><rect x="10%" y="10%" width="50%" height="50%"/></svg>',
    "beyond the canvas": '<circle cx="20" cy="20" r="60" fill="none" stroke="red"/><rect x="120" width="9" height="9"/>',
}  # fmt: skip


@pytest.mark.parametrize("inside", CLIPS.values(), ids=CLIPS)
def test_clip_paths_masks_and_frames(inside: str) -> None:
    agrees(svg(RING + inside.replace("{{", "{").replace("}}", "}")))


def test_a_clip_path_joins_what_it_leaves() -> None:
    """A closed outline that was cut is one stroke per part, wherever it started. One that was not cut is unchanged."""
    clip = '<clipPath id="c"><rect width="50" height="100"/></clipPath>'
    (stroke,) = read_svg(
        svg(f'{clip}<circle cx="50" cy="50" r="30" fill="none" stroke="red" clip-path="url(#c)"/>').encode()
    )
    assert np.allclose(np.sort(stroke[[0, -1], [1, 7]]), [-0.6, 0.6], atol=1e-2)
    whole = '<circle cx="50" cy="50" r="30" fill="none" stroke="red" {}/>'
    a, b = (read_svg(svg(whole.format(how)).encode()) for how in ("", 'clip-path="url(#d)"'))
    c = read_svg(
        svg(
            '<clipPath id="d"><circle cx="50" cy="50" r="45"/></clipPath>' + whole.format('clip-path="url(#d)"') + ""
        ).encode()
    )
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, c)


ROOTS = {
    "transform": 'viewBox="0 0 100 100" transform="rotate(20 50 50)"',
    "a wide picture": 'viewBox="0 0 100 100" width="200" height="100"',
    "a wide picture, at its left": 'viewBox="0 0 100 100" width="200" height="100" preserveAspectRatio="xMinYMid meet"',
    "stretched": 'viewBox="0 0 100 100" width="20mm" height="1in" preserveAspectRatio="none"',
    "sliced": 'viewBox="0 0 100 100" width="10pc" height="100pt" preserveAspectRatio="xMaxYMax slice"',
    "percent": 'viewBox="0 0 100 100" width="100%" height="100%"',
    "em": 'viewBox="0 0 100 100" width="1em" height="1em"',
    "commas": 'viewBox="0,0,100,100"',
    "commas and lines": 'viewBox=" 0 ,\n0\t100 , 100 "',
    "no viewBox": 'width="1.25in" height="96pt"',
    "moved": 'viewBox="-20 -30.5 150 140"',
    "not displayed": 'viewBox="0 0 100 100" opacity="0"',
    "cut by itself": 'viewBox="0 0 100 100" clip-path="url(#c)"',
}


@pytest.mark.parametrize("root", ROOTS.values(), ids=ROOTS)
def test_roots(root: str) -> None:
    body = RING + BOX.format('fill="red"') + '<path d="M10 90q30-30 50 5" fill="none" stroke="blue"/>'
    agrees(svg(f'<clipPath id="c"><rect width="60" height="100"/></clipPath>{body}', root))


def test_a_nested_svg_without_a_size_draws_nothing() -> None:
    assert strokes(f'{RING}<svg width="0" height="20"><rect width="50" height="50"/></svg>') == 1


@pytest.mark.parametrize("size", ['height="30"', 'width="9in"', 'width="50%" height="30"', 'width="auto" height="5"'])
def test_one_size_takes_the_other_from_the_view_box(size: str) -> None:
    a, b = (read_svg(svg(RING, f'viewBox="0 0 100 50" {more}').encode()) for more in ("", size))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("offset", "count"), [(1, 1), (0.5, 2), (0, 2), (-1, 1)])
def test_dashes_before_an_animation_draws_them(offset: float, count: int) -> None:
    dashes = f'stroke-dasharray="1" stroke-dashoffset="{offset}" pathLength="1"'
    assert strokes(f'{RING}<path d="M5 5H40" fill="none" stroke="red" {dashes}/>') == count


@pytest.mark.parametrize("root", ["", 'width="100%" height="100%"', 'width="auto"'])
def test_a_background_of_all_of_a_canvas_without_a_size(root: str) -> None:
    line = '<path d="M300 200L500 600" stroke="red"/>'
    for paint, count in (('fill="white"', 1), ('style="fill:#eee;height:100%"', 1), ('fill="white" stroke="red"', 2)):
        assert strokes(f'<rect width="100%" height="100%" {paint}/>{line}', root) == count
    assert strokes('<rect width="100" height="100"/>', root) == 1


def test_percentages_without_a_canvas_are_of_a_hundred() -> None:
    (stroke,) = read_svg(svg('<rect x="10%" y="20%" width="80%" height="40%"/>', 'width="100%" height="100%"').encode())
    assert np.abs(stroke[:, ::2]).max() == pytest.approx(0.9) and np.abs(stroke[:, 1::2]).max() == pytest.approx(0.45)


@pytest.mark.parametrize(
    "style", ["transform:translate(20px, 30px)", "transform:rotate(0deg) translateX(20px) translateY(30px)"]
)
def test_transforms_in_css(style: str) -> None:
    a = read_svg(svg(f'<rect width="9" height="9" fill="red" style="{style}"/>').encode())
    b = read_svg(svg('<rect x="20" y="30" width="9" height="9" fill="red"/>').encode())
    np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("origin", ["50px 50px", "center", "50% 50%", "50 50"])
def test_transform_origin(origin: str) -> None:
    agrees(svg(f'{RING}<rect x="10" y="10" width="20" height="9" transform="rotate(30)" transform-origin="{origin}"/>'))


def test_geometry_in_css() -> None:
    a = read_svg(svg(sheet("rect{x:20px;y:30px;width:9px;height:9px}", '<rect fill="red"/>')).encode())
    b = read_svg(svg('<rect x="20" y="30" width="9" height="9" fill="red"/>').encode())
    np.testing.assert_array_equal(a, b)
    assert strokes(sheet("path{d:path('M1 1H9V9z')}", '<path fill="red"/>')) == 1


BACKGROUNDS = {
    "path": '<path d="M0 0h100v100H0z" fill="#fff"/>',
    "path without paint": '<path d="M0 0h100v100H0z"/>',
    "open path": '<path d="M0 0H100V100H0" fill="white"/>',
    "polygon": '<polygon points="0,0 100,0 100,100 0,100" fill="red"/>',
    "larger": '<path d="M-50-50h300v300h-300z" fill="red"/>',
    "large circle": '<circle cx="50" cy="50" r="75" fill="red"/>',
    "transformed": '<g transform="rotate(90 50 50) scale(10)"><rect width="10" height="10" fill="red"/></g>',
    "by a class": '<style>.bg{fill:#eee}</style><rect class="bg" width="100%" height="100%"/>',
    "by use": '<defs><rect id="r" width="100" height="100"/></defs><use href="#r" fill="#fafafa"/>',
    "a little short": '<rect x=".05" y=".05" width="99.9" height="99.9" fill="red"/>',
    "stroke of no width": '<rect width="100" height="100" fill="red" stroke="red" stroke-width="0"/>',
}
NO_BACKGROUNDS = {
    "stroked": '<path d="M0 0h100v100H0z" fill="#fff" stroke="red"/>',
    "with a hole": '<path d="M0 0h100v100H0zM20 20v50h50v-50z" fill="red"/>',
    "inscribed circle": '<circle cx="50" cy="50" r="50" fill="red"/>',
    "a diamond": '<path d="M50 0L100 50L50 100L0 50z" fill="red"/>',
    "a cut corner": '<path d="M0 0H80L100 20V100H0z" fill="red"/>',
    "half of it": '<rect width="100" height="50" fill="red"/>',
    "inside a margin": '<rect x="5" y="5" width="90" height="90" fill="red"/>',
    "cut to a circle": '<clipPath id="c"><circle cx="50" cy="50" r="40"/></clipPath><path d="M0 0h100v100H0z" fill="red" '
    'clip-path="url(#c)"/>',
}


@pytest.mark.parametrize("shape", BACKGROUNDS.values(), ids=BACKGROUNDS)
def test_backgrounds(shape: str) -> None:
    causes: Counter[str] = Counter()
    assert len(read_svg(svg(shape + RING).encode(), causes)) == 1
    assert causes["backgrounds are left out"] == 1


@pytest.mark.parametrize("shape", NO_BACKGROUNDS.values(), ids=NO_BACKGROUNDS)
def test_not_a_background(shape: str) -> None:
    causes: Counter[str] = Counter()
    assert len(read_svg(svg(shape + RING).encode(), causes)) > 1
    assert not causes["backgrounds are left out"]


def test_dots_are_strokes_without_length() -> None:
    """They are dropped where drawings are prepared, and counted there."""
    found = read_svg(svg('<path d="M5 5zM9 9M7 7h0M8 8zz" stroke="red" stroke-linecap="round"/>').encode())
    assert [np.ptp(stroke.reshape(-1, 2), axis=0).max() for stroke in found] == [0, 0, 0]


def test_bare_lines_are_read_if_nothing_else_is_painted() -> None:
    causes: Counter[str] = Counter()
    assert len(read_svg(svg('<path d="M5 5L40 40M50 50C60 50 70 90 80 80"/>').encode(), causes)) == 2
    assert causes["lines without fill or stroke are read as strokes"] == 1
    assert strokes('<path d="M5 5L40 40"/>' + RING) == 1


CAUSES = {
    "text is not read": '<text x="5" y="9">a <tspan>b</tspan></text>',
    "images are not read": '<image href="data:image/png;base64,AA==" width="9" height="9"/>',
    "HTML in a foreignObject is not read": '<foreignObject width="9" height="9"><p xmlns="http://x.test/">a</p></foreignObject>',
    "filters are not applied": '<filter id="f"/><g filter="url(#f)">" + BOX.format("") + "</g>',
    "markers (arrowheads) are not drawn": '<marker id="m"/><path d="M5 5H40" stroke="red" marker-end="url(#m)"/>',
    "dashed lines are read as solid lines": '<path d="M5 5H40" stroke="red" stroke-dasharray="2 1"/>',
    "animations are not played": '<rect width="9" height="9" opacity="0"><animate attributeName="opacity"/></rect>',
    "masks that are not plain shapes are not applied": '<mask id="m"><text>a</text></mask>'
    '<rect width="9" height="9" mask="url(#m)"/>',
    "clip paths that are not plain shapes are not applied": '<rect width="9" height="9" style="clip-path:circle(3px)"/>',
    "references to missing elements or other files are not followed": '<use href="other.svg#a"/>',
    "a <use> that refers to itself is not drawn": '<use id="a" href="#a"/>',
    "ink outside the canvas is left out": '<rect x="200" width="9" height="9"/>',
    "style sheets in other files are not read": "<style>@import url(a.css);</style>",
    "style rules in @supports are not interpreted": "<style>@supports (fill: red){rect{fill:red}}</style>",
    "style selectors are not interpreted": "<style>rect:nth-child(2n){fill:none}</style>",
    "a style sheet was applied": "<style>circle{stroke:red}</style>",
    "CSS motion and transform properties other than transform are not applied": '<rect width="9" '
    'height="9" style="rotate:9deg"/>',
}  # fmt: skip


@pytest.mark.parametrize("cause", CAUSES)
def test_what_is_not_read_is_counted_by_cause(cause: str) -> None:
    causes: Counter[str] = Counter()
    read_svg(svg(RING + CAUSES[cause]).encode(), causes)
    assert causes[cause], dict(causes)
    assert set(causes) == {cause}


def test_prepare_reports_what_was_read_differently(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for name, inside in (("a", '<text x="1" y="9">cat</text>'), ("b", "<text>b</text>" * 3 + '<use href="#no"/>')):
        (tmp_path / "cat" / f"{name}.svg").write_text(svg(RING + inside))
    (tmp_path / "cat" / "c.svg").write_text(svg("<text>nothing else</text>"))
    report = prepare(tmp_path / "cat", tmp_path / "out")
    lost = "references to missing elements or other files are not followed"
    assert report.total.remarks == {"text is not read": 2, lost: 1}
    assert report.total.left_out == {"has no strokes": 1} and "text is not read" in report.examples["has no strokes"]
    sidecar = json.loads((tmp_path / "out.json").read_text())
    assert sidecar["prepared"]["remarks"] == {"text is not read": 2, lost: 1}
    console = Console(file=io.StringIO(), width=120)
    console.print(summary(report))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "in 2 drawings: text is not read" in said and f"in 1 drawing: {lost}" in said


@pytest.mark.parametrize(
    "inside",
    [
        "<style>@font-face{font-family:a;src:url(b)} @keyframes x{from{fill:red}} .no{fill:red} text{fill:red}</style>",
        '<g display="none"><text>a</text><image href="a.png"/></g><text/><metadata><rdf:a/></metadata>',
        "<title>a</title><desc>b</desc><defs><marker/><filter/><pattern/></defs>",
        '<g clip-path="none" mask="none" filter="none" style="animation:none"/>',
    ],
)
def test_harmless_features_are_not_counted(inside: str) -> None:
    causes: Counter[str] = Counter()
    assert len(read_svg(svg(RING + inside).encode(), causes)) == 1
    assert not causes


HEAD = '<?xml version="1.0" encoding="{}"?>'
TITLE = f"<title>{{}}</title>{RING}"
ENCODED = {
    "gb18030": svg(TITLE.format("猫")), "big5": svg(TITLE.format("貓")), "shift_jis": svg(TITLE.format("ねこ")),
    "euc-kr": svg(TITLE.format("고양이")), "windows-1251": svg(TITLE.format("кот")), "ISO-8859-15": svg(TITLE.format("œ€")),
    "utf-16": svg(TITLE.format("猫")), "UTF-8": svg(TITLE.format("猫")), "utf-32": svg(TITLE.format("猫")), "koi8-r": svg(RING),
}  # fmt: skip


@pytest.mark.parametrize("encoding", ENCODED)
def test_encodings(encoding: str) -> None:
    assert len(read_svg((HEAD.format(encoding) + ENCODED[encoding]).encode(encoding))) == 1


BYTES = {
    "lines before the declaration": b"\n\r\n  " + HEAD.format("utf-8").encode() + svg(RING).encode(),
    "a mark, then a line": b"\xef\xbb\xbf\n" + HEAD.format("utf-8").encode() + svg(RING).encode(),
    "UTF-16 without a mark": (HEAD.format("utf-16") + svg(RING)).encode("utf-16-le"),
    "UTF-16 with the other end first": b"\xfe\xff" + svg(RING).encode("utf-16-be"),
    "UTF-16 that is not": (HEAD.format("utf-16") + svg(RING)).encode(),
    "latin-1 that says UTF-8": HEAD.format("utf-8").encode() + svg(TITLE.format("é")).encode("latin-1"),
    "latin-1 that says nothing": svg(TITLE.format("é")).encode("latin-1"),
    "zeros at the end": svg(RING).encode() + b"\0\0\n",
    "XML 1.1": b'<?xml version="1.1"?>' + svg(RING).encode(),
    "a comment first": b"<!-- a > b -->" + svg(RING).encode(),
    "upper case": HEAD.format("UTF8").encode() + svg(RING).encode(),
}


@pytest.mark.parametrize("data", BYTES.values(), ids=BYTES)
def test_bytes_that_others_read(data: bytes) -> None:
    assert len(read_svg(data)) == 1


@pytest.mark.parametrize("encoding", ["idna", "unicode_escape", "zlib", "klingon", "utf-7", "rot13"])
def test_what_is_no_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(UserError, match="encoding"):
        read_svg((HEAD.format(encoding) + svg(RING)).encode())


PATH = 'd="M5 5L40 20" stroke="red"'
PREFIXES = {
    "no name space": f'<svg viewBox="0 0 9 9"><path {PATH}/></svg>',
    "a prefix": f'<s:svg xmlns:s="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><s:path {PATH}/><path xmlns="x" {PATH}/></s:svg>',
    "a prefix inside": f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:svg="http://www.w3.org/2000/svg" viewBox="0 0 9 9">'
    f"<svg:g><svg:path {PATH}/></svg:g></svg>",
    "another default inside": f'<svg {SPACES} viewBox="0 0 9 9"><path {PATH}/><g xmlns="http://x.test/"><path {PATH}/></g></svg>',
    "a prefix bound inside": f'<svg {SPACES} viewBox="0 0 9 9"><q:path xmlns:q="http://www.w3.org/2000/svg" {PATH}/></svg>',
    "a wrong name space": f'<svg xmlns="https://www.w3.org/2000/svg/" viewBox="0 0 9 9"><path {PATH}/></svg>',
}


@pytest.mark.parametrize("text", PREFIXES.values(), ids=PREFIXES)
def test_name_spaces(text: str) -> None:
    assert len(read_svg(text.replace("0 0 9 9", "0 0 50 50").encode())) == 1


def entities(declared: str, inside: str, root: str = SPACES) -> bytes:
    return f'<!DOCTYPE svg [{declared}]><svg viewBox="0 0 50 50" {root}>{inside}</svg>'.encode()


ENTITIES = {
    "a name space": entities('<!ENTITY s "http://www.w3.org/2000/svg">', f"<path {PATH}/>", 'xmlns="&s;"'),
    "a style": entities('<!ENTITY a "display:none">', f'<path {PATH}/><path style="&a;" d="M1 1H9" stroke="red"/>'),
    "in a style sheet": entities(
        '<!ENTITY a "none">', f"<style>.a{{display:&a;}}</style><path {PATH}/><path class='a' {PATH}/>"
    ),
    "part of a path": entities("<!ENTITY a 'L40 20'>", '<path d="M5 5&a;" stroke="red"/>'),
    "a character": entities('<!ENTITY nbsp "&#160;">', f"<title>a&nbsp;b</title><path {PATH}/>"),
}


@pytest.mark.parametrize("data", ENTITIES.values(), ids=ENTITIES)
def test_entities_of_plain_text(data: bytes) -> None:
    assert len(read_svg(data)) == 1


SLOW = {
    "descendants of descendants": f"<style>{'g ' * 30}path{{fill:red}}</style>" + "<g>" * 80 + "<path/>" * 500 + "</g>" * 80,
    "siblings of siblings": "<style>g~g~g~g~g~path{fill:red}</style>" + "<g/>" * 3_000 + "<path/>",
    "long attributes": f'<style>{"[d*=x].a{fill:red}" * 5_000}</style><path class="{"b " * 100_000}a" d="M0 0"/>',
    "open brackets": "<style>" + "a{" * 200_000 + "</style>",
    "open strings": "<style>" + "'\n\"" * 200_000 + "</style>",
    "long clip paths": '<clipPath id="c"><path d="M0 0' + "l1 9 1-9" * 5_000 + '"/></clipPath>'
    '<path clip-path="url(#c)" stroke="red" d="M0 5' + "l1-9 1 9" * 4_000 + '"/>',
    "many gradients": "".join(f'<linearGradient id="g{i}" href="#g{i + 1}"/>' for i in range(5_000))
    + '<rect width="9" height="9" fill="url(#g0)"/>' * 5_000,
    "many lines that are cut": '<path fill="none" stroke="red" d="' + "M5 5h200" * 19_000 + '"/>',
    "long clip paths, used often": '<clipPath id="c"><path d="M0 0' + "c1 9 1-9 1 1" * 5_000 + '"/></clipPath>'
    + '<path transform="translate(0 1)" clip-path="url(#c)" stroke="red" d="M0 5h3"/>' * 3_000,
    "a clip path in many places": '<clipPath id="c">' + '<rect width="9" height="9"/>' * 900 + "</clipPath>"
    + "".join(f'<path transform="translate({i})" clip-path="url(#c)" stroke="red" d="M0 5h3"/>' for i in range(1_000)),
    "a switch without an end": '<switch id="s">' + '<g systemLanguage="de"/>' * 50_000 + "</switch>"
    + '<use href="#s"/>' * 20_000,
    "name spaces": "<g " + " ".join(f'xmlns:a{i}="b"' for i in range(20_000)) + ">" + '<g xmlns:b="c"/>' * 20_000 + "</g>",
    "many selectors": f"<style>{'a,' * 300_000}b{{fill:red}}</style>",
    "variables of variables": "<style>rect{--a:" + "var(--a)" * 100 + ";fill:var(--a)}</style><rect width='9' height='9'/>",
}  # fmt: skip


@pytest.mark.parametrize("inside", SLOW.values(), ids=SLOW)
def test_pathological_files_are_fast(inside: str) -> None:
    read(lambda: read_svg(svg(inside).encode()))


def test_too_many_rules_for_the_elements_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svg_css, "MAX_TRIES", 10_000)
    text = svg(f"<style>{'*{fill:red}' * 200}</style>" + "<g/>" * 200)
    with pytest.raises(UserError, match="style sheet with too many rules"):
        read_svg(text.encode())


def test_attributes_that_a_dtd_adds_are_counted() -> None:
    declared = f'<!ATTLIST g a CDATA "{"b" * 100_000}">'
    with pytest.raises(UserError, match="characters of attributes"):
        read_svg(entities(declared, "<g/>" * 1_000))
