"""Likelihoods: exact for a Gaussian target, like another library's, without bias by Hutchinson; densities in the data's units."""

import math

import numpy as np
import pytest
import torch

import flowkit
from flowkit.components import choose
from flowkit.errors import UserError
from flowkit.flow.likelihood import log_likelihood
from flowkit.sampling.likelihood import gaussian_bits
from tests.test_flow_solvers import MEAN, STD, gaussian_velocity

TIGHT = {"name": "dopri5", "rtol": 1e-10, "atol": 1e-10}


def points(rows=6):
    return MEAN + 1.5 * STD * torch.randn(rows, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def log_normal(x):
    return torch.distributions.Normal(MEAN, STD).log_prob(x).sum(1)


@pytest.mark.parametrize("solver", [TIGHT, "rk4"])
def test_exact_for_a_gaussian(solver):
    found = log_likelihood(gaussian_velocity, points(), solver=solver, steps=400)
    torch.testing.assert_close(found.log_p, log_normal(points()), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.x0, (points() - MEAN) / STD, rtol=0, atol=1e-6)
    assert found.error is None


def curved(x, t):
    """A field whose Jacobian is full and differs by place."""
    turned = x.roll(1, 1)
    return torch.sin(turned + t[:, None]) - 0.5 * x * turned.cos()


def test_agrees_with_another_library():
    solvers = pytest.importorskip("flow_matching.solver")
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    prior = lambda x: torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)  # noqa: E731
    theirs = solvers.ODESolver(lambda x, t: curved(x, t.expand(len(x)))).compute_likelihood(
        x, prior, step_size=None, method="dopri5", atol=1e-10, rtol=1e-10, exact_divergence=True,
        time_grid=torch.tensor([1.0, 0.0], dtype=torch.float64),
    )  # fmt: skip
    ours = log_likelihood(curved, x, solver=TIGHT)
    torch.testing.assert_close(ours.log_p, theirs[1], rtol=0, atol=1e-7)


def test_hutchinson_is_unbiased_with_correct_error():
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = log_likelihood(curved, x, solver="heun", steps=20).log_p
    found = log_likelihood(curved, x, divergence="hutchinson", probes=400, solver="heun", steps=20,
                           generator=torch.Generator().manual_seed(1))  # fmt: skip
    z = (found.log_p - exact) / found.error
    assert z.abs().max() < 3.5 and (found.error > 1e-4).all() and (found.error < 0.2).all()
    one = log_likelihood(curved, x, divergence="hutchinson", solver="heun", steps=20)
    assert one.error is None and not torch.allclose(one.log_p, exact, atol=1e-6)


def test_auto_is_exact_up_to_sixteen_numbers():
    wide = lambda x, t: torch.tanh(x @ torch.ones(x.shape[1], x.shape[1], dtype=x.dtype) / 8)  # noqa: E731
    for dim, exact in ((16, True), (17, False)):
        x = torch.randn(2, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        pair = [log_likelihood(wide, x, solver="heun", steps=4, divergence=d).log_p for d in ("auto", "exact")]
        assert torch.equal(*pair) == exact


def test_bad_arguments():
    with pytest.raises(UserError, match="did you mean 'exact'"):
        log_likelihood(gaussian_velocity, points(), divergence="exakt")
    with pytest.raises(UserError, match="probes: 0"):
        log_likelihood(gaussian_velocity, points(), probes=0)


ROWS = np.random.default_rng(0).standard_normal((400, 3)) @ np.array([[2.0, 0, 0], [1.5, 0.5, 0], [0, 0, 0.1]]) + 5


@pytest.mark.parametrize("choice", ["none", "global", "zscore", "robust", "whitening"])
def test_normalizers_know_their_determinant(choice):
    normalizer = choose("normalizer", choice).fit(ROWS.astype(np.float32), np.arange(300))
    x = torch.from_numpy(ROWS[:1])
    jacobian = torch.autograd.functional.jacobian(lambda x: normalizer.normalize(x).flatten(), x).reshape(3, 3)
    assert normalizer.log_det((3,)) == pytest.approx(torch.linalg.slogdet(jacobian)[1].item())


def test_whitening_with_dropped_directions_has_no_density():
    normalizer = choose("normalizer", {"name": "whitening", "components": 2}).fit(
        ROWS.astype(np.float32), np.arange(300)
    )
    with pytest.raises(UserError, match="2 of 3 directions"):
        normalizer.log_det((3,))


def test_gaussian_baseline_matches_scipy():
    stats = pytest.importorskip("scipy.stats")
    normalizer = choose("normalizer", "zscore").fit(ROWS.astype(np.float32), np.arange(300))
    found = gaussian_bits(ROWS[:300], ROWS[300:], normalizer)
    fitted = stats.multivariate_normal(ROWS[:300].mean(0), np.cov(ROWS[:300].T, bias=True))
    assert found is not None
    assert found[0] == pytest.approx(-fitted.logpdf(ROWS[300:]).mean() / (3 * math.log(2)), rel=1e-6)


class Zero(torch.nn.Module):
    """No velocity: the model is then unit noise in its own space."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, t):
        return x * 0 + self.unused


def test_a_model_gives_densities_in_the_datas_units(tmp_path):
    stats = pytest.importorskip("scipy.stats")
    recipe = {
        "run": {"name": "zero", "dir": str(tmp_path)}, "model": {"arch": "custom"}, "optim": {"lr": 1e-12},
        "data": {"normalizer": "zscore"}, "ema": {"decay": 0},
        "train": {"steps": 1, "batch_size": 32, "val_every": "never", "save_every": "never"}, "sample": {"every": "never"},
    }  # fmt: skip
    model = flowkit.train(recipe, model=Zero(), data=ROWS.astype(np.float32))
    found = model.log_likelihood(ROWS[:7])
    shift, scale = model.normalizer.shift, model.normalizer.scale
    np.testing.assert_allclose(found.log_p, stats.norm(shift, scale).logpdf(ROWS[:7]).sum(1), atol=1e-3)
    assert found.bits_per_dim[0] == pytest.approx(-found.log_p[0] / 3 / math.log(2))
    with pytest.raises(UserError, match=r"expected \(N, 3\)"):
        model.log_likelihood(ROWS[:7, :2])
    one = model.log_likelihood(ROWS[:7], divergence="hutchinson", probes=3, batch_size=2)
    np.testing.assert_allclose(one.log_p, found.log_p, atol=1e-3)
    assert one.probe_error is not None and one.probe_error.shape == (7,)
