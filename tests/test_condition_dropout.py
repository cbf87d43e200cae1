"""Which conditions are dropped in training: by row, at what rates, each kind alone too, and what the networks make of it."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

import flowkit
from flowkit.conditions import KINDS
from flowkit.data.dataset import Dataset
from flowkit.errors import UserError
from flowkit.models import create_model
from flowkit.recipe import recipe_from_dict
from flowkit.rng import Draws
from flowkit.training.batches import Layout
from flowkit.training.session import Session
from flowkit.training.step import draw_dropped

NETWORKS = {
    "mlp": ({"input_dim": 6, "hidden_dim": 16}, (6,)),
    "dit": ({"input_dim": 8, "hidden_dim": 24, "num_heads": 3, "num_tokens": 4}, (8,)),
    "selu_mlp": ({"input_dim": 2, "hidden_dim": 16}, (2,)),
    "residual_mlp": ({"input_dim": 2, "hidden_dim": 16}, (2,)),
    "bezier_sketch_dit": ({"num_strokes": 6, "embed_dim": 16, "num_layers": 2, "num_heads": 2}, (6, 8)),
    "bezier_sketch_transformer": ({"num_strokes": 6, "embed_dim": 16, "num_layers": 2, "num_heads": 2}, (6, 8)),
}


@pytest.mark.parametrize("arch", NETWORKS)
def test_dropping_a_condition_equals_leaving_it_out(arch: str) -> None:
    """As `sample(condition=...)` without a label, and `sample(class_label=...)` without a condition, call the network."""
    sizes, shape = NETWORKS[arch]
    torch.manual_seed(0)
    model = create_model(arch, **sizes, num_classes=3, **{"clip_dim" if "sketch" in arch else "condition_dim": 4})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    x, t, label, condition = torch.randn(4, *shape), torch.rand(4), torch.tensor([0, 1, 2, 1]), torch.randn(4, 4)
    with torch.no_grad():
        wanted = [model(x, t, label, condition), model(x, t, None, condition), model(x, t, label), model(x, t)]
        mask = torch.tensor([[False, False], [True, False], [False, True], [True, True]])
        found = model(x, t, label, condition, mask)
        together = model(x, t, label, condition, mask.all(1))
    for row in range(4):
        torch.testing.assert_close(found[row], wanted[row][row], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together, torch.stack((*wanted[0][:3], wanted[3][3])), rtol=1e-4, atol=1e-5)
    assert min((wanted[a] - wanted[b]).abs().max() for a in range(4) for b in range(a)) > 1e-4


def session(
    rate: float | dict[str, float],
    *,
    label: bool,
    condition: bool,
    rank: int = 0,
    processes: int = 1,
    own: bool = False,
) -> Session:
    rows = np.zeros((4, 2), np.float32)
    data = Dataset("points", rows, np.zeros(4, np.int64) if label else None, rows if condition else None)
    layout = Layout(500, 500 // processes, 1, rank, processes)
    recipe = SimpleNamespace(flow=SimpleNamespace(cond_drop=rate))
    found: Any = SimpleNamespace(
        data=data,
        layout=layout,
        recipe=recipe,
        draws=Draws(3, torch.device("cpu")),
        given=nn.Linear(1, 1) if own else None,
    )
    return cast(Session, found)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4, 1.0])
def test_rates_of_all_four_combinations(rate: float) -> None:
    """With p: none (1 - p)^3, one of the two (1 - p)^2 p each, both the rest."""
    drawn = torch.cat(
        [cast(torch.Tensor, draw_dropped(session(rate, label=True, condition=True), u)) for u in range(200)]
    )
    combinations = {(False, False): (1 - rate) ** 3, (True, False): (1 - rate) ** 2 * rate,
                    (False, True): (1 - rate) ** 2 * rate}  # fmt: skip
    combinations[True, True] = 1 - sum(combinations.values())
    for which, expected in combinations.items():
        share = (drawn[:, :2] == torch.tensor(which)).all(1).double().mean().item()
        assert abs(share - expected) <= 5 * (expected * (1 - expected) / len(drawn)) ** 0.5 + 1e-9, which


def test_one_kind_of_condition_has_one_mask() -> None:
    for kinds in ({"label": True, "condition": False}, {"label": False, "condition": True}):
        drawn = torch.cat([cast(torch.Tensor, draw_dropped(session(0.1, **kinds), u)) for u in range(200)])
        assert drawn.shape == (100_000,) and abs(drawn.double().mean() - 0.1) < 0.005
    assert draw_dropped(session(0.1, label=False, condition=False), 0) is None
    own = draw_dropped(session(0.1, label=True, condition=True, own=True), 0)  # its contract is a mask of rows
    assert own is not None and own.shape == (500,)


def test_dropout_is_drawn_per_update_not_per_process() -> None:
    one = [draw_dropped(session(0.3, label=True, condition=True), u) for u in (7, 8)]
    for rank in (0, 1):
        two = draw_dropped(session(0.3, label=True, condition=True, rank=rank, processes=2), 7)
        assert one[0] is not None and two is not None and torch.equal(one[0], two)
    assert one[1] is not None and not torch.equal(one[0], one[1])


def test_model_learns_the_condition_without_the_label(tmp_path) -> None:
    """One coordinate follows the condition and the other the label: under the condition and no label, the first still does."""
    rng = np.random.default_rng(0)
    condition = rng.choice([-1.0, 1.0], (512, 1)).astype(np.float32)
    label = rng.integers(0, 2, 512)
    x = np.concatenate((2 * condition, 2.0 * label[:, None] - 1), 1).astype(np.float32)
    x += 0.05 * rng.standard_normal(x.shape).astype(np.float32)
    recipe = {
        "run": {"name": "alone", "dir": str(tmp_path)},
        "data": {"val_fraction": 0.0},
        "model": {"arch": "selu_mlp"},
        "flow": {"cond_drop": 0.2, "times": "uniform"},
        "optim": {"lr": 5e-3},
        "ema": {"decay": 0.99},
        "train": {"steps": 250, "batch_size": 256, "log_every": 250, "save_every": "never"},
        "sample": {"every": "never", "steps": 10},
    }
    data = Dataset("points", x, label, condition, class_names=("low", "high"))
    model = flowkit.train(recipe, data=data)
    drawn = model.sample(200, condition=np.ones((200, 1), np.float32)).x
    assert (np.abs(drawn[:, 0] - 2) < 0.5).mean() > 0.9
    assert 0.3 < (drawn[:, 1] > 0).mean() < 0.7  # and of the label nothing was said


TABLES = [
    {"all": 0.2, "class": 0.5, "condition": 0.1},
    {"class": 0.3},
    {"all": 0.4},
    {"condition": 1.0, "all": 0.1},
    {},
]


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_table_sets_each_rate(table: dict[str, float]) -> None:
    every, label, condition = (table.get(name, 0.0) for name in ("all", "class", "condition"))
    drawn = torch.cat(
        [cast(torch.Tensor, draw_dropped(session(table, label=True, condition=True), u)) for u in range(200)]
    )
    for which in [(False, False), (True, False), (False, True), (True, True)]:
        alone = (label if which[0] else 1 - label) * (condition if which[1] else 1 - condition)
        expected = (1 - every) * alone + every * all(which)
        share = (drawn[:, :2] == torch.tensor(which)).all(1).double().mean().item()
        assert abs(share - expected) <= 5 * (expected * (1 - expected) / len(drawn)) ** 0.5 + 1e-9, which
    for kind, rate in (("class", label), ("condition", condition)):
        one = session(table, label=kind == "class", condition=kind == "condition")
        drawn = torch.cat([cast(torch.Tensor, draw_dropped(one, u)) for u in range(200)])
        expected = 1 - (1 - every) * (1 - rate)
        assert drawn.shape == (100_000,)
        assert (
            abs(drawn.double().mean().item() - expected) <= 5 * (expected * (1 - expected) / len(drawn)) ** 0.5 + 1e-9
        )


def test_number_equals_table_with_equal_rates() -> None:
    """Bit for bit. One kind of condition has a single mask. A custom module takes both masks with a table of rates."""
    for p in (0.0, 0.1, 0.7):
        both = [draw_dropped(session(rate, label=True, condition=True), 5)
                for rate in (p, {"all": p, "class": p, "condition": p})]  # fmt: skip
        assert both[0] is not None and both[1] is not None and torch.equal(*both)
        one = [draw_dropped(session(rate, label=True, condition=False), 5) for rate in (p, {"all": p})]
        assert one[0] is not None and one[1] is not None and torch.equal(*one)
    own = draw_dropped(session({"class": 0.5}, label=True, condition=True, own=True), 0)
    assert own is not None and own.shape == (500, 4) and own[:, 0].any() and not own[:, 1].any()


def recipe(folder, cond_drop: Any, **sample: Any) -> dict[str, Any]:
    return {
        "run": {"name": "drop", "dir": str(folder)}, "data": {"val_fraction": 0.0}, "flow": {"cond_drop": cond_drop},
        "model": {"arch": "selu_mlp", "hidden_dim": 8}, "sample": {"every": "never", "steps": 2, **sample},
        "train": {"steps": 2, "batch_size": 8, "save_every": "never"},
    }  # fmt: skip


def rows(*, label: bool = True, condition: bool = True) -> Dataset:
    x = np.random.default_rng(0).standard_normal((16, 2)).astype(np.float32)
    names = ("low", "high") if label else ()
    return Dataset(
        "points", x, np.arange(16) % 2 if label else None, x[:, :1] if condition else None, class_names=names
    )


@pytest.mark.parametrize(
    "bad", [{"lable": 0.1}, {"class": 1.5}, {"all": "0.1"}, {"all": True}, -0.1, 1.01, True, "all", [0.1]]
)
def test_invalid_rates_are_refused(bad, tmp_path) -> None:
    with pytest.raises(
        UserError, match=r"flow.cond_drop: expected a number from 0 to 1, .* named all, class, condition, image, text"
    ):
        recipe_from_dict(recipe(tmp_path, bad))


@pytest.mark.parametrize(("rates", "kinds", "possible"), [
    ({"class": 0.1}, ("class",), True), ({"class": 0.1}, ("condition",), False), ({"condition": 0.1}, ("condition",), True),
    ({"class": 0.1}, ("class", "condition"), False), ({"all": 0.1}, ("class", "condition"), True),
    ({"class": 0.1, "condition": 0.2}, ("class", "condition"), True), (0.1, ("class", "condition"), True),
])  # fmt: skip
def test_guidance_requires_unconditional_rows(rates, kinds, possible, tmp_path) -> None:
    data = rows(label="class" in kinds, condition="condition" in kinds)
    told = {"class_label": "low"} if "class" in kinds else {}
    told |= {"condition": np.zeros(1, np.float32)} if "condition" in kinds else {}
    model = flowkit.train(recipe(tmp_path, rates), data=data)
    assert model.sample(2, **told).info["nfe"] == 4
    again = recipe(tmp_path / "guided", rates, guidance_scale=2.0)
    if possible:
        assert model.sample(2, **told, guidance_scale=2.0).info["nfe"] == 8
        flowkit.train(again, data=data)
    else:
        with pytest.raises(UserError, match=r"guidance_scale: .*cond_drop = \{class = 0.1\}, so it never saw dropped"):
            model.sample(2, **told, guidance_scale=2.0)
        with pytest.raises(
            UserError, match=r"sample.guidance_scale: 2 needs training rows without .*\{class = 0.1\} never"
        ):
            flowkit.train(again, data=data)


def test_sampling_requires_conditions_that_were_never_dropped(tmp_path) -> None:
    model = flowkit.train(recipe(tmp_path, {"all": 0.1, "class": 0.2}), data=rows())
    model.sample(2, condition=np.zeros(1, np.float32))
    model.sample(2, class_label="null")
    with pytest.raises(UserError, match=r"condition: missing; .*\{all = 0.1, class = 0.2\}, so it never saw a row"):
        model.sample(2, class_label="low")
    model.flow = model.flow.model_copy(update={"cond_drop": {"class": 0.2}})
    with pytest.raises(UserError, match=r'class_label: "null", but .*never saw a row without its class'):
        model.sample(2, class_label="null")


def test_no_dropout_means_no_guidance(tmp_path) -> None:
    for rates in (0.0, {}, {"class": 0.0, "all": 0}):
        with pytest.raises(UserError, match=r"sample.guidance_scale: 2 needs a model trained with dropped conditions"):
            recipe_from_dict(recipe(tmp_path, rates, guidance_scale=2.0))


def test_recipe_names_all_kinds(tmp_path) -> None:
    rates = dict.fromkeys(("all", *KINDS), 0.5)
    assert recipe_from_dict(recipe(tmp_path, rates)).flow.cond_drop == rates
    assert rows().condition_kinds == tuple(KINDS)[:2]
