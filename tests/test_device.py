"""How torch computes is set for a run or for samples, and restored afterwards."""

from __future__ import annotations

import re
from pathlib import Path

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


def test_copies_to_cuda_come_from_pinned_memory_and_do_not_wait():
    asked = []

    class OnTheHost(torch.Tensor):
        def pin_memory(self):
            asked.append("pin")
            return self

        def to(self, *where, **how):
            asked.append((*where, how))
            return self

    tensor, cuda = torch.zeros(3).as_subclass(OnTheHost), torch.device("cuda")
    device.to_device(tensor, cuda)
    assert asked == ["pin", (cuda, {"non_blocking": True})]
    asked.clear()
    device.to_device(tensor, torch.device("cpu"))
    assert asked == [(torch.device("cpu"), {})]
    plain = torch.zeros(3)
    assert device.to_device(plain, torch.device("cpu")) is plain


def test_only_to_device_copies_without_waiting():
    """From pageable memory such a copy waits all the same, and nothing says so."""
    package = Path(flowkit.__file__).parent
    found = [file.name for file in package.rglob("*.py") if re.search(r"\.to\([^\n]*non_blocking", file.read_text())]
    assert found == ["device.py"]
