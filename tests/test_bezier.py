"""Bezier geometry against closed forms, and the bringing of drawings to a fixed number of cubics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.interpolate import BPoly
from scipy.spatial import cKDTree

from flowkit.errors import Unreadable
from flowkit.sketch import bezier
from flowkit.sketch.budget import to_size

T = np.linspace(0, 1, 101)
CUBICS = np.random.default_rng(0).uniform(-1, 1, (50, 8))
QUARTER = np.array([1, 0, 1, 0.5522847498, 0.5522847498, 1, 0, 1.0])


def test_points_are_the_bernstein_form() -> None:
    expected = np.stack([BPoly(c.reshape(4, 1, 2), [0, 1])(T) for c in CUBICS])
    np.testing.assert_allclose(bezier.points(CUBICS, T), expected, atol=1e-12)


def test_halves_are_the_same_curve() -> None:
    for t in (0.0, 0.3, 1.0):
        left, right = bezier.split(CUBICS, t)
        np.testing.assert_allclose(bezier.points(left, T), bezier.points(CUBICS, T * t), atol=1e-12)
        np.testing.assert_allclose(bezier.points(right, T), bezier.points(CUBICS, t + T * (1 - t)), atol=1e-12)


def test_arc_length() -> None:
    assert bezier.arc_length(QUARTER) == pytest.approx(np.pi / 2, rel=3e-4)
    np.testing.assert_allclose(bezier.arc_length(bezier.from_lines(np.array([[0, 0], [3, 4.0], [3, 5]]))), [5, 1])
    for cubic in CUBICS[:5]:
        curve = BPoly(cubic.reshape(4, 1, 2), [0, 1]).derivative()
        assert bezier.arc_length(cubic) == pytest.approx(
            quad(lambda t, c=curve: np.hypot(*c(t)), 0, 1)[0], rel=5e-3
        )  # near cusps


def test_even_pieces() -> None:
    for cubic in CUBICS[:10]:
        pieces = bezier.split_evenly(cubic, 7)
        lengths = bezier.arc_length(pieces)
        assert np.ptp(lengths) < 0.02 * lengths.sum()
        dense = bezier.points(pieces, np.linspace(0, 1, 400)).reshape(-1, 2)
        assert cKDTree(dense).query(bezier.points(cubic, T))[0].max() < 0.01
        np.testing.assert_array_equal(pieces[1:, :2], pieces[:-1, 6:])


def test_fit_recovers_a_cubic() -> None:
    """Evenly spaced samples of a gentle cubic: the fit must recover the curve."""
    base = np.array([0, 0, 1 / 3, 0, 2 / 3, 0, 1, 0])
    cubics = base + 0.15 * CUBICS
    samples = []
    for cubic in cubics:
        dense = bezier.points(cubic, np.linspace(0, 1, 2000))
        along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(dense, axis=0), axis=1))])
        even = np.linspace(0, along[-1], 33)
        samples.append(np.stack([np.interp(even, along, dense[:, 0]), np.interp(even, along, dense[:, 1])], 1))
    found, error = bezier.fit(np.stack(samples), iterations=100)
    apart = [bezier.gap(bezier.points(a, T), bezier.points(b, T)) for a, b in zip(found, cubics, strict=True)]
    assert np.median(apart) < 5e-4 and max(apart) < 3e-3
    assert error.max() < 3e-3  # seen at the samples and half-way between them, where the chord cuts the curve
    np.testing.assert_allclose(found[:, [0, 1, 6, 7]], cubics[:, [0, 1, 6, 7]], atol=1e-12)


def test_fit_of_degenerate_samples_is_finite() -> None:
    flat = np.zeros((3, 10, 2))
    flat[1, -1] = 1  # all samples but one in one place
    flat[2, ::2, 0] = 1  # back and forth
    found, error = bezier.fit(flat)
    assert np.isfinite(found).all() and np.isfinite(error).all()


def test_gap() -> None:
    line = np.array([[0, 0], [1, 0.0]])
    assert bezier.gap(np.array([[0.5, 0.25], [2, 0]]), line) == 1.0
    assert bezier.gap(np.array([[0.5, -0.25]]), line) == 0.25


def dense(cubics: np.ndarray) -> np.ndarray:
    return bezier.points(cubics.astype(float), np.linspace(0, 1, 800)).reshape(-1, 2)


def hausdorff(a: np.ndarray, b: np.ndarray) -> float:
    a, b = dense(a), dense(b)
    return max(cKDTree(a).query(b)[0].max(), cKDTree(b).query(a)[0].max())


@pytest.mark.parametrize("size", [5, 6, 32, 64])
def test_fewer_cubics_are_split_losslessly(size: int) -> None:
    strokes = [CUBICS[:2], CUBICS[2:5]]
    found = to_size(strokes, size, exactly=True)
    assert found.x.shape == (size, 8) and found.x.dtype == np.float32
    assert (found.fitted, found.error) == (False, 0.0)
    assert hausdorff(found.x, CUBICS[:5]) < 0.006  # the samples' spacing
    # Every piece lies on its original to rounding, in the original's order.
    ends = bezier.points(CUBICS[:5], np.linspace(0, 1, 20001)).reshape(-1, 2)
    distance, where = cKDTree(ends).query(found.x[:, 6:].astype(float))
    assert distance.max() < 2e-4 and (np.diff(where) > 0).all()


def test_the_longest_are_split_first() -> None:
    lines = bezier.from_lines(np.array([[0, 0], [0.96, 0], [0.96, 0.5], [0.96, 0.4]]))
    pieces = to_size([lines], 6, exactly=True).x
    np.testing.assert_allclose(np.sort(bezier.arc_length(pieces)), [0.1, 0.25, 0.25, 0.32, 0.32, 0.32], atol=1e-6)


def test_strokes_without_length_are_dropped() -> None:
    dot = bezier.from_lines(np.array([[0.5, 0.5], [0.5, 0.5]]))
    line = bezier.from_lines(np.array([[0, 0], [0, 0], [1.0, 0]]))
    found = to_size([dot, line], 4, exactly=True)
    assert found.dots == 1 and bezier.arc_length(found.x).min() > 0.2
    with pytest.raises(Unreadable, match="no strokes"):
        to_size([dot], 4, exactly=True)


def test_more_cubics_are_merged_cheapest_first() -> None:
    """A square with one side cut into many: the corners stay, the many become one."""
    side = np.stack([np.linspace(0, 1, 30), np.zeros(30)], 1)
    square = bezier.from_lines(np.concatenate([side, [[1, 1], [0, 1], [0, 0.0]]]))
    found = to_size([square], 4, exactly=True)
    assert found.fitted and found.error < 1e-6
    np.testing.assert_allclose(found.x[:, :2], [[0, 0], [1, 0], [1, 1], [0, 1]], atol=1e-6)


def test_smooth_curves_need_few_cubics() -> None:
    angle = np.linspace(0, 2 * np.pi, 200)
    circle = bezier.from_lines(0.9 * np.stack([np.cos(angle), np.sin(angle)], 1))
    found = to_size([circle], 4, exactly=True)
    radius = np.linalg.norm(dense(found.x), axis=1)
    assert abs(radius - 0.9).max() < 0.01 and found.error < 0.01
    assert to_size([circle], 8, exactly=True).error < 1e-3


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(5, 20))
def test_the_reported_error_bounds_the_distance(seed: int, strokes: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    lines = [np.cumsum(rng.normal(0, 0.1, (rng.integers(2, 30), 2)), axis=0) for _ in range(strokes)]
    chains = [bezier.from_lines(line) for line in lines]
    found = to_size(chains, size, exactly=True)
    assert found.x.shape == (size, 8) and np.isfinite(found.x).all()
    assert hausdorff(found.x, np.concatenate(chains)) <= found.error + 4e-3  # the samples' spacing
    if found.fitted:
        ends = {tuple(np.float32(line[i]).tolist()) for line in lines for i in (0, -1)}
        assert ends <= {tuple(p.tolist()) for p in found.x.reshape(-1, 4, 2)[:, [0, 3]].reshape(-1, 2)}


def test_too_many() -> None:
    separate = [c[None] for c in CUBICS]
    with pytest.raises(Unreadable, match="more than 32 separate strokes"):
        to_size(separate, 32, exactly=True)
    with pytest.raises(Unreadable, match="more than 32 cubics"):
        to_size([bezier.from_lines(CUBICS[:, :2])], 32, fit=False, exactly=True)
    touching = bezier.from_lines(np.cumsum(np.abs(CUBICS[:, :2]), axis=0))
    assert to_size([c[None] for c in touching], 32, exactly=True).fitted  # written segment by segment, but one stroke
