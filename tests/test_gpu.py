"""What only a CUDA device can show: each precision trains, nothing waits inside the loop, deterministic runs repeat."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import flowkit
from flowkit.components import trusting
from flowkit.data.dataset import Dataset
from flowkit.errors import NotCompiled
from flowkit.events import Logged, Notice, Stepped, Validated
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


@pytest.mark.parametrize(
    "case", ["resident", "read ahead", "flow.objective=mean_flow", "flow.coupling=ot", "flow.coupling=paired"]
)
def test_all_copies_in_the_loop_come_from_pinned_memory(tiny, rows, monkeypatch, case):
    """A copy from other memory waits for the device, which `set_sync_debug_mode` does not find. Threads copy too."""
    from flowkit.training import batches

    copy, pageable, watching = torch.Tensor.to, [], [False]

    def to(tensor, *where, **how):
        found = copy(tensor, *where, **how)
        if watching[0] and found.is_cuda and not (tensor.is_cuda or tensor.is_pinned()):
            pageable.append(tuple(tensor.shape))
        return found

    class Watching(Recorder):
        def __call__(self, event):
            super().__call__(event)
            if isinstance(event, Stepped):
                watching[0] = 2 <= event.step < 15  # not while starting, validating and saving

    monkeypatch.setattr(torch.Tensor, "to", to)
    if case == "read ahead":
        monkeypatch.setattr(batches, "RESIDENT_SHARE", 0.0)
    if case == "flow.coupling=paired":
        told = {name: rows[name] for name in ("class_label", "class_names")}
        rows = Dataset(rows["kind"], rows["x"], **told, noise=np.zeros_like(rows["x"]))
    tiny["train"].update(steps=16, log_every=100, val_every="never")
    tiny["sample"]["every"] = "never"
    recorder = Watching()
    overrides = [case] if "=" in case else []
    flowkit.train(tiny, data=rows, overrides=overrides, listeners=lambda: [recorder])
    assert recorder.of(Stepped)[-1].step == 16
    assert pageable == []


def test_deterministic_runs_are_bit_equal(tiny, rows, tmp_path):
    for name in ("a", "b"):
        flowkit.train(tiny, data=rows, overrides=[f"run.name={name}", "run.deterministic=true"])
    a, b = (load_file(tmp_path / "runs" / name / "checkpoints/latest/model.safetensors") for name in ("a", "b"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("train.precision=bf16",),
        ("train.precision=fp16",),
        ("train.micro_batch_size=8", "train.precision=fp32"),
        ("flow.objective=mean_flow", "train.precision=fp32"),
        ("flow.coupling=ot", "flow.path=icfm"),
        ("aux_loss.bending=0.1", "data.augment={rotation=20,mirror=0.5}"),
        ("model.arch=bezier_sketch_transformer", "model.dropout=0.2"),
        ("ema.decay=[0.5,0.99]", "ema.power=[0.1]", "optim.max_grad_norm=0"),
        ("train.compile=true",),
    ],
    ids=" ".join,
)
def test_recorded_updates_are_the_eager_ones(tiny, rows, tmp_path, overrides):
    """As CUDA graphs. Kernels are the same, and deterministic, so the bits are, except where torch compiles."""
    logged = {}
    for capture in ("true", "false"):
        recorder = Recorder()
        own = [
            f"run.name={capture}",
            f"train.capture={capture}",
            "run.deterministic=true",
            "train.steps=30",
            *overrides,
        ]
        flowkit.train(tiny, data=rows, overrides=own, listeners=lambda recorder=recorder: [recorder])
        assert not [event.text for event in recorder.of(Notice) if "train.capture" in event.text]
        logged[capture] = [(event.loss, event.grad_norm) for event in recorder.of(Logged)]
    compiled = "train.compile=true" in overrides
    for name in ("model", "ema"):
        a, b = (
            load_file(*(tmp_path / "runs" / one / "checkpoints/latest").glob(f"{name}.safetensors")) for one in logged
        )
        for key in a:
            torch.testing.assert_close(a[key], b[key], **({} if compiled else {"rtol": 0, "atol": 0}))
    if not compiled:
        assert logged["true"] == logged["false"]


@pytest.mark.parametrize(
    "how", [{}, {"precision": "bf16"}, {"solver": "dopri5"}, {"guidance_interval": (0.3, 0.7)}], ids=str
)
def test_samples_of_a_compiled_network_are_the_eager_ones(tiny, rows, how):
    """By CUDA graphs, for two sizes of batches, twice; except `dopri5`, which is only compiled."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotCompiled)
        model = flowkit.train(tiny, data=rows, overrides=["train.steps=100", "optim.lr=3e-3", "run.deterministic=true"])
        how = {"solver": "heun", "steps": 4, "guidance_scale": 2.0, "batch_size": 8, "seed": 1, **how}
        eager = model.sample(13, **how).x
        for _ in range(2):
            found = model.sample(13, compile=True, **how).x
            # Rounding may change which steps dopri5 accepts.
            exact = how["solver"] != "dopri5" and "precision" not in how
            assert np.abs(found - eager).max() < (1e-3 if exact else 0.05) * eager.std()


def peeks(x: torch.Tensor) -> torch.Tensor:
    """An auxiliary loss whose branch waits for the device."""
    return x.square().flatten(1).mean(1) * (2.0 if x.abs().max().item() > 0 else 1.0)


def test_a_loss_that_reads_the_device_leaves_updates_eager(tiny, rows, recorder):
    with trusting():
        overrides = ['aux_loss."tests.test_gpu:peeks"=0.1', "train.capture=true"]
        flowkit.train(tiny, data=rows, overrides=overrides, listeners=lambda: [recorder])
    (told,) = [event.text for event in recorder.of(Notice) if "train.capture" in event.text]
    assert told.startswith("train.capture: an update cannot be recorded: ")
    assert recorder.of(Stepped)[-1].step == 8
