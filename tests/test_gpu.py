"""What only a CUDA device can show: each precision trains, nothing waits inside the loop, deterministic runs repeat."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import flowkit
from flowkit.events import Logged, Stepped, Validated
from tests.conftest import Recorder

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains_to_the_loss_of_fp32(tiny, rows, precision):
    losses = {}
    for name in ("fp32", precision):
        recorder = Recorder()
        overrides = [f"run.name={name}", f"train.precision={name}", "train.steps=200", "optim.lr=3e-3"]
        flowkit.train(tiny, data=rows, overrides=overrides, listeners=lambda recorder=recorder: [recorder])
        losses[name] = recorder.of(Validated)[-1].loss
    assert losses[precision] == pytest.approx(losses["fp32"], rel=0.05)


def test_no_device_sync_between_log_steps(tiny, rows):
    class NoSyncs(Recorder):
        def __call__(self, event):
            super().__call__(event)
            if isinstance(event, Logged):
                torch.cuda.set_sync_debug_mode("error")
            if isinstance(event, Stepped) and event.step % 10 == 9:
                torch.cuda.set_sync_debug_mode("default")

    recorder = NoSyncs()
    tiny["train"].update(steps=39, log_every=10)
    try:
        flowkit.train(tiny, data=rows, listeners=lambda: [recorder])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert recorder.of(Stepped)[-1].step == 39


def test_deterministic_runs_are_bit_equal(tiny, rows, tmp_path):
    for name in ("a", "b"):
        flowkit.train(tiny, data=rows, overrides=[f"run.name={name}", "run.deterministic=true"])
    a, b = (load_file(tmp_path / "runs" / name / "checkpoints/latest/model.safetensors") for name in ("a", "b"))
    assert all(torch.equal(a[name], b[name]) for name in a)
