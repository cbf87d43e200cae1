"""Errors, weights, loss spaces and predictions against their formulas, and what contradicts what."""

import math

import pytest
import torch

from flowkit.components import choose, find, names
from flowkit.data.base import DataBase
from flowkit.errors import UserError
from flowkit.flow.inversion import inversion_figures
from flowkit.flow.objective import PREDICTIONS, FlowObjective
from flowkit.flow.paths import GaussianPath
from flowkit.recipe import recipe_from_dict
from flowkit.recipe.flow import Flow
from flowkit.rng import Draws

GAUSSIAN = [name for name in names("path") if issubclass(find("path", name), GaussianPath)]


def batch(rows=64, *shape):
    generator = torch.Generator().manual_seed(3)
    draw = lambda: torch.randn(rows, *(shape or (5,)), generator=generator, dtype=torch.float64)  # noqa: E731
    t = 0.3 + 0.6 * torch.rand(rows, generator=generator, dtype=torch.float64)  # where nothing is clipped
    return draw(), draw(), t, draw()


@pytest.mark.parametrize("name", names("error"))
def test_errors_are_means_over_the_elements(name):
    error = choose("error", name)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    assert error(x).shape == (4,) and error(x.view(4, 2, 3)).equal(error(x))
    torch.testing.assert_close(error(torch.cat((x, x), dim=1)), error(x))
    assert error(torch.zeros(2, 3)).equal(torch.zeros(2))


def test_error_formulas():
    x = torch.tensor([[3.0, -4.0]], dtype=torch.float64)
    assert choose("error", "squared")(x).item() == 12.5
    assert choose("error", "l1")(x).item() == 3.5
    expected = math.sqrt(12.5 + 4) - 2
    assert choose("error", {"name": "pseudo_huber", "c": 2.0})(x).item() == pytest.approx(expected, rel=1e-12)
    tiny = torch.full((1, 4), 1e-6)  # in fp32, where a difference of roots would be 0
    assert choose("error", {"name": "pseudo_huber", "c": 1.0})(tiny).item() == pytest.approx(0.5e-12, rel=1e-3)


@pytest.mark.parametrize("path", GAUSSIAN)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("space", PREDICTIONS)
def test_loss_is_the_error_of_the_converted_output(path, prediction, space):
    """By converting the output, and scoring it against the true quantity."""
    x0, x1, t, output = batch()
    objective = FlowObjective(choose("path", path), prediction, space)
    x_t = objective.path.interpolate(x0, x1, t)
    true = {"velocity": objective.path.velocity(x0, x1, t), "data": x1, "noise": x0}
    said = objective.path.convert(output, x_t, t, prediction, space)
    torch.testing.assert_close(objective.loss(output, x0, x1, t), (said - true[space]).square().mean(1))
    assert objective.loss(true[prediction], x0, x1, t).max() < 1e-20
    torch.testing.assert_close(
        objective.to_velocity(output, x_t, t), objective.path.convert(output, x_t, t, prediction, "velocity")
    )
    torch.testing.assert_close(objective.to_data(true[prediction], x_t, t), x1)


@pytest.mark.parametrize("path", GAUSSIAN)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("space", PREDICTIONS)
def test_losses_are_finite_for_all_times(path, prediction, space):
    x0, x1, _, output = (x.float() for x in batch())
    objective = FlowObjective(choose("path", path), prediction, space, weights=choose("weights", "min_snr"))
    t = torch.linspace(0, 1, 64)
    assert objective.loss(output, x0, x1, t).isfinite().all()


@pytest.mark.parametrize("path", [*GAUSSIAN, {"name": "vp", "beta_min": 0.5, "beta_max": 8.0}])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("space", PREDICTIONS)
def test_min_snr_weighs_the_data_error_whatever_the_space(path, prediction, space):
    """min(SNR, gamma) (arXiv 2303.09556). What the output's error means for x1 is found by differences of x_t, by t.

    With x_t fixed, x1(v) solves x_t = alpha x1 + sigma x0 and v = d x_t / dt, whose derivatives are central differences.
    """
    path = choose("path", path)
    weights = choose("weights", {"name": "min_snr", "gamma": 2.0})
    x0, x1, _, output = batch(64)
    t, h = torch.linspace(0.01, 0.98, 64, dtype=torch.float64), 1e-6
    alpha, sigma = path.alpha(t), path.sigma(t)
    d_alpha, d_sigma = ((f(t + h) - f(t - h)) / (2 * h) for f in (path.alpha, path.sigma))
    sides = {"data": (1.0, 0.0), "noise": (0.0, 1.0), "velocity": (d_alpha, d_sigma)}[prediction]
    of_x1, of_x0 = (torch.as_tensor(one).expand(64) for one in sides)
    known = torch.stack((torch.stack((alpha, sigma), 1), torch.stack((of_x1, of_x0), 1)), 1)  # (64, 2, 2)
    error = output - FlowObjective(path, prediction).target(x0, x1, t)
    unknown = torch.linalg.solve(known, torch.stack((torch.zeros_like(error), error), 1))[
        :, 0
    ]  # the error of x1, x_t fixed
    expected = (alpha / sigma).square().clamp_max(2.0) * unknown.square().mean(1)
    objective = FlowObjective(path, prediction, space, weights=weights)
    torch.testing.assert_close(objective.loss(output, x0, x1, t), expected, rtol=1e-5, atol=1e-9)


def test_bin_weights_equalize_losses():
    losses = (2.0, 1.0, 0.5, 0.5)
    weights = choose("weights", {"name": "bins", "losses": losses})
    t = torch.tensor([0.0, 0.1, 0.3, 0.6, 0.99, 1.0])
    found = weights(t, choose("path", "linear"), "velocity")
    torch.testing.assert_close(found * torch.tensor([2, 2, 1, 0.5, 0.5, 0.5]), torch.full((6,), found[0].item() * 2))
    assert weights(torch.tensor([0.1, 0.3, 0.6, 0.9]), choose("path", "linear"), "velocity").mean() == pytest.approx(1)


def test_bin_weights_are_put_on_the_device_once(monkeypatch):
    weights = choose("weights", {"name": "bins", "losses": (3.0, 1.5)})
    t, path = torch.tensor([0.1, 0.9]), choose("path", "linear")
    first = weights(t, path, "velocity")
    monkeypatch.setattr(torch, "tensor", lambda *given, **more: pytest.fail("another copy from the host"))
    assert torch.equal(weights(t, path, "velocity"), first)


def test_bridges_are_learned_with_their_own_noise():
    x0, x1, t, eps = batch()
    for name in ("icfm", "schrodinger_bridge"):
        objective = FlowObjective(choose("path", name))
        velocity = objective.path.velocity(x0, x1, t, eps)
        assert objective.loss(velocity, x0, x1, t, eps).max() == 0
        assert objective.loss(velocity + 2, x0, x1, t, eps).sub(4).abs().max() < 1e-9


@pytest.mark.parametrize("path", ["icfm", "schrodinger_bridge", "spherical"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prediction": "data"}, "prediction"),
        ({"prediction": "noise"}, "prediction"),
        ({"loss_space": "data"}, "flow.loss.space"),
        ({"weights": choose("weights", "min_snr")}, "min_snr"),
    ],
)
def test_unsupported_conversions_are_refused(path, settings, message):
    with pytest.raises(UserError, match=message):
        FlowObjective(choose("path", path), **settings)


def test_recipe_refuses_it_too_and_all_at_once():
    flow = {"path": "icfm", "prediction": "data", "loss": {"space": "noise", "weights": "min_snr"}}
    table = {"run": {"name": "x"}, "model": {"arch": "mlp"}, "train": {"steps": 1}, "flow": flow}
    with pytest.raises(UserError) as error:
        recipe_from_dict(table)
    for key in ("flow.prediction", "flow.loss.space", "flow.loss.weights"):
        assert key in str(error.value)


def test_objective_of_a_checkpoint_made_before_these_choices():
    objective = Flow.model_validate({"path": "linear", "prediction": "data"}).scored
    assert objective == FlowObjective(choose("path", "linear"), "data")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: choose("error", {"name": "pseudo_huber", "c": 0}), "c: expected a number > 0, found 0"),
        (lambda: choose("error", "l3"), "unknown error 'l3'"),
        (lambda: choose("weights", {"name": "min_snr", "gamma": -1}), "gamma: expected a number > 0, found -1"),
        (
            lambda: choose("weights", {"name": "bins", "losses": (1.0,)}),
            "losses: expected a list of at least two",
        ),
        (
            lambda: choose("weights", {"name": "bins", "losses": (1.0, 0.0)}),
            "losses: expected a list of at least two",
        ),
        (lambda: FlowObjective(choose("path", "linear"), "velocity", "nois"), "did you mean 'noise'"),
    ],
)
def test_wrong_choices(make, message):
    with pytest.raises(UserError) as error:
        make()
    assert message in str(error.value)


def test_base_of_data_rows_is_drawn_by_keys():
    rows = torch.arange(12.0).reshape(6, 2)
    base = DataBase(rows)
    draws = Draws(3, torch.device("cpu"))
    first = base.draw(draws, "noise", 5, (1000, 2))
    assert torch.equal(first, base.draw(Draws(3, torch.device("cpu")), "noise", 5, (1000, 2)))
    assert not torch.equal(first, base.draw(draws, "noise", 6, (1000, 2)))
    counts = torch.bincount((first[:, 0] / 2).long(), minlength=6)
    assert counts.min() > 110 and counts.max() < 230  # each row one time in six
    ten = base.sample(0, range(10), (2,))
    assert torch.equal(ten[4:], base.sample(0, range(4, 10), (2,)))
    assert base.variance == pytest.approx(rows.double().var(dim=0).mean().item())


def test_variance_of_inverted_rows_is_over_that_of_the_base():
    x = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0))
    assert inversion_figures(3 * x, x, x).variance == pytest.approx(9, rel=0.05)
    found = inversion_figures(3 * x, x, x, base_variance=9.0)
    assert found.variance == pytest.approx(1, rel=0.05) and found.passes
