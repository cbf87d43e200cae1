"""The compiled update: it is the eager one up to rounding, and a run that uses it can be interrupted like any other.

Compilation takes 5 to 60 seconds for each variant, so most tests run the traced graph as it is. All variants compiled:
`pytest -n 0 -m "" tests/test_compiled.py` (15 minutes on one core).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import flowkit
from flowkit.components import find
from flowkit.errors import UserError
from flowkit.events import Doing, Notice
from flowkit.training import batches, capture, loop
from flowkit.training import session as sessions
from flowkit.training.capture import CapturedUpdate, make_update
from flowkit.training.compiled import Inductor, why_not_whole
from flowkit.training.loop import eager_update
from flowkit.training.meters import Meters
from flowkit.training.session import Session
from tests.conftest import Recorder
from tests.test_capture import UPDATES, VARIANTS, WARM_UP, rehearsed, same, session_of

COMPILED = ("mean_flow", "points bf16")
TRACED = ("sketch", "accumulation", "auxiliary losses", "image and text", "dropout", "augment", "no clipping")


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the graphs that would be compiled."""
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, inputs, options: graph)


@pytest.fixture
def network_uncompiled() -> Any:
    """Where only the network is compiled, do not compile it: it is torch's task and takes seconds."""
    with torch.compiler.set_stance("force_eager"):
        yield


def check(result: Any, variant: str = "") -> None:
    """Measured over all variants after four updates: 4e-6 of a tensor's norm in fp32, 3e-2 in bf16, which rounds less."""
    assert result.captured.replays is not None
    (told,) = result.told
    assert told.startswith("train.compile: compiled the update in ")
    found, means, close = result.found, result.means, 6e-2 if "bf16" in variant else 3e-5
    for name, tensors in found["recorded"].items():
        for mine, its in zip(tensors, found["eager"][name], strict=True):
            assert (mine - its).norm() <= close * its.norm(), name
    assert means["recorded"][0] == pytest.approx(means["eager"][0], rel=close, abs=1e-6)
    assert means["recorded"][1] == means["eager"][1]


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=() if name in COMPILED else pytest.mark.slow) for name in VARIANTS]
)
def test_compiled_updates_are_the_eager_ones(variant, tmp_path, compiler):
    check(rehearsed(variant, tmp_path, Inductor("bf16" if "bf16" in variant else "fp32")), variant)


@pytest.mark.parametrize("variant", TRACED)
def test_traced_updates_are_the_eager_ones(variant, tmp_path, traced):
    check(rehearsed(variant, tmp_path, Inductor("fp32")), variant)


def test_traced_updates_read_rows_from_a_file(tmp_path, traced, monkeypatch):
    monkeypatch.setattr(batches, "RESIDENT_CPU_BYTES", 0)
    check(rehearsed("points", tmp_path, Inductor("fp32")))


@pytest.mark.parametrize("poisoned", [WARM_UP, WARM_UP + 2], ids=["the first", "a later one"])
@pytest.mark.parametrize("variant", ["averages", "accumulation"])
def test_compiled_updates_are_skipped_too(variant, poisoned, tmp_path, request):
    """Compiled once, since a compiler might take NaN - NaN for 0."""
    if variant != "averages" or poisoned == WARM_UP:
        request.getfixturevalue("traced")
    else:
        request.getfixturevalue("compiler")

    def poison(session: Session) -> None:
        noise = session.pairing.noise
        session.pairing.noise = lambda update: noise(update) * (torch.nan if update == poisoned else 1)

    result = rehearsed(variant, tmp_path, Inductor("fp32"), change=poison)
    check(result)
    means, updates = result.means["recorded"]
    assert updates == UPDATES - WARM_UP and means["skipped"] == 1 / updates
    assert {float(step) for step in result.found["recorded"]["steps"]} == {UPDATES - 1}


class Reading(nn.Module):
    """Reads `what` on the host in every call: of what it is given, or of itself."""

    def __init__(self, what: str):
        super().__init__()
        self.layer, self.what = nn.Linear(2, 2), what

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x = self.layer(x)
        if self.what == "an input":
            return x * float(t.sum() > 0)
        if self.what == "a parameter":
            return x * float(1 + self.layer.bias[0].detach())
        return x + torch.from_numpy(t.numpy().copy())[:, None]


@pytest.mark.parametrize(
    ("what", "reason"),
    [("an input", "an update cannot be recorded: "), ("a parameter", "an update cannot be recorded: "),
     ("an array", "the moments of a recorded update differ from an eager one's by ")],
)  # fmt: skip
def test_a_network_that_reads_values_is_compiled_alone(what, reason, tmp_path, network_uncompiled, traced):
    """Each would be a constant of the graph. The first update is done once more, as the later ones are."""
    recorded, eager = {}, {}
    for found, compiled in ((recorded, True), (eager, False)):
        recipe = {
            "run": {"name": f"run-{compiled}", "dir": str(tmp_path)}, "model": {"arch": "custom"},
            "data": {"normalizer": "none"}, "sample": {"every": "never"},
            "train": {"steps": 4, "batch_size": 16, "compile": compiled, "log_every": 1, "val_every": "never"},
        }  # fmt: skip
        torch.manual_seed(0)
        module, heard = Reading(what), Recorder()
        flowkit.train(recipe, model=module, data=torch.randn(64, 2) + 1, listeners=lambda heard=heard: [heard])
        found.update(module.state_dict())
        told = [notice.text for notice in heard.of(Notice) if "compile" in notice.text]
        if compiled:
            (line,) = told
            assert line.startswith(f"train.compile: {reason}") and line.endswith("; only the network is compiled")
            assert module._compiled_call_impl is not None
        else:
            assert told == []
    assert all(torch.equal(recorded[name], eager[name]) for name in eager)


def test_a_loss_that_reads_values_leaves_the_network_compiled(tmp_path, network_uncompiled):
    def used(session: Session) -> None:
        session.aux_losses["mine"] = (0.1, find("loss", "raster"))

    result = rehearsed("sketch", tmp_path, Inductor("fp32"), change=used)
    (told,) = result.told
    assert told.startswith("train.compile: an update cannot be recorded: ")
    assert told.endswith("; only the network is compiled")
    assert same(result.found["recorded"], result.found["eager"]) == []
    assert result.means["recorded"] == result.means["eager"]


def test_without_a_compiler(tmp_path, monkeypatch):
    def missing(*arguments: Any, **options: Any) -> None:
        raise torch._inductor.exc.InvalidCxxCompiler

    monkeypatch.setattr(torch._inductor, "compile", missing)
    with pytest.raises(
        UserError, match=r"^train\.compile: requires a C\+\+ compiler, .* or set train\.compile = false$"
    ):
        rehearsed("points", tmp_path, Inductor("fp32"))


def test_where_whole_updates_are_compiled(tmp_path):
    def reason(device: str, world_size: int = 1) -> str | None:
        accelerator = SimpleNamespace(device=torch.device(device))
        return why_not_whole(SimpleNamespace(world_size=world_size, accelerator=accelerator))

    assert reason("cpu") is None and reason("cuda") == "whole updates are only compiled for the CPU"
    assert reason("cpu", 2) == "whole updates are not supported with several processes yet"


def test_several_processes_compile_the_network(tmp_path, monkeypatch):
    told: list[str] = []
    for module in (capture, sessions):
        monkeypatch.setattr(module, "why_not_whole", lambda environment: "no")
    with session_of("points", tmp_path, "train.compile=true") as session:
        eager = eager_update(session, Meters())
        assert make_update(session, Meters(), eager, told.append) is eager
        assert session.model._compiled_call_impl is not None
    assert told == ["train.compile: no, so only the network is compiled"]


def test_a_compiled_run_can_be_resumed(compiler, tiny, tmp_path, recorder, monkeypatch):
    """Compiled from the first update on, before there are moments and meters; stopped and resumed, it is the same run."""
    made: list[CapturedUpdate] = []

    def noted(*arguments: Any) -> Any:
        made.append(make_update(*arguments))
        return made[-1]

    monkeypatch.setattr(loop, "make_update", noted)
    tiny["train"].update(steps=9, val_every=5, log_every=4, compile=True)
    tiny["model"] = {"arch": "selu_mlp", "hidden_dim": 16, "num_layers": 2}
    tiny["optim"]["schedule"] = "constant"
    rng = np.random.default_rng(0)
    rows = {"x": rng.standard_normal((64, 2)).astype(np.float32) + 1, "kind": "points"}
    for name, overrides in (("compiled", []), ("eager", ["train.compile=false"]), ("parts", ["train.steps=3"])):
        flowkit.train(tiny, data=rows, overrides=[f"run.name={name}", *overrides], listeners=lambda: [recorder])
    flowkit.train(tiny, data=rows, overrides=["run.name=parts"], resume=True)
    assert [one.replays is not None for one in made if isinstance(one, CapturedUpdate)] == [True, True, True]
    assert [event.what for event in recorder.of(Doing)].count("compiling") == 2
    lines = [
        notice.text
        for notice in recorder.of(Notice)
        if notice.text.startswith("train.compile: compiled the update in ")
    ]
    assert len(lines) == 2

    def read(name: str, file: str) -> dict[str, Tensor]:
        return load_file(tmp_path / "runs" / name / "checkpoints" / "step-00000009" / f"{file}.safetensors")

    for file in ("model", "optimizer", "ema"):
        compiled, eager, parts = (read(name, file) for name in ("compiled", "eager", "parts"))
        assert compiled.keys() == eager.keys()
        for key in compiled:
            torch.testing.assert_close(compiled[key], parts[key], rtol=0, atol=0)
            torch.testing.assert_close(compiled[key], eager[key], rtol=1e-4, atol=1e-6)
