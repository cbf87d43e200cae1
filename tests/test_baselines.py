"""The best Gaussians' velocity losses against closed forms, quadrature and regression; reconstruction against exact flows."""

import contextlib
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from flowkit.components import choose
from flowkit.data.base import NormalBase
from flowkit.data.dataset import Dataset
from flowkit.errors import UserError
from flowkit.flow.couplings import Independent
from flowkit.flow.inversion import effective_dimensions, inversion_figures, reconstruct, zero_field_figures
from flowkit.flow.objective import PREDICTIONS, FlowObjective
from flowkit.flow.paths import GaussianPath, Linear
from flowkit.metrics.gaussian import fit_gaussian
from flowkit.training.baselines import GaussianBaseline, gaussian_losses, spread_blocks
from flowkit.training.validation import Validator


@dataclass(frozen=True)
class Trigonometric(GaussianPath):
    """Another path, so that nothing is true of the linear one alone."""

    def alpha(self, t):
        return torch.sin(math.pi / 2 * t)

    def sigma(self, t):
        return torch.cos(math.pi / 2 * t)

    def d_alpha(self, t):
        return math.pi / 2 * torch.cos(math.pi / 2 * t)

    def d_sigma(self, t):
        return -math.pi / 2 * torch.sin(math.pi / 2 * t)

    def time(self, tau):
        raise NotImplementedError  # nothing is sampled here


PATHS = pytest.mark.parametrize("path", [Linear(), Trigonometric()], ids=["linear", "trigonometric"])


def exact(path, mean, covariance):
    """The baseline of known moments, in float64."""
    covariance = np.atleast_2d(np.asarray(covariance, np.float64))
    return GaussianBaseline(path, np.atleast_1d(mean), np.diag(covariance).copy(), covariance, dtype=torch.float64)


def random_covariance(rng, dimension):
    root = rng.standard_normal((dimension, dimension))
    return root @ root.T + 0.1 * np.eye(dimension)


# ---- the loss of a known Gaussian ----
@PATHS
@pytest.mark.parametrize("time", [0.02, 0.4, 0.97])
def test_one_dimension_matches_numerical_integration(path, time):
    mean, variance, x0, x1 = 0.7, 2.3, -0.4, 1.9
    t = torch.tensor([time], dtype=torch.float64)
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    x_t = alpha * x1 + sigma * x0
    # E[v | x_t]: over all data values u, the noise is (x_t - alpha u) / sigma; weights are prior times likelihood.
    u = np.linspace(mean - 12, mean + 12, 2_000_001)
    noise = (x_t - alpha * u) / sigma
    log_weight = -0.5 * (u - mean) ** 2 / variance - 0.5 * noise**2
    weight = np.exp(log_weight - log_weight.max())
    velocity = float(path.d_alpha(t)) * u + float(path.d_sigma(t)) * noise
    best = (weight * velocity).sum() / weight.sum()
    target = float(path.d_alpha(t)) * x1 + float(path.d_sigma(t)) * x0
    rows = (torch.tensor([[x0]], dtype=torch.float64), torch.tensor([[x1]], dtype=torch.float64), t)
    for kind in ("diagonal", "full"):
        assert float(exact(path, mean, variance).losses(kind, *rows)) == pytest.approx((target - best) ** 2, rel=1e-6)


@PATHS
def test_many_dimensions_match_block_conditioning(path):
    rng = np.random.default_rng(0)
    mean, covariance = rng.standard_normal(5), random_covariance(rng, 5)
    baseline = exact(path, mean, covariance)
    x0, x1 = torch.from_numpy(rng.standard_normal((40, 5))), torch.from_numpy(rng.standard_normal((40, 5)))
    t = torch.linspace(0, 1, 40, dtype=torch.float64)
    x_t, target = path.interpolate(x0, x1, t), path.velocity(x0, x1, t)
    for kind, matrix in (("full", covariance), ("diagonal", np.diag(np.diag(covariance)))):
        for i in range(40):
            a, s, da, ds = (float(f(t[i : i + 1])) for f in (path.alpha, path.sigma, path.d_alpha, path.d_sigma))
            gain = (da * a * matrix + ds * s * np.eye(5)) @ np.linalg.inv(a * a * matrix + s * s * np.eye(5))
            error = target[i].numpy() - (da * mean + gain @ (x_t[i].numpy() - a * mean))
            found = float(baseline.losses(kind, x0[i : i + 1], x1[i : i + 1], t[i : i + 1]))
            assert found == pytest.approx((error**2).mean(), rel=1e-9)


def test_unit_data_on_the_linear_path_cost_half_of_pi():
    generator = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, 4096, 64, generator=generator)
    t = (torch.arange(4096) + 0.5) / 4096
    found = gaussian_losses(exact(Linear(), np.zeros(64), np.eye(64)), x0, x1, t)
    assert found["full"] == pytest.approx(math.pi / 2, rel=0.01) and found["diagonal"] == pytest.approx(found["full"])


@PATHS
def test_baseline_is_the_best_affine_field(path):
    """At one time, least squares on very many rows finds the same loss."""
    rng = np.random.default_rng(1)
    covariance = random_covariance(rng, 3)
    x1 = rng.standard_normal((200_000, 3)) @ np.linalg.cholesky(covariance).T + 1.0
    x0, x1 = torch.from_numpy(rng.standard_normal(x1.shape)), torch.from_numpy(x1)
    t = torch.full((len(x1),), 0.6, dtype=torch.float64)
    x_t, target = path.interpolate(x0, x1, t).numpy(), path.velocity(x0, x1, t).numpy()
    design = np.concatenate([x_t, np.ones((len(x_t), 1))], axis=1)
    residual = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    found = gaussian_losses(exact(path, np.ones(3), covariance), x0, x1, t)
    assert found["full"] == pytest.approx((residual**2).mean(), rel=2e-3) and found["diagonal"] > 1.05 * found["full"]


# ---- fitting ----
def falling_spectrum(dimension, seed=0, decay=0.07):
    """(draw(n) -> (n, D) float32 with mean 1, true covariance): variances fall by `decay` an axis, axes are random."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((dimension, dimension)))[0]
    root = axes * np.exp(-0.5 * decay * np.arange(dimension))
    return lambda n: (rng.standard_normal((n, dimension)) @ root.T + 1).astype(np.float32), root @ root.T


def test_full_gaussian_is_not_worse_than_diagonal_with_few_rows():
    """On 150 rows of 200 dimensions: near the best that the rows' own axes allow, far below maximum likelihood."""
    draw, truth = falling_spectrum(200, decay=0.03)
    x, new = draw(150), torch.from_numpy(draw(2000)).double()
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(new.shape, generator=generator, dtype=torch.float64)
    t = (torch.randperm(2000, generator=generator) + 0.5) / 2000
    normalizer = choose("normalizer", "none").fit(x, np.arange(150))
    fitted = GaussianBaseline.fit(x, np.arange(150), normalizer, Linear(), dtype=torch.float64)
    found = gaussian_losses(fitted, x0, new, t)
    mean, plain = x.astype(np.float64).mean(0), np.cov(x.T.astype(np.float64), bias=True)
    _, vectors = np.linalg.eigh(plain)
    oracle = (vectors * np.einsum("ij,ik,kj->j", vectors, truth, vectors)) @ vectors.T
    best = gaussian_losses(exact(Linear(), mean, oracle), x0, new, t)["full"]
    likelihood = gaussian_losses(exact(Linear(), mean, plain), x0, new, t)["full"]
    assert best < found["full"] < 1.03 * best
    assert found["full"] < 0.9 * found["diagonal"] and found["full"] < 0.9 * likelihood


def test_independent_dimensions_stay_independent():
    """Nothing to be learned from correlations: then the full Gaussian costs hardly more than the diagonal."""
    rng = np.random.default_rng(2)
    scales = np.geomspace(0.1, 3.0, 60)
    x, new = rng.standard_normal((80, 60)) * scales, torch.from_numpy(rng.standard_normal((2000, 60)) * scales)
    fitted = GaussianBaseline.fit(x, np.arange(80), choose("normalizer", "none").fit(x, np.arange(80)), Linear())
    x0, t = torch.from_numpy(rng.standard_normal((2000, 60))), torch.from_numpy((rng.permutation(2000) + 0.5) / 2000)
    found = gaussian_losses(fitted, x0, new, t)
    assert found["full"] < 1.03 * found["diagonal"]


@pytest.mark.parametrize("size", [7, 64, 1000])
def test_moments_do_not_depend_on_the_chunks(size):
    draw, _ = falling_spectrum(12)
    rows = draw(130).astype(np.float64)
    whole = fit_gaussian(lambda: [rows])
    parts = fit_gaussian(lambda: (rows[start : start + size] for start in range(0, len(rows), size)))
    np.testing.assert_allclose(parts.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(parts.variances, rows.var(0), rtol=1e-10)
    np.testing.assert_allclose(parts.covariance, whole.covariance, rtol=1e-8, atol=1e-12)


def test_covariance_is_unchanged_with_many_rows():
    draw, _ = falling_spectrum(10)
    rows = draw(400).astype(np.float64)
    fitted = fit_gaussian(lambda: [rows[:123], rows[123:]])
    np.testing.assert_allclose(fitted.covariance, np.cov(rows.T, bias=True), rtol=1e-9, atol=1e-12)


def test_fitted_on_normalized_training_rows(tmp_path):
    draw, _ = falling_spectrum(6)
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=(500, 2, 3))
    x[:] = draw(500).reshape(500, 2, 3)
    x[400:] += 100  # no training rows
    rows = np.arange(400)
    for name, dimension in (("zscore", 6), ({"name": "whitening", "components": 4}, 4)):
        normalizer = choose("normalizer", name).fit(x, rows)
        fitted = GaussianBaseline.fit(x, rows, normalizer, Linear())
        assert fitted.mean.shape == (dimension,) and float(fitted.mean.abs().max()) < 1e-5
        x1 = normalizer.normalize(torch.from_numpy(x[:400]))
        losses = fitted.losses("diagonal", torch.zeros_like(x1), x1, torch.zeros(400))  # at t = 0: the variance of x1
        assert losses.shape == (400,) and float(losses.mean()) == pytest.approx(1.0, rel=1e-3)


def test_loss_is_finite_if_a_constant_dimension_varies_in_validation():
    x = np.random.default_rng(0).standard_normal((100, 3)).astype(np.float32)
    x[:, 1] = 5
    fitted = GaussianBaseline.fit(x, np.arange(100), choose("normalizer", "none").fit(x, np.arange(100)), Linear())
    x1 = torch.tensor([[0.0, 6.0, 0.0]] * 3)
    for kind in fitted.kinds:
        losses = fitted.losses(kind, torch.zeros(3, 3), x1, torch.tensor([0.0, 0.999, 1.0]))
        assert losses.isfinite().all() and losses.max() < 1e4
    one = GaussianBaseline.fit(x, np.arange(1), choose("normalizer", "none").fit(x, np.arange(100)), Linear())
    assert one.kinds == ("diagonal",) and one.losses("diagonal", torch.zeros(3, 3), x1, torch.rand(3)).isfinite().all()


def test_wide_rows_have_no_full_gaussian(monkeypatch):
    monkeypatch.setattr("flowkit.training.baselines.MAX_DIMENSION", 8)
    x = np.random.default_rng(0).standard_normal((50, 9)).astype(np.float32)
    fitted = GaussianBaseline.fit(x, np.arange(50), choose("normalizer", "none").fit(x, np.arange(50)), Linear())
    found = gaussian_losses(fitted, torch.randn(50, 9), torch.from_numpy(x), torch.rand(50))
    assert set(found) == {"diagonal"} and found["diagonal"] > 0


def test_rows_are_spread_in_blocks():
    rows = np.arange(0, 30_000, 3)
    assert spread_blocks(rows, 10_000) is rows
    used = spread_blocks(rows, 1000)
    assert len(used) == 768 and set(used) <= set(rows) and used[0] == 0 and used[-1] == rows[-1]
    assert len(spread_blocks(rows, 100)) == 100


# ---- what validation measures ----
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path", ["linear", {"name": "linear", "sigma_min": 0.1}, "cosine", "vp"])
def test_the_best_gaussian_predictor_scores_as_the_baseline(path, prediction):
    """Whatever is predicted, the loss is the velocity's: E[... | x_t] of the fitted Gaussian, in closed form, has its loss."""
    path = choose("path", path)
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((600, 3)) * [0.5, 1.0, 2.0] + [1.0, 0.0, -1.0]).astype(np.float32)
    data = Dataset("points", x, split=(np.arange(600) % 3 == 0).astype(np.uint8))
    train = x[data.rows("train")].astype(np.float64)
    mean, variance = torch.from_numpy(train.mean(0)), torch.from_numpy(train.var(0))

    class Best(nn.Module):
        def forward(self, x_t, t):
            alpha, sigma, d_alpha, d_sigma = (
                f(t.double())[:, None] for f in (path.alpha, path.sigma, path.d_alpha, path.d_sigma)
            )
            weighed = (x_t - alpha * mean) / (alpha.square() * variance + sigma.square())
            x1, x0 = mean + alpha * variance * weighed, sigma * weighed
            said = {"data": x1, "noise": x0, "velocity": d_alpha * x1 + d_sigma * x0}
            return said[prediction].float()

    normalizer = choose("normalizer", "none").fit(x, data.rows("train"))
    validator = Validator(data, normalizer, FlowObjective(path, prediction, "data",
                          choose("error", "l1"), choose("weights", "min_snr")),
                          NormalBase(), Independent(), 1, max_rows=200, batch_size=64, seed=0,
                          device=torch.device("cpu"))  # fmt: skip
    found = validator(Best(), contextlib.nullcontext)
    assert found.loss == pytest.approx(validator.gaussian_losses["diagonal"], rel=1e-5)
    assert sum(loss for *_, loss in found.bins) / len(found.bins) == pytest.approx(found.loss, rel=0.1)
    assert 0.02 <= validator.times.min() < 0.021 and 0.979 < validator.times.max() <= 0.98


# ---- reconstruction ----
def gaussian_field(variance):
    """The exact marginal field of N(0, diag(variance)) on the linear path; its flow takes x1 to x1 / sqrt(variance)."""

    def velocity(x, t):
        t = t[:, None]
        return x * (t * variance - (1 - t)) / (t**2 * variance + (1 - t) ** 2)

    return velocity


def test_exact_field_inverts_to_unit_noise_and_back():
    variance = torch.tensor([0.25, 1.0, 4.0, 9.0], dtype=torch.float64)
    x1 = torch.randn(5000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * variance.sqrt()
    x0, back = reconstruct(gaussian_field(variance), x1, solver="rk4", steps=100)
    torch.testing.assert_close(x0, x1 / variance.sqrt(), atol=1e-5, rtol=1e-5)
    found = inversion_figures(x0, x1, back)
    assert found.mse < 1e-9 and found.variance == pytest.approx(1.0, abs=0.05) and found.passes
    assert found.effective_dimensions == pytest.approx(4, abs=0.05)
    zero = zero_field_figures(x1)
    assert zero.mse == 0 and zero.variance == pytest.approx(float(variance.mean()), rel=0.05) and not zero.passes


def test_coarse_steps_increase_the_error():
    variance = torch.tensor([25.0])
    x1 = 5 * torch.randn(500, 1, generator=torch.Generator().manual_seed(0))
    errors = [inversion_figures(*_arranged(gaussian_field(variance), x1, steps)).mse for steps in (2, 8, 64)]
    assert errors[0] > 10 * errors[1] > 100 * errors[2] and errors[0] > 0.1
    with pytest.raises(UserError, match="unknown solver"):
        reconstruct(gaussian_field(variance), x1, solver="eulr")


def _arranged(velocity, x1, steps):
    x0, back = reconstruct(velocity, x1, solver="heun", steps=steps)
    return x0, x1, back


def test_the_gate_bounds_error_and_variance():
    x1 = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    assert inversion_figures(x1, x1, x1 + 0.2).passes and not inversion_figures(x1, x1, x1 + 0.4).passes
    assert not inversion_figures(0.8 * x1, x1, x1).passes and not inversion_figures(1.2 * x1, x1, x1).passes


@pytest.mark.parametrize(("rows", "dimension"), [(300, 800), (2000, 50)])
def test_effective_dimensions_of_noise_and_of_flat_clouds(rows, dimension):
    x = torch.randn(rows, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert effective_dimensions(x) == pytest.approx(dimension, rel=0.02)
    variance = torch.linspace(0.1, 1, dimension, dtype=torch.float64) ** 3
    assert effective_dimensions(x * variance.sqrt()) == pytest.approx(
        float(variance.sum() ** 2 / variance.square().sum()), rel=0.05
    )
