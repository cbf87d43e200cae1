"""Row order, keys, splits and normalizers, against numpy and counting."""

import numpy as np
import pytest
import torch

from flowkit.data.dataset import Dataset
from flowkit.data.keys import key
from flowkit.data.normalizers import Normalizer, fit_normalizer
from flowkit.data.order import RowOrder
from flowkit.data.source import with_split
from flowkit.errors import UserError


@pytest.mark.parametrize(("rows", "batch"), [(10, 3), (7, 7), (5, 12), (64, 16)])
def test_every_epoch_shows_every_row_once(rows, batch):
    stream = np.concatenate([RowOrder(rows, batch, seed=3).batch(u) for u in range(40)])
    epochs = stream[: len(stream) // rows * rows].reshape(-1, rows)
    assert (np.sort(epochs, axis=1) == np.arange(rows)).all()
    assert len(epochs) > 2 and (epochs[0] != epochs[1]).any()


def test_a_batch_depends_on_nothing_that_was_asked_before():
    order = RowOrder(50, 8, seed=1)
    for _ in range(20):
        order.batch(_)
    np.testing.assert_array_equal(order.batch(3), RowOrder(50, 8, seed=1).batch(3))
    assert (RowOrder(50, 8, seed=2).batch(3) != order.batch(3)).any()


def test_keys_do_not_collide_where_sums_would():
    keys = {key(seed, what, i) for seed in range(20) for what in ("noise", "times") for i in range(200)}
    assert len(keys) == 20 * 2 * 200 and max(keys) < 2**63


def test_split_is_exact_keyed_and_subsets_nest():
    data = Dataset("array", np.zeros((200, 3), np.float32))
    full = with_split(data, 0.1, None, seed=0, where="x")
    assert len(full.rows("validation")) == 20 and len(full.rows("train")) == 180
    small, large = (with_split(data, 0.1, k, seed=0, where="x").rows("train") for k in (50, 100))
    assert len(small) == 50 and set(small) < set(large) < set(full.rows("train"))
    other = with_split(data, 0.1, None, seed=1, where="x")
    assert set(other.rows("validation")) != set(full.rows("validation"))
    with pytest.raises(UserError, match="181 rows are asked for, and x has 180"):
        with_split(data, 0.1, 181, seed=0, where="x")


def test_a_files_own_split_is_kept():
    split = np.array([2, 1, 0, 0], np.uint8)
    data = with_split(Dataset("array", np.zeros((4, 2), np.float32), split=split), 0.5, None, 0, "x")
    assert data.rows("train").tolist() == [2, 3] and data.rows("test").tolist() == [0]


@pytest.mark.parametrize("name", ["none", "global", "zscore"])
def test_normalizers_invert_and_agree_with_numpy(name):
    rng = np.random.default_rng(0)
    x = (5 + rng.standard_normal((4000, 3, 2)) * [0.1, 4]).astype(np.float32)
    rows = np.arange(0, 4000, 2)
    fitted = fit_normalizer(name, x, rows)
    mean, std = {
        "none": (0.0, 1.0), "global": (x[rows].mean(), x[rows].std()), "zscore": (x[rows].mean(0), x[rows].std(0)),
    }[name]  # fmt: skip
    np.testing.assert_allclose(fitted.shift, mean, rtol=1e-5)
    np.testing.assert_allclose(fitted.scale, std, rtol=1e-5)
    back = Normalizer.from_json(fitted.to_json())
    x64 = torch.from_numpy(x).double()
    torch.testing.assert_close(back.denormalize(back.normalize(x64)), x64, rtol=1e-12, atol=1e-12)


def test_a_normalizer_met_first_while_sampling_still_trains():
    fitted = Normalizer("global", np.asarray(1.0), np.asarray(2.0))
    with torch.inference_mode():
        fitted.denormalize(torch.ones(2))
    x = torch.ones(2, requires_grad=True)
    fitted.denormalize(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [2, 2]


def test_chunks_sum_like_the_whole(monkeypatch):
    rng = np.random.default_rng(1)
    x = (1000 + rng.standard_normal((3000, 4))).astype(np.float32)  # cancellation would show
    whole = fit_normalizer("zscore", x, np.arange(3000))
    monkeypatch.setattr(np, "array_split", lambda rows, n: [rows[i : i + 7] for i in range(0, len(rows), 7)])
    parts = fit_normalizer("zscore", x, np.arange(3000))
    np.testing.assert_allclose(parts.scale, whole.scale, rtol=1e-9)
    np.testing.assert_allclose(parts.scale, x.astype(np.float64).std(0), rtol=1e-9)


def test_constant_elements_stay_finite():
    x = np.random.default_rng(0).standard_normal((100, 3)).astype(np.float32)
    x[:, 1] = 4
    normalized = fit_normalizer("zscore", x, np.arange(100)).normalize(torch.from_numpy(x))
    assert normalized.isfinite().all() and normalized[:, 1].abs().max() < 1e-5
    assert fit_normalizer("global", np.ones((5, 2), np.float32), np.arange(5)).scale == 1
    assert (fit_normalizer("zscore", np.ones((5, 2), np.float32), np.arange(5)).scale == 1).all()


def test_only_training_rows_count():
    x = np.zeros((10, 2), np.float32)
    x[5:] = 100
    assert fit_normalizer("global", x, np.arange(5)).shift == 0
