"""The recorded update without a GPU: no variant reads a result on the host, and recorded updates are those of the eager loop.

Three rehearsals. Operations of an update that a CUDA graph cannot hold raise here. The same update runs on the meta device, where
tensors have no values. And the whole machinery of `CapturedUpdate` runs on the CPU, with `make_fx` in the place of CUDA graphs.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import flowkit
from flowkit.components import find, names
from flowkit.data.dataset import Dataset
from flowkit.data.encoded import Encoded
from flowkit.device import recording
from flowkit.distributed import environment as environments
from flowkit.domain import get_domain
from flowkit.errors import UserError
from flowkit.recipe import recipe_from_dict
from flowkit.training import batches, capture, loop
from flowkit.training import session as sessions
from flowkit.training.capture import WARM_UP, Body, CapturedUpdate, make_update
from flowkit.training.graphs import CudaGraphs, why_not_captured
from flowkit.training.loop import eager_update
from flowkit.training.meters import Meters
from flowkit.training.session import Session, build
from flowkit.training.step import UpdateInputs, micro_loss
from tests.benchmarks import launches

MODELS = {
    "sketch": {"arch": "bezier_sketch_dit", "embed_dim": 8, "num_layers": 1, "num_heads": 2},
    "transformer": {"arch": "bezier_sketch_transformer", "embed_dim": 8, "num_layers": 1, "num_heads": 2},
    "text": {"arch": "dit", "hidden_dim": 8, "num_layers": 1, "num_heads": 2},
    "points": {"arch": "selu_mlp", "hidden_dim": 16, "num_layers": 2},
    "bare": {"arch": "selu_mlp", "hidden_dim": 16, "num_layers": 2},
    "pictures": {"arch": "bezier_sketch_dit", "embed_dim": 8, "num_layers": 1, "num_heads": 2},
    "pairs": {"arch": "selu_mlp", "hidden_dim": 16, "num_layers": 2},
}
# (data, overrides) by name. What is one choice of a component is one variant.
VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "points": ("bare", ()),
    "sketch": ("sketch", ()),
    "transformer": ("transformer", ()),
    "text": ("text", ()),
    "class and condition": ("points", ()),
    "cond_drop by kind": ("sketch", ("flow.cond_drop={class=0.5,condition=0.2}",)),
    "image and text": ("pictures", ()),
    "cosine": ("points", ("flow.path=cosine",)),
    "vp": ("points", ("flow.path=vp",)),
    "spherical": ("text", ("flow.path=spherical",)),
    "icfm": ("points", ("flow.path=icfm",)),
    "bridge": ("points", ("flow.path=schrodinger_bridge",)),
    "sigma_min": ("points", ("flow.path={name=\"linear\",sigma_min=0.1}",)),
    "data": ("text", ("flow.prediction=data",)),
    "noise": ("text", ("flow.prediction=noise", "flow.loss.space=velocity")),
    "min_snr": ("points", ("flow.loss.weights=min_snr",)),
    "bins": ("points", ('flow.loss.weights={name="bins",losses=[1,4]}',)),
    "pseudo_huber": ("points", ("flow.loss.error=pseudo_huber",)),
    "absolute": ("points", ("flow.loss.error=l1",)),
    "stratified": ("points", ("flow.stratified=true", "flow.times=shifted")),
    "ot": ("points", ("flow.coupling=ot",)),
    "sinkhorn": ("points", ("flow.coupling=sinkhorn",)),
    "c2ot": ("points", ('flow.coupling={name="c2ot",block=64}',)),
    "paired": ("pairs", ("flow.coupling=paired",)),
    "another base": ("bare", ("flow.base=moons",)),
    "mean_flow": ("points", ('flow.objective={name="mean_flow",ratio=0.14}',)),
    "mean_flow guided": ("sketch", ('flow.objective={name="mean_flow",omega=2.0,power=0.5,ratio=1.0}',)),
    "mean_flow along pairs": ("sketch", ('flow.objective={name="mean_flow",omega=2.0,along="pair"}',)),
    "mean_flow all scales": ("points", ('flow.objective={name="mean_flow",omega_max=4.0,ratio=0.5}',)),
    "distillation": ("points", ('flow.objective={name="distillation",omega_max=4.0,teacher="{teacher}"}',)),
    "given": ("sketch", ("flow.given=0.5",)),
    "augment": ("sketch", ("data.augment={rotation=20,scale=1.2,shift=0.1,mirror=0.5,reverse=0.3,reorder=1.0}",)),
    "auxiliary losses": ("sketch", tuple(f"aux_loss.{name}=0.1" for name in names("loss") if name != "raster")),
    "dropout": ("text", ("model.dropout=0.2",)),
    "no clipping": ("points", ("optim.max_grad_norm=0",)),
    "averages": ("points", ("ema.decay=[0.5,0.9]", "ema.power=[0.1]")),
    "no average": ("points", ("ema.decay=0",)),
    "bf16": ("sketch", ("train.precision=bf16",)),
    "accumulation": ("sketch", ("train.micro_batch_size=16", "aux_loss.bending=0.1")),
    "accumulation mean_flow": ("sketch", ("train.micro_batch_size=16", 'flow.objective={name="mean_flow",ratio=0.14}')),
    "points bf16": ("points", ("train.micro_batch_size=16", "train.precision=bf16")),
    "accumulation bf16": ("text", ("train.micro_batch_size=8", "train.precision=bf16", "model.dropout=0.2")),
}  # fmt: skip


def data_of(kind: str) -> Dataset:
    rng = np.random.default_rng(0)
    labels, conditions = np.arange(64) % 2, rng.standard_normal((64, 3)).astype(np.float32)
    if kind in ("sketch", "transformer", "pictures"):
        data = Dataset(
            "sketch", get_domain("sketch").generate("doodles", 64, 0).x, labels, conditions, None, ("one", "two")
        )
        if kind != "pictures":
            return data
        first = np.arange(65) * 2
        encoded = {
            name: Encoded(rng.standard_normal((128, 2, size)).astype(np.float16), first, mask, {"encoder": name})
            for name, size, mask in (("image", 3, None), ("text", 4, rng.random((128, 2)) < 0.8))
        }
        return dataclasses.replace(data, condition=None, encoded=encoded)
    if kind == "text":
        return Dataset(
            "embedding", rng.standard_normal((64, 12)).astype(np.float32) + 0.3, labels, conditions, None, ("a", "b")
        )
    x = get_domain("points").generate("8gaussians-labelled", 64, 0).x
    if kind == "pairs":
        return Dataset("points", x, noise=rng.standard_normal(x.shape).astype(np.float32))
    return Dataset("points", x) if kind == "bare" else Dataset("points", x, labels, conditions, None, ("one", "two"))


@contextmanager
def session_of(variant: str, folder: Path, *overrides: str) -> Iterator[Session]:
    kind, own = VARIANTS[variant]
    table = {
        "run": {"name": "rehearsed", "dir": str(folder)},
        "data": {"source": "doodles", "val_fraction": 0.0, "num_samples": 64},
        "model": dict(MODELS[kind]),
        "optim": {"lr": 0.02, "warmup": 2},
        "train": {"steps": 20, "batch_size": 32, "precision": "fp32"},
    }
    if any("{teacher}" in override for override in own):
        rows = data_of(kind)
        short = {"train": {**table["train"], "steps": 3}, "run": {**table["run"], "name": "teacher"}}
        teacher = flowkit.train({**table, **short}, data=rows).files.run_dir
        own = tuple(override.replace("{teacher}", str(teacher)) for override in own)
    recipe = recipe_from_dict(table, [*own, *overrides])
    with environments.joined(recipe) as environment:
        session = build(recipe, environment, data_of(kind), source="rows", run_dir=folder / "rehearsed")
        yield session
        session.pairing.close()
        session.batches.close()


class NotRecorded(RuntimeError):
    """An operation that a CUDA graph cannot hold."""


class OnlyRecordable(TorchDispatchMode):
    """Raises for operations whose result the host reads or whose input it has: on CUDA each waits for the device."""

    READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "unique_dim",
             "unique_consecutive", "bincount", "item", "lift_fresh", "allclose")  # fmt: skip

    def __init__(self, *, on_meta: bool = False):
        super().__init__()
        self.on_meta = on_meta

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if self.on_meta:
            # Zeros of forward-mode derivatives have no memory.
            tensors = [
                one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor) and not one._is_zerotensor()
            ]
            devices = {one.device.type for one in tensors} | {torch.device((kwargs or {}).get("device") or "meta").type}
            if devices != {"meta"} and name != "_efficientzerotensor":
                raise NotRecorded(
                    f"{func} has tensors of the host: {[(one.device.type, one.shape) for one in tensors]}"
                )
        by_bool = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in self.READS or by_bool:
            raise NotRecorded(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


def check_on_meta(session: Session) -> None:
    """Compute a loss and its gradients on the meta device, where no tensor has values and CPU tensors do not belong."""
    with recording():
        micro = UpdateInputs(session, 1, ready=False).micro(0)
    away = lambda tensor: tensor.to("meta")  # noqa: E731
    model = copy.deepcopy(session.model)
    model.__dict__.pop("forward", None)  # accelerate's, which is bound to the original
    model = model.to("meta")
    batches = copy.copy(session.batches)
    if batches._all is not None:
        batches._all = dataclasses.replace(
            batches._all, x=away(batches._all.x), conditions=batches._all.conditions.map(away)
        )
    teacher = copy.copy(session.teacher)
    if teacher is not None:
        teacher.model = copy.copy(teacher.model)
        teacher.model.model = copy.deepcopy(teacher.model.model).to("meta")
    there = dataclasses.replace(session, model=model, wrapped=model, batches=batches, teacher=teacher)
    micro = micro.map(away)
    with recording():
        micro_loss(there, micro)  # makes what is made once
    with recording(), OnlyRecordable(on_meta=True):
        loss, terms = micro_loss(there, micro)
        loss.backward(1 + (loss.detach() - loss.detach()))
    assert all(term.device.type == "meta" for term in (loss, *terms.values()))
    assert any(parameter.grad is not None for parameter in model.parameters())


class Tape(TorchDispatchMode):
    """Records the operations that a body dispatches, and does them again on what is then in the same memory, as a CUDA graph.

    Recording also runs them, which it does not on CUDA. (`make_fx` also decomposes some operations, which changes last bits.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any]] = []
        self.made: list[Any] = []  # by call; kept, so that no two tensors have one id

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.calls.append((func, (args, kwargs or {}), made))
        return made

    @torch.no_grad()
    def replay(self) -> None:
        now: dict[int, Tensor] = {}  # by the id of the recorded tensor

        def latest(tensor: Tensor) -> Tensor:
            return now.get(id(tensor), tensor)

        for func, given, made in self.calls:
            args, kwargs = tree_map_only(Tensor, latest, given)
            again = func(*args, **kwargs)
            then, found = (tree_leaves(one) for one in (made, again))
            now.update({id(old): new for old, new in zip(then, found, strict=True) if isinstance(old, Tensor)})


class Tapes:
    key, otherwise, close = CudaGraphs.key, CudaGraphs.otherwise, CudaGraphs.close

    def __init__(self) -> None:
        self.tried = (
            0  # parts of updates that ran beside: `begin`, `finish` and every `micro` in each attempt to record
        )

    def beside(self) -> Any:
        self.tried += 1
        return OnlyRecordable()

    def record(self, body: Callable[[], object], memory: Sequence[Tensor]) -> Callable[[], object]:
        tape = Tape()
        with tape:
            body()
        return tape.replay

    def done(self, seconds: float) -> str:
        return ""

    def give_up(self, session: Session) -> None:
        pass


UPDATES = WARM_UP + 4


def rehearsed(variant: str, folder: Path, recorder: Any = None, change: Callable[[Session], None] | None = None) -> Any:
    """Train the same updates recorded, eagerly with the branches of a GPU, and eagerly; return states and means by name."""
    found, means, told = {}, {}, []
    with session_of(variant, folder) as session:
        if change is not None:
            change(session)
        meters = Meters()
        eager = eager_update(session, meters)
        for update in range(WARM_UP):
            eager(update)
        if change is None:
            check_on_meta(session)
        meters.means()
        body = Body(session, meters, UpdateInputs(session, 0).micro(0))
        before = body.copy()
        captured = CapturedUpdate(session, meters, eager, told.append, recorder or Tapes(), warm_up=0)
        for name, perform in (("recorded", captured), ("as on a GPU", eager), ("eager", eager)):
            body.put(before)
            for update in range(WARM_UP, UPDATES):
                with recording() if name == "as on a GPU" else nullcontext():
                    perform(update)
            captured.body.forget()
            found[name], means[name] = body.copy(), meters.means()
    return SimpleNamespace(found=found, means=means, told=told, captured=captured)


def check_recorded(variant: str, result: Any) -> None:
    assert result.captured.replays is not None and result.told == []
    found, means = result.found, result.means
    assert same(found["recorded"], found["as on a GPU"]) == [] and means["recorded"] == means["as on a GPU"]
    rounded = {"averages"}  # moved by another kernel
    if "mean_flow" in variant:
        rounded |= found["eager"].keys()  # recorded updates differentiate as many rows in every update
    assert set(same(found["recorded"], found["eager"])) <= rounded
    for name, tensors in found["recorded"].items():
        for mine, its in zip(tensors, found["eager"][name], strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_recorded_updates_are_the_eager_ones(variant, tmp_path):
    """Bit for bit after several updates, against an eager loop that branches as on a GPU; weights against the CPU's too."""
    check_recorded(variant, rehearsed(variant, tmp_path))


@pytest.mark.parametrize("poisoned", [WARM_UP, WARM_UP + 2], ids=["the first", "a later one"])
@pytest.mark.parametrize("variant", ["points", "accumulation"])
def test_recorded_updates_are_skipped_too(variant, poisoned, tmp_path):
    def poison(session: Session) -> None:
        noise = session.pairing.noise
        session.pairing.noise = lambda update: noise(update) * (torch.nan if update == poisoned else 1)

    recorder = Tapes()
    result = rehearsed(variant, tmp_path, recorder, change=poison)
    check_recorded(variant, result)
    tries = 2 if poisoned == WARM_UP else 1  # a skipped update is nothing to compare with
    assert recorder.tried == tries * (2 + (1 if variant == "points" else 2))
    (means, updates) = result.means["recorded"]
    assert updates == UPDATES - WARM_UP and means["skipped"] == 1 / updates
    assert all(map(np.isfinite, means.values()))
    assert {float(step) for step in result.found["recorded"]["steps"]} == {UPDATES - 1}


@pytest.mark.parametrize("variant", ["points", "text", "accumulation"])
def test_recorded_updates_are_graphs_of_fx(variant, tmp_path):
    """By `make_fx`, which finds what depends on a tensor's values. It decomposes some operations, so last bits may differ."""

    class Traces(Tapes):
        def record(self, body: Callable[[], object], memory: Sequence[Tensor]) -> Callable[[], object]:
            return torch.no_grad()(make_fx(lambda: body())())

    result = rehearsed(variant, tmp_path, Traces())
    assert result.captured.replays is not None and result.told == []
    for name, tensors in result.found["recorded"].items():
        for mine, its in zip(tensors, result.found["as on a GPU"][name], strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)
    if variant == "points":
        assert same(result.found["recorded"], result.found["as on a GPU"]) == []


def test_recorded_updates_read_rows_from_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "RESIDENT_CPU_BYTES", 0)
    check_recorded("sketch", rehearsed("sketch", tmp_path))


@pytest.mark.parametrize("loss", ["raster", "custom"])
def test_a_loss_that_reads_the_device_leaves_updates_eager(loss, tmp_path):
    """The number of pixels near a line is not known before, so "raster" reads it."""
    losses = {
        "raster": find("loss", "raster"),
        "custom": lambda x, target: x.square().mean((1, 2)) * float(x.max() > 0),
    }

    def used(session: Session) -> None:
        session.aux_losses["mine"] = (0.1, losses[loss])

    result = rehearsed("sketch", tmp_path, change=used)
    (told,) = result.told
    assert told.startswith("train.capture: an update cannot be recorded: ")
    assert told.endswith(" waits for the device; updates run eagerly")
    assert result.captured.replays is None
    assert same(result.found["recorded"], result.found["eager"]) == []
    assert result.means["recorded"] == result.means["eager"]


@pytest.mark.parametrize("variant", ["points", "accumulation"])
def test_a_recorded_update_that_differs_is_not_used(variant, tmp_path):
    class Forgetful(Tapes):
        """As if a number had been baked in: the learning rate of the update that was recorded stays at 0."""

        def record(self, body: Callable[[], object], memory: Sequence[Tensor]) -> Callable[[], object]:
            replay, lr = super().record(body, memory), body.__self__.lr

            def wrong() -> None:
                lr.zero_()
                replay()

            return wrong

    result = rehearsed(variant, tmp_path, Forgetful())
    (told,) = result.told
    assert told.startswith(
        "train.capture: the weights of a recorded update differ from an eager one's by 1 of its step"
    )
    for name in ("weights", "moments", "steps", "buffers"):
        assert all(map(torch.equal, result.found["recorded"][name], result.found["eager"][name]))


def test_inputs_of_another_shape_leave_updates_eager(tmp_path):
    class Narrow(Tapes):
        """The memory no longer fits after the update that is compared with."""

        def record(self, body: Callable[[], object], memory: Sequence[Tensor]) -> Callable[[], object]:
            replay, its, calls = super().record(body, memory), body.__self__, []

            def once() -> None:
                replay()
                calls.append(0)
                if len(calls) == 2:
                    its._memory[0] = its._memory[0][:1]

            return once

    result = rehearsed("points", tmp_path, Narrow())
    assert result.told == ["train.capture: the inputs of two updates differ in shape; updates run eagerly"]
    assert result.captured.replays is None and result.means["recorded"] == result.means["eager"]
    for name in ("weights", "moments", "steps", "buffers"):
        assert all(map(torch.equal, result.found["recorded"][name], result.found["eager"][name]))


def test_a_failure_while_recording_leaves_updates_eager(tmp_path):
    class Broken(Tapes):
        def record(self, body: Callable[[], object], memory: Sequence[Tensor]) -> Callable[[], object]:
            try:
                raise RuntimeError("CUDA error: operation not permitted.\nMore lines")
            except RuntimeError:
                raise RuntimeError("operation failed due to a previous error during capture") from None

    result = rehearsed("accumulation", tmp_path, Broken())
    assert result.told == [
        "train.capture: an update cannot be recorded: CUDA error: operation not permitted; updates run eagerly"
    ]
    for name in ("weights", "moments", "steps", "buffers"):
        assert all(map(torch.equal, result.found["recorded"][name], result.found["eager"][name]))


def test_where_updates_are_recorded(tmp_path):
    with session_of("points", tmp_path) as session:
        meters, told = Meters(), []
        eager = eager_update(session, meters)
        assert make_update(session, meters, eager, told.append) is eager and told == []
    with session_of("points", tmp_path, "train.capture=false") as session:
        assert make_update(session, meters, eager, told.append) is eager and told == []
    with pytest.raises(UserError, match=r'^train\.capture: requires a CUDA device; set it to "auto" or false$'):
        session_of("points", tmp_path, "train.capture=true").__enter__()

    def reason(*, sharded: bool = False, world_size: int = 1, device: str = "cuda") -> str | None:
        accelerator = SimpleNamespace(device=torch.device(device))
        return why_not_captured(SimpleNamespace(sharded=sharded, world_size=world_size, accelerator=accelerator))

    assert reason() is None and reason(device="cpu") == "requires a CUDA device"
    assert reason(sharded=True, world_size=2) == "not supported with FSDP"
    assert reason(world_size=2) == "not supported with several processes yet"


def test_a_run_with_recorded_updates_can_be_resumed(tiny, rows, tmp_path, monkeypatch):
    """A whole run by the recipe's key, with validation between updates; stopped and resumed, it is the same run."""
    for module in (capture, sessions):
        monkeypatch.setattr(module, "why_not_captured", lambda environment: None)
    monkeypatch.setattr(capture, "CudaGraphs", lambda device: Tapes())
    made: list[CapturedUpdate] = []

    def noted(*arguments: Any) -> Any:
        made.append(make_update(*arguments))
        return made[-1]

    monkeypatch.setattr(loop, "make_update", noted)
    tiny["train"].update(capture="auto", steps=14, save_every=7, val_every=5, log_every=4)
    for name, overrides in (("recorded", []), ("eager", ["train.capture=false"]), ("halves", ["train.steps=7"])):
        flowkit.train(tiny, data=rows, overrides=[f"run.name={name}", "optim.schedule=constant", *overrides])
    flowkit.train(tiny, data=rows, overrides=["run.name=halves", "optim.schedule=constant"], resume=True)
    assert [one.replays is not None for one in made if isinstance(one, CapturedUpdate)] == [True, True, True]

    def read(name: str, file: str) -> dict[str, Tensor]:
        return load_file(tmp_path / "runs" / name / "checkpoints" / "step-00000014" / f"{file}.safetensors")

    for file in ("model", "optimizer", "ema"):
        recorded, eager, halves = (read(name, file) for name in ("recorded", "eager", "halves"))
        for key in recorded:
            close = {"rtol": 1e-5, "atol": 1e-6} if file == "ema" else {"rtol": 0, "atol": 0}
            torch.testing.assert_close(recorded[key], eager[key], **close)
            torch.testing.assert_close(recorded[key], halves[key], **close)


# Upper limits of operations, in the order of PHASES; `python -m tests.benchmarks.launches` prints how many there are.
BUDGETS = {
    "points_quickstart": (8, 1, 10, 9, 22, 19, 8, 3),
    "mlp_text": (18, 1, 10, 18, 34, 19, 8, 4),
    "quickstart": (24, 2, 44, 112, 205, 19, 8, 4),
}


@pytest.mark.parametrize("recipe", BUDGETS)
def test_an_update_has_no_more_operations_than_planned(recipe, tmp_path):
    with launches.session_of(recipe, tmp_path) as session:
        found = launches.operations(session)
    assert all(found.values())
    over = {phase: count for (phase, count), most in zip(found.items(), BUDGETS[recipe], strict=True) if count > most}
    assert not over, f"of {dict(zip(found, BUDGETS[recipe], strict=True))}"


COMPILED = ("image and text", "spherical", "given", "augment", "mean_flow guided", "bf16")


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=() if name in COMPILED else pytest.mark.slow) for name in VARIANTS]
)
def test_the_loss_compiles_to_one_graph(variant, tmp_path):
    """So that `torch.compile` could fuse it with the network. All variants: `pytest -m "" tests/test_capture.py -k one_graph`."""
    with session_of(variant, tmp_path) as session, recording():
        micro = UpdateInputs(session, 0, ready=False).micro(0)
        wanted = micro_loss(session, micro)[0]
        torch._dynamo.reset()
        compiled = torch.compile(lambda: micro_loss(session, micro)[0], fullgraph=True, backend="eager")
        assert torch.equal(compiled(), wanted)


def same(ours: dict[str, list[Tensor]], theirs: dict[str, list[Tensor]]) -> list[str]:
    """Return the names of what is not equal to the bit."""
    assert ours.keys() == theirs.keys()
    return [name for name, tensors in ours.items() if not all(map(torch.equal, tensors, theirs[name]))]
