"""Pictures of drawings as a person may have scanned them: keyed, legible, and nowhere far from the drawing."""

import numpy as np
import pytest

from flowkit.rng import key
from flowkit.sketch.doodles import generate_doodles
from flowkit.sketch.raster import rasterize
from flowkit.sketch.rendering import CONTRAST, MOST_MOVED, WIDTHS, clean, displaced, ink, rendered
from flowkit.sketch.strokes import as_row, cubics
from tests.test_sketch_strokes import chain


@pytest.fixture(scope="module")
def doodles():
    return generate_doodles(40, seed=3).x


def pixels(image):
    return np.asarray(image).astype(np.int64)


def test_ink_is_that_of_the_supersampling_rasterizer(doodles):
    for row in doodles[:12]:
        for width in (0.022, 0.06):
            expected = 1 - rasterize(cubics(row), 128, stroke_width=width) / 255
            found = ink(row, 128, width)
            assert (
                np.abs(found - expected).sum() < 0.12 * expected.sum()
            )  # pixels at edges, by how their share is counted
            assert np.quantile(np.abs(found - expected), 0.99) < 0.15
            assert found.sum() == pytest.approx(expected.sum(), rel=0.04)


def test_a_straight_line_covers_exact_pixels():
    line = np.array([[-0.5, 0, -0.2, 0, 0.2, 0, 0.5, 0]])  # between two rows of pixels
    found = ink(line, 64, 2 / 32)
    assert found.max() == 1 and set(np.unique(found[:, 24:40])) == {0, 1}
    np.testing.assert_array_equal(np.flatnonzero(found[:, 32]), [31, 32])
    thin = ink(line + np.array([0, 1 / 64] * 4), 64, 0.4 / 32)  # through the centers of a row: the cover is the width
    np.testing.assert_allclose(thin[31:34, 32], [0, 0.4, 0], atol=1e-6)


def test_ink_off_the_canvas_and_cubics_that_are_not_finite_are_left_out(doodles):
    far = np.full((1, 8), 5.0)
    assert not ink(far, 64, 0.05).any() and not ink(np.full((2, 8), np.nan), 64, 0.05).any()
    both = np.concatenate([cubics(doodles[0]), far, np.full((1, 8), np.inf)])
    np.testing.assert_array_equal(ink(both, 64, 0.05), ink(cubics(doodles[0]), 64, 0.05))
    leaving = np.array([[0, 0, 1, 0, 2, 0, 3, 0.0]])
    assert ink(leaving, 64, 0.05)[31:33, 40:].min() > 0.5


def test_clean_pictures_are_black_on_white(doodles):
    picture = clean(doodles[0], 96)
    assert picture.mode == "L" and picture.size == (96, 96)
    assert pixels(picture).min() == 0 and pixels(picture).max() == 255 and pixels(picture)[0, 0] == 255


def test_pictures_are_functions_of_seed_and_place(doodles):
    same = [pixels(rendered(doodles[0], 5, "row", 7, size=96)) for _ in range(2)]
    np.testing.assert_array_equal(*same)
    others = [rendered(doodles[0], *place, size=96) for place in ((6, "row", 7), (5, "row", 8), (5, "row", 7, 1))]
    for other in others:
        assert np.abs(pixels(other) - same[0]).mean() > 2
    assert rendered(doodles[0], 0, 0).size == (224, 224) and rendered(doodles[0], 0, 0).mode == "RGB"


def test_ink_can_be_seen_on_every_paper(doodles):
    for number, row in enumerate(doodles):
        picture, small = (pixels(rendered(row, 0, number, size=size)) for size in (224, 40))
        covered = ink(
            displaced(row, np.random.Generator(np.random.Philox(key(0, "rendering", number)))), 224, WIDTHS[0]
        )
        paper, drawn = picture[covered == 0], picture[covered > 0.9]
        assert len(drawn) and np.median(paper.mean(axis=-1)) - np.median(drawn.mean(axis=-1)) > CONTRAST / 2
        assert paper.mean() > 150
        darkest = [np.median(some.mean(axis=-1)) - some.mean(axis=-1).min() for some in (picture, small)]
        assert darkest[1] > 0.7 * darkest[0]  # thin lines do not fade in small pictures


def test_pens_papers_and_widths_vary(doodles):
    pictures = np.stack([pixels(rendered(doodles[0], 1, number)) for number in range(40)])
    corners = pictures[:, :3, :3].mean(axis=(1, 2, 3))
    assert corners.std() > 5
    gray = pictures.mean(axis=-1).reshape(40, -1)
    paper, pen = np.median(gray, axis=1, keepdims=True), gray.min(axis=1, keepdims=True)
    inked = (gray < (paper + pen) / 2).mean(axis=1)
    assert inked.max() > 2.5 * inked.min()
    assert (paper - pen).max() > 2 * (paper - pen).min()
    assert len(np.unique(pictures.reshape(40, -1), axis=0)) == 40


def test_displacements_are_small_but_there():
    corners = np.array([[x, y] for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0)] * 4)
    grid = corners.reshape(-1, 8)
    moved = np.stack([displaced(grid, np.random.default_rng(seed)) for seed in range(2000)]).reshape(2000, -1, 2)
    distance = np.linalg.norm(moved - corners, axis=-1)
    assert distance.max() < MOST_MOVED
    assert 0.02 < np.sqrt(np.square(distance).mean()) < 0.05  # 1% to 2.5% of the canvas
    assert np.abs(moved.mean(axis=0) - corners).max() < 0.004  # no direction is preferred


def test_displacement_leaves_signs_and_continuity():
    row = as_row(chain(3, 2, 1), 8)
    moved = displaced(row, np.random.default_rng(0))
    np.testing.assert_array_equal(moved[:, 8:], row[:, 8:])
    joined = np.flatnonzero(row[:, 9] > 0)
    np.testing.assert_allclose(moved[joined, :2], moved[joined - 1, 6:8], atol=1e-6)
    assert np.abs(moved - row).max() > 1e-3
