"""Processes that train at different speeds stop at the same update, and short updates do not wait for the network."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch

from flowkit.distributed import agreement
from flowkit.distributed.agreement import GO_ON, Agreement


class Network:
    """Several processes in one: the answer to the n-th question is the largest of what all of them asked."""

    def __init__(self, ranks: int):
        self.asked: list[list[torch.Tensor]] = [[] for _ in range(ranks)]
        self.rank = 0

    def all_reduce(self, tensor, kind, group, async_op):
        mine, number = self.rank, len(self.asked[self.rank])
        self.asked[mine].append(tensor.clone())

        def wait():
            assert all(len(asked) > number for asked in self.asked), "another process did not ask: all would hang"
            tensor.copy_(torch.stack([asked[number] for asked in self.asked]).amax(0))

        return SimpleNamespace(wait=wait)


def stopped_at(monkeypatch, seconds, updates, asking, reason=15):
    """Return the update at which each process learns that process 1 asks to stop at `asking`, and the number of exchanges."""
    ranks, network, times = len(seconds), Network(len(seconds)), [0.0] * len(seconds)
    fake = SimpleNamespace(
        is_initialized=lambda: True, get_world_size=lambda: ranks, new_group=lambda **given: "gloo",
        all_reduce=network.all_reduce, ReduceOp=SimpleNamespace(MAX=max), Work=object,
    )  # fmt: skip
    monkeypatch.setattr(agreement, "distributed", fake)
    each = [Agreement(timedelta(hours=1), lambda rank=rank: times[rank]) for rank in range(ranks)]
    found: list[int | None] = [None] * ranks
    for update in range(updates):
        for rank, one in enumerate(each):
            network.rank = rank
            times[rank] += seconds[rank]
            answer = one.of(reason if rank == 1 and update >= asking else GO_ON)
            if answer != GO_ON and found[rank] is None:
                assert answer == reason
                found[rank] = update
        if None not in found:
            break
    for one in each:
        one.settle()
    return found, len(network.asked[0])


@pytest.mark.parametrize("asking", [0, 1, 2, 500, 503, 517])
@pytest.mark.parametrize("seconds", [(0.001, 0.005, 0.002), (1e-5, 1e-5, 1e-5), (2.0, 1.0, 3.0), (0.03, 1e-4, 1e-4)])
def test_all_processes_stop_at_the_same_update(monkeypatch, seconds, asking):
    found, _ = stopped_at(monkeypatch, seconds, 2000, asking)
    assert len(set(found)) == 1
    # Within two exchanges and the update on which the answer is read, by the slowest process's clock.
    within = 2 * min(max(agreement.PAUSE / max(seconds), 1), agreement.LONGEST) + 1
    assert asking < found[0] <= asking + within


def test_short_updates_exchange_seldom_and_long_ones_every_time(monkeypatch):
    _, few = stopped_at(monkeypatch, (0.001, 0.005, 0.002), 1000, 10_000)
    assert 100 <= few <= 110  # every ten updates of the slowest
    _, all_of_them = stopped_at(monkeypatch, (1.0, 1.0), 50, 10_000)
    assert all_of_them == 50


def test_a_single_process_answers_itself():
    assert [Agreement(timedelta(hours=1)).of(reason) for reason in (GO_ON, 15)] == [GO_ON, 15]
