"""MeanFlow: its identity against a Gaussian's closed form, the derivative against differences, training, two processes."""

import contextlib
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import nn

import flowkit
from flowkit.components import choose
from flowkit.conditions import Conditions
from flowkit.data.base import NormalBase
from flowkit.data.dataset import Dataset
from flowkit.errors import UserError
from flowkit.events import Validated
from flowkit.flow.couplings import Independent
from flowkit.flow.guidance import guided
from flowkit.flow.mean_flow import MeanFlow, mean_flow_target, total_derivative
from flowkit.flow.objective import FlowObjective, Pairs, Spans
from flowkit.flow.solvers import integrate
from flowkit.models import create_model
from flowkit.recipe import recipe_from_dict
from flowkit.rng import Draws
from flowkit.training import session
from flowkit.training.batches import Layout
from flowkit.training.step import UpdateDraws
from flowkit.training.validation import Validator
from flowkit.ui import plain as plain_lines
from flowkit.ui.quantities import value
from flowkit.ui.state import RunState
from tests.conftest import sketch_rows
from tests.processes import start

MEAN, STD = 1.5, 0.4


def spread(t):
    return ((t * STD) ** 2 + (1 - t) ** 2) ** 0.5


def gaussian_velocity(x, t):
    """Of N(0, 1) to N(MEAN, STD^2) on the linear path: the trajectory is t MEAN + spread(t) z with z fixed."""
    d_spread = (t * STD**2 - (1 - t)) / spread(t)
    return MEAN + d_spread[:, None] / spread(t)[:, None] * (x - t[:, None] * MEAN)


def gaussian_average(x, t, span):
    end = t + span
    z = (x - t[:, None] * MEAN) / spread(t)[:, None]
    return (end[:, None] * MEAN + spread(end)[:, None] * z - x) / span[:, None]


@pytest.fixture
def places():
    generator = torch.Generator().manual_seed(0)
    x, t, u = (torch.rand(64, *shape, generator=generator, dtype=torch.float64) for shape in ((3,), (), ()))
    return 4 * x - 2, 0.95 * t, (1 - 0.95 * t) * u + 1e-3


def test_the_average_velocity_is_the_fixed_point(places):
    x, t, span = places
    v = gaussian_velocity(x, t)
    exact = gaussian_average(x, t, span)
    torch.testing.assert_close(mean_flow_target(gaussian_average, x, t, span, v), exact, rtol=1e-9, atol=1e-9)
    for wrong in (
        lambda x, t, s: gaussian_average(x, t, s) + 0.1 * s[:, None],
        lambda x, t, s: gaussian_velocity(x, t),
    ):
        assert (mean_flow_target(wrong, x, t, span, v) - wrong(x, t, span)).abs().max() > 0.01


def test_one_step_of_the_exact_average_is_exact():
    class Exact:
        def __call__(self, x, t):
            return gaussian_velocity(x, t)

        def over(self, span):
            return lambda x, t: gaussian_average(x, t, torch.full_like(t, span))

    noise = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for steps in (1, 3):
        found = integrate(Exact(), noise, solver="mean_flow", steps=steps)
        torch.testing.assert_close(found.x, MEAN + STD * noise, rtol=1e-9, atol=1e-9)
        assert found.nfe.tolist() == [steps] * 50
    with pytest.raises(UserError, match="only goes from noise to data"):
        integrate(Exact(), noise, solver="mean_flow", steps=1, t0=1.0, t1=0.0)
    with pytest.raises(UserError, match="needs a network that predicts average velocities"):
        integrate(gaussian_velocity, noise, solver="mean_flow", steps=1)


def of_pairs(network, x0, x1, t, spans, conditions=None):
    """Pairs for `MeanFlow.loss`, whose network is also the bare one."""
    return Pairs(x0, x1, t, None, Conditions() if conditions is None else conditions, spans, network, network)


def noisy_pairs(count=200_000):
    """Pairs with one x_t and t: noise and data of the Gaussian, given where their path is at t."""
    generator = torch.Generator().manual_seed(3)
    x_t, t, span = 0.9, 0.4, 0.5
    spread_t = spread(torch.tensor(t, dtype=torch.float64))
    expected = MEAN + t * STD**2 / spread_t**2 * (x_t - t * MEAN)
    std = STD * (1 - t) / spread_t
    x1 = expected + std * torch.randn(count, 1, generator=generator, dtype=torch.float64)
    rows = torch.ones(count, dtype=torch.float64)
    spans = Spans(span * rows, rows.bool())
    return (x_t - t * x1) / (1 - t), x1, t * rows, spans


def test_both_ways_of_the_derivative_agree_in_the_mean_and_the_networks_own_has_less_noise(monkeypatch):
    """The target is v + (s - t) du/dt. Along the pair's velocity, its noise is |1 + (s - t) d_x u| times that of v."""
    x0, x1, t, spans = noisy_pairs()

    def u(x, t, told, span):
        return torch.where(span[:, None] > 0, gaussian_average(x, t, span.clamp_min(1e-9)), gaussian_velocity(x, t))

    seen, targets = [], {}
    monkeypatch.setattr(
        MeanFlow, "error", staticmethod(lambda output, target: seen.append((output, target)) or target[:, 0])
    )
    for along in ("network", "pair"):
        MeanFlow(along=along, power=0.0).loss(of_pairs(u, x0, x1, t, spans), FlowObjective(choose("path", "linear")))
        output, targets[along] = seen.pop()
        assert abs(targets[along].mean() - output[0, 0]) < 5 * targets[along].std() / len(t) ** 0.5
    v, edge = x1 - x0, 1e-4
    torch.testing.assert_close(targets["network"].std(), v.std())
    x_t = torch.tensor([[0.9]], dtype=torch.float64)
    near, there = (gaussian_average(x, t[:1], spans.length[:1]) for x in (x_t, x_t + edge))
    noise = (1 + 0.5 * (there - near) / edge).abs().squeeze() * v.std()
    torch.testing.assert_close(targets["pair"].std(), noise, rtol=1e-3, atol=0)
    assert abs(noise / v.std() - 1) > 0.1


def guided_field(told, x, t, scale):
    """Of rows with label c, v = c + sin(x); without, v = tanh(x + t). The guided one for scales (B,)."""
    null = torch.tanh(x + t[:, None])
    v = torch.lerp(null, told.class_label[:, None] + x.sin(), scale[:, None])
    return torch.where(told.nothing()[:, None], null, v)


@pytest.mark.parametrize("dropped", [None, torch.arange(6) % 3 == 0])
@pytest.mark.parametrize(
    ("settings", "scales"), [({"omega": 2.5}, 2.5), ({"omega_max": 8.0}, None), ({"omega": 0.5}, 0.5)]
)
@pytest.mark.parametrize("along", ["network", "pair"])
def test_the_guided_velocity_is_the_fixed_point(dropped, settings, scales, along):
    """A network that already has the guided velocity is told to keep it, whatever its scale; the pair's velocity is exact."""
    x, t = torch.linspace(-1, 1, 12, dtype=torch.float64).view(6, 2), torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    told = Conditions(torch.tensor([0, 1, 2, 0, 1, 2])).map(lambda label: label.double())
    told = told if dropped is None else told.drop(dropped)
    scale = (
        torch.linspace(1, 8, 6, dtype=torch.float64)
        if scales is None
        else torch.full((6,), scales, dtype=torch.float64)
    )
    none = torch.zeros(6, dtype=torch.bool)
    spans = Spans(torch.zeros(6, dtype=torch.float64), none, guidance=scale if scales is None else None)

    def network(x, t, told, span=None):
        asked = torch.ones_like(t) if told.guidance is None else told.guidance
        return guided_field(told, x, t, asked if scales is None else torch.full_like(t, scales))

    objective = MeanFlow(**settings, along=along)
    path = SimpleNamespace(interpolate=lambda x0, x1, t, eps: x,
                           velocity=lambda x0, x1, t, eps: guided_field(told, x, t, torch.ones_like(t)))  # fmt: skip
    found = objective.loss(of_pairs(network, x, x, t, spans, told), SimpleNamespace(path=path))
    torch.testing.assert_close(found.shown, torch.zeros(6, dtype=torch.float64))
    wrong = lambda *asked: network(*asked) + 0.1  # noqa: E731
    found = objective.loss(of_pairs(wrong, x, x, t, spans, told), SimpleNamespace(path=path))
    assert (found.shown > 1e-3).all()


ARCHS = {
    "mlp": ({"input_dim": 6, "hidden_dim": 16}, (5, 6)),
    "dit": ({"input_dim": 8, "hidden_dim": 24, "num_heads": 3, "num_tokens": 4}, (5, 8)),
    "selu_mlp": ({"input_dim": 2, "hidden_dim": 16}, (5, 2)),
    "residual_mlp": ({"input_dim": 2, "hidden_dim": 16}, (5, 2)),
    "bezier_sketch_dit": ({"num_strokes": 6, "embed_dim": 16, "num_layers": 2, "num_heads": 2}, (5, 6, 8)),
    "bezier_sketch_transformer": ({"num_strokes": 6, "embed_dim": 16, "num_layers": 2, "num_heads": 2}, (5, 6, 8)),
}


@pytest.mark.parametrize("arch", ARCHS)
def test_derivatives_match_finite_differences(arch):
    args, shape = ARCHS[arch]
    features = {"clip_dim" if "sketch" in arch else "condition_dim": 4}
    torch.manual_seed(0)
    model = create_model(arch, **args, num_classes=3, **features, two_times=True, guided=True).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    x, v = torch.randn(2, *shape, dtype=torch.float64)
    t, span = 0.5 * torch.rand(2, 5, dtype=torch.float64)
    conditions = torch.tensor([0, 1, 2, 0, 1]), torch.randn(5, 4, dtype=torch.float64), torch.arange(5) > 3
    u = lambda x, t, span: model(x, t, *conditions, span)  # noqa: E731
    found, h = total_derivative(u, x, t, span, v), 1e-6
    differences = (u(x + h * v, t + h, span - h) - u(x - h * v, t - h, span + h)) / (2 * h)
    torch.testing.assert_close(found, differences, rtol=1e-5, atol=1e-7)
    assert not found.requires_grad and found.abs().max() > 1e-3
    assert torch.equal(u(x, t, torch.zeros_like(t)), model(x, t, *conditions))  # no span is the velocity at t
    assert not torch.allclose(u(x, t, span), model(x, t, *conditions))
    one, two = torch.ones_like(t), torch.full_like(t, 2.0)
    assert torch.equal(model(x, t, *conditions, guidance=one), model(x, t, *conditions))  # a scale of 1 is none
    assert not torch.allclose(model(x, t, *conditions, guidance=two), model(x, t, *conditions))
    plain = create_model(arch, **args, num_classes=3, **features)
    assert not [name for name in plain.state_dict() if name.startswith(("span", "guidance"))]
    assert plain.state_dict().keys() == {
        name for name in model.state_dict() if not name.startswith(("span.", "guidance."))
    }


def test_guided_averages_double_the_batch_and_the_span():
    def network(x, t, told, span):
        assert len(span) == len(x) and (span == 0.5).all()
        return torch.where(told.dropped[:, None], x, told.class_label[:, None] + 0 * x)

    objective = FlowObjective(choose("path", "linear"))
    velocity = guided(network, objective, Conditions(torch.tensor([2, 3])), scale=3.0)
    found = integrate(velocity, torch.ones(2, 4), solver="mean_flow", steps=2)
    first = 1 + 0.5 * (1 + 3.0 * (torch.tensor([2.0, 3.0]) - 1))
    second = first + 0.5 * (first + 3.0 * (torch.tensor([2.0, 3.0]) - first))
    torch.testing.assert_close(found.x, second[:, None].expand(2, 4))
    assert found.nfe.tolist() == [4, 4]


def test_settings():
    for ratio in (0.0, 0.25, 0.3, 1.0):
        chosen = MeanFlow(ratio=ratio).has_span(torch.arange(100, dtype=torch.float64))
        assert chosen.sum() == round(100 * ratio)
    two, pairs = torch.full((2, 3), 2.0), torch.zeros(2, 3)
    given = Pairs(pairs, pairs, torch.zeros(2), None, Conditions(), None, lambda *told: two, lambda *told: two)
    weighted, plain, _ = MeanFlow(power=0.5).loss(given, FlowObjective(choose("path", "linear")))
    torch.testing.assert_close(plain, torch.full((2,), 4.0))
    torch.testing.assert_close(weighted, plain / 4.001**0.5)
    assert choose("objective", {"name": "mean_flow", "omega": 2.0}).omega == 2
    for wrong in ({"ratio": 1.1}, {"power": -1}, {"omega": float("nan")}, {"omega": 0.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            choose("objective", {"name": "mean_flow", **wrong})


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(4, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2)
        )

    def forward(self, x, t, class_label=None, condition=None, cfg_mask=None, span=None):
        span = torch.zeros_like(t) if span is None else span
        return self.layers(torch.cat((x, t[:, None], span[:, None]), dim=1))


def eight(rows, seed):
    rng = np.random.default_rng(seed)
    angle = rng.integers(0, 8, rows) * np.pi / 4
    return (2 * np.stack((np.cos(angle), np.sin(angle)), 1) + 0.1 * rng.standard_normal((rows, 2))).astype(np.float32)


def recipe(folder, name, objective, **sections):
    plain = {
        "run": {"name": name, "dir": str(folder)},
        "data": {"val_fraction": 0.1},
        "model": {"arch": "custom"},
        "flow": {"objective": objective, "times": "uniform"},
        "optim": {"lr": 3e-3, "weight_decay": 0.0},
        "ema": {"decay": 0.99},
        "train": {"steps": 300, "batch_size": 256, "log_every": 100, "val_every": "never", "save_every": "never"},
        "sample": {"every": "never"},
    }
    return {key: {**plain.get(key, {}), **sections.get(key, {})} for key in plain.keys() | sections.keys()}


def test_one_step_beats_one_step_of_flow_matching(tmp_path):
    """Eight Gaussians, equal networks and updates: squared W2 of 512 samples is 0.3 against 3 of Euler's single step."""
    data, wanted = eight(2048, 0), eight(512, 1)
    scores = {}
    for name in ("flow_matching", "mean_flow"):
        loaded = flowkit.train(recipe(tmp_path, name, name), model=Net(), data=data)
        steps = {} if name == "mean_flow" else {"solver": "euler", "steps": 1}
        samples = loaded.sample(512, **steps)
        assert samples.info["nfe"] == 1 and samples.info["solver"] == ("euler" if steps else "mean_flow")
        cost = cdist(samples.x, wanted) ** 2
        scores[name] = cost[linear_sum_assignment(cost)].mean()
        finer = loaded.sample(64, solver="heun", steps=25).x
        assert (
            1.0 < np.square(finer).sum(1).mean() < 6.0
        )  # used as a velocity in an ODE solver, it also reaches the data
    assert scores["mean_flow"] < 0.3 * scores["flow_matching"]
    with pytest.raises(UserError, match="requires a model of average velocities"):
        flowkit.load(tmp_path / "flow_matching", model=Net()).sample(2, solver="mean_flow")


class Exact(nn.Module):
    """The average velocity of a Gaussian's flow, times `wrong` over spans; under guidance where there are labels."""

    def __init__(self, omega=1.0, wrong=1.0):
        super().__init__()
        self.omega, self.wrong = omega, wrong

    def forward(self, x, t, class_label=None, condition=None, cfg_mask=None, span=None):
        x, t = x.double(), t.double()
        span = torch.zeros_like(t) if span is None else span.double()
        v = torch.where(
            span[:, None] > 0, self.wrong * gaussian_average(x, t, span.clamp_min(1e-9)), gaussian_velocity(x, t)
        )
        if class_label is None:
            return v
        null = torch.tanh(x + t[:, None])
        v = torch.lerp(null, v + class_label[:, None], self.omega)
        return v if cfg_mask is None else torch.where(cfg_mask[:, None], null, v)


def validator(omega=1.0, *, labeled=False):
    x = (MEAN + STD * np.random.default_rng(0).standard_normal((300, 2))).astype(np.float32)
    data = Dataset("points", x, np.arange(300) % 2 if labeled else None, split=np.ones(300, np.uint8),
                   class_names=("a", "b") if labeled else ())  # fmt: skip
    normalizer = choose("normalizer", "none").fit(x, np.arange(300))
    return Validator(data, normalizer, FlowObjective(choose("path", "linear")), NormalBase(), Independent(), 1, omega=omega,
                     max_rows=300, batch_size=128, seed=0, device=torch.device("cpu"))  # fmt: skip


@pytest.mark.parametrize("omega", [0.5, 1.5, 4.0])
def test_validation_of_a_guided_network_is_that_of_what_it_was_guided_from(omega):
    """omega v + (1 - omega) v_null has the loss of v: so losses compare, and the best is the best."""
    plain = validator(labeled=True)(Exact(), contextlib.nullcontext)
    guided = validator(omega, labeled=True)(Exact(omega), contextlib.nullcontext)
    assert guided.loss == pytest.approx(plain.loss, rel=1e-5) and guided.zero_loss == plain.zero_loss
    unaware = validator(labeled=True)(Exact(omega), contextlib.nullcontext)
    assert abs(unaware.loss - plain.loss) > 0.05 * plain.loss


def test_one_step_is_validated_against_the_flow():
    """The exact average has the error of eight midpoint steps only; one that is 20% off has an error of 20% of the distance."""
    of = validator()
    assert of.one_step_error(Exact(), contextlib.nullcontext) < 0.02
    found = of.one_step_error(Exact(wrong=1.2), contextlib.nullcontext)
    noise = of.noise[:256].double()
    expected = (0.2 * (MEAN + (STD - 1) * noise)).square().mean().sqrt()
    assert found == pytest.approx(float(expected), rel=0.02)


def test_the_one_step_error_is_reported_and_saved(tmp_path, recorder):
    of_mean_flow = recipe(tmp_path, "a", "mean_flow", train={"steps": 4, "val_every": 2, "log_every": 2})
    loaded = flowkit.train(of_mean_flow, model=Net(), data=eight(512, 0), listeners=lambda: [recorder])
    found = [event.one_step_error for event in recorder.of(Validated)]
    assert len(found) == 2 and all(error > 0 for error in found)
    lines = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").open()]
    assert [line["val_one_step_error"] for line in lines if "val_loss" in line] == found
    assert loaded.info["validation"]["one_step_error"] == found[-1]
    assert f"one_step_error={value(found[-1])}" in plain_lines.lines(recorder.of(Validated)[-1], RunState())[0]


@pytest.mark.parametrize(("ratio", "batch"), [(0.25, 8), (0.25, 2), (0.6, 16)])
def test_every_row_gets_intervals_where_rows_come_in_a_fixed_order(ratio, batch):
    """Epochs of 32 rows as they stand: row i is always at place i % batch. Counted over 400 epochs."""
    layout, mean_flow = Layout(batch, batch, 1, 0, 1), MeanFlow(ratio=ratio)
    session: Any = SimpleNamespace(layout=layout, draws=Draws(0, torch.device("cpu")),
                                   flow=SimpleNamespace(times=lambda u: u),
                                   recipe=SimpleNamespace(run=SimpleNamespace(seed=0)))  # fmt: skip
    counts = torch.zeros(batch)
    updates = 400 * 32 // batch
    for update in range(updates):
        _, spans = mean_flow.spans(torch.full((batch,), 0.5), UpdateDraws(session, update))
        assert set(spans.rows.tolist()) >= set(spans.length.nonzero().flatten().tolist())
        counts[spans.rows] += 1
        parts = [spans.slice(slice(i, i + batch // 2)).rows + i for i in (0, batch // 2)]
        assert torch.equal(torch.cat(parts), spans.rows)  # whichever rank takes which part of the batch
    assert (counts / updates - ratio).abs().max() < 5 * (ratio * (1 - ratio) / updates) ** 0.5


@pytest.mark.parametrize("arch", ["bezier_sketch_dit", "bezier_sketch_transformer"])
def test_recipes_train_resume_and_sample_with_labels(tmp_path, arch, tiny):
    rows = sketch_rows()
    changed = {
        **tiny,
        "flow": {"objective": {"name": "mean_flow", "omega": 1.5}},
        "sample": {"every": 4, "num_samples": 3},
    }
    changed["model"] = {**tiny["model"], "arch": arch}
    changed["train"] = {**tiny["train"], "save_every": 4, "micro_batch_size": 8}
    loaded = flowkit.train(changed, data=rows)
    assert loaded.info["model_args"]["two_times"] and loaded.info["flow"]["prediction"] == "velocity"
    assert loaded.sample(3, class_label=1, guidance_scale=2.0).info["nfe"] == 2
    whole = load_file(loaded.files.model)
    for file in loaded.files.directory.iterdir():
        file.unlink()
    loaded.files.directory.resolve().rmdir()
    (tmp_path / "runs/tiny/checkpoints/latest").unlink()
    again = load_file(flowkit.train(changed, data=rows, resume=True).files.model)
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


def test_an_earlier_run_goes_on_along_pairs_and_samples_as_before(tmp_path):
    """Version 3 of the numerics had no other way. Its sidecar does not name it."""
    length = {"steps": 8, "save_every": 4}
    plain = recipe(tmp_path, "old", {"name": "mean_flow", "along": "pair"}, model={"arch": "selu_mlp"}, train=length)
    rows = eight(512, 0)
    whole = load_file(flowkit.train(plain, data=rows).files.model)
    first, last = (tmp_path / f"old/checkpoints/step-0000000{step}" for step in (4, 8))
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    (tmp_path / "old/checkpoints/latest").unlink()
    drawn = flowkit.load(first).sample(4).x
    content = json.loads((first / "model.json").read_text())
    content["numerics"], content["flow"]["objective"], content["recipe"]["flow"]["objective"] = (
        3,
        "mean_flow",
        "mean_flow",
    )
    (first / "model.json").write_text(json.dumps(content))
    (first / "checksums.json").unlink()
    loaded = flowkit.load(first)
    assert loaded.flow.objective == MeanFlow(along="pair") and np.array_equal(loaded.sample(4).x, drawn)
    unaware = {**plain, "flow": {**plain["flow"], "objective": "mean_flow"}}
    with pytest.raises(
        UserError, match=r'since this run began: flow\.objective: \{name = "mean_flow".* along = "pair"'
    ):
        flowkit.train(unaware, data=rows, resume=True)
    again = load_file(flowkit.train(plain, data=rows, resume=True).files.model)
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize(
    ("sections", "said"),
    [({"flow": {"prediction": "data"}}, r'flow.prediction: "data" cannot be used with flow.objective = "mean_flow"'),
     ({"flow": {"loss": {"error": "l1"}}}, 'flow.loss.error: "l1" cannot be used with'),
     ({"aux_loss": {"smoothness": 0.1}}, "aux_loss.smoothness: needs predicted data"),
     ({"flow": {"objective": {"name": "mean_flow", "omega": 2.0}, "cond_drop": 0.0}}, "flow.objective.omega: needs an uncond"),
     ({"flow": {"objective": "flow_matching"}, "sample": {"solver": "mean_flow"}}, 'sample.solver: "mean_flow" requires')],
)  # fmt: skip
def test_impossible_combinations_are_reported(tmp_path, sections, said):
    with pytest.raises(UserError, match=said):
        recipe_from_dict(recipe(tmp_path, "a", "mean_flow", **sections))


def test_a_module_that_takes_no_span_is_refused(tmp_path):
    class Plain(nn.Linear):
        def forward(self, x, t):
            return super().forward(x)

    with pytest.raises(UserError, match=r"Plain.forward does not; define forward\(x, t,"):
        flowkit.train(recipe(tmp_path, "a", "mean_flow"), model=Plain(2, 2), data=eight(512, 0))
    assert not (tmp_path / "a").exists()
    one = recipe_from_dict(recipe(tmp_path, "a", "mean_flow", sample={"steps": 2}))
    assert (one.sample.solver.tag(), one.sample.steps) == ("mean_flow", 2)


def train(folder, name):
    """In a process of its own; `bare` is what must not be: the prediction too goes past DDP's hooks."""
    torch.set_num_threads(1)
    if name == "bare":
        session._wrap = lambda accelerator, model: model
    length = {"steps": 12, "batch_size": 64, "log_every": 4, "micro_batch_size": 16}
    changed = recipe(folder, name, {"name": "mean_flow", "ratio": 0.3}, train=length)
    flowkit.train(changed, model=Net(), data=eight(512, 0))


def test_two_processes_train_the_network_that_one_trains(tmp_path):
    running = [
        rank for name in ("one", "two", "bare")
        for rank in start(tmp_path, train, tmp_path, name, ranks=1 if name == "one" else 2)
    ]  # fmt: skip
    for rank in running:
        assert rank.wait() == 0, rank.err
    one, two, bare = (
        load_file(tmp_path / name / "checkpoints" / "latest" / "model.safetensors") for name in ("one", "two", "bare")
    )
    assert distance(two, one) < 1e-5
    assert distance(bare, one) > 1e-3  # and this test sees it


def distance(a, b):
    difference = sum((a[name].double() - b[name].double()).square().sum().item() for name in b)
    return (difference / sum(tensor.double().square().sum().item() for tensor in b.values())) ** 0.5
