"""Pen strokes: which cubics exist, which continue the one before, and that they survive sampling, SVG and preparing."""

import numpy as np
import pytest

from flowkit.data.dataset import Dataset, read_dataset
from flowkit.errors import UserError
from flowkit.sketch.budget import to_size
from flowkit.sketch.domain import SketchDomain
from flowkit.sketch.prepare import prepare
from flowkit.sketch.strokes import CONTINUES, EXISTS, as_row, continues, cubics, exists, pen_strokes, tidy
from flowkit.sketch.svg_write import svg, write_svg


def chain(*lengths, seed=0):
    """Pen strokes of these numbers of cubics, each starting where the one before ended, on the canvas."""
    rng = np.random.default_rng(seed)
    strokes = []
    for length in lengths:
        points = rng.uniform(-0.9, 0.9, (3 * length + 1, 2)).round(3)
        strokes.append(np.stack([points[3 * i : 3 * i + 4].reshape(8) for i in range(length)]).astype(np.float32))
    return strokes


def noisy(row, scale=0.05, seed=1):
    return (row + np.random.default_rng(seed).normal(0, scale, row.shape)).astype(np.float32)


def test_a_row_holds_pen_strokes():
    strokes = chain(2, 1, 3)
    row = as_row(strokes, 8)
    assert row.shape == (8, 10) and exists(row).tolist() == [True] * 6 + [False] * 2
    assert continues(row).tolist() == [False, True, False, False, True, True, False, False]
    assert [len(stroke) for stroke in pen_strokes(row)] == [2, 1, 3]
    np.testing.assert_array_equal(np.concatenate(pen_strokes(row)), np.concatenate(strokes))
    np.testing.assert_array_equal(cubics(row), np.concatenate(strokes))


def test_a_row_without_signs_is_all_loose_cubics():
    x = np.concatenate(chain(3))
    assert exists(x).all() and not continues(x).any() and len(pen_strokes(x)) == 3


def test_a_tidy_row_stays_as_it_is():
    rows = np.stack([as_row(chain(2, 1, 3), 8), as_row(chain(1), 8)])
    np.testing.assert_array_equal(tidy(rows), rows)


def test_joined_cubics_meet_exactly_and_signs_are_rounded():
    rows = noisy(np.stack([as_row(chain(2, 4), 8), as_row(chain(5, 3), 8)]))
    found = tidy(rows)
    assert (np.abs(found[..., EXISTS:]) == 1).all()
    joined = continues(found)
    assert joined.sum() == 4 + 6
    np.testing.assert_array_equal(found[:, 1:, :2][joined[:, 1:]], found[:, :-1, 6:8][joined[:, 1:]])
    middle = (rows[:, 1:, :2] + rows[:, :-1, 6:8])[joined[:, 1:]] / 2
    np.testing.assert_allclose(found[:, 1:, :2][joined[:, 1:]], middle, atol=1e-6)
    # The control points move with the ends, so the tangents keep their directions.
    start = found[..., 2:4] - found[..., :2], rows[..., 2:4] - rows[..., :2]
    np.testing.assert_allclose(start[0][exists(found)], start[1][exists(found)], atol=1e-6)


def test_cubics_that_exist_come_first():
    row = as_row(chain(1, 1, 1, 1), 6)
    row[1, EXISTS] = -0.2  # a gap
    row[2, CONTINUES] = 0.9  # of what does not exist
    found = tidy(row[None])[0]
    assert exists(found).tolist() == [True] * 3 + [False] * 3 and not continues(found).any()
    np.testing.assert_array_equal(cubics(found), row[[0, 2, 3], :8])
    assert (found[3:, :EXISTS] == 0).all() and (found[3:, EXISTS:] == -1).all()


def test_a_row_of_nothing_keeps_its_likeliest_cubic():
    row = noisy(as_row([], 5))
    row[3, EXISTS] = -0.1
    found = tidy(row[None])[0]
    np.testing.assert_array_equal(cubics(found), row[3:4, :8])


def test_fixed_cubics_do_not_move():
    row = as_row(chain(6), 6)
    moved = noisy(row)
    fixed = np.array([True, True, False, False, True, False])
    moved[fixed] = row[fixed]
    found = tidy(moved[None], fixed[None])[0]
    np.testing.assert_array_equal(found[fixed], row[fixed])
    np.testing.assert_array_equal(found[1:, :2], found[:-1, 6:8])  # they meet nevertheless
    # Next to a fixed cubic the other one moves all the way, with its control point.
    np.testing.assert_allclose(found[2, 2:4] - found[2, :2], moved[2, 2:4] - moved[2, :2], atol=1e-6)
    np.testing.assert_allclose(found[3, 4:6] - found[3, 6:8], moved[3, 4:6] - moved[3, 6:8], atol=1e-6)


def test_svg_has_a_path_per_pen_stroke(tmp_path):
    row = as_row(chain(2, 1, 3), 8)
    text = svg(row)
    assert text.count("<path") == 3 and text.count("C") == 6 and text.count("M") == 3
    broken = row.copy()
    broken[2, 0] = np.nan
    assert svg(broken).count("<path") == 2


@pytest.mark.parametrize("lengths", [(2, 1, 3), (1, 1, 1), (8,)])
def test_pen_strokes_survive_svg_and_prepare(tmp_path, lengths):
    row = tidy(noisy(as_row(chain(*lengths), 8))[None])[0]  # as a sample comes
    write_svg(tmp_path / "drawings/cat/1.svg", row)
    back = read_dataset(prepare(tmp_path / "drawings", tmp_path / "data", cubics=8).paths[0]).x[0]
    assert [len(stroke) for stroke in pen_strokes(back)] == [len(stroke) for stroke in pen_strokes(row)]
    np.testing.assert_allclose(cubics(back), cubics(row), atol=3e-6)  # three decimals of 512


def test_drawings_with_more_cubics_than_the_budget_keep_their_pen_strokes(tmp_path):
    angle = np.linspace(0, 2 * np.pi, 25)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1) * 0.5
    from flowkit.sketch.bezier import from_lines
    from flowkit.sketch.budget import to_size

    found = to_size([from_lines(circle), from_lines(circle * 0.5)], 12)
    assert found.fitted and 0 < found.error < 0.02
    assert len(pen_strokes(found.x)) == 2 and exists(found.x).sum() == 12
    for stroke in pen_strokes(found.x):
        np.testing.assert_array_equal(stroke[1:, :2], stroke[:-1, 6:8])
    simple = to_size([from_lines(circle), from_lines(circle * 0.5)], 60, tolerance=0.02)
    assert exists(simple.x).sum() < 12 and simple.error < 0.03 and len(pen_strokes(simple.x)) == 2
    loose = to_size([from_lines(circle)], 60)
    assert not loose.fitted and exists(loose.x).sum() == 24


def test_the_domain_checks_signs_and_refuses_normalizers_that_mix_them():
    from flowkit.data.normalizers.affine import Global
    from flowkit.data.normalizers.base import Auto
    from flowkit.data.normalizers.whitening import Whitening

    domain, x = SketchDomain(), np.stack([as_row(chain(2, 1), 4)] * 3)
    domain.check(Dataset("sketch", x), "here")
    wrong = x.copy()
    wrong[1, 2, EXISTS] = 0.5
    with pytest.raises(UserError, match="must be 1 or -1"):
        domain.check(Dataset("sketch", wrong), "here")
    for choice in (Global(), Whitening()):
        with pytest.raises(UserError, match="would scale or mix the signs"):
            domain.normalization(choice, (4, 10))
        assert domain.normalization(choice, (4, 8)) is choice
    assert domain.normalization(Auto(), (4, 8)).tag() == "global"
    assert domain.normalization(Auto(), (4, 10)).tag() == "strokes"


def test_the_normalizer_scales_coordinates_that_exist_and_keeps_signs():
    import torch

    from flowkit.data.normalizers import normalizer_from_json
    from flowkit.sketch.normalizer import Strokes

    x = np.stack([as_row(chain(3, 2, seed=seed), 9) for seed in range(50)])
    x[..., 0:8:2] += 0.1 * (x[..., EXISTS:CONTINUES] > 0)
    normalizer = Strokes().fit(x, np.arange(40))
    assert normalizer_from_json(normalizer.to_json(), {}).same_as(normalizer, (9, 10))
    y = normalizer.normalize(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(y[..., EXISTS:], x[..., EXISTS:])
    points = y[:40][exists(x[:40])][:, :8].reshape(-1, 2)
    np.testing.assert_allclose(points.mean(0), 0, atol=1e-6)
    assert points.std() == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(normalizer.denormalize(torch.from_numpy(y)).numpy(), x, atol=1e-6)


def test_simplifying_never_merges_what_costs_more_than_the_tolerance():
    """Of three cheap merges in a chain, the cheapest excludes both others. The corner of the other stroke must stay."""

    def lines(*points):
        ends = np.array(points, float)
        return np.concatenate([(1 - t) * ends[:-1] + t * ends[1:] for t in (0, 1 / 3, 2 / 3, 1)], axis=1)

    nearly_straight = lines((-0.8, -0.504), (-0.4, -0.5), (0, -0.5), (0.4, -0.5), (0.8, -0.504))
    corner = lines((-0.8, 0), (0.5, 0), (0.5, 0.8))
    found = to_size([nearly_straight, corner], 32, tolerance=0.01)
    assert found.error < 0.011 and [len(stroke) for stroke in pen_strokes(found.x)] == [1, 2]
