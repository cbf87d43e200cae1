"""Couplings against scipy's linear program and its plain assignment, against laws that are known, and as recipes say them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment, linprog

from flowkit.components import choose, names
from flowkit.conditions import Conditions
from flowkit.errors import UserError
from flowkit.flow.couplings.assignment import assign
from flowkit.flow.couplings.c2ot import weight_for
from flowkit.flow.couplings.coupling import transport_cost
from flowkit.flow.couplings.sinkhorn import draw_permutation, entropic_plan
from flowkit.recipe import recipe_from_dict


def blocks(rows: int, dim: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise, data and labels: eight narrow clusters on a circle in 2-D, otherwise an anisotropic Gaussian shifted by class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 8, rows)
    x0 = rng.standard_normal((rows, dim))
    if dim == 2:
        x1 = 5 * np.stack([np.cos(labels * np.pi / 4), np.sin(labels * np.pi / 4)], 1) + 0.3 * rng.standard_normal(
            (rows, 2)
        )
    else:
        x1 = rng.standard_normal((rows, dim)) * np.exp(0.5 * rng.standard_normal(dim)) + labels[:, None] / 4
    return torch.from_numpy(x0).float(), torch.from_numpy(x1).float(), torch.from_numpy(labels)


def distance(x0: torch.Tensor, x1: torch.Tensor, rows: torch.Tensor) -> float:
    return (x1.double() - x0[rows].double()).square().sum().item()


@pytest.mark.parametrize("name", names("coupling"))
@pytest.mark.parametrize("shape", [(1, 3), (2, 3), (37, 2), (40, 4, 5)])
def test_couplings_are_deterministic_permutations(name, shape):
    x0, x1 = torch.randn(shape), torch.randn(shape)
    labels = torch.arange(shape[0]) % 3
    rows = choose("coupling", name)(x0, x1, Conditions(labels), seed=5)
    assert rows.dtype == torch.int64 and torch.equal(rows.sort().values, torch.arange(shape[0]))
    assert torch.equal(rows, choose("coupling", name)(x0, x1, Conditions(labels), seed=5))


def test_independent_coupling_does_not_permute():
    x0, x1, _ = blocks(20, 2)
    assert torch.equal(choose("coupling", "independent")(x0, x1), torch.arange(20))


# ---- exact transport ----


@pytest.mark.parametrize("size", [1, 2, 5, 40])
def test_ot_matches_linear_programming(size):
    """The least cost over all plans, not over permutations alone: by scipy's LP on the marginal constraints."""
    x0, x1, _ = blocks(size, 3, seed=size)
    cost = torch.cdist(x1.double(), x0.double()).square().numpy()
    sums = np.concatenate([np.kron(np.eye(size), np.ones(size)), np.kron(np.ones(size), np.eye(size))])
    least = linprog(cost.ravel(), A_eq=sums, b_eq=np.ones(2 * size)).fun
    assert distance(x0, x1, choose("coupling", "ot")(x0, x1)) == pytest.approx(least, rel=1e-9)


def duplicated(rows: int) -> np.ndarray:
    x0, x1, _ = blocks(rows, 2)
    return transport_cost(x0[torch.arange(rows) % 7], x1[torch.arange(rows) % 11])


COSTS = {
    "clusters": lambda: transport_cost(*blocks(300, 2)[:2]),
    "high-d": lambda: transport_cost(*blocks(200, 500)[:2]),
    "duplicates": lambda: duplicated(150),
    "all equal": lambda: np.ones((60, 60)),
    "integers": lambda: np.random.default_rng(0).integers(0, 5, (100, 100)).astype(float),
    "far away": lambda: 1e8 + transport_cost(*blocks(100, 2)[:2]),
    "one outlier": lambda: transport_cost(torch.cat([blocks(99, 2)[0], torch.full((1, 2), 1e4)]), blocks(100, 2)[1]),
    "negative": lambda: -transport_cost(*blocks(100, 2)[:2]),
    "tiny": lambda: 1e-30 * transport_cost(*blocks(100, 2)[:2]),
    "huge": lambda: 1e30 * transport_cost(*blocks(100, 2)[:2]),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", COSTS)
def test_assignment_cost_matches_scipy(name):
    cost = COSTS[name]()
    columns, (rows, plain) = assign(cost.copy()), linear_sum_assignment(cost)
    assert sorted(columns) == list(rows)
    assert cost[rows, columns].sum() == pytest.approx(cost[rows, plain].sum(), rel=1e-9)


# ---- labels ----


def spread_given_labels(name: str, blocks_: int = 12, **settings) -> float:
    """How far the noises' means by label lie from 0, in units of what chance gives: chi-squared over its degrees of freedom."""
    sums, counts = torch.zeros(8, 2), torch.zeros(8)
    for seed in range(blocks_):
        x0, x1, labels = blocks(128, 2, seed)
        paired = x0[choose("coupling", {"name": name, **settings})(x0, x1, Conditions(labels), seed=seed)]
        sums.index_add_(0, labels, paired)
        counts.index_add_(0, labels, torch.ones(128))
    return (sums.square().sum(1) / counts).sum().item() / 16


def test_only_c2ot_keeps_the_noise_per_label():
    """16 degrees of freedom: 2.5 is chance of 1 in 2,000. Plain transport gives each class the noises on its own side."""
    assert spread_given_labels("independent") < 2.5
    assert spread_given_labels("c2ot") < 2.5
    assert spread_given_labels("ot") > 20


def test_conditional_transport_never_crosses_labels_and_is_exact_in_each():
    x0, x1, labels = blocks(200, 2)
    rows = choose("coupling", "c2ot")(x0, x1, Conditions(labels))
    assert torch.equal(labels[rows], labels)
    cost = torch.cdist(x1.double(), x0.double()).square()
    cost[labels[:, None] != labels] = 1e6
    best = cost.numpy()[linear_sum_assignment(cost.numpy())].sum()
    assert distance(x0, x1, rows) == pytest.approx(best, rel=1e-9)


def test_c2ot_weight_interpolates_between_ot_and_per_class_ot():
    x0, x1, labels = blocks(150, 2)

    def crossed(w):
        return (
            (labels[choose("coupling", {"name": "c2ot", "weight": w})(x0, x1, Conditions(labels))] != labels)
            .sum()
            .item()
        )

    plain, own = choose("coupling", "ot")(x0, x1), choose("coupling", "c2ot")(x0, x1, Conditions(labels))
    assert torch.equal(choose("coupling", {"name": "c2ot", "weight": 0})(x0, x1, Conditions(labels)), plain)
    assert torch.equal(choose("coupling", {"name": "c2ot", "weight": 1e6})(x0, x1, Conditions(labels)), own)
    assert crossed(0) > crossed(5) > crossed(1e6) == 0


def test_c2ot_uses_conditions_with_few_rows_per_class():
    """Ten rows a class: at a ratio of 0.05 the rows' own noises, counted as pairs, would leave no room for any other."""
    x0, x1, _ = blocks(20, 2)
    labels = torch.arange(20) % 2
    rows = choose("coupling", "c2ot")(x0, x1, Conditions(labels, x1[:, :1]))
    assert not torch.equal(rows, torch.arange(20))


@pytest.mark.parametrize("ratio", [0.02, 0.1, 0.3])
def test_c2ot_weight_reaches_the_ratio(ratio):
    x0, x1, _ = blocks(200, 2)
    cost, position = transport_cost(x0, x1), x1[:, :1].double().numpy()
    apart = (position - position.T) ** 2
    weight = weight_for(cost, apart, ratio)
    others = ~np.eye(200, dtype=bool)  # a row's own noise is not such a pair
    share = lambda w: (cost + w * apart <= np.diagonal(cost)[:, None])[others].mean()  # noqa: E731
    assert share(weight * (1 - 1e-9)) == pytest.approx(ratio, abs=1e-4)
    assert share(weight * 1.1) < ratio < share(weight * 0.9)


def test_a_ratio_beyond_all_pairs_is_plain_transport_and_a_small_one_stays_near_in_condition():
    x0, x1, _ = blocks(150, 2)
    condition = x1[:, :1]
    moved = lambda rows: (condition[rows] - condition).abs().mean().item()  # noqa: E731
    plain = choose("coupling", "ot")(x0, x1)
    assert torch.equal(choose("coupling", {"name": "c2ot", "ratio": 1.0})(x0, x1, Conditions(tokens=condition)), plain)
    far, near = (
        moved(choose("coupling", {"name": "c2ot", "ratio": r})(x0, x1, Conditions(tokens=condition)))
        for r in (0.2, 0.02)
    )
    assert near < 0.5 * far < 0.5 * moved(plain)


def test_cosine_cost_ignores_lengths():
    x0, x1, _ = blocks(60, 2)
    condition = torch.randn(60, 5)
    scaled = condition * torch.rand(60, 1).add(0.1)
    cosines = choose("coupling", {"name": "c2ot", "weight": 3.0, "distance": "cosine"})

    def by(c):
        return cosines(x0, x1, Conditions(tokens=c))

    assert torch.equal(by(condition), by(scaled))
    cosine = 1 - torch.nn.functional.cosine_similarity(condition[:, None].double(), condition.double(), dim=2)
    cost = torch.cdist(x1.double(), x0.double()).square() + 3 * cosine
    assert cost[torch.arange(60), by(condition)].sum() == pytest.approx(cost.numpy()[linear_sum_assignment(cost)].sum())


# ---- entropic transport ----


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("epsilon", [0.01, 0.1, 100.0])
def test_a_plan_in_1024_dimensions_does_not_underflow_and_keeps_its_marginals(epsilon):
    x0, x1, _ = blocks(128, 1024)
    cost = transport_cost(x0, x1)
    assert cost.mean() > 1500 and np.exp(-cost.mean() / (epsilon * 100)) >= 0
    log = entropic_plan(cost, epsilon * cost.mean())
    plan = np.exp(log)
    np.testing.assert_allclose(plan.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(plan.sum(0), 1, rtol=5e-3)
    # It is the plan: its logarithm plus cost / r is a sum of one number per row and one per column.
    rest = log + cost / (epsilon * cost.mean())
    rest = rest - rest.mean(0) - rest.mean(1)[:, None] + rest.mean()
    np.testing.assert_allclose(rest, 0, atol=1e-6)


def test_permutations_are_drawn_with_the_probability_that_their_cost_gives():
    """All 24 permutations of four rows: frequencies against exp(-cost / r) normalized, by chi-squared (99.9 % at 49.7)."""
    cost = np.random.default_rng(1).random((4, 4)) * 3
    log = entropic_plan(cost, 1.0)
    generator, draws = np.random.default_rng(2), 1500
    found = [tuple(draw_permutation(log, generator)) for _ in range(draws)]
    every = list(itertools.permutations(range(4)))
    weights = np.exp([-cost[np.arange(4), list(p)].sum() for p in every])
    expected = draws * weights / weights.sum()
    observed = np.array([found.count(p) for p in every])
    assert ((observed - expected) ** 2 / expected).sum() < 60


def test_the_mean_permutation_tends_to_the_plan():
    x0, x1, labels = blocks(200, 2)
    cost = transport_cost(x0, x1)
    plan = np.exp(entropic_plan(cost, 2.0))
    mean = np.mean([np.eye(200)[draw_permutation(np.log(plan), np.random.default_rng(s))] for s in range(40)], axis=0)
    side = (x0[:, 0] > 0).numpy()
    by_class = lambda p: np.array([p[labels == k][:, side].sum(1).mean() for k in range(8)])  # noqa: E731
    assert np.ptp(by_class(plan)) > 0.9  # classes on the right take noise from the right
    np.testing.assert_allclose(by_class(mean), by_class(plan), atol=0.03)
    assert (mean * cost).sum() == pytest.approx((plan * cost).sum(), rel=0.01)


def test_epsilon_goes_from_transport_to_independence():
    x0, x1, _ = blocks(128, 2)
    exact = distance(x0, x1, choose("coupling", "ot")(x0, x1))
    cost = [
        distance(x0, x1, choose("coupling", {"name": "sinkhorn", "epsilon": e})(x0, x1, seed=1))
        for e in (1e-5, 0.05, 1.0, 1e6)
    ]
    assert cost[0] == pytest.approx(exact, rel=1e-3) and cost == sorted(cost)
    assert spread_given_labels("sinkhorn", epsilon=1e6) < 2.5 and spread_given_labels("sinkhorn", epsilon=1e-3) > 20


def test_regularization_is_in_the_costs_own_units():
    x0, x1, _ = blocks(64, 2)
    mean = float(transport_cost(x0, x1).mean())
    one = choose("coupling", {"name": "sinkhorn", "regularization": 2.0})(x0, x1, seed=3)
    assert torch.equal(one, choose("coupling", {"name": "sinkhorn", "epsilon": 2.0 / mean})(x0, x1, seed=3))
    assert not torch.equal(one, choose("coupling", {"name": "sinkhorn", "regularization": 2.0})(x0, x1, seed=4))


# ---- what cannot be ----


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: choose("coupling", "independant"), "did you mean 'independent'"),
        (lambda: choose("coupling", {"name": "ot", "blok": 3}), "did you mean 'block'"),
        (
            lambda: choose("coupling", {"name": "sinkhorn", "epsilon": 0.1, "regularization": 2.0}),
            "are mutually exclusive",
        ),
        (lambda: choose("coupling", {"name": "c2ot", "weight": 1.0, "ratio": 0.1}), "are mutually exclusive"),
        (lambda: choose("coupling", "c2ot")(torch.ones(2, 2), torch.ones(2, 2)), "neither|none"),
    ],
)
def test_invalid_settings_raise_user_errors(make, said):
    with pytest.raises(UserError, match=said):
        make()


def recipe(coupling, batch_size: int = 64):
    return recipe_from_dict({"run": {"name": "a"}, "model": {"arch": "bezier_sketch_dit"},
                             "train": {"steps": 10, "batch_size": batch_size}, "flow": {"coupling": coupling}})  # fmt: skip


@pytest.mark.parametrize(
    ("coupling", "said"),
    [
        ({"name": "ot", "block": 48}, "flow.coupling.block: 48 does not divide .* 32 and 64"),
        ({"name": "ot", "block": 100}, "flow.coupling.block: 100 is not a multiple .* 64 and 128"),
        ({"name": "ot", "block": 1}, "flow.coupling.ot.block|flow.coupling.block"),
        (
            {"name": "sinkhorn", "epsilon": 0.1, "regularization": 2.0},
            "flow.coupling: epsilon = 0.1 and regularization = 2 are mutually exclusive",
        ),
        (
            {"name": "c2ot", "weight": 1.0, "ratio": 0.1},
            "flow.coupling: weight = 1 and ratio = 0.1 are mutually exclusive",
        ),
        ({"name": "sinkhorn", "epsilon": 0.0}, "epsilon"),
        ("otter", "flow.coupling"),
    ],
)
def test_recipes_refuse_impossible_couplings(coupling, said):
    with pytest.raises(UserError, match=said):
        recipe(coupling)


@pytest.mark.parametrize(
    "coupling", ["ot", "sinkhorn", "c2ot", {"name": "ot", "block": 16}, {"name": "c2ot", "block": 256}]
)
def test_a_recipes_coupling_is_one_that_can_be_built(coupling):
    table = recipe(coupling).to_dict()["flow"]["coupling"]
    built = choose("coupling", table)
    assert built.block == (None if isinstance(coupling, str) else coupling["block"])
