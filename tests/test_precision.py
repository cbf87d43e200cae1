"""Lower precision and compilation train to what plain fp32 training gives, on one process and on two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flowkit.data.dataset import Dataset, write_dataset
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
