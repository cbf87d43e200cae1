"""Losses, conversions and guidance against closed forms."""

from functools import partial

import pytest
import torch
from torch import nn

from flowkit.components import choose
from flowkit.conditions import Conditions
from flowkit.errors import UserError
from flowkit.flow.guidance import guided
from flowkit.flow.objective import FlowObjective
from flowkit.flow.solvers import integrate
from flowkit.flow.solvers.problem import evaluations
from flowkit.models.calls import call_model

PATH = choose("path", "linear")
VELOCITY, DATA = FlowObjective(PATH), FlowObjective(PATH, "data")


def batch(rows=6, *shape):
    generator = torch.Generator().manual_seed(3)
    shape = shape or (4, 8)
    draw = lambda: torch.randn(rows, *shape, generator=generator)  # noqa: E731
    return draw(), draw(), torch.rand(rows, generator=generator), draw()


def test_velocity_loss_is_the_mean_square_by_sample():
    x0, x1, t, output = batch()
    expected = torch.stack([((o - (b - a)) ** 2).mean() for o, a, b in zip(output, x0, x1, strict=True)])
    torch.testing.assert_close(VELOCITY.loss(output, x0, x1, t), expected)


def test_loss_keeps_rows_apart_where_batch_equals_width():
    x0, x1, t, output = batch(8, 8)
    all_at_once = DATA.loss(output, x0, x1, t)
    one_by_one = [DATA.loss(output[i : i + 1], x0[i : i + 1], x1[i : i + 1], t[i : i + 1]) for i in range(8)]
    torch.testing.assert_close(all_at_once, torch.cat(one_by_one))


@pytest.mark.parametrize("objective", [VELOCITY, DATA])
def test_loss_of_the_true_target_is_zero(objective):
    x0, x1, _, _ = batch()
    t = torch.tensor([0.0, 0.1, 0.5, 0.96, 0.999, 1.0])
    answer = PATH.velocity(x0, x1, t) if objective is VELOCITY else x1
    assert objective.loss(answer, x0, x1, t).max() == 0


def test_data_loss_is_the_velocity_loss_of_the_velocity_it_implies():
    x0, x1, t, output = batch()
    t = 0.94 * t
    x_t = PATH.interpolate(x0, x1, t)
    torch.testing.assert_close(
        DATA.loss(output, x0, x1, t), VELOCITY.loss(DATA.to_velocity(output, x_t, t), x0, x1, t), rtol=1e-4, atol=1e-5
    )


def test_data_loss_is_clipped_near_the_data():
    x0, x1, _, output = batch()
    for t, weight in ((0.0, 1.0), (0.5, 2.0**2), (0.95, 20.0**2), (0.99, (1 + 0.99 / 0.05) ** 2), (1.0, 21.0**2)):
        expected = weight * (output - x1).square().mean((1, 2))
        torch.testing.assert_close(DATA.loss(output, x0, x1, torch.full((6,), t)), expected, rtol=1e-4, atol=1e-4)


def test_conversions_to_velocity_and_data():
    x0, x1, t, output = batch()
    t = 0.94 * t
    x_t, v = PATH.interpolate(x0, x1, t), PATH.velocity(x0, x1, t)
    torch.testing.assert_close(VELOCITY.to_velocity(output, x_t, t), output)
    torch.testing.assert_close(VELOCITY.to_data(output, x_t, t), x_t + (1 - t[:, None, None]) * output)
    torch.testing.assert_close(VELOCITY.to_data(v, x_t, t), x1)
    torch.testing.assert_close(DATA.to_data(output, x_t, t), output)
    torch.testing.assert_close(DATA.to_velocity(x1, x_t, t), v, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("objective", [VELOCITY, DATA])
def test_half_precision_outputs_are_scored_in_fp32(objective):
    x0, x1, t, output = batch()
    output = output.bfloat16()
    loss = objective.loss(output, x0, x1, t)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, objective.loss(output.float(), x0, x1, t), rtol=0, atol=0)
    assert objective.to_velocity(output, x0, t).dtype == objective.to_data(output, x0, t).dtype == torch.float32


def test_unknown_prediction():
    with pytest.raises(UserError, match="did you mean 'velocity'"):
        FlowObjective(PATH, "velocty")
    with pytest.raises(UserError, match="clip"):
        FlowObjective(PATH, "data", clip=-0.1)


class Recorder(nn.Module):
    """Predicts label + 10 * condition, with -1 for dropped ones; counts the rows that it receives."""

    def __init__(self):
        super().__init__()
        self.rows = 0

    def forward(self, x, t, class_label=None, clip_features=None, cfg_mask=None):
        self.rows += len(x)
        value = x.new_zeros(len(x))
        for part, factor in ((class_label, 1.0), (clip_features, 10.0)):
            if part is not None:
                assert len(part) == len(x)
                value = value + factor * part.float().reshape(len(x), -1)[:, 0]
        if cfg_mask is not None:
            value = value.masked_fill(cfg_mask, -1.0)
        return value[:, None].expand_as(x) + t[:, None]


CONDITIONS = {
    "class": Conditions(torch.tensor([0, 1, 2])),
    "features": Conditions(tokens=torch.tensor([[1.0], [2.0], [3.0]])),
    "both": Conditions(torch.tensor([0, 1, 2]), torch.tensor([[1.0], [2.0], [3.0]])),
}


@pytest.mark.parametrize("given", CONDITIONS)
@pytest.mark.parametrize(("scale", "cost"), [(0.0, 1), (1.0, 1), (1, 1), (3.0, 2), (-0.5, 2), (0.3, 2)])
def test_guidance_formula_and_cost(given, scale, cost):
    x, t = torch.zeros(3, 3), torch.tensor([0.1, 0.2, 0.3])
    conditions = CONDITIONS[given]
    model = Recorder()
    conditional = model(x, t, conditions.class_label, conditions.tokens)
    null = torch.full_like(x, -1.0) + t[:, None]
    model.rows = 0
    velocity = guided(partial(call_model, model), VELOCITY, conditions, scale=scale)
    torch.testing.assert_close(velocity(x, t), null + scale * (conditional - null))
    assert evaluations(velocity, t).tolist() == [cost] * len(t)
    assert model.rows == 3 * cost


def test_guidance_of_data_predictions_is_guidance_of_velocities():
    x = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.1, 0.5, 0.9])
    label = torch.tensor([0, 1, 2])
    model = Recorder()
    everything = torch.ones(3, dtype=torch.bool)
    conditional = DATA.to_velocity(model(x, t, label), x, t)
    null = DATA.to_velocity(model(x, t, label, None, everything), x, t)
    velocity = guided(partial(call_model, model), DATA, Conditions(label), 3.0)
    torch.testing.assert_close(velocity(x, t), null + 3 * (conditional - null))


def test_without_conditions_guidance_costs_nothing():
    velocity = guided(partial(call_model, Recorder()), VELOCITY, scale=4.0)
    assert evaluations(velocity, torch.zeros(1)).tolist() == [1]
    torch.testing.assert_close(velocity(torch.zeros(2, 3), torch.zeros(2)), torch.zeros(2, 3))


def test_integrate_counts_both_evaluations():
    velocity = guided(partial(call_model, Recorder()), VELOCITY, Conditions(torch.tensor([0, 1])), 2.0)
    assert integrate(velocity, torch.zeros(2, 3), solver="heun", steps=5).nfe.tolist() == [20, 20]
