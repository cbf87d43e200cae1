"""Whether samples show what was asked for: ranks, ties, distances and baselines, on drawings whose answers are known."""

import json

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from scipy.spatial import cKDTree

from flowkit.sketch.doodles import generate_doodles
from flowkit.sketch.features import blurred_grid, ink_points, touched_cells
from flowkit.sketch.likeness import SSIM_WEIGHTS, Inked, Likeness, candidates, distances, likeness, ms_ssim, ranked
from flowkit.sketch.rendering import displaced, ink


@pytest.fixture(scope="module")
def doodles():
    return generate_doodles(320, seed=4)


@pytest.fixture(scope="module")
def split(doodles):
    """Pool, its labels, training rows, their labels."""
    return doodles.x[:120], doodles.class_label[:120], doodles.x[120:], doodles.class_label[120:]


def cut(row):
    """The same drawing, with every cubic cut at its middle."""
    p = row.reshape(-1, 4, 2).astype(np.float64)
    a, b, c = (p[:, :-1] + p[:, 1:]).transpose(1, 0, 2) / 2
    d, e = (a + b) / 2, (b + c) / 2
    middle = (d + e) / 2
    return np.stack([[p[:, 0], a, d, middle], [middle, e, c, p[:, 3]]]).transpose(2, 0, 1, 3).reshape(-1, 8)


# ---- retrieval ----
def test_candidates_are_others_drawn_by_key():
    place = np.array([0, 3, 199, 3])
    found = candidates(200, place, seed=1)
    assert found.shape == (4, 99) and found.min() >= 0 and found.max() < 200
    for row, others in zip(place, found, strict=True):
        assert len(set(others.tolist())) == 99 and row not in others
    np.testing.assert_array_equal(found[1], found[3])
    np.testing.assert_array_equal(candidates(200, place[2:3], seed=1)[0], found[2])  # whatever else is asked for
    assert (candidates(200, place, seed=2) != found).any()
    few = candidates(5, np.array([4, 0]), seed=0)
    assert np.sort(few, axis=1).tolist() == [[0, 1, 2, 3], [1, 2, 3, 4]]


def test_each_other_drawing_is_equally_likely_a_candidate():
    found = np.concatenate([candidates(40, np.array([7]), seed, count=11)[0] for seed in range(1200)])
    times = np.bincount(found, minlength=40)
    assert times[7] == 0 and times.sum() == 12_000
    assert times[np.arange(40) != 7].min() > 240 and times.max() < 380  # 308 each, four standard deviations


def test_ranks_are_counted():
    pool = np.array([[0.0], [1.0], [2.0], [3.0], [1.0]])
    others = np.array([[1, 2, 3, 4], [0, 2, 3, 4], [0, 1, 3, 4]])
    found = ranked(np.array([[0.1], [1.0], [0.0]]), pool, np.array([0, 1, 2]), others)
    assert found.tolist() == [[0, 0], [0, 1], [3, 0]]


def test_perfect_samples_are_found_first(split):
    pool, _, train, _ = split
    found = likeness(pool, pool, np.arange(120), train, seed=3)
    group = found.groups["all"]
    assert group.retrieval["ink"]["samples"]["top1"].value == 1
    assert group.retrieval["ink"]["samples"]["median_rank"].value == 1
    one = group.distances["samples"]
    assert (one["chamfer"].value, one["overlap"].value) == (pytest.approx(0, abs=1e-6), 1)
    assert one["ms_ssim"].value == pytest.approx(1, abs=1e-6)
    assert group.against["class"]["nearer"].value == 1 and group.against["class"]["ratio"].value < 1e-5
    assert found.candidates == 100 and "nearest" not in group.distances


def test_samples_of_other_drawings_are_at_chance(split):
    pool, _, train, _ = split
    place, grid = np.repeat(np.arange(120), 8), blurred_grid(pool)
    ours = blurred_grid(train)[np.random.default_rng(0).integers(len(train), size=960)]
    ranks = 1 + ranked(ours, grid, place, candidates(120, place, seed=0)) @ (1, 0.5)
    assert (ranks <= 1).mean() < 0.025 and 0.02 < (ranks <= 5).mean() < 0.09
    assert 45 < np.median(ranks) < 56
    assert Likeness(100, 0, 0, {}).chance == {"top1": 0.01, "top5": 0.05, "median_rank": 50.5}


def test_equal_candidates_are_ties(split):
    pool, _, train, _ = split
    alike = np.repeat(pool[:1], 100, axis=0)
    one = likeness(pool[:7], alike, np.arange(7), train).groups["all"].retrieval["ink"]["samples"]
    assert one["median_rank"].value == 50.5
    assert (one["top1"].value, one["top5"].value) == (pytest.approx(0.01), pytest.approx(0.05))
    # What differs by rounding only is a tie, too.
    rounded = np.array([[1.0, 2.0], [1.0, 2.0000001], [1.0, 2.1]])
    assert ranked(np.array([[1.0, 1.0]]), rounded[::-1], np.array([1]), np.array([[0, 2]])).tolist() == [[0, 1]]
    twins = np.stack([pool[3], pool[3][::-1], *pool[4:12]])  # drawn in another order
    one = likeness(twins[:1], twins, np.array([0]), train).groups["all"].retrieval["ink"]["samples"]
    assert (one["top1"].value, one["median_rank"].value) == (0.5, 1.5)


def test_where_a_line_is_cut_does_not_matter(split):
    pool, _, train, _ = split
    place = np.arange(60)
    near = np.stack([displaced(row, np.random.default_rng(n)) for n, row in enumerate(pool[:60])])
    whole, pieces = (likeness(x, pool, place, train).groups["all"] for x in (near, np.stack([cut(r) for r in near])))
    for name, estimate in whole.retrieval["ink"]["samples"].items():
        assert pieces.retrieval["ink"]["samples"][name].value == pytest.approx(estimate.value, abs=0.02)
    for name, estimate in whole.distances["samples"].items():
        assert pieces.distances["samples"][name].value == pytest.approx(estimate.value, abs=0.004), name


def test_other_features_give_another_ranking(split):
    pool, _, train, _ = split
    place = np.array([0, 5, 9])
    theirs = np.eye(120)
    wrong = train[:3]
    found = likeness(wrong, pool, place, train, features={"an encoder": (theirs[place], theirs)}).groups["all"]
    assert found.retrieval["an encoder"]["samples"]["top1"].value == 1
    assert found.retrieval["ink"]["samples"]["top1"].value < 1
    with pytest.raises(ValueError, match="an encoder: not finite"):
        likeness(wrong, pool, place, train, features={"an encoder": (np.full((3, 120), np.nan), theirs)})


# ---- distances ----
def test_distances_are_those_of_their_definitions(doodles):
    a, b = doodles.x[:6], doodles.x[6:12]
    found = distances(Inked(a), Inked(b))
    for row in range(6):
        p, q = ink_points(a[row : row + 1])[0], ink_points(b[row : row + 1])[0]
        squared = (cKDTree(q).query(p)[0] ** 2).mean() + (cKDTree(p).query(q)[0] ** 2).mean()
        assert found["chamfer"][row] == pytest.approx(np.sqrt(squared))
        wide = []
        for one in (a, b):
            cells = np.argwhere(touched_cells(one[row : row + 1], 64)[0])
            every = np.argwhere(np.ones((64, 64), bool))
            wide.append(cKDTree(cells).query(every)[0] <= 3)
        assert found["overlap"][row] == pytest.approx((wide[0] & wide[1]).sum() / (wide[0] | wide[1]).sum())


def test_drawings_without_ink_overlap_with_nothing():
    blank = np.full((1, 4, 8), np.nan)
    line = np.array([[[-0.5, 0, -0.2, 0, 0.2, 0, 0.5, 0]]])
    assert not Inked(blank).widened.any() and distances(Inked(blank), Inked(line))["overlap"] == 0
    assert distances(Inked(line), Inked(line))["overlap"] == 1


def reference(a, b):
    """MS-SSIM as it is defined: every window's weighted moments, in double precision."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    total = 1.0
    for scale, exponent in enumerate(SSIM_WEIGHTS):
        if scale:
            a, b = (x.reshape(x.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3)) for x in (a, b))
        p, q = sliding_window_view(a, (11, 11)), sliding_window_view(b, (11, 11))
        mean = lambda x: (x * weights).sum(axis=(2, 3))  # noqa: E731
        m, n = mean(p), mean(q)
        dp, dq = p - m[..., None, None], q - n[..., None, None]
        structure = (2 * mean(dp * dq) + 0.03**2) / (mean(dp**2) + mean(dq**2) + 0.03**2)
        if scale == 4:
            structure = structure * (2 * m * n + 0.01**2) / (m**2 + n**2 + 0.01**2)
        total *= max(structure.mean(), 0) ** exponent
    return total


def test_ms_ssim_is_that_of_its_definition(doodles):
    assert SSIM_WEIGHTS == (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    pictures = np.stack([1 - ink(row, 176, 0.03) for row in doodles.x[:4]])
    shaded = (0.5 + 0.4 * pictures + 0.1 * np.random.default_rng(0).random(pictures.shape)).astype(np.float32)
    for a, b in ((0, 1), (1, 2), (2, 3)):
        expected = reference(pictures[a].astype(np.float64), pictures[b].astype(np.float64))
        assert ms_ssim(pictures[a], pictures[b]) == pytest.approx(expected, abs=2e-5)
        expected = reference(pictures[a].astype(np.float64), shaded[a].astype(np.float64))
        assert ms_ssim(pictures[a], shaded[a]) == pytest.approx(expected, abs=2e-5)


def test_ms_ssim_of_equal_pictures_is_one_and_order_does_not_matter(doodles):
    pictures = np.stack([1 - ink(row, 200, 0.03) for row in doodles.x[:4]])  # sides that are odd at the fourth scale
    assert ms_ssim(pictures, pictures) == pytest.approx(np.ones(4), abs=1e-6)
    there, back = ms_ssim(pictures[:2], pictures[2:]), ms_ssim(pictures[2:], pictures[:2])
    np.testing.assert_allclose(there, back, rtol=1e-5)
    assert there.max() < 0.9 and there.min() >= 0
    np.testing.assert_allclose(ms_ssim(pictures[None, :2], pictures[2:])[0], there, rtol=1e-6)
    with pytest.raises(ValueError, match="at least 161 pixels"):
        ms_ssim(pictures[:, :160, :160], pictures[:, :160, :160])


# ---- baselines and groups ----
def test_the_baseline_is_of_the_class(split):
    pool, held, train, labels = split
    place = np.arange(40)
    # Drawings of a class are one and the same in training, so a random one of the class is known.
    known = np.stack([train[np.flatnonzero(labels == label)[0]] for label in labels])
    found = likeness(pool[:40], pool, place, known, labels=(held, labels))
    expected = distances(
        Inked(np.stack([known[np.flatnonzero(labels == label)[0]] for label in held[:40]])), Inked(pool[:40])
    )
    assert found.groups["all"].distances["class"]["chamfer"].value == pytest.approx(expected["chamfer"].mean())
    assert (found.borrowed, found.unlike) == (0, 0)


def test_a_class_without_training_rows_borrows_from_the_pool(split):
    pool, held, train, labels = split
    place = np.flatnonzero(held == held[0])
    keep = labels != held[0]
    found = likeness(pool[place], pool, place, train[keep], labels=(held, labels[keep]))
    assert (found.borrowed, found.unlike) == (len(place), 0) and len(place) > 1
    assert found.groups["all"].against["class"]["nearer"].value == 1  # never the drawing itself
    only = np.where(np.arange(120) == 0, 99, held)
    found = likeness(pool[:9], pool, np.arange(9), train, labels=(only, labels))
    assert (found.borrowed, found.unlike) == (0, 1)
    assert likeness(pool[:9], pool, np.arange(9), train).unlike == 9
    assert "held-out drawing of the class" not in found.words and "any training row" in found.words


def test_the_nearest_column_is_the_callers(split):
    pool, _, train, _ = split
    rows = np.array([5, 0, 7])
    found = likeness(pool[:3], pool, np.arange(3), train, nearest=rows).groups["all"]
    expected = distances(Inked(train[rows]), Inked(pool[:3]))
    for name, values in expected.items():
        assert found.distances["nearest"][name].value == pytest.approx(values.mean())
    pictures = [np.stack([1 - ink(row, 224, 0.022) for row in x]) for x in (train[rows], pool[:3])]
    assert found.distances["nearest"]["ms_ssim"].value == pytest.approx(ms_ssim(*pictures).mean(), abs=1e-6)


def test_groups_have_figures_of_their_own(split):
    pool, held, train, labels = split
    place, seen = np.arange(60), np.arange(60) % 3 > 0
    samples = np.where(seen[:, None, None], pool[:60], train[:60])
    found, again = (
        likeness(samples, pool, place, train, labels=(held, labels), nearest=np.zeros(60, int),
                 groups={"seen": seen, "unseen": ~seen, "none": seen & ~seen}, seed=seed)
        for seed in (0, 0)
    )  # fmt: skip
    assert list(found.groups) == ["all", "seen", "unseen"]
    assert [group.samples for group in found.groups.values()] == [60, 40, 20]
    first = {name: group.retrieval["ink"]["samples"]["top1"].value for name, group in found.groups.items()}
    assert first["seen"] == 1 and first["unseen"] < 0.2
    assert first["all"] == pytest.approx((2 * first["seen"] + first["unseen"]) / 3)
    said = json.loads(json.dumps(found.to_json()))
    assert said["groups"]["seen"]["distances"]["samples"]["overlap"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert said["protocol"].startswith("likeness-") and said["chance"]["top5"] == 0.05
    assert "seen (40 samples): by ink first 100% (100-100)" in found.words
    assert again.to_json() == found.to_json()


def test_several_samples_of_a_drawing_are_resampled_together(split):
    pool, _, train, _ = split
    once = likeness(train[:30], pool, np.arange(30), train).groups["all"].distances["samples"]["chamfer"]
    x, place = np.repeat(train[:30], 4, axis=0), np.repeat(np.arange(30), 4)
    often = likeness(x, pool, place, train).groups["all"].distances["samples"]["chamfer"]
    assert (often.value, often.low, often.high) == pytest.approx((once.value, once.low, once.high))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"place": np.arange(4)}, r"place: shape \(4,\); expected \(3,\)"),
        ({"place": np.array([0, 1, 120])}, "place: rows must be from 0 to 119"),
        ({"nearest": np.array([0, 1, 200])}, "nearest: rows must be from 0 to 199"),
        ({"labels": (np.zeros(3), np.zeros(200))}, "labels: of 3 and 200 rows"),
        ({"groups": {"seen": np.ones(2, bool)}}, r"seen: shape \(2,\)"),
        ({"samples": np.zeros((0, 32, 8)), "place": np.arange(0)}, "0 samples"),
    ],
)
def test_what_does_not_fit_is_said(split, change, says):
    pool, _, train, _ = split
    given = {"samples": pool[:3], "pool": pool, "place": np.arange(3), "train": train, **change}
    with pytest.raises(ValueError, match=says):
        likeness(**given)


def test_ranking_uses_the_blurred_ink(split):
    pool, _, train, _ = split
    place = np.arange(20)
    others = candidates(120, place, seed=0)
    grid, ours = blurred_grid(pool), blurred_grid(train[:20])
    apart = np.linalg.norm(ours[:, None] - grid[np.concatenate([place[:, None], others], axis=1)], axis=2)
    ranks = 1 + (apart[:, 1:] < apart[:, :1]).sum(axis=1)
    found = likeness(train[:20], pool, place, train).groups["all"].retrieval["ink"]["samples"]
    assert found["median_rank"].value == np.median(ranks) and found["top5"].value == (ranks <= 5).mean()
