"""The two-sample metrics against closed forms, independent implementations and cases small enough to count by hand."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from flowkit.metrics.distances import PointClouds, chamfer, chamfer_pairs, euclidean
from flowkit.metrics.gaussian import sample_class_gaussians
from flowkit.metrics.moments import bures, frechet, mmd2, rbf_kernel
from flowkit.metrics.neighbors import knn_classify, kth_nearest, matching, one_nn_accuracy, prdc
from flowkit.metrics.resampling import half_sampling


def normal(rows, columns=3, shift=0.0, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, columns)) + shift


def three(a, b):
    return cdist(a, a), cdist(a, b), cdist(b, b)


# ---- distances ----
def test_euclidean_distances_are_those_of_scipy():
    a, b = normal(30, 5, shift=7.0), normal(20, 5, seed=1)
    np.testing.assert_allclose(euclidean(a, b), cdist(a, b), atol=1e-10)
    assert euclidean(a.astype(np.float32), b.astype(np.float32)).dtype == np.float32


def clouds(rows, points=40, seed=0):
    return np.random.default_rng(seed).uniform(-1.0, 1.0, (rows, points, 2))


def chamfer_by_trees(a, b):
    there, back = cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]
    return (there**2).mean() + (back**2).mean()


def test_chamfer_distance_is_exact_on_the_rounded_points():
    a, b = clouds(4), clouds(3, seed=1)
    found = chamfer(PointClouds(a), PointClouds(b))
    rounded = [(np.floor((points + 1.2) / 0.02) + 0.5) * 0.02 - 1.2 for points in (a, b)]
    expected = [[chamfer_by_trees(p, q) for q in rounded[1]] for p in rounded[0]]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(found, [[chamfer_by_trees(p, q) for q in b] for p in a], rtol=0.2)


def test_chamfer_distance_is_symmetric_and_zero_between_equals():
    a, b = PointClouds(clouds(5)), PointClouds(np.concatenate([clouds(5)[3:4], clouds(2, seed=1)]))
    np.testing.assert_array_equal(chamfer(a, b), chamfer(b, a).T)
    np.testing.assert_array_equal(chamfer(a, a), chamfer(a, PointClouds(clouds(5))))
    assert chamfer(a, b)[3, 0] == 0 and not np.diag(chamfer(a, a)).any()


def test_points_off_the_grid_move_to_its_edge():
    far = np.full((1, 4, 2), 50.0)
    assert chamfer(PointClouds(far), PointClouds(far)) == 0
    edge = chamfer(PointClouds(far), PointClouds(np.full((1, 4, 2), -50.0)))
    assert edge[0, 0] == pytest.approx(2 * 2 * (119 * 0.02) ** 2, rel=1e-5)


def test_chamfer_distance_of_pairs():
    a, b = clouds(1)[0], clouds(6, seed=1)
    np.testing.assert_allclose(chamfer_pairs(a, b), [chamfer_by_trees(a, q) for q in b], rtol=1e-9)


# ---- moments ----
def test_distance_between_diagonal_covariances_has_a_closed_form():
    a, b = np.array([1.0, 4.0, 0.0]), np.array([9.0, 1.0, 2.0])
    assert bures(np.diag(a), np.diag(b)) == pytest.approx(((np.sqrt(a) - np.sqrt(b)) ** 2).sum())


def test_frechet_distance_is_that_of_the_matrix_square_root():
    a, b = normal(50, 4) @ normal(4, 4, seed=2), normal(60, 4, shift=0.5, seed=1)
    ca, cb = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * np.real(sqrtm(ca @ cb)))
    assert frechet(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet(a, b) == pytest.approx(frechet(b, a))


def test_frechet_distance_of_a_set_from_itself_and_from_its_shift():
    a = normal(40, 3)
    assert frechet(a, a) == pytest.approx(0.0, abs=1e-9)
    assert frechet(a, a + np.array([3.0, 0.0, 4.0])) == pytest.approx(25.0)
    flat = a * [1.0, 1.0, 0.0]  # a singular covariance
    assert frechet(flat, flat + np.array([0.0, 2.0, 0.0])) == pytest.approx(4.0)


def test_mmd_is_the_unbiased_sum_over_pairs():
    a, b = normal(6), normal(5, shift=1.0, seed=1)
    k = lambda u, v: np.exp(-((u - v) ** 2).sum() / (2 * 1.5**2))  # noqa: E731
    own = lambda s: np.mean([k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j])  # noqa: E731
    expected = own(a) + own(b) - 2 * np.mean([k(u, v) for u in a for v in b])
    assert mmd2(*(rbf_kernel(d, 1.5) for d in three(a, b))) == pytest.approx(expected)


def test_mmd_of_one_distribution_is_zero_on_average_and_positive_otherwise():
    def draw(seed, shift):
        return mmd2(
            *(rbf_kernel(d, 2.0) for d in three(normal(40, seed=2 * seed), normal(40, shift=shift, seed=2 * seed + 1)))
        )

    same = [draw(seed, 0.0) for seed in range(60)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(60) and min(same) < 0
    assert min(draw(seed, 1.0) for seed in range(20)) > max(same)


# ---- neighbors ----
def test_one_nn_accuracy_of_one_distribution_and_of_two():
    same = [one_nn_accuracy(*three(normal(60, seed=2 * s), normal(60, seed=2 * s + 1))) for s in range(20)]
    assert np.mean(same) == pytest.approx(0.5, abs=0.03)
    assert one_nn_accuracy(*three(normal(60), normal(60, shift=100.0, seed=1))) == 1.0
    assert one_nn_accuracy(*three(normal(60), normal(60) + 1e-6)) == 0.0  # copies


def test_one_nn_accuracy_counts_a_tie_half():
    a = np.array([[0.0], [2.0]])
    b = np.array([[1.0], [3.0]])  # 0: own 2, other 1; 2: own 2, other 1; 1: own 2, other 1; 3: own 2, other 1
    assert one_nn_accuracy(*three(a, b)) == 0.0
    c = np.array([[-2.0], [5.0]])  # 0 is 2 from 2 and from -2: a tie; 2 is 2 from 0; -2 is 2 from 0; 5 is 3 from 2
    assert one_nn_accuracy(*three(a, c)) == pytest.approx((0.75 + 0.0) / 2)


def test_coverage_and_matching_distance_by_hand():
    samples, reference = np.array([[0.0], [0.1], [9.0]]), np.array([[0.0], [1.0], [2.0], [10.0]])
    covered, distance = matching(cdist(samples, reference))
    assert covered == 2 / 4  # the samples' nearest are 0, 0 and 10
    assert distance == pytest.approx((0.0 + 0.9 + 1.9 + 1.0) / 4)


def test_prdc_by_hand():
    real, fake = np.array([[0.0], [1.0], [3.0], [7.0]]), np.array([[0.5], [3.5], [20.0]])
    # radii with k = 1: real 1, 1, 2, 4; fake 3, 3, 16.5
    precision, recall, density, coverage = prdc(*three(real, fake), k=1)
    assert precision == pytest.approx(2 / 3)  # 20 lies in no ball
    assert recall == 1.0  # 0, 1, 3 and 7 (13 from 20, whose ball is 16.5)
    assert density == pytest.approx((2 + 2 + 0) / 3)  # 0.5 in the balls of 0 and 1; 3.5 in those of 3 and 7
    assert coverage == 1.0


def test_prdc_against_a_plain_loop():
    real, fake = normal(25, 2), normal(20, 2, shift=0.7, seed=1)
    r = [sorted(np.linalg.norm(real - p, axis=1))[3] for p in real]
    f = [sorted(np.linalg.norm(fake - p, axis=1))[3] for p in fake]
    d = cdist(real, fake)
    found = prdc(*three(real, fake), k=3)
    assert found[0] == np.mean([any(d[i, j] < r[i] for i in range(25)) for j in range(20)])
    assert found[1] == np.mean([any(d[i, j] < f[j] for j in range(20)) for i in range(25)])
    assert found[2] == pytest.approx(np.mean([sum(d[i, j] < r[i] for i in range(25)) / 3 for j in range(20)]))
    assert found[3] == np.mean([min(d[i]) < r[i] for i in range(25)])


def test_too_few_rows_for_a_neighbor():
    with pytest.raises(ValueError, match="at least 6"):
        kth_nearest(np.zeros((5, 5)), 5)


def test_knn_takes_the_majority_and_of_a_draw_the_nearest():
    labels = np.array([0, 1, 1, 2, 2])
    assert knn_classify(np.array([[0.1, 0.2, 0.3, 0.9, 0.8]]), labels, k=3).tolist() == [1]
    assert knn_classify(np.array([[0.9, 0.4, 0.3, 0.2, 0.5]]), labels, k=4).tolist() == [2]  # two votes each
    assert knn_classify(np.array([[0.1, 0.2, 0.3, 0.4, 0.5]]), np.array([3, 4, 5, 6, 7]), k=5).tolist() == [3]


# ---- intervals ----
def coverage_of(statistic, truth, draw, rounds=250, **given):
    """How often the 90% interval holds the true figure."""
    hits = 0
    for seed in range(rounds):
        sets = draw(seed)
        estimate = half_sampling(lambda *rows: statistic(*(s[r] for s, r in zip(sets, rows, strict=True))),  # noqa: B023
                                 [len(s) for s in sets], repeats=100, seed=seed, **given)[0]  # fmt: skip
        hits += estimate.low <= truth <= estimate.high
    return hits / rounds


def test_intervals_cover_a_mean_at_their_level():
    found = coverage_of(lambda a: float(a.mean()), 0.0, lambda seed: (normal(80, 1, seed=seed),))
    assert 0.83 < found < 0.95


def test_intervals_cover_a_difference():
    found = coverage_of(
        lambda a, b: float(np.median(a) - b.mean()), -1.0,
        lambda seed: (normal(80, 1, seed=2 * seed), normal(60, 1, shift=1.0, seed=2 * seed + 1)),
    )  # fmt: skip
    assert 0.82 < found < 0.96


def test_a_mean_is_smooth_and_its_interval_the_same():
    """Its second-order part is 0, so nothing is taken off."""
    rows = normal(81, 1)
    (plain,), (smooth,) = (
        half_sampling(lambda r: float(rows[r].mean()), (81,), smooth=s, repeats=600) for s in (False, True)
    )
    assert smooth.high - smooth.low == pytest.approx(plain.high - plain.low, rel=0.1)


def kernel_figure(a, b):
    return mmd2(*(rbf_kernel(matrix, 1.5) for matrix in three(a, b)))


def frechet_figure(a, b):
    return frechet(a, b)


def expected_frechet(n, d, seed=10_000, rounds=600):
    """Of two samples of n rows of one distribution: it is above 0."""
    return float(
        np.mean([frechet(normal(n, d, seed=seed + 2 * r), normal(n, d, seed=seed + 2 * r + 1)) for r in range(rounds)])
    )


@pytest.mark.parametrize(("figure", "n", "d"), [(kernel_figure, 60, 12), (frechet_figure, 60, 2)])
def test_intervals_near_equality_have_their_level(figure, n, d):
    """One distribution twice: halves alone would spread 1.6 to 1.75 times too far, and hold 99% of the time."""
    truth = 0.0 if figure is kernel_figure else expected_frechet(n, d)
    draw = lambda seed: (normal(n, d, seed=2 * seed), normal(n, d, seed=2 * seed + 1))  # noqa: E731
    assert 0.85 <= coverage_of(figure, truth, draw, rounds=160, smooth=True) <= 0.96
    values = [figure(*draw(seed)) for seed in range(300)]
    sets = [draw(seed) for seed in range(40)]
    found = [
        half_sampling(lambda r, o, a=a, b=b: figure(a[r], b[o]), (n, n), smooth=True, repeats=100)[0] for a, b in sets
    ]
    width = np.mean([estimate.high - estimate.low for estimate in found]) / (2 * 1.645 * np.std(values))
    assert 0.85 < width < 1.25


def test_intervals_far_from_equality_are_unchanged():
    a, b = normal(60, 2), normal(60, 2, shift=2.0, seed=1)
    plain, smooth = (
        half_sampling(lambda r, o: kernel_figure(a[r], b[o]), (60, 60), smooth=s)[0] for s in (False, True)
    )
    assert smooth.high - smooth.low == pytest.approx(plain.high - plain.low, rel=0.15)


def test_intervals_of_nearest_neighbor_figures_are_about_that_figure():
    """Half-sampling's width is that of repeated experiments; drawing with replacement would center on another figure."""

    def accuracy(matrices, rows, others):
        aa, ab, bb = matrices
        return one_nn_accuracy(aa[rows][:, rows], ab[rows][:, others], bb[others][:, others])

    experiments = [three(normal(80, seed=2 * s), normal(80, shift=0.3, seed=2 * s + 1)) for s in range(80)]
    values = [one_nn_accuracy(*matrices) for matrices in experiments]
    found = [half_sampling(lambda *rows, m=m: accuracy(m, *rows), (80, 80), repeats=100)[0] for m in experiments[:12]]
    width = np.mean([estimate.high - estimate.low for estimate in found])
    assert 0.65 < width / (2 * 1.645 * np.std(values)) < 1.5
    centers = [(estimate.low + estimate.high) / 2 - estimate.value for estimate in found]
    assert abs(np.mean(centers)) < 0.01
    twins = np.random.default_rng(0).integers(0, 80, (2, 80))
    assert accuracy(experiments[0], *twins) > values[0] + 0.1


def test_intervals_are_the_same_every_time_and_end_at_the_bounds():
    rows = (np.arange(50) < 49).astype(float)
    first = half_sampling(lambda r: float(rows[r].mean()), (50,), bounds=(0.0, 1.0))
    assert first == half_sampling(lambda r: float(rows[r].mean()), (50,), bounds=(0.0, 1.0))
    assert first[0].value == 0.98 and first[0].low < 0.98 and first[0].high == 1.0
    two = half_sampling(lambda r: [float(rows[r].mean()), float(len(r))], (50,))
    assert [estimate.value for estimate in two] == [0.98, 50.0]


# ---- the Gaussian baseline ----
def test_gaussian_draws_have_the_moments_of_their_class():
    a, b = normal(30, 4) @ normal(4, 4, seed=2), normal(500, 4, shift=5.0, seed=1)
    x, labels = np.concatenate([a, b]).reshape(-1, 2, 2), np.repeat([3, 7], [30, 500])
    drawn = sample_class_gaussians(x, labels, np.repeat([7, 3], [10, 40000])).reshape(-1, 4)
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(drawn[10:].mean(0), a.mean(0), atol=0.05)
    np.testing.assert_allclose(np.cov(drawn[10:].T), np.cov(a.T, ddof=0), atol=0.06 * np.abs(np.cov(a.T)).max())
    assert (np.abs(drawn[:10] - 5.0) < 5.0).all()


def test_gaussian_of_two_rows_stays_on_the_line_between_them():
    x = np.array([[0.0, 0.0, 1.0], [2.0, 4.0, 1.0]], np.float32)
    drawn = sample_class_gaussians(x, np.zeros(2, int), np.zeros(50, int))
    np.testing.assert_allclose(drawn[:, 1], 2 * drawn[:, 0], atol=1e-5)
    np.testing.assert_allclose(drawn[:, 2], 1.0, atol=1e-6)
    assert drawn[:, 0].std() > 0.5
