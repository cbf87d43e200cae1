"""Which conditions are dropped in training: by row, at what rates, each kind alone too, and what the networks make of it."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

import flowkit
from flowkit.data.dataset import Dataset
from flowkit.models import create_model
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
def test_a_kind_that_is_dropped_is_a_kind_that_is_missing(arch: str) -> None:
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
    rate: float, *, label: bool, condition: bool, rank: int = 0, processes: int = 1, own: bool = False
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
def test_the_rates_of_all_four_combinations(rate: float) -> None:
    """With p: none (1 - p)^3, one of the two (1 - p)^2 p each, both the rest."""
    drawn = torch.cat(
        [cast(torch.Tensor, draw_dropped(session(rate, label=True, condition=True), u)) for u in range(200)]
    )
    combinations = {(False, False): (1 - rate) ** 3, (True, False): (1 - rate) ** 2 * rate,
                    (False, True): (1 - rate) ** 2 * rate}  # fmt: skip
    combinations[True, True] = 1 - sum(combinations.values())
    for which, expected in combinations.items():
        share = (drawn == torch.tensor(which)).all(1).double().mean().item()
        assert abs(share - expected) <= 5 * (expected * (1 - expected) / len(drawn)) ** 0.5 + 1e-9, which


def test_of_one_kind_it_is_one_mask_at_the_rate_that_the_recipe_says() -> None:
    for kinds in ({"label": True, "condition": False}, {"label": False, "condition": True}):
        drawn = torch.cat([cast(torch.Tensor, draw_dropped(session(0.1, **kinds), u)) for u in range(200)])
        assert drawn.shape == (100_000,) and abs(drawn.double().mean() - 0.1) < 0.005
    assert draw_dropped(session(0.1, label=False, condition=False), 0) is None
    own = draw_dropped(session(0.1, label=True, condition=True, own=True), 0)  # its contract is a mask of rows
    assert own is not None and own.shape == (500,)


def test_the_draw_is_of_the_update_and_no_process_has_its_own() -> None:
    one = [draw_dropped(session(0.3, label=True, condition=True), u) for u in (7, 8)]
    for rank in (0, 1):
        two = draw_dropped(session(0.3, label=True, condition=True, rank=rank, processes=2), 7)
        assert one[0] is not None and two is not None and torch.equal(one[0], two)
    assert one[1] is not None and not torch.equal(one[0], one[1])


def test_a_model_learns_what_the_condition_alone_means(tmp_path) -> None:
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
