"""Paths, times, couplings and choices against closed forms."""

import pytest
import torch
from scipy import stats

from flowkit.errors import UserError
from flowkit.flow.couplings import COUPLINGS, get_coupling
from flowkit.flow.paths import PATHS, expand, get_path
from flowkit.flow.times import TIMES, LogitNormal, get_times


def random_ends(*shape):
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    t = torch.rand(shape[0], generator=generator, dtype=torch.float64)
    return draw(), draw(), t


def test_linear_is_the_straight_line():
    x0, x1, t = random_ends(5, 3, 4)
    path = get_path("linear")
    for row in range(5):
        expected = x0[row] + t[row] * (x1[row] - x0[row])
        torch.testing.assert_close(path.interpolate(x0, x1, t)[row], expected)
        torch.testing.assert_close(path.velocity(x0, x1, t)[row], x1[row] - x0[row])


@pytest.mark.parametrize("name", PATHS)
def test_path_runs_from_noise_to_data(name):
    x0, x1, _ = random_ends(4, 6)
    path = get_path(name)
    torch.testing.assert_close(path.interpolate(x0, x1, torch.zeros(4, dtype=x0.dtype)), x0)
    torch.testing.assert_close(path.interpolate(x0, x1, torch.ones(4, dtype=x0.dtype)), x1)


@pytest.mark.parametrize("name", PATHS)
def test_velocity_is_the_derivative_of_the_path(name):
    x0, x1, t = random_ends(6, 3)
    path = get_path(name)
    _, expected = torch.autograd.functional.jvp(lambda s: path.interpolate(x0, x1, s), t, torch.ones_like(t))
    torch.testing.assert_close(path.velocity(x0, x1, t), expected)


@pytest.mark.parametrize("name", PATHS)
def test_conversions_invert_each_other(name):
    x0, x1, t = random_ends(50, 3)
    t = 0.94 * t  # where nothing is clipped at 0.05
    path = get_path(name)
    x_t, v = path.interpolate(x0, x1, t), path.velocity(x0, x1, t)
    torch.testing.assert_close(path.velocity_to_data(v, x_t, t), x1)
    torch.testing.assert_close(path.data_to_velocity(x1, x_t, t, 0.05), v)


@pytest.mark.parametrize("name", PATHS)
def test_conversions_are_finite_at_both_ends(name):
    x0, x1, _ = random_ends(2, 3)
    t = torch.tensor([0.0, 1.0], dtype=x0.dtype)
    path = get_path(name)
    x_t, v = path.interpolate(x0, x1, t), path.velocity(x0, x1, t)
    torch.testing.assert_close(path.velocity_to_data(v, x_t, t), x1)
    assert path.data_to_velocity(x1, x_t, t, 0.05).isfinite().all()


def test_clipped_velocity_shrinks_the_noise_only():
    x0, x1, _ = random_ends(3, 2)
    t = torch.full((3,), 0.99, dtype=x0.dtype)
    path = get_path("linear")
    x_t = path.interpolate(x0, x1, t)
    torch.testing.assert_close(path.data_to_velocity(x1, x_t, t, 0.05), x1 - x0 * 0.01 / 0.05)


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
    torch.testing.assert_close(get_times("uniform")(u), u)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.8, 0.8), (1.5, 2.0)])
def test_logit_normal_times_have_its_distribution(mean, std):
    u = torch.rand(20_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = get_times("logit_normal", mean=mean, std=std)(u)
    logit = stats.norm(mean, std)
    assert stats.kstest(t.logit().numpy(), logit.cdf).pvalue > 0.01
    quantile = torch.tensor([0.01, 0.3, 0.9], dtype=torch.float64)
    expected = torch.sigmoid(torch.from_numpy(logit.ppf(quantile.numpy())))
    torch.testing.assert_close(LogitNormal(mean, std)(quantile), expected)


@pytest.mark.parametrize("name", TIMES)
def test_times_stay_in_the_unit_interval(name):
    u = torch.tensor([0.0, 1e-30, 0.5, 1 - 2**-24])  # all that a float32 uniform can be, at its ends
    t = get_times(name)(u)
    assert ((t >= 0) & (t <= 1)).all() and (t.diff() >= 0).all()


@pytest.mark.parametrize("name", COUPLINGS)
def test_coupling_is_a_permutation(name):
    x0, x1, _ = random_ends(17, 3)
    rows = get_coupling(name)(x0, x1)
    assert rows.dtype == torch.int64
    assert rows.sort().values.tolist() == list(range(17))


def test_independent_coupling_leaves_the_noise_where_it_is():
    x0, x1, _ = random_ends(17, 3)
    assert torch.equal(x0[get_coupling("independent")(x0, x1)], x0)


def test_choice_is_a_name_or_a_table():
    assert get_times({"name": "logit_normal", "mean": 1.0}) == LogitNormal(mean=1.0)
    assert get_times("logit_normal", mean=1.0) == LogitNormal(mean=1.0)
    assert get_path({"name": "linear"}) == get_path("linear")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: get_path("linaer"), "unknown path 'linaer'; known are linear; did you mean 'linear'"),
        (lambda: get_path({"settings": 1}), "unknown path None"),
        (lambda: get_times({"name": "logit_normal", "maen": 1}), "no setting 'maen'; it has mean, std"),
        (lambda: get_times("uniform", std=1), "no setting 'std'; it has none"),
        (lambda: get_times("logit_normal", std=0), "std is 0; expected a number above 0"),
        (lambda: get_coupling("independant"), "did you mean 'independent'"),
    ],
)
def test_wrong_choices(make, message):
    with pytest.raises(UserError) as error:
        make()
    assert message in str(error.value)
