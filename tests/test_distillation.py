"""Distillation: exact targets for a Gaussian, the student's start, training from a trained model, scales that it is told."""

import contextlib
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

import flowkit
from flowkit.cli import app
from flowkit.components import choose
from flowkit.conditions import Conditions
from flowkit.data.dataset import Dataset, write_dataset
from flowkit.domain import get_domain
from flowkit.errors import UserError
from flowkit.flow.distillation import Distillation
from flowkit.flow.mean_flow import MeanFlow
from flowkit.flow.objective import FlowObjective, Pairs, Spans
from flowkit.flow.solvers import integrate
from flowkit.metrics.distances import wasserstein2
from flowkit.models import create_model
from flowkit.recipe import recipe_from_dict
from flowkit.rng import Draws
from flowkit.training.batches import Layout
from flowkit.training.step import UpdateDraws
from flowkit.training.teacher import Teacher
from tests.test_mean_flow import (
    ARCHS,
    MEAN,
    STD,
    Exact,
    Net,
    eight,
    gaussian_average,
    gaussian_velocity,
    guided_field,
    recipe,
    validator,
)

LINEAR = FlowObjective(choose("path", "linear"))


def loss_of(objective, network, teacher, x, t, span, told=None, guidance=None):
    """Return the loss per row at x (B, D): the pair has its noise and its data there."""
    spans = Spans(span, torch.ones(len(t), dtype=torch.bool), guidance=guidance)
    told = Conditions() if told is None else told
    return objective.loss(Pairs(x, x, t, None, told, spans, network, network, teacher), LINEAR).shown


def test_the_average_of_a_gaussian_is_learned_to_second_order_in_the_steps():
    generator = torch.Generator().manual_seed(0)
    x, t, share = (torch.rand(64, *shape, generator=generator, dtype=torch.float64) for shape in ((3,), (), ()))
    x, t, span = 4 * x - 2, 0.9 * t, (1 - 0.9 * t) * share + 1e-2
    x[:8], t[:8], span[:8] = x[:8], 0.0, 1.0
    errors = []
    for steps in (8, 16, 32):
        found = loss_of(
            Distillation(teacher="runs/x", steps=steps), lambda x, t, told, span: gaussian_average(x, t, span),
            lambda x, t, told: gaussian_velocity(x, t), x, t, span,
        )  # fmt: skip
        errors.append(found.max().sqrt())
    assert errors[0] < 0.05 and errors[0] / errors[1] > 3.2 and errors[1] / errors[2] > 3.6


@pytest.mark.parametrize("told", ["fixed", "told"])
def test_trajectories_are_guided_except_those_without_conditions(told):
    x, t = torch.linspace(-1, 1, 12, dtype=torch.float64).view(6, 2), torch.linspace(0.0, 0.5, 6, dtype=torch.float64)
    conditions = replace(Conditions(torch.tensor([0.0, 1, 2, 0, 1, 2])), dropped=torch.arange(6) % 3 == 2)
    scale = (
        torch.full((6,), 2.5, dtype=torch.float64) if told == "fixed" else torch.linspace(1, 6, 6, dtype=torch.float64)
    )
    span = torch.full((6,), 0.4, dtype=torch.float64)

    def along(x, shares):
        """The guided field at the times of each row."""
        return span[:, None] * guided_field(conditions, x, t + shares * span, scale)

    expected = (integrate(along, x, solver="midpoint", steps=4).x - x) / span[:, None]
    asked = []

    def network(x, t, conditions, span):
        asked.append(conditions.guidance)
        return expected

    objective = (
        Distillation(teacher="runs/x", omega=2.5) if told == "fixed" else Distillation(teacher="x", omega_max=6.0)
    )
    teacher = lambda x, t, told: guided_field(told, x, t, torch.ones_like(t))  # noqa: E731
    found = loss_of(objective, network, teacher, x, t, span, conditions, None if told == "fixed" else scale)
    torch.testing.assert_close(found, torch.zeros(6, dtype=torch.float64))
    assert asked[0] is None if told == "fixed" else torch.equal(asked[0], scale)


@pytest.mark.parametrize(("counts", "between"), [([1], 0.01), ([1, 2, 4], 0.01), ([4, 3], 0.25), ([3], 1.0)])
def test_intervals(counts, between):
    """Steps of uniform grids, each number of steps as often as another, each step too; others between training times."""
    rows = 20_000
    session: Any = SimpleNamespace(layout=Layout(rows, rows, 1, 0, 1), draws=Draws(0, torch.device("cpu")),
                                   flow=SimpleNamespace(times=lambda u: u),
                                   recipe=SimpleNamespace(run=SimpleNamespace(seed=0)))  # fmt: skip
    drawn = session.draws.uniform("times", 3, (rows,))
    objective = Distillation(teacher="x", counts=counts, between=between, omega_max=5.0)
    t, spans = objective.spans(drawn, UpdateDraws(session, 3))
    assert ((t >= 0) & (spans.length >= 0) & (t + spans.length <= 1 + 1e-6)).all()
    free = ((t == drawn) | (t + spans.length - drawn).abs().lt(1e-6)) & (spans.length != 1)
    assert abs(free.float().mean() - between) < 0.02
    for count in counts:
        for place in range(count):
            here = ~free & (spans.length - 1 / count).abs().lt(1e-6) & (t - place / count).abs().lt(1e-6)
            assert abs(here.float().mean() - (1 - between) / (len(counts) * count)) < 0.02
    assert spans.guidance is not None and 1 <= spans.guidance.min() < 1.1 and 4.5 < spans.guidance.max() <= 5
    assert abs(spans.guidance.log().mean() / np.log(5) - 0.5) < 0.02
    assert spans.rows.tolist() == list(range(rows))


@pytest.mark.parametrize("arch", ARCHS)
def test_a_student_of_the_same_sizes_starts_as_its_teacher(arch):
    args, shape = ARCHS[arch]
    args = {**args, "num_classes": 3, ("clip_dim" if "sketch" in arch else "condition_dim"): 4}
    plain = {} if "selu" in arch or "residual" in arch else {"smooth_time": False}
    torch.manual_seed(0)
    teacher, student = (create_model(arch, **args, **more)
                        for more in ({}, {"two_times": True, "guided": True, **plain}))  # fmt: skip
    for parameter in (*teacher.parameters(), *student.parameters()):
        nn.init.normal_(parameter, std=0.2)
    x, t, span = torch.randn(shape), torch.rand(5), torch.rand(5)
    given = torch.tensor([0, 1, 2, 0, 1]), torch.randn(5, 4), torch.arange(5) > 3
    lender: Any = SimpleNamespace(model=SimpleNamespace(model=teacher, objective=LINEAR))
    Teacher.give_weights(lender, student)
    torch.testing.assert_close(student(x, t, *given, span, guidance=1 + span), teacher(x, t, *given))
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if name.startswith(("span", "guidance")) or name == "input.linear.weight":
                nn.init.normal_(parameter, std=0.2)
    assert not torch.allclose(student(x, t, *given, span), student(x, t, *given))  # and it can learn from the span
    changed = {**args, "class_embed_dim": 32} if arch == "bezier_sketch_transformer" else {**args, "num_classes": 7}
    other = create_model(arch, **changed, two_times=True, **plain)
    wider = create_model(
        arch, **{**args, "hidden_dim" if "sketch" not in arch else "embed_dim": 48}, two_times=True, **plain
    )
    for unlike in (other, wider):
        before = {name: tensor.clone() for name, tensor in unlike.state_dict().items()}
        Teacher.give_weights(lender, unlike)
        assert all(torch.equal(tensor, before[name]) for name, tensor in unlike.state_dict().items())


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A trained model of eight Gaussians, labeled by halves."""
    folder = tmp_path_factory.mktemp("teacher")
    x = eight(2048, 0)
    rows = Dataset("points", x, (x[:, 0] > 0).astype(np.int64), class_names=("left", "right"))
    plain = recipe(folder, "teacher", "flow_matching", model={"arch": "selu_mlp", "hidden_dim": 64})
    return flowkit.train(plain, data=rows), rows


def distilled(teacher, folder, name, *, steps=150, rows=None, resume=False, **settings):
    model, data = teacher
    objective = {"name": "distillation", "teacher": str(model.files.run_dir), **settings}
    changed = recipe(folder, name, objective, model={"arch": "selu_mlp", "hidden_dim": 64})
    changed["train"] = {**changed["train"], "steps": steps, "save_every": steps // 2}
    return flowkit.train(changed, data=data if rows is None else rows, resume=resume)


def test_one_step_of_the_student_is_as_near_as_many_of_its_teacher(teacher, tmp_path):
    """Eight Gaussians: W2 of one step. Before it is far off; a student is nearly where 25 steps of its teacher are."""
    real = eight(512, 1)
    model, _ = teacher
    labels = (real[:, 0] > 0).astype(np.int64)
    draw = lambda model, **how: wasserstein2(model.sample(512, class_label=labels, **how).x, real)  # noqa: E731
    many, one = draw(model, solver="midpoint", steps=25), draw(model, solver="euler", steps=1)
    student = distilled(teacher, tmp_path, "student", counts=[1])
    assert student.sampling.steps == 4
    made = student.sample(512, class_label=labels, steps=1)
    assert made.info["nfe"] == 1 and made.info["solver"] == "mean_flow"
    assert wasserstein2(made.x, real) < many + 0.25 * (one - many)
    assert student.normalizer.same_as(model.normalizer, model.shape)


def test_a_resumed_distillation_is_the_whole_one(teacher, tmp_path):
    whole = load_file(distilled(teacher, tmp_path, "whole", steps=8).files.model)
    (tmp_path / "whole/checkpoints/latest").unlink()
    last = tmp_path / "whole/checkpoints/step-00000008"
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    again = load_file(distilled(teacher, tmp_path, "whole", steps=8, resume=True).files.model)
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize("objective", ["distillation", "mean_flow"])
def test_a_scale_that_the_network_was_told_costs_nothing(teacher, tmp_path, objective):
    told = {"teacher": str(teacher[0].files.run_dir)} if objective == "distillation" else {}
    changed = recipe(tmp_path, "told", {"name": objective, "omega_max": 4.0, **told},
                     model={"arch": "selu_mlp", "hidden_dim": 64},
                     sample={"guidance_scale": 2.0, "solver": "mean_flow", "steps": 1})  # fmt: skip
    model = flowkit.train({**changed, "train": {**changed["train"], "steps": 60}}, data=teacher[1])
    assert model.info["model_args"]["guided"]
    drawn = {scale: model.sample(64, class_label="left", guidance_scale=scale) for scale in (1.0, 2.0, 4.0)}
    assert all(one.info["nfe"] == 1 for one in drawn.values())
    assert not np.allclose(drawn[1.0].x, drawn[2.0].x, atol=1e-3) and not np.allclose(
        drawn[2.0].x, drawn[4.0].x, atol=1e-3
    )
    assert np.array_equal(model.sample(64, class_label="left").x, drawn[2.0].x)  # the recipe's own
    network, noise = model.model, model.base.sample(0, range(64), (2,))
    with torch.inference_mode():
        zero, one, label = torch.zeros(64), torch.ones(64), torch.zeros(64, dtype=torch.int64)
        x = noise + network(noise, zero, label, None, None, one, guidance=4 * one)
    found = model.normalizer.denormalize(x).numpy()
    np.testing.assert_allclose(found, drawn[4.0].x, rtol=1e-5, atol=1e-5)
    null = [model.sample(8, class_label="null", guidance_scale=scale).x for scale in (1.0, 4.0)]
    assert np.isfinite(null).all()
    for wrong, said in (
        (
            {"guidance_scale": 5.0},
            "5: flow.objective.omega_max taught the network scales from 1 to 4; expected a number in",
        ),
        ({"guidance_scale": 0.5}, "0.5: flow.objective.omega_max taught"),
        ({"guidance_scale": {"class": 2.0}}, "class=2: flow.objective.omega_max taught"),
        ({"guidance_interval": (0.1, 0.5)}, "the network does the guidance itself .*; leave out guidance_interval"),
        ({"guidance": "cfg_zero"}, "leave out guidance"),
    ):
        with pytest.raises(UserError, match=said):
            model.sample(2, **{"guidance_scale": 2.0, **wrong})


def test_what_cannot_be_distilled_is_one_message(teacher, tmp_path):
    model, rows = teacher
    cases = (
        ({"teacher": str(tmp_path / "no")}, {}, r"^flow\.objective\.teacher: .*no such run or checkpoint"),
        ({"rows": replace(rows, class_label=None, class_names=())}, {}, r"teacher: .* has classes .*; distillation needs"),
        ({}, {"flow": {"path": "cosine"}}, r"has the path .*; distillation needs a trained model of the same data"),
    )  # fmt: skip
    for number, (settings, sections, said) in enumerate(cases):
        data = settings.pop("rows", rows)
        objective = {"name": "distillation", "teacher": str(model.files.run_dir), **settings}
        changed = recipe(tmp_path, f"bad-{number}", objective, model={"arch": "selu_mlp", "hidden_dim": 64})
        changed["flow"] |= sections.get("flow", {})
        with pytest.raises(UserError, match=said):
            flowkit.train(changed, data=data)
        assert not (tmp_path / f"bad-{number}").exists()
    student = distilled(teacher, tmp_path, "student", steps=2)
    with pytest.raises(UserError, match="learned average velocities; distill a model of flow matching"):
        distilled((student, rows), tmp_path, "grandchild", steps=2)
    never = recipe(tmp_path, "never", "flow_matching", model={"arch": "selu_mlp", "hidden_dim": 64})
    never["flow"]["cond_drop"] = 0.0
    never["train"]["steps"] = 2
    undropped = flowkit.train(never, data=rows)
    with pytest.raises(
        UserError, match=r"flow.cond_drop = 0, so it never saw rows without conditions; set flow.cond_drop = 0"
    ):
        distilled((undropped, rows), tmp_path, "guided", steps=2)
    sketches = get_domain("sketch").generate("doodles", 64, 0)
    drawn = recipe(
        tmp_path, "drawn", "flow_matching", model={"arch": "bezier_sketch_dit", "embed_dim": 16, "num_heads": 2}
    )
    drawn["train"] |= {"steps": 1, "batch_size": 16}
    plain = flowkit.train(drawn, data=sketches)
    turned = {"name": "distillation", "teacher": str(plain.files.run_dir)}
    with pytest.raises(UserError, match=r"drawn and this run must both have \[data.augment\], or neither"):
        flowkit.train({**drawn, "run": {**drawn["run"], "name": "turned"}, "data": {"augment": {"mirror": 0.5}},
                       "flow": {"objective": turned}}, data=sketches)  # fmt: skip
    noisy = recipe(tmp_path, "noisy", "flow_matching", model={"arch": "selu_mlp", "hidden_dim": 64})
    noisy["flow"]["prediction"] = "noise"
    noisy["train"]["steps"] = 2
    with pytest.raises(
        UserError, match=r"predicts the noise, .* distill a model that predicts the velocity or the data"
    ):
        distilled((flowkit.train(noisy, data=rows), rows), tmp_path, "of-noise", steps=2)


@pytest.mark.parametrize(
    ("objective", "sections", "said"),
    [({"omega": 2.0, "omega_max": 3.0}, {}, "omega: cannot be used with omega_max"),
     ({"omega_max": 3.0}, {"flow": {"cond_drop": 0.0}}, "omega_max: needs an unconditional velocity"),
     ({"omega_max": 3.0}, {"sample": {"guidance_scale": 4.0}}, "sample.guidance_scale: 4: flow.objective.omega_max taught"),
     ({"omega_max": 0.5}, {}, "omega_max")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["mean_flow", "distillation"])
def test_settings_that_exclude_each_other(tmp_path, name, objective, sections, said):
    more = {"teacher": "runs/x"} if name == "distillation" else {}
    with pytest.raises(UserError, match=said):
        recipe_from_dict(recipe(tmp_path, "a", {"name": name, **more, **objective}, **sections))


def test_a_module_that_takes_no_scale_is_refused(tmp_path):
    told = recipe(tmp_path, "a", {"name": "mean_flow", "omega_max": 3.0})
    rows = Dataset("points", eight(512, 0), np.arange(512) % 2, class_names=("a", "b"))
    with pytest.raises(UserError, match=r"Net\.forward takes none; define forward\(x, t, .* guidance=None\)"):
        flowkit.train(told, model=Net(), data=rows)


def test_the_command_line(teacher, tmp_path):
    model, rows = teacher
    write_dataset(tmp_path / "rows", rows)
    text = f"""
[run]
name = "student"
dir = "{tmp_path}"
[data]
source = "{tmp_path / "rows.safetensors"}"
[model]
arch = "selu_mlp"
hidden_dim = 64
[flow]
objective = {{ name = "distillation", teacher = "TEACHER" }}
[train]
steps = 4
batch_size = 64
val_every = 4
[sample]
every = "never"
"""
    path = tmp_path / "recipe.toml"
    path.write_text(text.replace("TEACHER", str(tmp_path / "none")))
    result = CliRunner().invoke(app, ["train", str(path)])
    assert isinstance(result.exception, UserError) and "flow.objective.teacher: " in str(result.exception)
    path.write_text(text.replace("TEACHER", str(model.files.run_dir)))
    assert CliRunner().invoke(app, ["train", str(path)]).exit_code == 0
    drawn = CliRunner().invoke(app, ["sample", str(tmp_path / "student"), "-n", "4"])
    assert drawn.exit_code == 0 and "NFE 4" in drawn.output


def test_distill_takes_a_run_and_only_a_run(teacher, tmp_path, monkeypatch):
    """The student has the recipe of its teacher, and `--set` changes it."""
    model, rows = teacher
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "rows", rows)
    data = ["--set", f"data.source={tmp_path / 'rows.safetensors'}", "--set", f"run.dir={tmp_path}"]
    shorter = ["--set", "train.steps=3", "--set", "flow.objective.omega=2"]
    done = CliRunner().invoke(app, ["train", str(model.files.run_dir), "--distill", *data, *shorter])
    assert done.exit_code == 0, done.output
    saved = flowkit.load(tmp_path / "teacher-distilled")
    assert saved.flow.objective == Distillation(teacher=str(model.files.directory.resolve()), omega=2.0)
    assert saved.sampling.solver.tag() == "mean_flow" and saved.sampling.steps == 4
    assert saved.info["recipe"]["train"]["steps"] == 3
    with pytest.raises(UserError, match="leave out --init-from"):
        CliRunner().invoke(app, ["train", "x", "--distill", "--init-from", "x"], catch_exceptions=False)
    for path, said in ((tmp_path / "rows.safetensors", "--distill: "), (tmp_path / "none", "--distill: .*no such run")):
        result = CliRunner().invoke(app, ["train", str(path), "--distill"])
        assert isinstance(result.exception, UserError)
        assert re.search(said, str(result.exception)), result.exception


def test_a_student_has_the_guidance_of_its_teachers_samples(teacher, tmp_path, monkeypatch):
    """And none on top of it; the grid and the kind of guidance are not those of the teacher."""
    _, rows = teacher
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "rows", rows)
    guided = recipe(tmp_path / "it's", "run", "flow_matching", model={"arch": "selu_mlp", "hidden_dim": 64},
                    data={"source": str(tmp_path / "rows.safetensors")}, train={"steps": 2, "batch_size": 64},
                    sample={"guidance_scale": 1.5, "guidance_interval": [0.1, 0.9], "grid": "shifted"})  # fmt: skip
    flowkit.train(guided)
    cases = ((), 1.5, 1.0), (("flow.objective.omega=3",), 3.0, 1.0), (("flow.objective.omega_max=4",), 1.0, 1.5)
    for more, omega, scale in cases:
        words = [word for override in more for word in ("--set", override)]
        done = CliRunner().invoke(app, ["train", "it's/run", "--distill", "--overwrite", *words])
        assert done.exit_code == 0, done.output
        student = flowkit.load("it's/run-distilled")
        assert student.flow.objective.omega == omega and student.sampling.guidance_scale == scale
        assert student.sampling.guidance_interval is None and student.sampling.grid.tag() == "uniform"
        assert student.sample(2).info["nfe"] == 4
    twice = {"name": "distillation", "teacher": "runs/x", "omega": 2.0}
    with pytest.raises(UserError, match=r"would guide once more what flow\.objective\.omega"):
        recipe_from_dict(recipe(tmp_path, "twice", twice, sample={"guidance_scale": 1.5}))


@pytest.mark.parametrize("prediction", ["velocity", "data"])
def test_teachers_that_predict_the_data_are_converted_exactly(prediction):
    """x1 = 3 for every x: a velocity of (3 - x) / (1 - t), also for the last step, where training would clip."""
    objective = FlowObjective(choose("path", "linear"), prediction)
    network = lambda x, t: torch.full_like(x, 3.0) if prediction == "data" else (3 - x) / (1 - t[:, None])  # noqa: E731
    model = SimpleNamespace(model=torch.nn.Linear(1, 1), objective=objective)
    one: Any = SimpleNamespace(model=model, device=torch.device("cpu"), precision="fp32")
    model.model.forward = network
    x, t = torch.tensor([[1.0]]), torch.tensor([0.98])
    torch.testing.assert_close(Teacher.__call__(one, x, t, Conditions()), (3 - x) / (1 - t[:, None]))


def test_short_spans_keep_their_velocity():
    span = torch.tensor([1e-4, 1e-6, 0.0, 0.5])
    seen = []

    def network(x, t, told, span):
        seen.append(x)
        return torch.full_like(x, 3.0)

    x, t = torch.ones(4, 2), torch.full((4,), 0.3)
    found = loss_of(Distillation(teacher="x"), network, lambda x, t, told: torch.full_like(x, 3.0), x, t, span)
    torch.testing.assert_close(found, torch.zeros(4))


def test_one_step_is_validated_against_the_teacher():
    of = validator()
    field = lambda conditions: lambda x, t: torch.full_like(x, 2.0)  # noqa: E731
    found = of.one_step_error(Exact(), contextlib.nullcontext, field)
    noise = of.noise[:256].double()
    assert found == pytest.approx(float((MEAN + STD * noise - noise - 2).square().mean().sqrt()), rel=1e-4)


def test_mean_flow_with_a_range_of_scales_has_the_average_velocity_of_each():
    assert MeanFlow(omega_max=3.0).guidance_max == 3 and Distillation(teacher="x").guidance_max == 1
