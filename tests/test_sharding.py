"""A model split among two real processes (FSDP2 over gloo) trains as one that both have whole, and saves what that saves."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import flowkit
from flowkit.distributed.sharding import separate_blocks
from flowkit.errors import UserError
from tests.conftest import sketch_rows
from tests.processes import script, start

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
PARTS = ("model", "ema", "ema-power-0.1", "optimizer")


def recipe(folder: Path, name: str, **sections) -> dict:
    """Accumulation, dropped labels and two averages; five classes and strokes, so that not every tensor halves evenly."""
    sections = {
        "run": {"name": name, "dir": str(folder)},
        "data": {"val_fraction": 0.11},
        "model": {"arch": "bezier_sketch_dit", "embed_dim": 32, "num_layers": 2, "num_heads": 4},
        "flow": {"cond_drop": 0.3},
        "optim": {"lr": 1e-3},
        "ema": {"decay": 0.9, "power": [0.1], "snapshot_every": 15},
        "train": {
            "steps": 30,
            "batch_size": 16,
            "micro_batch_size": 4,
            "log_every": 5,
            "val_every": 15,
            "save_every": 15,
            "val_batch_size": 16,
            "timeout_hours": 3.5,
        },
        "sample": {"every": 15, "num_samples": 2, "steps": 2},
    } | sections
    return sections


def rows() -> dict:
    return sketch_rows(100, num_strokes=5, classes=5)


class Blocks(nn.Module):
    """A custom network: blocks in a Sequential, two of which share a matrix; a table with one row; unseeded weights."""

    def __init__(self):
        super().__init__()
        tied = nn.Linear(16, 16)
        blocks = [nn.Sequential(nn.Linear(16, 16), nn.SiLU(), one) for one in (nn.Linear(16, 16), tied, tied)]
        self.layers = nn.Sequential(*blocks, nn.Linear(16, 8))
        self.start, self.embed = nn.Linear(8, 16), nn.Parameter(torch.randn(1, 16))

    def forward(self, x, t, class_label=None, condition=None, cfg_mask=None):
        return self.layers(self.start(x) + t[:, None, None] * self.embed)


SCRIPT = """
import dataclasses, faulthandler, json, os, shutil, sys
from pathlib import Path
import torch
from accelerate.state import AcceleratorState
import flowkit
from flowkit.training import loop, step, validation
from flowkit.checkpoint.saving import _optimizer_tensors
from flowkit.training.meters import Meters
from flowkit.distributed.sharding import full_tensors
from tests.test_sharding import FSDP, Blocks, recipe, rows
from tests.test_validation import SIZES, losses

faulthandler.dump_traceback_later(60, exit=True)  # ranks that wait for each other say where, and are no orphans
folder, rank, seen = Path(sys.argv[1]), int(os.environ["RANK"]), {}
torch.set_num_threads(1)
validation.MIN_EVALUATIONS = 33  # that is 17 and 16 rows in batches of 16: both ranks make two forward passes all the same
leave = torch.distributed.destroy_process_group
torch.distributed.destroy_process_group = lambda *arguments: None  # one group for all runs

def seconds(group):
    group = group or torch.distributed.distributed_c10d._get_default_group()
    return group._get_backend(torch.device("cpu")).options._timeout.total_seconds()

def launched(name, fsdp, **options):
    for variable in FSDP:
        os.environ.pop(variable, None)
    os.environ.update(FSDP if fsdp else {})
    sections = options.pop("sections", {})
    return flowkit.train(recipe(folder, name, **sections), data=rows(), **options)

def half(earlier, name):
    # A run that was stopped halfway.
    if rank == 0:
        shutil.copytree(folder / earlier, folder / name, symlinks=True)
        shutil.rmtree(folder / name / "checkpoints" / "step-00000030")
        for link in ("latest", "best"):
            (folder / name / "checkpoints" / link).unlink()
    torch.distributed.barrier()

# What is seen on the way: of which kind parameters are, and that a poisoned update leaves all of them alone.
inner = loop.one_update

def one_update(session, number, meters):
    name = session.recipe.run.name
    if number == 7:
        modules = {"model": session.model, **session.ema.modules()}
        seen[name] = {key: sorted({type(p.data).__name__ for p in module.parameters()}) for key, module in modules.items()}
        seen[name]["moments"] = sorted({type(s["exp_avg"]).__name__ for s in session.optimizer.state.values()})
        seen[name]["held"] = sum(getattr(p, "_local_tensor", p).numel() for p in session.model.parameters())
        seen[name]["whole"] = sum(p.numel() for p in session.model.parameters())
        groups = {"run": None, "agreement": session.environment.agreement._group}
        seen[name]["timeouts"] = {of: seconds(group) for of, group in groups.items()}
    if number == 7 and name == "fsdp":
        copied = lambda: {file: {key: value.clone() for key, value in full_tensors(tensors, everywhere=True).items()}
                          for file, tensors in zip(("model", "ema", "power", "moments"), split(session))}
        before, batch = copied(), session.batches.of(number)
        bad = batch.x.clone().fill_(torch.nan) if rank == 1 else batch.x  # on one rank only
        session.batches.of = lambda update: dataclasses.replace(batch, x=bad)
        skipped = inner(session, number, Meters())
        session.ema.update(number + 1, skipped)
        del session.batches.of
        after = copied()
        seen["skip"] = {"skipped": skipped.item(), "changed": [
            f"{file}/{key}" for file in before for key in before[file] if not torch.equal(before[file][key], after[file][key])
        ], "compared": {file: len(before[file]) for file in before}}
    return inner(session, number, meters)

def split(session):
    modules = (session.model, *session.ema.modules().values())
    return [*(module.state_dict() for module in modules), _optimizer_tensors(session.model, session.optimizer)]

loop.one_update = one_update

launched("fsdp", True)
launched("ddp", False)
half("ddp", "ddp-then-fsdp")
launched("ddp-then-fsdp", True, resume=True)
half("fsdp", "fsdp-then-ddp")
launched("fsdp-then-ddp", False, resume=True)
half("fsdp", "fsdp-then-one")  # the test goes on with it

custom = {"model": {"arch": "custom"}, "train": {"steps": 12, "batch_size": 64, "log_every": 4}, "ema": {"decay": 0.9}}
for name, fsdp in (("own-fsdp", True), ("own-ddp", False)):
    torch.manual_seed(rank)
    model = Blocks()
    launched(name, fsdp, sections=custom, model=model)
    seen[name]["left"] = {key: value.tolist() for key, value in model.state_dict().items()}
    seen[name]["plain"] = type(model).__name__ + " " + type(next(model.parameters()).data).__name__

# What cannot be split, or not so.
scalar = Blocks()
scalar.scale = torch.nn.Parameter(torch.tensor(1.0))
refused = {"compile": {"train": {"steps": 2, "batch_size": 64, "compile": True}}, "scalar": {"model": {"arch": "custom"}},
           "mean_flow": {"flow": {"objective": "mean_flow"}}}
for name, sections in refused.items():
    try:
        launched(name, True, sections=sections, model=scalar if name == "scalar" else None)
    except flowkit.errors.UserError as error:
        seen[name] = str(error)
        AcceleratorState._reset_state(reset_partial_state=True)  # what the end of a process does for a run that failed

# A row that spoils every update: each rank looks for it among its own, and all take part.
original = step.flow_loss

def poisoned(session, batch, *arguments):
    loss, terms = original(session, batch, *arguments)
    there = (session.normalizer.denormalize(batch.x) - torch.from_numpy(rows()["x"][5])).abs().flatten(1).amax(1) < 1e-4
    return loss + torch.where(there, torch.inf, 0.0).max(), terms

step.flow_loss = poisoned
spoilt = {"data": {"val_fraction": 0.0}, "sample": {"every": "never"},
          "train": {"steps": 9, "batch_size": 100, "log_every": 2, "max_skipped": 3}}
try:
    launched("bad", True, sections=spoilt)
except flowkit.errors.UserError as error:
    seen["bad"] = str(error)
seen["losses"] = [losses(rank, 2, size) for size in SIZES]
(folder / f"seen-{rank}.json").write_text(json.dumps(seen))
leave()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    (folder / "script.py").write_text(SCRIPT)
    for rank in start(folder, script, folder / "script.py", str(folder), ranks=2):
        assert rank.wait() == 0, rank.err
    return folder


@pytest.fixture(scope="module")
def seen(folder) -> list[dict]:
    return [json.loads((folder / f"seen-{rank}.json").read_text()) for rank in (0, 1)]


def distance(a: dict, b: dict) -> float:
    assert {name: (t.shape, t.dtype) for name, t in a.items()} == {name: (t.shape, t.dtype) for name, t in b.items()}
    difference = sum((a[name].double() - b[name].double()).square().sum().item() for name in b)
    return math.sqrt(difference / sum(tensor.double().square().sum().item() for tensor in b.values()))


def same(folder: Path, run: str, other: str, parts=PARTS) -> None:
    for part in parts:
        a, b = (load_file(folder / one / "checkpoints" / "latest" / f"{part}.safetensors") for one in (run, other))
        assert distance(a, b) < 1e-5, part


def metrics(folder: Path, run: str) -> list[dict]:
    return [json.loads(line) for line in (folder / run / "metrics.jsonl").read_text().splitlines()]


def test_parameters_averages_and_moments_are_split(seen):
    """Or all that follows would compare data parallelism with itself."""
    kinds = {"model", "ema.safetensors", "ema-power-0.1.safetensors", "moments"}
    assert all(one["fsdp"][kind] == ["DTensor"] for one in seen for kind in kinds)
    assert all(one["ddp"][kind] in (["Tensor"], ["Parameter"]) for one in seen for kind in kinds)
    whole = seen[0]["fsdp"]["whole"]
    assert sum(one["fsdp"]["held"] for one in seen) == whole and seen[0]["fsdp"]["held"] < 0.55 * whole


def test_sharded_training_matches_data_parallelism(folder):
    same(folder, "fsdp", "ddp")
    snapshots = (load_file(folder / run / "ema" / "step-00000030" / "power-0.1.safetensors") for run in ("fsdp", "ddp"))
    assert distance(*snapshots) < 1e-3  # in fp16
    for mine, wanted in zip(metrics(folder, "fsdp"), metrics(folder, "ddp"), strict=True):
        assert mine.keys() == wanted.keys()
        for name in mine.keys() & {"step", "loss", "lr", "grad_norm", "val_loss", "val_raw_loss", "skipped"}:
            assert mine[name] == pytest.approx(wanted[name], rel=1e-5), name
    samples = (
        load_file(folder / run / "samples" / "step-00000030" / "samples.safetensors")["x"] for run in ("fsdp", "ddp")
    )
    assert torch.allclose(*samples, atol=1e-4)


def test_processes_wait_for_each_other_as_long_as_the_recipe_says(seen):
    """The first one may draw or decode samples for longer than torch would wait: ten minutes of NCCL, thirty of gloo."""
    hours = {"run": 3.5 * 3600, "agreement": 3.5 * 3600}
    assert all(one[run]["timeouts"] == hours for one in seen for run in ("fsdp", "ddp"))


def test_two_ranks_find_the_validation_losses_of_one_to_the_bit(seen, monkeypatch):
    from flowkit.training import validation
    from tests.test_validation import SIZES, losses

    monkeypatch.setattr(validation, "MIN_EVALUATIONS", 33)  # as there
    assert [one["losses"] for one in seen] == [[losses(0, 1, 64)] * len(SIZES)] * 2


def test_the_files_of_a_run_are_the_same(folder):
    fsdp, ddp = ({str(file.relative_to(folder / run)) for file in (folder / run).rglob("*")} for run in ("fsdp", "ddp"))
    assert fsdp == ddp


@pytest.mark.parametrize("run", ["ddp-then-fsdp", "fsdp-then-ddp"])
def test_sharded_and_unsharded_runs_resume_each_other(folder, run):
    same(folder, run, "ddp")


def test_one_process_resumes_a_sharded_run(folder, monkeypatch):
    from flowkit.training import validation

    monkeypatch.setattr(validation, "MIN_EVALUATIONS", 33)
    flowkit.train(recipe(folder, "fsdp-then-one"), data=rows(), resume=True)
    same(folder, "fsdp-then-one", "ddp")
    # Also where the rows did not divide among the two.
    losses = [metrics(folder, run)[-1]["val_loss"] for run in ("fsdp-then-one", "fsdp")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_skipped_update_leaves_everything_alone_on_all_ranks(seen):
    for one in seen:
        assert one["skip"]["skipped"] == 1 and one["skip"]["changed"] == []
        assert min(one["skip"]["compared"].values()) > 10 and one["skip"]["compared"]["moments"] > 60


def test_custom_module_is_trained_and_stays_whole(folder, seen):
    """Both begin with the first rank's weights, of whatever seed; `own-ddp` has them broadcast too."""
    same(folder, "own-fsdp", "own-ddp", ("model", "ema"))
    sidecars = [
        json.loads((folder / run / "checkpoints" / "latest" / "model.json").read_text())
        for run in ("own-fsdp", "own-ddp")
    ]
    assert sidecars[0]["architecture"] == sidecars[1]["architecture"] == "tests.test_sharding.Blocks"
    saved = load_file(folder / "own-fsdp" / "checkpoints" / "latest" / "model.safetensors")
    for one in seen:
        assert one["own-fsdp"]["plain"] == "Blocks Tensor"
        assert all(torch.equal(torch.tensor(one["own-fsdp"]["left"][name]), saved[name]) for name in saved)


def test_blocks_that_share_a_parameter_stay_with_the_rest():
    one, two, three = Blocks(), Blocks(), nn.Linear(2, 2)
    assert separate_blocks(one) == [one.layers[0]]
    listed = nn.ModuleDict({"lists": nn.ModuleList([nn.ModuleList([one, three]), nn.ModuleDict({"two": two})])})
    assert separate_blocks(listed) == [one, three, two.layers[0]]


def test_updates_that_keep_failing_end_the_run_and_name_the_row(folder, seen):
    report = json.loads((folder / "bad" / "nonfinite.json").read_text())
    assert report["rows"] == [5] and report["parameters"] == [] and len(report["gradients"]) == 30
    assert all("4 consecutive updates" in one["bad"] for one in seen)


@pytest.mark.parametrize(
    ("name", "said"),
    [("compile", "train.compile: not supported with FSDP; set it to false, or launch with"),
     ("scalar", "FSDP cannot split the parameter 'scale', which has no dimension; give it the shape (1,)"),
     ("mean_flow", 'flow.objective: "mean_flow" is not supported with FSDP yet')],
)  # fmt: skip
def test_unshardable_parameter_is_reported(folder, seen, name, said):
    assert all(said in one[name] for one in seen) and not (folder / name).exists()


def test_the_configuration_asks_for_it():
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    file = str(Path(__file__).parents[1] / "accelerate_configs" / "fsdp.yaml")
    arguments = launch_command_parser().parse_args(["--config_file", file, "--num_processes", "4", "-m", "flowkit"])
    variables = prepare_multi_gpu_env(_validate_launch_command(arguments)[0])
    assert FSDP.items() <= variables.items()


REFUSED = [
    ({"ACCELERATE_USE_FSDP": "true"}, "fsdp_version: the launcher's configuration says 1"),
    ({"ACCELERATE_USE_DEEPSPEED": "true"}, "asks for DeepSpeed"),
    ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "asks for Megatron-LM"),
]


@pytest.mark.parametrize(("variables", "said"), REFUSED)
def test_other_ways_to_train_on_several_devices_are_refused(tiny, monkeypatch, variables, said):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said):
        flowkit.train(tiny)


def test_single_process_does_not_shard(tiny, monkeypatch, recorder):
    from flowkit.events import Notice

    for name, value in {**FSDP, "FSDP_OFFLOAD_PARAMS": "true"}.items():
        monkeypatch.setenv(name, value)
    flowkit.train(tiny, listeners=lambda: [recorder])
    said = [event.text for event in recorder.of(Notice)]
    assert "FSDP: there is one process, so the model stays whole" in said
    assert any("flowkit does not support fsdp_offload_params: true" in line for line in said)
