"""SVG, pixels, ink grids, contact sheets and braille, held against resvg and against counting."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from flowkit.errors import UserError
from flowkit.sketch.domain import braille
from flowkit.sketch.doodles import generate_doodles
from flowkit.sketch.raster import contact_sheet, ink_grid, rasterize, trace
from flowkit.sketch.svg_write import svg, write_svg


def straight(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.linspace((x0, y0), (x1, y1), 4, dtype=np.float32).reshape(1, 8)


@pytest.fixture(scope="module")
def doodles() -> np.ndarray:
    return generate_doodles(20, seed=3).x


def by_resvg(text: str) -> np.ndarray:
    resvg_py = pytest.importorskip("resvg_py")
    return np.asarray(Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=text)))).convert("L"))


# SVG


def test_svg_has_one_path_a_stroke_that_reads_back(doodles):
    root = ET.fromstring(svg(doodles[0], title="cat"))
    space = "{http://www.w3.org/2000/svg}"
    assert root.attrib["viewBox"] == "0 0 512 512" and root.find(f"{space}title").text == "cat"
    group = root.find(f"{space}g")
    assert group.attrib["stroke-linecap"] == group.attrib["stroke-linejoin"] == "round"
    numbers = [path.attrib["d"].replace("M", "").replace("C", " ").split() for path in group]
    read = np.array(numbers, float) / 256 - 1
    np.testing.assert_allclose(read, doodles[0], atol=2.1e-6)


def test_svg_escapes_titles_and_leaves_out_what_is_not_finite():
    sketch = np.concatenate([straight(-0.5, 0, 0.5, 0), np.full((1, 8), np.nan, np.float32)])
    text = svg(sketch, title='<a & "b">\x00\x1b\ud800', color='"red"')
    root = ET.fromstring(text)
    assert root[0].text == '<a & "b">'
    assert text.count("<path") == 1 and "nan" not in text


def test_svg_background_can_be_left_out(doodles):
    assert "<rect" in svg(doodles[0]) and "<rect" not in svg(doodles[0], background=None)


def test_svg_numbers_are_short_and_never_in_exponents():
    text = svg(np.array([[1e-7 - 1, -1, 0.1, 0.1, 0.2, 0.2, 1 / 3, 2.0]]))
    assert "M0 0C281.6 281.6 307.2 307.2 341.333 768" in text


def test_write_svg_to_a_place_that_cannot_be_written(tmp_path, doodles):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_svg(tmp_path / "file" / "x.svg", doodles[0])


# Pixels


@pytest.mark.parametrize(("size", "least"), [(256, 0.93), (512, 0.96)])
def test_rasterize_matches_resvg(doodles, size, least):
    for sketch in doodles:
        ours, theirs = rasterize(sketch, size), by_resvg(svg(sketch, size=size))
        a, b = 255.0 - ours, 255.0 - theirs
        assert np.abs(a - b).mean() < 1.0
        assert np.minimum(a, b).sum() / np.maximum(a, b).sum() > least


def test_rasterize_of_straight_lines_is_resvg_to_a_gray_level_or_two():
    sketch = np.concatenate([straight(-0.5, -0.5, 0.5, -0.5), straight(0, 0, 0, 0.7)])
    ours, theirs = (a.astype(int) for a in (rasterize(sketch, 512), by_resvg(svg(sketch))))
    assert np.abs(ours - theirs).max() <= 40  # the round caps
    assert (np.abs(ours - theirs) > 3).sum() < 60


def test_rasterize_has_the_area_of_a_capsule():
    width, length = 0.1, 1.0
    heights = np.linspace(0.013, 0.015, 9)  # the mean over places between the pixels
    ink = (
        np.mean([(255.0 - rasterize(straight(-0.5, y, 0.5, y), 400, stroke_width=width)).sum() for y in heights]) / 255
    )
    assert ink == pytest.approx((length * width + np.pi * (width / 2) ** 2) * 200**2, rel=0.005)


def test_rasterize_a_dot_is_a_disc():
    picture = 255.0 - rasterize(np.zeros((1, 8)), 200, stroke_width=0.4)
    assert picture.sum() / 255 == pytest.approx(np.pi * 20**2, rel=0.01)
    np.testing.assert_array_equal(picture, picture.T)


def test_rasterize_cuts_what_leaves_the_canvas_and_survives_anything():
    across = rasterize(straight(-9, 0, 9, 0), 64)
    assert (across[31:33] < 255).all() and (across[:30] == 255).all()
    wild = np.array([[np.nan] * 8, [np.inf] * 8, [1e30] * 8, [-1e6] * 4 + [1e6] * 4], np.float32)
    assert rasterize(wild, 32).shape == (32, 32)
    assert (rasterize(wild[:3], 32) == 255).all()
    assert (rasterize(np.zeros((0, 8)), 32) == 255).all()


def test_trace_leaves_no_gap():
    sketch = np.concatenate([generate_doodles(1, 0).x[0], straight(-1, -1, 1, 1)])
    points, owner = trace(sketch, 0.01)
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)[np.diff(owner) == 0]
    assert steps.max() <= 0.01 + 1e-9
    np.testing.assert_allclose(points[np.searchsorted(owner, 3)], sketch[3, :2], atol=1e-7)


# Contact sheet


def test_contact_sheet_of_hundreds(tmp_path):
    data = generate_doodles(240, 0)
    contact_sheet(
        data.x, ["a very long name that cannot fit under so small a picture", "ü\ud800\n"] * 120, tmp_path / "s.png"
    )
    sheet = Image.open(tmp_path / "s.png")
    assert sheet.format == "PNG" and 1 < sheet.width / sheet.height < 2


def test_contact_sheet_places_cells_by_column(tmp_path, doodles):
    blank = np.full_like(doodles[:1], 5)  # off the canvas
    contact_sheet(np.concatenate([blank, doodles[:1], blank]), ["", "", ""], tmp_path / "s.png", columns=2, cell=100)
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    dark = np.argwhere(sheet < 128)
    assert dark[:, 1].min() > sheet.shape[1] / 2 and dark[:, 0].max() < sheet.shape[0] / 2


# Ink grid


def test_ink_grid_measures_length_in_cells():
    grid = ink_grid(straight(-0.5, -0.125, 0.5, -0.125)[None], size=8).reshape(8, 8)
    # From the middle of cells 1 and 2 on to that of 5 and 6 at row 3's center: 4 cells long.
    np.testing.assert_allclose(grid.sum(), 4, rtol=1e-5)
    np.testing.assert_allclose(grid[3, 2:6], [0.875, 1, 1, 0.875], atol=0.02)
    np.testing.assert_allclose(grid[[0, 1, 2, 4, 5, 6, 7]].sum(), 0, atol=1e-6)


def test_ink_grid_does_not_see_direction_order_or_splits(doodles):
    x = doodles[:5]
    p = x.reshape(5, 32, 4, 2)
    backwards = p[:, ::-1, ::-1].reshape(x.shape)
    np.testing.assert_allclose(ink_grid(x), ink_grid(backwards), atol=1e-4)
    mid = [(p[:, :, i] + p[:, :, i + 1]) / 2 for i in range(3)]
    inner = [(mid[0] + mid[1]) / 2, (mid[1] + mid[2]) / 2]
    top = (inner[0] + inner[1]) / 2
    halves = [np.stack([p[:, :, 0], mid[0], inner[0], top], 2), np.stack([top, inner[1], mid[2], p[:, :, 3]], 2)]
    split = np.concatenate(halves, axis=1).reshape(5, 64, 8)
    np.testing.assert_allclose(ink_grid(x), ink_grid(split), atol=0.05)


def test_ink_grid_drops_what_is_off_the_canvas_or_not_finite():
    wild = np.array([[[3.0] * 8, [np.nan] * 8, [np.inf] * 8]])
    assert ink_grid(wild, size=5).tolist() == [[0.0] * 25]
    assert ink_grid(np.zeros((0, 4, 8))).shape == (0, 196)
    x = generate_doodles(30, 0).x
    np.testing.assert_array_equal(ink_grid(x), ink_grid(x, chunk=7))


# Braille


def dots(lines: tuple[str, ...]) -> set[tuple[int, int]]:
    """(x, y) of every dot, read back from the characters by the numbering of the Unicode block."""
    places = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3)]
    return {
        (2 * column + dx, 4 * row + dy)
        for row, text in enumerate(lines)
        for column, character in enumerate(text)
        for bit, (dx, dy) in enumerate(places)
        if (ord(character) - 0x2800) >> bit & 1
    }


def test_braille_draws_straight_lines_one_dot_thin():
    assert dots(braille(straight(-1, 0.01, 1, 0.01), 4, 2)) == {(x, 4) for x in range(8)}
    assert dots(braille(straight(-0.9, -0.9, 0.9, 0.9), 4, 2)) == {(i, i) for i in range(8)}
    slanting = dots(braille(straight(-0.99, -0.4, 0.99, 0.5), 12, 6))
    assert len(slanting) == 24 == len({x for x, _ in slanting})


def test_braille_thins_each_stroke_by_itself():
    """A step from the end of one stroke to the start of the next is not a corner."""
    two = np.concatenate([straight(-0.95, -0.95, -0.95, -0.95), straight(-0.7, -0.95, -0.7, -0.1)])
    assert dots(braille(two, 4, 2)) == {(0, 0), (1, 0), (1, 1), (1, 2), (1, 3)}


def test_braille_size_and_what_is_cut(doodles):
    for sketch in doodles:
        lines = braille(sketch, columns=20, rows=9)
        assert len(lines) == 9 and {len(line) for line in lines} == {20}
        assert {ord(c) >> 8 for line in lines for c in line} == {0x28}
        assert len(dots(lines)) > 60
    wild = np.array([[5.0] * 8, [np.nan] * 8, [1e30] * 8], np.float32)
    assert set("".join(braille(wild))) == {"\u2800"}
    assert set("".join(braille(np.zeros((0, 8))))) == {"\u2800"}
    assert dots(braille(straight(-3, 0.01, 3, 0.01), 4, 2)) == {(x, 4) for x in range(8)}


def test_braille_keeps_every_line_connected(doodles):
    """Thinning drops corners of steps, never a link: each stroke's dots stay neighbors."""
    for stroke in doodles[:4].reshape(-1, 1, 8):
        found = dots(braille(stroke))
        seen, todo = set(), [next(iter(found))]
        while todo:
            x, y = todo.pop()
            if (x, y) in found - seen:
                seen.add((x, y))
                todo += [(x + i, y + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        assert seen == found
