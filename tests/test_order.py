"""Row order, keys and splits, against counting."""

import threading

import numpy as np
import pytest

from flowkit import rng
from flowkit.data.dataset import Dataset
from flowkit.data_source import with_split
from flowkit.errors import UserError
from flowkit.rng import RowOrder, key


@pytest.mark.parametrize(("rows", "batch"), [(10, 3), (7, 7), (5, 12), (64, 16)])
def test_every_epoch_shows_every_row_once(rows, batch):
    stream = np.concatenate([RowOrder(rows, batch, seed=3).batch(u) for u in range(40)])
    epochs = stream[: len(stream) // rows * rows].reshape(-1, rows)
    assert (np.sort(epochs, axis=1) == np.arange(rows)).all()
    assert len(epochs) > 2 and (epochs[0] != epochs[1]).any()


def test_batches_are_independent_of_earlier_calls():
    order = RowOrder(50, 8, seed=1)
    for _ in range(20):
        order.batch(_)
    np.testing.assert_array_equal(order.batch(3), RowOrder(50, 8, seed=1).batch(3))
    assert (RowOrder(50, 8, seed=2).batch(3) != order.batch(3)).any()


def test_stored_order():
    order = RowOrder(5, 3, seed=1, shuffled=False)
    assert np.concatenate([order.batch(u) for u in (0, 1, 2)]).tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]


class Held(np.random.Generator):
    """Of one thread, whose permutations wait until they may go on."""

    thread: threading.Thread | None = None
    begun, release = threading.Event(), threading.Event()

    def permutation(self, x, axis=0):
        if threading.current_thread() is Held.thread:
            Held.begun.set()
            assert Held.release.wait(10)
        return super().permutation(x, axis)


@pytest.fixture
def held(monkeypatch):
    monkeypatch.setattr(rng.np.random, "Generator", Held)
    Held.begun.clear()
    Held.release.clear()
    yield Held
    Held.thread = None


@pytest.mark.parametrize("before", [None, 0, 1, 3])
@pytest.mark.parametrize(("slow", "asked"), [(1, 0), (1, 2), (1, 1), (0, 4)])
def test_threads_that_share_an_order_each_get_the_epoch_they_ask_for(held, slow, asked, before):
    """While one thread is in the middle of making an epoch's permutation, another asks for the same or another epoch."""
    wanted = [RowOrder(40, 8, seed=1).permutation(epoch) for epoch in range(5)]
    order, found = RowOrder(40, 8, seed=1), {}
    if before is not None:
        order.permutation(before)

    def ask(name, epoch):
        found[name] = order.permutation(epoch)

    held.thread = threading.Thread(target=ask, args=("slow", slow))
    other = threading.Thread(target=ask, args=("other", asked))
    held.thread.start()
    if slow != before:
        assert held.begun.wait(10)
    other.start()
    other.join(0.02)  # it may have to wait for the first
    held.release.set()
    held.thread.join(10)
    other.join(10)
    np.testing.assert_array_equal(found["slow"], wanted[slow])
    np.testing.assert_array_equal(found["other"], wanted[asked])
    for epoch in (asked, slow, asked):
        np.testing.assert_array_equal(order.permutation(epoch), wanted[epoch])


def test_two_neighboring_epochs_are_made_once_each(monkeypatch):
    """A batch that spans two epochs, and a thread that is one epoch ahead, do not recompute the others' permutation."""
    order, made = RowOrder(40, 8, seed=1), []
    make = order._make
    monkeypatch.setattr(order, "_make", lambda epoch: made.append(epoch) or make(epoch))
    for update in range(12):
        order.batch(update)
        order.batch(update + 3)
    assert made == [0, 1, 2]


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
