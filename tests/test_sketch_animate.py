"""Self-drawing SVGs, GIFs of a flow, and strips: what is drawn when, and what renderers without animation show."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from flowkit.domain import get_domain
from flowkit.errors import UserError
from flowkit.sketch.animate import HOLD, INK, PAGE, PAPER, animated_svg, flow_gif, strip
from flowkit.sketch.bezier import arc_length, from_lines
from flowkit.sketch.raster import MARK
from flowkit.sketch.strokes import as_row, pen_strokes, tidy
from flowkit.sketch.svg_write import svg


def drawing(size: int = 8) -> np.ndarray:
    """Three pen strokes of 2, 1 and 3 cubics: lengths 1.2, 0.3 and 1.5."""
    lines = [
        [(-0.8, -0.5), (-0.2, -0.5), (-0.2, 0.1)],
        [(0.5, 0.5), (0.5, 0.8)],
        [(0, -0.9), (0.5, -0.9), (0.5, -0.4), (0, -0.4)],
    ]
    return as_row([from_lines(np.array(line, float)) for line in lines], size)


def paths(text: str) -> list[ET.Element]:
    return list(ET.fromstring(text).iter("{http://www.w3.org/2000/svg}path"))


def test_each_pen_stroke_takes_time_by_its_length():
    text = animated_svg(drawing(), title="three", seconds=6)
    assert [path.attrib["d"] for path in paths(text)] == [path.attrib["d"] for path in paths(svg(drawing()))]
    frames = dict(re.findall(r"@keyframes (\S+?)\{(.*?\}.*?)\}\n", text))
    moments = []
    for path in paths(text):
        group, own = path.attrib["class"].split()
        assert f".{group}{{animation:6s linear 1 both}}" in text and f".{own}{{animation-name:{own}}}" in text
        moments.append([float(at) for at in re.findall(r"([\d.]+)%", frames[own])])
    assert moments == [[0, 40, 100], [0, 40, 50, 100], [0, 50, 100, 100]]
    lengths = [arc_length(stroke).sum() for stroke in pen_strokes(drawing())]
    np.testing.assert_allclose(lengths, [1.2, 0.3, 1.5], rtol=1e-6)


def test_repeated_it_holds_the_drawing_before_it_starts_again():
    text = animated_svg(drawing(), seconds=3 * HOLD, repeat=True)
    assert f"animation:{4 * HOLD:g}s linear infinite" in text
    assert "0%,37.5%{" in text and "75%,100%{" in text


def test_it_is_complete_without_animation():
    """For renderers without CSS animations, and for people who prefer reduced motion: all motion is in one @media rule."""
    resvg_py = pytest.importorskip("resvg_py")
    picture = lambda text: np.asarray(Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=text)))))  # noqa: E731
    text = animated_svg(drawing(), title="three")
    assert np.array_equal(picture(text), picture(svg(drawing())))
    outside = re.sub(r"@media \(prefers-reduced-motion:no-preference\)\{\n(.*\n)*?\}\n", "", text)
    assert "animation" in text and "animation" not in outside and "<script" not in text


def test_what_it_draws_is_read_back(tmp_path):
    from flowkit.data.dataset import read_dataset

    (tmp_path / "three.svg").write_text(animated_svg(drawing(), title="three"))
    get_domain("sketch").prepare(tmp_path / "three.svg", tmp_path / "data")
    row = read_dataset(tmp_path / "data").x[0]
    assert sum(arc_length(stroke).sum() for stroke in pen_strokes(row)) == pytest.approx(3.0, rel=1e-3)


def test_names_do_not_clash_in_one_page_and_titles_are_text():
    one, other = (animated_svg(row, title="<path & <g ") for row in (drawing(), drawing() * [*[0.9] * 8, 1, 1]))
    keyframes = lambda text: set(re.findall("@keyframes (\\S+?){", text))  # noqa: E731
    assert len(keyframes(one)) == 3 and not keyframes(one) & keyframes(other)
    assert len(paths(one)) == 3 and animated_svg(drawing(), title="<path & <g ") == one


def test_drawings_without_ink_or_with_dots_are_svgs():
    assert "animation" not in animated_svg(as_row([], 4))
    assert "animation" not in animated_svg(np.full((2, 8), np.nan))
    dot = animated_svg(np.concatenate([drawing()[:2, :8], np.zeros((1, 8), np.float32)]))
    assert len(paths(dot)) == 3 and "opacity:0}" in dot


def frames_of(path) -> tuple[list[np.ndarray], list[int]]:
    with Image.open(path) as image:
        found = []
        for number in range(image.n_frames):
            image.seek(number)
            found.append((np.asarray(image.convert("RGB")), image.info["duration"]))
        assert image.info["loop"] == 0
    return [one for one, _ in found], [milliseconds for _, milliseconds in found]


def test_the_flow_ends_with_the_drawing(tmp_path):
    rng, t = np.random.default_rng(0), np.linspace(0, 1, 11)[:, None, None, None]
    rows = np.stack([drawing(), -np.abs(drawing())])  # the second has no sign of existing: one cubic is left
    states = t * rows + (1 - t) * rng.standard_normal((1, *rows.shape)) * 0.5
    flow_gif(states, tmp_path / "flow.gif", seconds=2, cell=64)
    frames, durations = frames_of(tmp_path / "flow.gif")
    assert len(frames) == 11 and set(durations[:-1]) == {180} and durations[-1] == 1000 * HOLD
    strip(tidy(rows), tmp_path / "end.png", cell=64)
    end = np.asarray(Image.open(tmp_path / "end.png").convert("RGB")).astype(int)
    assert frames[-1].shape == end.shape and np.abs(frames[-1].astype(int) - end).mean() < 2
    assert np.abs(frames[0].astype(int) - end).mean() > 10


def test_long_and_broad_flows_are_thinned(tmp_path):
    flow_gif(np.random.default_rng(0).standard_normal((120, 40, 2, 8)), tmp_path / "flow.gif", cell=16)
    frames, _ = frames_of(tmp_path / "flow.gif")
    assert len(frames) == 50 and frames[0].shape == (4 * 20 + 4, 4 * 20 + 4, 3)
    flow_gif(np.full((2, 1, 2, 8), np.nan), tmp_path / "flow.gif", cell=16)
    assert (frames_of(tmp_path / "flow.gif")[0][0][4:-4, 4:-4] >= PAPER - 8).all()


def test_a_strip_is_side_by_side_or_there_and_back(tmp_path):
    rows = np.stack([drawing() * [*[scale] * 8, 1, 1] for scale in (0.2, 0.5, 0.8, 1)])
    strip(rows, tmp_path / "strip.png", cell=48)
    assert Image.open(tmp_path / "strip.png").size == (4 * 52 + 4, 56)
    strip(rows, tmp_path / "strip.gif", cell=48, seconds=3)
    frames, durations = frames_of(tmp_path / "strip.gif")
    assert len(frames) == 6 and durations == [500] * 6 and frames[0].shape == (56, 56, 3)
    assert np.array_equal(frames[1], frames[5]) and not np.array_equal(frames[0], frames[3])
    strip(rows[:1], tmp_path / "one.gif", cell=48)
    with pytest.raises(UserError, match=r"strip\.jpg: unknown type of picture; name a \.png"):
        strip(rows, tmp_path / "strip.jpg")


def test_marked_cubics_have_another_color(tmp_path):
    marked = np.zeros((1, 8), bool)
    marked[0, [3, 4, 5, 7]] = True  # the last pen stroke, and one that does not exist
    strip(drawing()[None], tmp_path / "marked.png", marked, cell=256)
    picture = np.asarray(Image.open(tmp_path / "marked.png"))
    at = lambda x, y: tuple(picture[int(10 + 128 * (y + 1)), int(10 + 128 * (x + 1))].tolist())  # noqa: E731
    assert at(0.25, -0.9) == at(0.5, -0.6) == MARK
    assert at(-0.5, -0.5) == at(-0.2, -0.2) == at(0.5, 0.65) == (INK,) * 3
    assert at(0, 0) == (PAPER,) * 3 and tuple(picture[0, 0].tolist()) == (PAGE,) * 3
