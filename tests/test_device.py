"""How torch computes is set for a run or for samples, and restored afterwards."""

from __future__ import annotations

import pytest
import torch

import flowkit
from flowkit import device
from tests.conftest import Recorder


@pytest.fixture
def as_on_cuda(monkeypatch):
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: True)


def settings() -> tuple:
    return (
        torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )  # fmt: skip


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    ("context", "inside"),
    [(device.tf32_products, ("high", False, True)), (device.repeatable_products, ("highest", True, False))],
)
def test_settings_hold_inside_and_are_restored(as_on_cuda, context, inside, fails):
    before = settings()
    try:
        with context():
            assert settings() == inside
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert settings() == before == ("highest", False, True)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_run_restores_them_and_samples_compute_as_training_did(tiny, rows, monkeypatch, deterministic):
    seen, context = [], device.tf32_products

    class Seen(Recorder):
        def __call__(self, event):
            seen.append(settings()[1:])

    from flowkit.sampling import draw

    entered = []
    monkeypatch.setattr(draw, "tf32_products", lambda: entered.append(True) or context())
    tiny["run"]["deterministic"] = deterministic
    model = flowkit.train(tiny, data=rows, listeners=lambda: [Seen()])
    assert set(seen) == {(True, False) if deterministic else (False, True)}
    assert settings() == ("highest", False, True)
    model.sample(2, steps=1)
    assert bool(entered) == (not deterministic)
    model.numerics = 2  # an earlier version's samples are float32
    entered.clear()
    model.sample(2, steps=1)
    assert not entered
