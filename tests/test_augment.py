"""Augmentation: the geometry, joins and signs, what the network is told, and draws that no split of a batch changes."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import flowkit
from flowkit.conditions import Conditions
from flowkit.errors import UserError
from flowkit.models import create_model
from flowkit.models.calls import call_model
from flowkit.recipe.data import Augment
from flowkit.rng import Draws
from flowkit.sketch.augment import PER_ROW, draws
from flowkit.sketch.domain import SketchDomain
from flowkit.sketch.strokes import EXISTS, as_row, continues, exists, pen_strokes
from flowkit.training.batches import Layout, Rows
from flowkit.training.step import augmented, draw_augment
from tests.test_sketch_strokes import chain

DOMAIN = SketchDomain()
ROW = as_row(chain(2, 1, 3), 8)


def augment(row, uniform=None, **ranges):
    """The row augmented with these random numbers, 0.5 unless they are set by position; and what is told."""
    numbers = torch.full((1, draws(len(row))), 0.5)
    for place, value in {0: 0.0, **(uniform or {})}.items():
        numbers[:, place] = value
    x, told = DOMAIN.augment(torch.from_numpy(row[None]), Augment(**ranges), numbers)
    assert x.shape == (1, *row.shape) and told.shape == (1, DOMAIN.augments)
    return x[0].numpy(), told[0].numpy()


@pytest.mark.parametrize(("ranges", "move", "told"), [
    ({"rotation": (90, 90)}, lambda x, y: (-y, x), {1: -1, 2: 1}),  # to the right goes down
    ({"rotation": (180, 180)}, lambda x, y: (-x, -y), {1: -1}),
    ({"mirror": 1.0}, lambda x, y: (-x, y), {0: 1}),
    ({"scale": (0.5, 0.5)}, lambda x, y: (x / 2, y / 2), {3: -1}),
    ({"shear": (0.25, 0.25)}, lambda x, y: (x + y / 4, y), {4: 1}),
    ({"shift": (0.1, 0.1)}, lambda x, y: (x + 0.1, y + 0.1), {5: 1, 6: 1}),
    ({"mirror": 1.0, "rotation": (90, 90), "shift": (-0.2, -0.1), "scale": (2.0, 2.0)},
     lambda x, y: (-2 * y - 0.15, -2 * x - 0.15), {0: 1, 1: -1, 2: 1, 3: 1, 5: -0.75, 6: -0.75}),
])  # fmt: skip
@pytest.mark.parametrize("row", [ROW, ROW[:6, :8]], ids=["pens", "loose"])
def test_points_move_as_computed_by_hand(row, ranges, move, told):
    found, numbers = augment(row, **ranges)
    there = exists(row)
    moved = np.stack(move(row[there][:, 0:8:2], row[there][:, 1:8:2]), axis=-1).reshape(-1, 8)
    np.testing.assert_allclose(found[there][:, :8], moved, atol=1e-6)
    np.testing.assert_array_equal(found[:, 8:], row[:, 8:])
    assert not found[~there, :8].any()
    expected = np.zeros(9)
    expected[list(told)] = list(told.values())
    np.testing.assert_allclose(numbers, expected, atol=1e-6)


@pytest.mark.parametrize(("place", "key", "low", "high"), [
    (2, "rotation", -20, 20), (3, "scale", 1 / 1.5, 1.5), (4, "shear", -0.3, 0.3), (5, "shift", -0.2, 0.2),
])  # fmt: skip
def test_a_number_is_a_range_around_no_change(place, key, low, high):
    bounds = Augment(**{key: {"rotation": 20, "scale": 1.5, "shear": 0.3, "shift": 0.2}[key]})
    assert bounds.bounds(key) == pytest.approx((low, high)) and bounds
    for value, end in ((0.0, low), (1.0, high)):
        ranges = {key: bounds.bounds(key)}
        at = {place: value} if key != "shift" else {5: value, 6: value}
        np.testing.assert_array_equal(augment(ROW, at, **ranges)[0], augment(ROW, **{key: (end, end)})[0])
    found, told = augment(ROW, **ranges)  # 0.5: in the middle
    np.testing.assert_allclose(found, ROW, atol=1e-6)
    np.testing.assert_allclose(told, 0, atol=1e-6)


def test_a_reversed_stroke_is_drawn_from_its_other_end():
    found, told = augment(ROW, {PER_ROW: 0.0, PER_ROW + 1: 0.9, PER_ROW + 2: 0.0}, reverse=0.4)
    was, now = pen_strokes(ROW), pen_strokes(found)
    assert [len(stroke) for stroke in now] == [2, 1, 3]
    np.testing.assert_array_equal(now[1], was[1])
    for stroke in (0, 2):
        points = was[stroke].reshape(-1, 4, 2)[::-1, ::-1].reshape(-1, 8)
        np.testing.assert_array_equal(now[stroke], points)
    np.testing.assert_array_equal(found[:, 8:], ROW[:, 8:])
    np.testing.assert_allclose(told, [0] * 7 + [2 / 3, 0], atol=1e-6)


def test_pen_strokes_move_as_a_whole():
    jitter = PER_ROW + len(ROW)
    found, told = augment(ROW, {jitter: 0.99, jitter + 1: 0.5, jitter + 2: 0.01}, reorder=5.0)
    was = pen_strokes(ROW)
    for now, before in zip(pen_strokes(found), (was[2], was[1], was[0]), strict=True):
        np.testing.assert_array_equal(now, before)
    assert exists(found).sum() == 6 and not found[6:, :8].any()
    np.testing.assert_allclose(told, [0] * 7 + [0, 2 / 3], atol=1e-6)


EVERYTHING = Augment(rotation=30, scale=1.3, shift=0.2, shear=0.2, mirror=0.5, reverse=0.5, reorder=1.0)


def test_rows_stay_drawings_and_unchanged_ones_are_told_zeros():
    rows = np.stack([as_row(chain(2, 1, 3, seed=seed), 8) for seed in range(400)])
    uniform = Draws(0, torch.device("cpu")).uniform("augment", 0, (400, draws(8)))
    x, told = (part.numpy() for part in DOMAIN.augment(torch.from_numpy(rows), EVERYTHING, uniform))
    joined = continues(x)
    assert (joined.sum(1) == 3).all() and (exists(x).sum(1) == 6).all()
    np.testing.assert_array_equal(x[:, 1:, :2][joined[:, 1:]], x[:, :-1, 6:8][joined[:, 1:]])
    DOMAIN.check(SimpleNamespace(x=x), "rows")
    assert not x[~exists(x)][:, :EXISTS].any()
    same = (x == rows).all((1, 2))
    np.testing.assert_array_equal(same, ~told.any(1))
    assert same.mean() == pytest.approx(0.5, abs=0.08)
    assert np.abs(told).max() <= 1 + 1e-6 and (np.abs(told[:, 1:]).max(0) > 0.9).all()
    lengths = {tuple(len(stroke) for stroke in pen_strokes(row)) for row in x}
    assert len(lengths) == 6  # all orders of strokes


def session(layout, rows, ranges=EVERYTHING):
    normalizer = SimpleNamespace(normalize=lambda x: (x - 0.1) / 0.7, denormalize=lambda x: x * 0.7 + 0.1)
    return SimpleNamespace(
        recipe=SimpleNamespace(data=SimpleNamespace(augment=ranges)), domain=DOMAIN, normalizer=normalizer, layout=layout,
        data=SimpleNamespace(x=rows.numpy()), draws=Draws(7, torch.device("cpu")),
        batches=SimpleNamespace(indices=layout.indices()),
    )  # fmt: skip


def test_draws_do_not_depend_on_how_the_batch_is_split():
    rows = (torch.from_numpy(np.stack([as_row(chain(2, 1, 3, seed=seed), 8) for seed in range(16)])) - 0.1) / 0.7

    def changed(layout: Layout, update: int, x: torch.Tensor) -> Rows:
        its = session(layout, rows)
        return augmented(its, Rows(x, Conditions()), draw_augment(its, update))

    whole = changed(Layout(16, 16, 1, 0, 1), 5, rows)
    other = changed(Layout(16, 16, 1, 0, 1), 6, rows)
    assert not torch.equal(whole.x, other.x)
    for rank in range(2):
        layout = Layout(16, 4, 2, rank, 2)
        mine = torch.from_numpy(layout.indices())
        part = changed(layout, 5, rows[mine])
        torch.testing.assert_close(part.x, whole.x[mine])
        torch.testing.assert_close(part.conditions.augmented, whole.conditions.augmented[mine])
    unchanged = ~whole.conditions.augmented.any(1)
    assert unchanged.any() and torch.equal(whole.x[unchanged], rows[unchanged])
    assert draw_augment(session(Layout(16, 16, 1, 0, 1), rows, Augment(rate=0.9)), 5) is None


@pytest.mark.parametrize("arch", ["bezier_sketch_dit", "bezier_sketch_transformer"])
def test_the_embedding_starts_at_zero_and_zeros_are_nothing(arch):
    torch.manual_seed(0)
    model = create_model(arch, num_strokes=6, stroke_dim=10, embed_dim=16, num_layers=1, num_heads=2, augmented=9)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "augmented":
                parameter.add_(0.1 * torch.randn_like(parameter))
    x, t, told = torch.randn(3, 6, 10), torch.rand(3), torch.randn(3, 9)
    plain = call_model(model, x, t, Conditions())
    assert torch.equal(call_model(model, x, t, Conditions(augmented=told)), plain)
    torch.nn.init.normal_(model.augmented)
    assert not torch.allclose(call_model(model, x, t, Conditions(augmented=told)), plain)
    assert torch.equal(call_model(model, x, t, Conditions(augmented=0 * told)), plain)


RECIPE = {
    "data": {"source": "pen_doodles", "num_samples": 64, "augment": {"rotation": 10}},
    "model": {"arch": "bezier_sketch_dit", "embed_dim": 8, "num_layers": 1, "num_heads": 2},
    "train": {"steps": 2, "batch_size": 8, "val_every": 1}, "sample": {"every": "never", "steps": 2},
}  # fmt: skip


def test_validation_and_samples_are_told_nothing(tmp_path, monkeypatch):
    from flowkit.models.bezier_sketch_dit import BezierSketchDiT

    seen, forward = {True: [], False: []}, BezierSketchDiT.forward

    def watched(self, *args, augmented=None, **named):
        seen[self.training].append(augmented)
        return forward(self, *args, augmented=augmented, **named)

    monkeypatch.setattr(BezierSketchDiT, "forward", watched)
    monkeypatch.setattr("flowkit.training.validation.MIN_EVALUATIONS", 8)
    model = flowkit.train({**RECIPE, "run": {"name": "a", "dir": str(tmp_path), "device": "cpu"}})
    assert all(told is not None and told.shape == (8, 9) for told in seen[True]) and len(seen[True]) == 2
    validated = len(seen[False])
    model.sample(2)
    assert validated and len(seen[False]) > validated and all(told is None for told in seen[False])


def test_a_resumed_run_has_the_same_draws(tmp_path):
    from safetensors.torch import load_file

    def train(name, steps, **how):
        recipe = {
            **RECIPE,
            "run": {"name": name, "dir": str(tmp_path), "device": "cpu"},
            "optim": {"schedule": "constant"},
        }
        recipe["train"] = {"steps": steps, "batch_size": 8, "val_every": "never", "save_every": 2}
        flowkit.train(recipe, **how)
        return load_file(tmp_path / name / "checkpoints/latest/model.safetensors")

    whole = train("whole", 4)
    train("parts", 2)
    resumed = train("parts", 4, resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole) and whole["augmented"].any()


@pytest.mark.parametrize(("augment", "expected"), [
    ({"rotation": [20, 10]}, r"data\.augment\.rotation: expected a number from 0 to 180, or \[low, high\] within -180 to 180, "
                             r"found \[20, 10\]"),
    ({"rotation": 400}, r"rotation: expected a number from 0 to 180"),
    ({"rotation": -5}, r"rotation: expected a number from 0 to 180"),
    ({"scale": 0.5}, r"scale: expected a number from 1 to 10, or \[low, high\] within 0\.1 to 10, found 0\.5"),
    ({"scale": [0, 1]}, "scale: expected"),
    ({"shift": "0.1"}, "shift: expected .* remove the quotes"),
    ({"shift": [0.1]}, "shift: expected"),
    ({"shear": math.nan}, "shear: expected"),
    ({"shear": True}, "shear: expected"),
    ({"mirror": 2}, r"mirror: expected a number from 0 to 1"),
    ({"rate": 1.0}, r"rate: expected a number > 0.* and < 1"),
    ({"reorder": -1}, r"reorder: expected a number >= 0"),
    ({"rotate": 3}, r'data\.augment\.rotate: unknown key.*rotation'),
])  # fmt: skip
def test_ranges_without_sense_are_one_message(augment, expected):
    with pytest.raises(UserError, match=expected) as raised:
        flowkit.train({**RECIPE, "run": {"name": "a"}, "data": {"augment": augment}})
    assert "\n" not in str(raised.value).removeprefix("recipe:\n").strip()


@pytest.mark.parametrize(("changes", "expected"), [
    ({"data": {"source": "moons", "num_samples": 300, "augment": {"mirror": 0.5}}, "model": {"arch": "mlp"}},
     r"data\.augment: changes drawings, and the rows are points; remove \[data\.augment\]"),
    ({"flow": {"coupling": "ot"}}, r'data\.augment: cannot be used with flow\.coupling = "ot"'),
])  # fmt: skip
def test_what_cannot_be_augmented_is_refused(tmp_path, changes, expected):
    with pytest.raises(UserError, match=expected):
        flowkit.train({**RECIPE, "run": {"name": "a", "dir": str(tmp_path)}, **changes})


def test_an_own_module_is_not_augmented(tmp_path):
    with pytest.raises(UserError, match=r"data\.augment: not supported for your own module"):
        flowkit.train({**RECIPE, "model": {"arch": "custom"}, "run": {"name": "a", "dir": str(tmp_path)}},
                      model=torch.nn.Linear(2, 2))  # fmt: skip
