"""The built-in sketches: real strokes only, stable slots, balanced classes, the same ones from the same seed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from flowkit.errors import UserError
from flowkit.sketch.doodles import DRAWINGS, _slots, draw_class, generate_doodles
from flowkit.sketch.doodles.pen import Pen, allot, arc, bow, curve, drop, ellipse, fill, line, segment, wave
from flowkit.sketch.raster import bernstein, ink_grid, trace


@pytest.fixture(scope="module")
def doodles():
    return generate_doodles(3000, seed=0)


def control_points(x: np.ndarray) -> np.ndarray:
    return x.reshape(*x.shape[:-1], 4, 2)


def test_shape_range_and_labels(doodles):
    assert doodles.kind == "sketch" and doodles.x.shape == (3000, 32, 8) and doodles.x.dtype == np.float32
    assert np.isfinite(doodles.x).all() and np.abs(doodles.x).max() <= 0.98
    assert len(doodles.class_names) == len(DRAWINGS) >= 15
    assert set(doodles.class_counts().values()) == {3000 // len(DRAWINGS)}
    assert doodles.class_label.dtype == np.int64
    # Shuffled: the labels of neighbors agree no more often than chance.
    assert (doodles.class_label[1:] == doodles.class_label[:-1]).mean() < 0.1


def test_no_stroke_is_empty(doodles):
    p = control_points(doodles.x)
    extent = np.linalg.norm(p[:, :, :, None] - p[:, :, None], axis=-1).max(axis=(2, 3))
    assert extent.min() > 0.05, doodles.class_names[
        doodles.class_label[np.unravel_index(extent.argmin(), extent.shape)[0]]
    ]
    for backwards in (False, True):  # no stroke is another one over again, in either direction
        other = p[:, :, ::-1] if backwards else p
        for stroke in range(32):
            apart = np.abs(p - other[:, stroke, None]).max(axis=(2, 3))
            apart[:, stroke] = 1
            assert apart.min() > 0.01


def test_the_same_seed_gives_the_same_doodles():
    first, again, other = (generate_doodles(60, seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first.x, again.x)
    np.testing.assert_array_equal(first.class_label, again.class_label)
    assert not np.array_equal(first.class_label, other.class_label)
    row, twin = (int(np.flatnonzero(d.class_label == 3)[0]) for d in (first, other))
    assert np.abs(first.x[row] - other.x[twin]).max() > 0.01


def test_balanced_where_classes_do_not_divide_the_number():
    counts = generate_doodles(2 * len(DRAWINGS) + 3, 0).class_counts().values()
    assert sorted(set(counts)) == [2, 3]


@pytest.mark.parametrize("num_strokes", [33, 40, 64])
def test_number_of_strokes_does_not_change_the_drawing(num_strokes):
    """More strokes are finer pieces of the same ink."""
    for name in ("house", "cat", "sun"):
        few, many = (draw_class(name, np.random.default_rng(5), 4, n) for n in (32, num_strokes))
        assert many.shape == (4, num_strokes, 8)
        np.testing.assert_allclose(ink_grid(few), ink_grid(many), atol=0.05)


def test_too_few_strokes_or_samples_are_refused():
    with pytest.raises(UserError, match="at least 32 strokes"):
        generate_doodles(10, 0, num_strokes=16)
    with pytest.raises(UserError, match="at least 1"):
        generate_doodles(0, 0)


def test_slots_keep_their_meaning():
    """A cup's first slots are its rim in every cup, whatever else it has; seed and number change nothing."""
    slots = _slots("cup", 32)
    assert (slots.host[slots.owner < 4] == np.flatnonzero(slots.owner < 4)).all()
    for name in DRAWINGS:
        slots = _slots(name, 32)
        assert len(slots.owner) == 32 and (np.diff(slots.owner) >= 0).all()
        guests = np.flatnonzero(slots.host != np.arange(32))
        assert not np.isin(slots.host[guests], guests).any()  # a host never moves


def test_absent_part_does_not_move_other_slots():
    pen = Pen(np.random.default_rng(0), 2)
    pen.tremor[:] = pen.haste[:] = 0
    outline = pen.draw(line(-0.5 + 0j, 0.5 + 0j, 0.5 + 0.5j))
    pen.draw(line(0.1j, 0.3 + 0.1j), np.array([True, False]), outline)
    pen.draw(line(-0.9j, 0.3 - 0.9j))
    with_part, without = fill(allot(pen.parts, 4), *pen.strokes())
    np.testing.assert_allclose(with_part[[1, 3]], without[[1, 3]])
    np.testing.assert_allclose(with_part[2, [0, 3]], [0.1j, 0.3 + 0.1j])
    # Its slot holds the second half of the host's line instead, and the host keeps the first.
    np.testing.assert_allclose(without[0, [0, 3]], [-0.5, 0.0], atol=1e-12)
    np.testing.assert_allclose(without[2, [0, 3]], [0.0, 0.5], atol=1e-12)


def test_classes_can_be_told_apart_by_their_ink():
    """5-NN on the ink grid, trained on one seed and asked about another: far above the 5% of guessing."""
    train, test = generate_doodles(1000, 1), generate_doodles(300, 2)
    a, b = ink_grid(train.x), ink_grid(test.x)
    nearest = np.argsort(((b[:, None] - a[None]) ** 2).sum(-1), axis=1)[:, :5]
    votes = (train.class_label[nearest][:, :, None] == np.arange(len(DRAWINGS))).sum(axis=1)
    assert (votes.argmax(axis=1) == test.class_label).mean() > 0.85


def test_every_class_varies():
    for name in DRAWINGS:
        x = draw_class(name, np.random.default_rng(0), 64, 32)
        assert np.std(x, axis=0).mean() > 0.03, name


# The pen


def at(cubics: np.ndarray, t: float) -> np.ndarray:
    return cubics @ bernstein(np.asarray(t))


def test_segment_is_the_same_curve():
    cubic = np.array([0.1 + 0.2j, 0.9 - 0.3j, -0.5 + 0.4j, 0.3 + 0.8j])
    piece = segment(cubic, np.array(0.2), np.array(0.7))
    for t in (0.0, 0.3, 0.5, 1.0):
        assert at(piece, t) == pytest.approx(at(cubic, 0.2 + 0.5 * t), abs=1e-12)


def test_primitives_have_their_closed_forms():
    center, radius = 0.2 - 0.1j, 0.4
    circle = ellipse(center, radius, radius, 4)
    for t in np.linspace(0, 1, 7):
        np.testing.assert_allclose(np.abs(at(circle, t) - center), radius, rtol=3e-4)
    half = arc(0j, 0.5, 0.2, 0, 180, 2)
    assert half[0, 0, 0] == pytest.approx(0.5) and half[0, 1, 3] == pytest.approx(-0.5)
    assert half[0, 0, 3] == pytest.approx(0.2j)  # 90 degrees is down
    assert at(bow(0j, 1 + 0j, 0.25)[0, 0], 0.5) == pytest.approx(
        0.5 + 0.25j
    )  # to the right of the direction of travel: down
    assert at(wave(0j, 1 + 0j, 0.1)[0, 0], 0.5) == pytest.approx(0.5)
    through = curve(0j, 1j, 1 + 1j, closed=True)
    np.testing.assert_allclose(through[0, :, 0], [0j, 1j, 1 + 1j])
    assert through[0, -1, 3] == through[0, 0, 0]
    loop = np.stack([drop(0j, 0.05).real, drop(0j, 0.05).imag], -1).reshape(1, 8)
    width = np.ptp(trace(loop, 0.001)[0], axis=0)
    np.testing.assert_allclose(width, [0.1, 0.11], rtol=0.05)


def test_no_torch_is_imported():
    code = "import sys, flowkit.sketch.doodles as d; d.generate_doodles(20, 0); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
