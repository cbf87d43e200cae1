"""Paths, times, couplings and choices against closed forms."""

import math

import pytest
import torch
from scipy import stats

from flowkit.components import choose, find, names
from flowkit.errors import UserError
from flowkit.flow.paths import QUANTITIES, GaussianPath, expand
from flowkit.flow.times import LogitNormal, stratify

PATHS = names("path")
GAUSSIAN = [name for name in PATHS if issubclass(find("path", name), GaussianPath)]
OTHERS = [name for name in PATHS if name not in GAUSSIAN]


def random_ends(*shape):
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    t = torch.rand(shape[0], generator=generator, dtype=torch.float64)
    return draw(), draw(), t


def eps_for(path, x):
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype) if path.stochastic else None


def test_linear_is_the_straight_line():
    x0, x1, t = random_ends(5, 3, 4)
    path = choose("path", "linear")
    for row in range(5):
        expected = x0[row] + t[row] * (x1[row] - x0[row])
        torch.testing.assert_close(path.interpolate(x0, x1, t)[row], expected)
        torch.testing.assert_close(path.velocity(x0, x1, t)[row], x1[row] - x0[row])


@pytest.mark.parametrize("name", PATHS)
def test_path_runs_from_noise_to_data(name):
    x0, x1, _ = random_ends(4, 6)
    path = choose("path", {"name": name, "sigma": 1e-9} if name == "icfm" else name)
    loose = dict(rtol=0, atol=0.05) if name == "vp" else dict(rtol=1e-6, atol=1e-7)  # alpha(0) of vp is 0.007
    eps = eps_for(path, x1)
    torch.testing.assert_close(path.interpolate(x0, x1, torch.zeros(4, dtype=x0.dtype), eps), x0, **loose)
    torch.testing.assert_close(path.interpolate(x0, x1, torch.ones(4, dtype=x0.dtype), eps), x1, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("shape", [(6, 3), (4, 4), (5, 2, 3)])
def test_velocity_is_the_derivative_of_the_path(name, shape):
    x0, x1, t = random_ends(*shape)
    t = 0.01 + 0.98 * t  # where no derivative is clipped
    path = choose("path", name)
    eps = eps_for(path, x1)
    _, expected = torch.autograd.functional.jvp(lambda s: path.interpolate(x0, x1, s, eps), t, torch.ones_like(t))
    torch.testing.assert_close(path.velocity(x0, x1, t, eps), expected)


@pytest.mark.parametrize("name", PATHS)
def test_rows_do_not_mix_where_batch_equals_width(name):
    x0, x1, t = random_ends(5, 5)
    path = choose("path", name)
    eps = eps_for(path, x1)
    row = lambda i: (x0[i : i + 1], x1[i : i + 1], t[i : i + 1], None if eps is None else eps[i : i + 1])  # noqa: E731
    for method in (path.interpolate, path.velocity):
        torch.testing.assert_close(method(x0, x1, t, eps), torch.cat([method(*row(i)) for i in range(5)]))


@pytest.mark.parametrize("name", PATHS)
def test_everything_is_finite_at_both_ends(name):
    path = choose("path", name)
    for dtype in (torch.float32, torch.float64):
        x0, x1 = (x[:2].to(dtype) for x in random_ends(2, 3)[:2])
        t = torch.tensor([0.0, 1.0], dtype=dtype)
        eps = eps_for(path, x1)
        x_t, v = path.interpolate(x0, x1, t, eps), path.velocity(x0, x1, t, eps)
        assert x_t.isfinite().all() and v.isfinite().all()
        values = {"velocity": v, "data": x1, "noise": x0, "score": -x0}
        for source, value in values.items():
            for to in values:
                if path.converts(source, to):
                    assert path.convert(value, x_t, t, source, to).isfinite().all(), (source, to)


@pytest.mark.parametrize("name", GAUSSIAN)
def test_conversions_of_one_pair_are_its_own_values(name):
    x0, x1, t = random_ends(50, 3)
    t = 0.3 + 0.6 * t  # where nothing is clipped at 0.05 (vp has alpha < 0.05 up to t = 0.23)
    path = choose("path", name)
    values = {"velocity": path.velocity(x0, x1, t), "data": x1, "noise": x0, "score": -x0 / path.sigma(t)[:, None]}
    x_t = path.interpolate(x0, x1, t)
    for source, value in values.items():
        for to, expected in values.items():
            torch.testing.assert_close(path.convert(value, x_t, t, source, to), expected, msg=f"{source} to {to}")


class GaussianTarget:
    """Data N(mean, variance) by dimension, unit noise: everything that a network could predict, in closed form."""

    mean = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    variance = torch.tensor([0.3, 2.0, 1.0], dtype=torch.float64)

    @classmethod
    def log_density(cls, path, x, t):
        alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
        variance = alpha**2 * cls.variance + sigma**2
        return (-0.5 * (x - alpha * cls.mean) ** 2 / variance - 0.5 * variance.log()).sum(1)

    @classmethod
    def expected_data(cls, path, x, t):
        alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
        gain = alpha * cls.variance / (alpha**2 * cls.variance + sigma**2)
        return cls.mean + gain * (x - alpha * cls.mean)


@pytest.mark.parametrize("name", GAUSSIAN)
def test_score_is_the_gradient_of_the_log_density(name):
    """By autograd of the marginal's own density, and from each quantity's expectation."""
    x, _, t = random_ends(40, 3)
    t = 0.3 + 0.6 * t
    path = choose("path", name)
    x.requires_grad_(True)
    (score,) = torch.autograd.grad(GaussianTarget.log_density(path, x, t).sum(), x)
    x = x.detach()
    data = GaussianTarget.expected_data(path, x, t)
    torch.testing.assert_close(path.convert(data, x, t, "data", "score"), score)
    for through in ("velocity", "noise"):
        value = path.convert(data, x, t, "data", through)
        torch.testing.assert_close(path.convert(value, x, t, through, "score"), score)
        torch.testing.assert_close(path.convert(score, x, t, "score", through), value)


@pytest.mark.parametrize("name", GAUSSIAN)
def test_the_marginal_velocity_moves_the_marginal_density(name):
    """The continuity equation, d log p / dt = - div v - v . score, on a Gaussian target and in float64."""
    x, _, t = random_ends(30, 3)
    t = 0.3 + 0.6 * t
    path = choose("path", name)
    velocity = lambda x: path.convert(GaussianTarget.expected_data(path, x, t), x, t, "data", "velocity")  # noqa: E731
    _, change = torch.autograd.functional.jvp(lambda s: GaussianTarget.log_density(path, x, s), t, torch.ones_like(t))
    jacobian = torch.autograd.functional.jacobian(lambda x: velocity(x).sum(0), x)  # (3, 30, 3), rows are independent
    divergence = torch.einsum("ibi->b", jacobian)
    score = path.convert(GaussianTarget.expected_data(path, x, t), x, t, "data", "score")
    torch.testing.assert_close(change, -divergence - (velocity(x) * score).sum(1))


@pytest.mark.parametrize("name", GAUSSIAN)
def test_affine_gives_the_slope_of_a_conversion(name):
    x, value, t = random_ends(20, 2)
    path = choose("path", name)
    for source in QUANTITIES:
        for to in QUANTITIES:
            slope = path.affine(t, source, to)[1]
            moved = path.convert(value + 1, x, t, source, to) - path.convert(value, x, t, source, to)
            torch.testing.assert_close(moved, slope[:, None].expand_as(moved), rtol=1e-6, atol=1e-9)


def test_clipped_velocity_shrinks_the_noise_only():
    x0, x1, _ = random_ends(3, 2)
    t = torch.full((3,), 0.99, dtype=x0.dtype)
    path = choose("path", "linear")
    x_t = path.interpolate(x0, x1, t)
    torch.testing.assert_close(path.convert(x1, x_t, t, "data", "velocity"), x1 - x0 * 0.01 / 0.05)
    t = 1 - t
    x_t = path.interpolate(x0, x1, t)
    torch.testing.assert_close(path.convert(x0, x_t, t, "noise", "velocity"), x1 * 0.01 / 0.05 - x0)


def test_linear_path_with_sigma_min_ends_in_noise():
    x0, x1, _ = random_ends(3, 2)
    path = choose("path", {"name": "linear", "sigma_min": 0.1})
    torch.testing.assert_close(path.interpolate(x0, x1, torch.ones(3, dtype=x0.dtype)), x1 + 0.1 * x0)


def test_variance_preserving_path_is_that_of_the_sde():
    """alpha = exp(-1/2 integral of beta), by quadrature of the rate from t to the data."""
    path = choose("path", {"name": "vp", "beta_min": 0.2, "beta_max": 12.0})
    for t in (0.0, 0.3, 0.9):
        s = torch.linspace(0, 1 - t, 20_001, dtype=torch.float64)
        integral = torch.trapezoid(0.2 + s * (12.0 - 0.2), s)
        time = torch.tensor([t], dtype=torch.float64)
        torch.testing.assert_close(path.alpha(time), (-0.5 * integral).exp()[None], rtol=1e-8, atol=0)
        torch.testing.assert_close(path.alpha(time) ** 2 + path.sigma(time) ** 2, torch.ones_like(time))


def test_bridges_have_the_documented_noise():
    x0, x1 = torch.zeros(200_000, 1), torch.zeros(200_000, 1)
    eps = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    for name, t, expected in (("icfm", 0.3, 0.5), ("schrodinger_bridge", 0.2, 0.5 * 0.4), ("icfm", 1.0, 0.5)):
        path = choose("path", {"name": name, "sigma": 0.5})
        assert path.interpolate(x0, x1, torch.full((200_000,), t), eps).std() == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("name", OTHERS)
def test_unsupported_conversion_is_an_error(name):
    x0, x1, t = random_ends(4, 3)
    path = choose("path", name)
    for source in QUANTITIES:
        for to in QUANTITIES:
            if not path.converts(source, to):
                with pytest.raises(ValueError, match=f"cannot convert {source} to {to}"):
                    path.convert(x0, x1, t, source, to)
    assert not path.converts("velocity", "score") and not path.converts("data", "velocity")


def test_spherical_path_stays_on_the_sphere_at_a_constant_rate():
    x0, x1, t = random_ends(64, 16)
    x0, x1 = (3 * x / x.norm(dim=1, keepdim=True) for x in (x0, x1))
    path = choose("path", "spherical")
    torch.testing.assert_close(path.interpolate(x0, x1, t).norm(dim=1), torch.full((64,), 3.0, dtype=t.dtype))
    angle = torch.acos((x0 * x1).sum(1) / 9)
    torch.testing.assert_close(path.velocity(x0, x1, t).norm(dim=1), 3 * angle)
    turned = torch.acos((x0 * path.interpolate(x0, x1, t)).sum(1) / 9)
    torch.testing.assert_close(turned, t * angle)


def test_spherical_velocity_implies_the_data():
    x0, x1, t = random_ends(64, 2, 8)  # norms differ
    path = choose("path", "spherical")
    x_t, v = path.interpolate(x0, x1, t), path.velocity(x0, x1, t)
    torch.testing.assert_close(path.convert(v, x_t, t, "velocity", "data"), x1)


def test_spherical_path_between_like_and_opposite_vectors_is_finite():
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    path, t = choose("path", "spherical"), torch.tensor([0.0, 0.3, 0.6, 1.0])
    for x1 in (x, 2 * x, -x, torch.zeros_like(x)):
        assert path.interpolate(x, x1, t).isfinite().all() and path.velocity(x, x1, t).isfinite().all()
    torch.testing.assert_close(path.interpolate(x, x, t), x, rtol=1e-4, atol=1e-4)


def test_expand_with_as_many_rows_as_columns():
    t, x = torch.arange(4.0), torch.ones(4, 4)
    torch.testing.assert_close(expand(t, x) * x, torch.arange(4.0)[:, None].repeat(1, 4))
    assert expand(t, torch.ones(4, 5, 6)).shape == (4, 1, 1)


@pytest.mark.parametrize("t", [torch.tensor(0.5), torch.zeros(1), torch.zeros(5), torch.zeros(4, 1)])
def test_expand_wants_one_time_a_row(t):
    with pytest.raises(ValueError, match=r"expected \(4,\)"):
        expand(t, torch.zeros(4, 4))


def test_uniform_times_are_the_uniforms():
    u = torch.linspace(0, 1, 11)
    torch.testing.assert_close(choose("times", "uniform")(u), u)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.8, 0.8), (1.5, 2.0)])
def test_logit_normal_times_have_its_distribution(mean, std):
    u = torch.rand(20_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = choose("times", {"name": "logit_normal", "mean": mean, "std": std, "uniform_share": 0.0})(u)
    logit = stats.norm(mean, std)
    assert stats.kstest(t.logit().numpy(), logit.cdf).pvalue > 0.01
    quantile = torch.tensor([0.01, 0.3, 0.9], dtype=torch.float64)
    expected = torch.sigmoid(torch.from_numpy(logit.ppf(quantile.numpy())))
    torch.testing.assert_close(LogitNormal(mean=mean, std=std, uniform_share=0.0)(quantile), expected)


@pytest.mark.parametrize(("mean", "std", "share"), [(0.0, 1.0, 0.05), (-0.8, 0.5, 0.3), (0.0, 1.0, 1.0)])
def test_a_share_of_logit_normal_times_is_uniform(mean, std, share):
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    t = choose("times", {"name": "logit_normal", "mean": mean, "std": std, "uniform_share": share})(u)
    for edge in (0.005, 0.02, 0.3, 0.96, 0.995):
        expected = share * edge + (1 - share) * stats.norm(mean, std).cdf(math.log(edge / (1 - edge)))
        assert (t <= edge).double().mean().item() == pytest.approx(expected, abs=1e-5)


def test_both_ends_are_trained_by_default():
    """Of the times, as float32 gives them, one in 1,000 or more lies beyond where 25 steps of any solver ask: 0.02, 0.98."""
    t = choose("times", "logit_normal")(torch.rand(1_000_000, generator=torch.Generator().manual_seed(0)))
    assert (t < 0.02).float().mean() > 9e-4 and (t > 0.98).float().mean() > 9e-4
    assert t.max() > 0.9999 and t.min() < 1e-4


@pytest.mark.parametrize("shift", [0.3, 1.0, 3.0])
def test_shifted_times_move_the_odds_of_noise_to_data(shift):
    """The map of arXiv 2403.03206, whose time is reversed: s -> shift s / (1 + (shift - 1) s), s = 1 - t."""
    s = torch.linspace(0, 1, 101, dtype=torch.float64)
    expected = 1 - shift * s / (1 + (shift - 1) * s)
    torch.testing.assert_close(choose("times", {"name": "shifted", "shift": shift})(1 - s), expected)
    inner = slice(1, -1)  # a shift of the logit by -log(shift)
    t = choose("times", {"name": "shifted", "shift": shift})(1 - s)[inner]
    torch.testing.assert_close(t.logit(), (1 - s)[inner].logit() - math.log(shift))


def test_stratified_uniforms_fill_every_stratum_once():
    generator = torch.Generator().manual_seed(0)
    u, order = torch.rand(64, generator=generator), torch.randperm(64, generator=generator)
    strata = stratify(u, order)
    assert torch.equal((strata * 64).long(), order) and strata.max() < 1
    torch.testing.assert_close((strata * 64).frac(), u, rtol=0, atol=1e-5)
    worst = stratify(torch.full((1 << 12,), 1 - 2**-24), torch.arange(1 << 12))
    assert worst.max() < 1


@pytest.mark.parametrize("name", names("times"))
def test_times_are_in_the_unit_interval(name):
    u = torch.tensor([0.0, 1e-30, 0.5, 1 - 2**-24])  # all that a float32 uniform can be, at its ends
    t = choose("times", name)(u)
    assert ((t >= 0) & (t <= 1)).all() and (t.diff() >= 0).all()


def test_choice_is_a_name_or_a_table():
    assert choose("times", {"name": "logit_normal", "mean": 1.0}) == LogitNormal(mean=1.0)
    assert choose("times", {"name": "logit_normal", "mean": 1.0}) == LogitNormal(mean=1.0)
    assert choose("path", {"name": "linear"}) == choose("path", "linear")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: choose("path", "linaer"),
            "unknown path 'linaer'; expected linear, cosine, vp, icfm, schrodinger_bridge, spherical; did you mean 'linear'",
        ),
        (lambda: choose("path", {"settings": 1}), "unknown path None"),
        (
            lambda: choose("times", {"name": "logit_normal", "maen": 1}),
            "no setting 'maen'; it has mean, std, uniform_share",
        ),
        (lambda: choose("times", {"name": "uniform", "std": 1}), "no setting 'std'; it has none"),
        (lambda: choose("times", {"name": "logit_normal", "std": 0}), "std: expected a number > 0, found 0"),
        (
            lambda: choose("times", {"name": "logit_normal", "uniform_share": 1.5}),
            "uniform_share: expected a number from 0 to 1, found 1.5",
        ),
        (lambda: choose("times", {"name": "shifted", "shift": 0}), "shift: expected a number > 0, found 0"),
        (
            lambda: choose("path", {"name": "vp", "beta_min": 3.0, "beta_max": 2.0}),
            "beta_min = 3 must be below beta_max = 2",
        ),
        (lambda: choose("path", {"name": "icfm", "sigma": 0.0}), "sigma: expected a number > 0, found 0.0"),
        (
            lambda: choose("path", {"name": "linear", "sigma_min": 1.0}),
            "sigma_min: expected a number >= 0 and < 1, found 1.0",
        ),
    ],
)
def test_wrong_choices(make, message):
    with pytest.raises(UserError) as error:
        make()
    assert message in str(error.value)
