"""Pages for a pen plotter: sizes, places, the order of pen strokes, and the options of `flowkit decode` for sketches."""

from __future__ import annotations

import itertools
import re
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from flowkit.__main__ import main
from flowkit.data.dataset import Dataset, write_dataset
from flowkit.domain import get_domain
from flowkit.errors import UserError
from flowkit.sketch import plotter
from flowkit.sketch.bezier import arc_length, from_lines
from flowkit.sketch.plotter import PAGES, Page, order, parse_grid, parse_length, parse_page, plot, reverse, travel_of
from flowkit.sketch.strokes import as_row

SVG = "{http://www.w3.org/2000/svg}"


def line(*corners: tuple[float, float]) -> np.ndarray:
    return from_lines(np.array(corners, float))


def lines_of(text: str) -> list[np.ndarray]:
    """Pen strokes (n, 8) of a page."""
    found = []
    for path in ET.fromstring(text).iter(f"{SVG}path"):
        numbers = np.array(re.split("[MC ]", path.attrib["d"])[1:], float)
        ends = np.concatenate([numbers[:2], numbers[2:].reshape(-1, 6)[:-1, 4:].ravel()]).reshape(-1, 2)
        found.append(np.concatenate([ends, numbers[2:].reshape(-1, 6)], axis=1))
    return found


@pytest.mark.parametrize(
    ("text", "mm"), [("20mm", 20), ("2cm", 20), ("2.5 CM", 25), ("1in", 25.4), (".5in", 12.7), ("0mm", 0)]
)
def test_lengths(text, mm):
    assert parse_length(text, "--margin") == pytest.approx(mm)


@pytest.mark.parametrize("text", ["20", "", "mm", "20px", "-3mm", "1e3mm", "20mmm", "1.2.3mm", "nan"])
def test_what_is_no_length(text):
    with pytest.raises(UserError, match=r"^--margin: .* expected a number with mm, cm or in, such as 20mm"):
        parse_length(text, "--margin")


def test_pages():
    assert parse_page("A4") == Page(210, 297, 10) and parse_page("letter", "1in").margin == 25.4
    assert parse_page("a4", landscape=True) == Page(297, 210, 10) == parse_page("297x210mm", landscape=True)
    assert parse_page("8.5x11in").width == pytest.approx(PAGES["letter"][0])
    assert parse_page(" 21cm x 297 mm") == Page(210, 297, 10) and parse_page("210mmx297mm") == Page(210, 297, 10)
    assert parse_grid("3x4") == parse_grid(" 3 X 4 ") == (3, 4)


def test_a_page_is_in_millimeters_and_drawings_keep_its_margin():
    x = get_domain("sketch").generate("doodles", 7, 0).x
    made = plot(x, Page(210, 297, 20), (3, 2))
    assert len(made.pages) == 2 and made.shrunk == 0
    root = ET.fromstring(made.pages[0])
    assert (root.attrib["width"], root.attrib["height"], root.attrib["viewBox"]) == ("210mm", "297mm", "0 0 210 297")
    assert root.find(f"{SVG}title").text == "Page 1 of 2" and root.find(f"{SVG}rect") is None
    ends = np.concatenate(lines_of(made.pages[0])).reshape(-1, 2)
    assert ends.min() >= 20 and (ends.max(0) <= (190, 277)).all()
    assert made.cell == pytest.approx(257 / 3.1)  # three cells and two gaps of a twentieth
    total = sum(arc_length(stroke).sum() for page in made.pages for stroke in lines_of(page))
    assert total == pytest.approx(arc_length(x.astype(float)).sum() * made.cell / 2, rel=1e-4)


def test_places_go_from_left_to_right_and_down():
    x = np.stack([line((-0.9, -0.9 + 0.1 * n), (0.9, -0.9 + 0.1 * n)) for n in range(6)])
    drawn = lines_of(plot(x, Page(100, 100, 5), (2, 3)).pages[0])
    cell = 90 / 3.1
    top = (100 - 2.05 * cell) / 2
    for number in range(6):
        left = 5 + number % 3 * cell * 1.05 + 0.05 * cell
        y = top + number // 3 * cell * 1.05 + (0.1 + 0.1 * number) * cell / 2
        assert any(np.allclose(sorted([s[0, 0], s[0, 6]]), [left, left + 0.9 * cell], atol=2e-3)
                   and np.allclose(s[0, [1, 7]], y, atol=2e-3) for s in drawn)  # fmt: skip


def test_without_a_grid_all_drawings_go_to_one_page_while_cells_are_large_enough():
    x = np.stack([line((0, 0), (0.5, 0.5))] * 70)
    assert [len(plot(x[:n], Page(210, 297, 10)).pages) for n in (1, 2, 12, 70)] == [1, 1, 1, 1]
    assert plot(x[:1], Page(210, 297, 10)).cell == 190
    small = plot(x, Page(105, 148, 10))
    assert small.cell >= plotter.SMALLEST and len(small.pages) == 3  # 6 rows of 4 cells
    assert len(plot(x[:3], Page(12, 12, 0)).pages) == 3


def test_drawings_beyond_their_canvas_are_moved_or_scaled_into_it():
    inside, beside = line((-0.5, 0), (0.5, 0)), line((0.8, 0), (1.8, 0))
    large = line((-3, -3), (3, 3))
    page = Page(100, 100, 10)
    for row, expected in ((inside, (30, 70)), (beside, (50, 90)), (large, (10, 90))):
        made = plot([row], page, (1, 1))
        x = np.concatenate(lines_of(made.pages[0]))[:, [0, 6]]
        np.testing.assert_allclose((x.min(), x.max()), expected, atol=0.3)
        assert made.shrunk == (row is not inside)
    empty = plot([np.full((2, 8), np.nan), as_row([], 3)], page, (1, 2))
    assert empty.lifts == (0, 0) and empty.travel == (0, 0) and not empty.shrunk


def test_the_best_order_of_few_strokes():
    rng = np.random.default_rng(0)
    for _ in range(5):
        strokes = [line(*rng.uniform(0, 100, (2, 2))) for _ in range(5)]
        ways = (
            [reverse(s) if back else s for s, back in zip(some, turned, strict=True)]
            for some in itertools.permutations(strokes)
            for turned in itertools.product((False, True), repeat=5)
        )
        shortest = min(map(travel_of, ways))
        found = order(strokes)
        assert shortest - 1e-9 <= travel_of(found) <= 1.15 * shortest
        keys = lambda some: sorted(min(s.tobytes(), reverse(s).tobytes()) for s in some)  # noqa: E731
        assert keys(found) == keys(strokes)


def test_greedy_alone_and_refined(monkeypatch):
    rng = np.random.default_rng(1)
    strokes = [line(at, at + rng.normal(0, 3, 2)) for at in rng.uniform(0, 100, (150, 2))]
    refined = travel_of(order(strokes))
    monkeypatch.setattr(plotter, "REFINED", 0)
    assert refined < 0.95 * travel_of(order(strokes)) < 0.25 * travel_of(strokes)


def test_pieces_of_a_line_are_drawn_without_lifting_the_pen():
    """In any order and direction, as the cubics of a sketch without pen strokes may be."""
    whole = line((-0.9, 0), (-0.5, 0.3), (0, 0), (0.4, -0.3), (0.9, 0))
    pieces = [whole[2:3], reverse(whole[1:2]), whole[3:4], reverse(whole[:1])]
    made = plot([np.concatenate(pieces)], Page(100, 100, 0))
    assert made.lifts == (4, 1) and len(lines_of(made.pages[0])) == 1
    assert made.travel[1] < made.travel[0]
    as_pen_strokes = plot([as_row([whole], 6)], Page(100, 100, 0))
    assert as_pen_strokes.lifts == (1, 1)


# On the command line


@pytest.fixture
def flowkit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x = get_domain("sketch").generate("doodles", 5, 0).x
    write_dataset("some/samples", Dataset("sketch", x, np.arange(5) % 2, class_names=("cat", "dog")))
    write_dataset("none/samples", Dataset("sketch", x[:0]))
    write_dataset("vectors", Dataset("embedding", np.zeros((2, 4), np.float32)))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["flowkit", *arguments])
        with pytest.raises(SystemExit) as raised:
            main()
        said = capsys.readouterr()
        return int(raised.value.code or 0), said.out, said.err

    return run


def test_decode_writes_pages_and_animations_and_says_what_was_saved(flowkit, tmp_path):
    status, out, _ = flowkit("decode", "some", "--page", "a5", "--margin", "1cm", "--grid", "2x2", "--animate")
    assert status == 0
    assert re.search(r"5 drawings of [\d.]+ mm on 2 pages; pen lifts 160 -> \d+, travel [\d,]+ -> [\d,]+ mm", out)
    assert "12 SVG files -> some/" in out
    names = {path.name for path in (tmp_path / "some").glob("*.svg")}
    assert {"000-cat.svg", "000-cat-animated.svg", "page-1.svg", "page-2.svg"} <= names and len(names) == 12
    assert "@keyframes" in (tmp_path / "some/001-dog-animated.svg").read_text()
    status, out, _ = flowkit("decode", "some", "--page", "a5", "--landscape", "--drawings", "0,3-4", "--no-preview")
    assert "3 drawings of" in out and 'width="210mm" height="148mm"' in (tmp_path / "some/page-1.svg").read_text()
    assert "replaced 13 files of an earlier call" in out and not (tmp_path / "some/page-2.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["some", "--page", "a9"], "--page: unknown page 'a9'; expected a3, a4, a5, letter, legal or a size such as 210x297mm"),
        (["some", "--page", "210x297"], "--page: unknown page '210x297'"),
        (["some", "--page", "a4", "--margin", "20"], "--margin: '20' has no unit"),
        (["some", "--page", "a5", "--margin", "74mm"], "--margin: 74 mm on each side leaves no room on a page of 148 x 210 mm"),
        (["some", "--page", "0x0mm"], "leaves no room"),
        (["some", "--margin", "2cm"], "--margin: requires --page"),
        (["some", "--landscape", "--animate"], "--landscape: requires --page"),
        (["some", "--page", "a4", "--grid", "3"], "--grid: '3' is not a grid; expected rows x columns, such as 3x4"),
        (["some", "--page", "a4", "--grid", "0x3"], "--grid: '0x3' is not a grid"),
        (["some", "--page", "a4", "--grid", "300x300"], "--grid: 300x300 cells on a page of 210 x 297 mm would be 0.6 mm wide"),
        (["some", "--page", "a4", "--drawings", "5-3"], "--drawings: '5-3' is not a list of numbers"),
        (["some", "--page", "a4", "--drawings", "2,5"], "--drawings: there is no drawing 5; expected 0 to 4"),
        (["some", "--page", "a4", "--drawings", "0-9999999999"], "more than a million"),
        (["none", "--page", "a4"], "--page: there are no drawings to put on a page"),
        (["some", "--page", "a4", "--lang", "fra_Latn"], "--page (for sketches) and --lang (for sentence vectors) are mutually"),
        (["vectors", "--animate"], "--animate is an option for sketches, and vectors.safetensors holds sentences"),
        (["some", "--beam-size", "3"], "--beam-size is an option for sentence vectors, and some/samples.safetensors holds sk"),
    ],
)  # fmt: skip
def test_bad_input_is_one_message_and_writes_nothing(flowkit, tmp_path, arguments, said):
    before = sorted(tmp_path.rglob("*"))
    status, out, err = flowkit("decode", *arguments)
    assert status == 2 and said in err and err.startswith("error: ") and err.count("\n") == 1 and not out
    assert sorted(tmp_path.rglob("*")) == before
