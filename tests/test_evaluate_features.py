"""What the evaluation sees of a sketch: what it must not depend on, and simple cases worked out by hand."""

import numpy as np
import pytest

from flowkit.data.dataset import read_dataset
from flowkit.metrics.distances import chamfer_pairs, euclidean
from flowkit.metrics.neighbors import knn_classify
from flowkit.sketch.evaluation import PROTOCOL, NearestSketch
from flowkit.sketch.features import (
    STROKE_FEATURES,
    blurred_grid,
    class_grid,
    counts,
    curve,
    ink_points,
    stroke_features,
)
from flowkit.sketch.prepare import prepare
from flowkit.sketch.strokes import as_row
from flowkit.sketch.validity import degenerate, duplicate, on_canvas


def sketches(rows=6, strokes=5, seed=0):
    start = np.random.default_rng(seed).uniform(-0.6, 0.6, (rows, strokes, 1, 2))
    legs = np.random.default_rng(seed + 1).normal(0, 0.15, (rows, strokes, 4, 2))
    return (start + legs.cumsum(axis=2)).reshape(rows, strokes, 8).astype(np.float32)


def line(x0, y0, x1, y1):
    t = np.linspace(0, 1, 4)[:, None]
    return ((1 - t) * [x0, y0] + t * [x1, y1]).reshape(8).astype(np.float32)


def reverse(x):
    return x.reshape(*x.shape[:-1], 4, 2)[..., ::-1, :].reshape(x.shape)


def cut(x):
    """Every stroke as two, by de Casteljau at one half: the same drawing."""
    p = x.reshape(*x.shape[:-1], 4, 2)
    a, b, c = ((p[..., i, :] + p[..., i + 1, :]) / 2 for i in range(3))
    d, e = (a + b) / 2, (b + c) / 2
    f = (d + e) / 2
    halves = np.stack([np.stack([p[..., 0, :], a, d, f], -2), np.stack([f, e, c, p[..., 3, :]], -2)], axis=2)
    return halves.reshape(len(x), -1, 8)


def test_points_lie_at_equal_steps_along_the_ink():
    x = np.stack([line(-0.5, 0, 0.5, 0), line(0, -1, 0, 1)])[None]  # 1 and 2 units of ink
    points = ink_points(x, 300)[0]
    np.testing.assert_allclose(points[:100, 0], -0.5 + (np.arange(100) + 0.5) / 100, atol=1e-6)
    np.testing.assert_allclose(points[100:, 1], -1 + (np.arange(200) + 0.5) / 100, atol=1e-6)
    assert not points[:100, 1].any() and not points[100:, 0].any()


@pytest.mark.parametrize("change", [reverse, cut, lambda x: x[:, ::-1]])
def test_points_do_not_depend_on_how_a_drawing_was_drawn(change):
    x = sketches()
    a, b = ink_points(x), ink_points(np.ascontiguousarray(change(x)))
    step = 5 * 0.6 / 128  # about the distance of neighbors
    for p, q in zip(a, b, strict=True):
        assert chamfer_pairs(p, q[None])[0] < step**2 / 4


def test_points_of_dots():
    x = np.zeros((1, 4, 8), np.float32)
    x[0, 2] = 0.5
    points = ink_points(x)
    assert np.isfinite(points).all() and {tuple(p) for p in np.unique(points[0], axis=0)} == {(0.0, 0.0), (0.5, 0.5)}


def test_stroke_features_by_hand():
    x = np.stack([line(0, 0, 0.6, 0.8), line(0.6, 0.7, 0.6, -0.3)])[None]  # two lines, the second .1 from the first
    found = dict(zip(STROKE_FEATURES, stroke_features(x)[0], strict=True))
    expected = {"mean length": 1.0, "deviation of length": 0.0, "mean straightness": 1.0, "mean turning": 0.0,
                "mean center x": 0.45, "mean center y": 0.3, "mean |dx|": 0.3, "mean |dy|": 0.9, "mean slant": 0.24,
                "mean gap to the next stroke": 0.05, "mean distance to the nearest other end": 0.1}  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    bow = np.array([[[0, 0, 1, 0, 1, 1, 0, 1]]], np.float32)  # it comes back in the opposite direction: half a turn
    assert stroke_features(bow)[0][STROKE_FEATURES.index("mean turning")] == pytest.approx(1.0, abs=0.07)


def test_stroke_features_are_of_pen_strokes_wherever_they_are_cut():
    x = sketches()
    rows = np.stack([as_row(cubics[:, None], 5) for cubics in x])
    pieces = np.stack([as_row(np.split(cubics, 5), 10) for cubics in cut(x)])  # each pen stroke is two cubics
    np.testing.assert_allclose(stroke_features(pieces), stroke_features(rows), atol=0.02)
    np.testing.assert_allclose(stroke_features(x), stroke_features(rows), atol=1e-6)
    np.testing.assert_allclose(stroke_features(cut(x)), stroke_features(rows), atol=0.02)  # joined where the ends meet
    assert counts(pieces)[:, 0].tolist() == [10] * 6 and counts(pieces)[:, 1].tolist() == [5] * 6


def test_absent_cubics_change_nothing():
    x = sketches()
    rows = np.stack([as_row(cubics[:, None], 5) for cubics in x])
    padded = np.stack([as_row(cubics[:, None], 9) for cubics in x])
    for feature in (ink_points, stroke_features, class_grid, blurred_grid, counts, on_canvas, degenerate, duplicate):
        np.testing.assert_array_equal(feature(rows), feature(padded))
        np.testing.assert_array_equal(feature(x), feature(rows))


def test_pieces_are_what_hangs_together():
    cross = [line(-0.5, 0, 0.5, 0), line(0, -0.5, 0, 0.5)]
    apart = [line(-0.5, 0, 0.5, 0), line(-0.5, 0.2, 0.5, 0.2)]
    assert counts(np.stack([np.stack(cross), np.stack(apart)]))[:, 3].tolist() == [1, 2]


def test_stroke_features_of_a_drawing_drawn_backwards_differ_in_gaps_alone():
    a, b = stroke_features(sketches()), stroke_features(reverse(sketches()))
    same = [i for i, name in enumerate(STROKE_FEATURES) if "gap" not in name]
    np.testing.assert_allclose(a[:, same], b[:, same], atol=1e-6)
    one_stroke = stroke_features(sketches(strokes=1))
    assert np.isfinite(one_stroke).all()


def test_class_grid_marks_touched_cells():
    x = np.stack([line(-0.99, -0.99, 0.99, -0.99), line(3, 3, 4, 4)])[None]  # along the top; off the canvas
    grid = class_grid(x)[0].reshape(14, 14)
    assert grid[0].sum() == 14 and not grid[1:].any()
    assert set(np.unique(class_grid(sketches()))) == {0.0, 1.0}


def test_blurred_grid_is_a_blurred_picture():
    x = np.stack([line(0.0, -0.5, 0.0, 0.5)])[None]
    grid = blurred_grid(x).reshape(28, 28)
    assert grid.argmax() % 28 in (13, 14) and (grid[14, 10:18] > 0).all()
    ink = np.flatnonzero(grid.any(axis=1))  # rows 7 to 20, one more for what two cells share, four of blur
    assert (ink[0], ink[-1]) == (2, 25)


def test_validity_by_hand():
    tiny, long, off = line(0, 0, 0.03, 0.03), line(0, 0, 0.5, 0), line(0.5, 0.5, 1.5, 0.5)
    bulge = np.array([0, 0.9, 0, 1.2, 0.1, 1.2, 0.1, 0.9], np.float32)  # ends on the canvas, leaves it between
    twin = reverse(long) + np.float32(0.02)
    x = np.stack([[tiny, long, off, bulge], [long, twin, tiny, off]])
    assert on_canvas(x).tolist() == [0.5, 0.75]
    assert degenerate(x).tolist() == [0.25, 0.25]
    assert duplicate(x).tolist() == [0.0, 0.5]
    assert duplicate(np.repeat(x, 200, axis=0)).tolist() == [0.0] * 200 + [0.5] * 200
    assert duplicate(x[:, :1]).tolist() == [0.0, 0.0]


def test_nearest_sketch_is_that_of_a_full_search():
    x = sketches(60)
    query = x[:20] + np.random.default_rng(0).normal(0, 0.05, (20, 5, 8)).astype(np.float32)
    distance, nearest = NearestSketch(x)(query)
    points, others = ink_points(query), ink_points(x)
    full = np.stack([chamfer_pairs(p, others) for p in points])
    assert nearest.tolist() == full.argmin(axis=1).tolist()
    np.testing.assert_allclose(distance, np.sqrt(full[np.arange(20), nearest]), rtol=1e-3)
    copies, found = NearestSketch(x)(x)
    assert found.tolist() == list(range(60)) and copies.max() < 2e-3
    apart, other = NearestSketch(x)(x, np.arange(60))
    assert (other != np.arange(60)).all() and apart.min() > 0.01


def test_features_are_those_of_the_protocol():
    """Figures are comparable under one protocol only. If you change a feature, change PROTOCOL and these numbers."""
    x = sketches(3, 32)
    assert PROTOCOL == "sketch-2"
    assert ink_points(x).sum() == pytest.approx(23.58083, abs=1e-3)
    assert stroke_features(x).sum() == pytest.approx(18.84135, abs=1e-3)
    assert class_grid(x).sum() == 255
    assert blurred_grid(x).sum() == pytest.approx(525.459, abs=1e-2)


def test_curves_are_cubics():
    x = sketches(2, 3)
    p = x.reshape(2, 3, 4, 2)
    middle = (p[:, :, 0] + 3 * p[:, :, 1] + 3 * p[:, :, 2] + p[:, :, 3]) / 8
    np.testing.assert_allclose(curve(x, np.array([0.0, 0.5, 1.0]))[:, :, 1], middle, atol=1e-6)


def test_neighbors_name_the_class_of_real_characters(shared_data, tmp_path):
    prepare(shared_data / "kanjivg-left-components.zip", tmp_path / "kanji")
    data = read_dataset(tmp_path / "kanji")
    labels, grid = np.asarray(data.class_label), class_grid(data.x)
    distances = euclidean(grid, grid)
    np.fill_diagonal(distances, np.inf)
    assert np.bincount(labels).max() / len(labels) == pytest.approx(0.171, abs=0.001)
    assert (knn_classify(distances, labels) == labels).mean() == pytest.approx(0.857, abs=0.005)
