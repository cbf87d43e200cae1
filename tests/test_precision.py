"""Lower precision and compilation train to what plain fp32 training gives, on one process and on two."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import flowkit
from flowkit.checkpoint import read_model_json
from flowkit.data.dataset import Dataset, write_dataset
from flowkit.distributed import environment
from flowkit.distributed.environment import with_precision
from flowkit.errors import UserError
from flowkit.events import RunStarted
from flowkit.recipe import recipe_from_dict
from tests.conftest import sketch_rows
from tests.test_two_processes import RECIPE, distance, launch, tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("precision")
    rows = sketch_rows(100)
    write_dataset(folder / "rows", Dataset("sketch", rows["x"], rows["class_label"], class_names=rows["class_names"]))
    (folder / "recipe.toml").write_text(RECIPE.replace("lr = 1e-4", "lr = 1e-3"))
    done = launch(folder, 1, "--set", "run.name=plain")
    assert done.returncode == 0, done.stderr
    return folder


def losses(folder: Path, run: str, name: str) -> list[float]:
    lines = map(json.loads, (folder / "runs" / run / "metrics.jsonl").read_text().splitlines())
    return [line[name] for line in lines if name in line]


def test_bf16_trains_to_the_loss_of_fp32(folder):
    """Measured on a CPU: losses 0.01% apart, parameters 0.07% after 50 updates."""
    done = launch(folder, 1, "--set", "run.name=bf16", "--set", "train.precision=bf16")
    assert done.returncode == 0, done.stderr
    assert losses(folder, "bf16", "val_loss")[-1] == pytest.approx(losses(folder, "plain", "val_loss")[-1], rel=0.002)
    assert losses(folder, "bf16", "loss") == pytest.approx(losses(folder, "plain", "loss"), rel=0.002)
    assert 1e-5 < distance(tensors(folder, "bf16"), tensors(folder, "plain")) < 0.01  # it is another arithmetic


@pytest.mark.parametrize("device", ["auto", "cpu"])
@pytest.mark.parametrize("bf16", [False, True])
def test_auto_is_bf16_where_cuda_has_it(tiny, monkeypatch, device, bf16):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 and not including_emulation)
    recipe = recipe_from_dict(tiny, [f"run.device={device}"])
    assert recipe.train.precision == "auto"
    assert with_precision(recipe).train.precision == ("bf16" if bf16 and device == "auto" else "fp32")
    assert with_precision(recipe, "fp16").train.precision == "fp16"  # as the run began
    chosen = recipe_from_dict(tiny, ["train.precision=fp16"])
    assert with_precision(chosen, "fp32") is chosen


def test_auto_is_saved_resolved_and_a_resumed_run_keeps_it(tiny, rows, recorder, monkeypatch):
    flowkit.train(tiny, data=rows)
    run_dir = Path(tiny["run"]["dir"]) / "tiny"
    tables = {
        "recipe": tomllib.loads((run_dir / "recipe.toml").read_text()),
        "checkpoint": read_model_json(run_dir / "checkpoints" / "latest" / "model.json")["recipe"],
    }
    saved = {name: table["train"]["precision"] for name, table in tables.items()}
    assert saved == {"recipe": "fp32", "checkpoint": "fp32"}
    # On a machine where "auto" would be something else, and in a run that began there.
    here = environment.with_precision
    elsewhere = lambda recipe, earlier=None: here(recipe, earlier or "bf16")  # noqa: E731
    monkeypatch.setattr(environment, "with_precision", elsewhere)
    tiny["train"]["steps"] = 12
    flowkit.train(tiny, data=rows, resume=True, listeners=lambda: [recorder])
    flowkit.train(tiny, data=rows, overrides=["run.name=other"], listeners=lambda: [recorder])
    monkeypatch.setattr(environment, "with_precision", here)
    tiny["train"]["steps"] = 16
    flowkit.train(tiny, data=rows, overrides=["run.name=other"], resume="auto", listeners=lambda: [recorder])
    assert [(one.start_step, one.precision) for one in recorder.of(RunStarted)] == [
        (8, "fp32"),
        (0, "bf16"),
        (12, "bf16"),
    ]


def test_processes_whose_gpus_differ_must_be_told_the_precision(monkeypatch):
    """Each would train in its own precision."""
    fake = SimpleNamespace(ReduceOp=torch.distributed.ReduceOp, all_reduce=lambda tensor, kind: tensor.copy_(answer))
    monkeypatch.setattr(environment, "distributed", fake)
    for answer in (torch.tensor([2, -2]), torch.tensor([2, 0])):
        if answer.sum():
            with pytest.raises(UserError, match=r'train.precision: "auto" is bf16 on the GPUs of some'):
                environment._check_one_precision("bf16", torch.device("cpu"))
        else:
            environment._check_one_precision("bf16", torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_compiled_training_is_training(folder, processes):
    """`pytest -m slow tests/test_precision.py`: a minute of compilation each."""
    run = f"compiled-{processes}"
    done = launch(folder, processes, "--set", f"run.name={run}", "--set", "train.compile=true")
    assert done.returncode == 0, done.stderr
    assert tensors(folder, run).keys() == tensors(folder, "plain").keys()
    assert losses(folder, run, "loss") == pytest.approx(losses(folder, "plain", "loss"), rel=1e-4)
    assert losses(folder, run, "val_loss") == pytest.approx(losses(folder, "plain", "val_loss"), rel=1e-4)
    assert distance(tensors(folder, run), tensors(folder, "plain")) < 1e-3
