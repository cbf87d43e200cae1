"""Stochastic sampling: the marginals of the flow for a Gaussian target in two dimensions. Refused without a score."""

import pytest
import torch

from flowkit.components import choose
from flowkit.errors import UserError
from flowkit.flow.paths import expand
from flowkit.flow.solvers import integrate
from flowkit.sampling.draw import step_noise

MEAN = torch.tensor([1.5, -0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.5, 0.3], [0.3, 0.4]], dtype=torch.float64)


def exact_velocity(path):
    """alpha' E[x1 | x_t] + sigma' E[x0 | x_t] of N(MEAN, COVARIANCE), by the Gaussian conditional means."""

    def velocity(x, t):
        alpha, sigma, d_alpha, d_sigma = (f(t[:1]) for f in (path.alpha, path.sigma, path.d_alpha, path.d_sigma))
        total = alpha**2 * COVARIANCE + sigma**2 * torch.eye(2, dtype=x.dtype)
        weighed = torch.linalg.solve(total, (x - alpha * MEAN).T).T
        return d_alpha * (MEAN + alpha * weighed @ COVARIANCE) + d_sigma * sigma * weighed

    return velocity


def keyed(rows, seed=1):
    return lambda step: torch.randn(
        rows, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1000 * seed + step)
    )


def gaps(x):
    """Errors of mean and covariance in standard errors."""
    n = len(x)
    mean = (x.mean(0) - MEAN) / (COVARIANCE.diagonal() / n).sqrt()
    variances = COVARIANCE.diagonal()
    spread = (variances[:, None] * variances + COVARIANCE**2) / n
    return torch.cat((mean, ((torch.cov(x.T) - COVARIANCE) / spread.sqrt()).flatten())).abs().max().item()


def start(rows):
    return torch.randn(rows, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize(
    "solver", [{"name": "sde"}, {"name": "sde", "scale": 3.0}, {"name": "sde", "diffusion": "constant"}]
)
def test_samples_have_the_marginals_of_the_flow(path, solver):
    path, rows = choose("path", path), 8000
    found = integrate(exact_velocity(path), start(rows), solver=solver, steps=250, path=path, noise=keyed(rows))
    assert gaps(found.x) < 4
    assert found.nfe.unique().tolist() == [250]


def test_scale_sets_the_noise():
    path, rows = choose("path", "linear"), 500
    run = lambda seed, **s: integrate(exact_velocity(path), start(rows), solver={"name": "sde", **s}, steps=50, path=path,  # noqa: E731
                                      noise=keyed(rows, seed)).x  # fmt: skip
    assert (run(1) - run(2)).abs().mean() > 0.1
    assert torch.equal(run(1, scale=0.0), run(2, scale=0.0))
    ode = integrate(exact_velocity(path), start(rows), solver="euler", steps=50).x
    assert (run(1, scale=0.0) - ode).abs().max() < 0.05


def test_every_sample_has_a_stream_of_its_own_whatever_its_batch():
    whole, part = step_noise(3, range(6), (2,)), step_noise(3, range(2, 5), (2,))
    steps = [(whole(step), part(step)) for step in range(4)]
    assert all(torch.equal(all_of_them[2:5], some) for all_of_them, some in steps)
    drawn = torch.cat([all_of_them for all_of_them, _ in steps] + [step_noise(4, range(6), (2,))(0)])
    assert len(drawn.unique(dim=0)) == len(drawn) == 30


def test_last_step_is_tweedies_formula():
    path, x = choose("path", "linear"), start(5)
    found = integrate(exact_velocity(path), x, solver="sde", steps=1, path=path, noise=keyed(5)).x
    torch.testing.assert_close(found, MEAN.expand(5, 2))  # E[x1 | x_0] at t = 0
    t = torch.full((5,), 0.5, dtype=torch.float64)
    found = integrate(exact_velocity(path), x, solver="sde", steps=1, path=path, noise=keyed(5), t0=0.5).x
    total = (COVARIANCE + torch.eye(2)) / 4
    wanted = MEAN + 0.5 * torch.linalg.solve(total, (x - expand(t, x) * MEAN).T).T @ COVARIANCE
    torch.testing.assert_close(found, wanted)


def test_refused_without_a_score():
    for path in ("icfm", "schrodinger_bridge", "spherical"):
        with pytest.raises(UserError, match="cannot convert the velocity to a score"):
            integrate(lambda x, t: x, start(2), solver="sde", path=choose("path", path), noise=keyed(2))
    with pytest.raises(UserError, match="only goes from noise to data"):
        integrate(lambda x, t: x, start(2), solver="sde", path=choose("path", "linear"), noise=keyed(2), t0=1.0, t1=0.0)
    with pytest.raises(UserError, match="scale: expected a number >= 0, found -1"):
        integrate(lambda x, t: x, start(2), solver={"name": "sde", "scale": -1})
