"""Two real processes over gloo do what one does: same parameters, same metrics, one run directory."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import load_file

from flowkit.data.dataset import Dataset, write_dataset
from flowkit.data.encoded import Encoded
from tests.conftest import sketch_rows
from tests.processes import flowkit, start

RECIPE = """
[run]
name = "one"
[data]
source = "rows.safetensors"
val_fraction = 0.11
[data.augment]
rotation = 20
scale = 1.2
shift = 0.1
mirror = 0.5
reverse = 0.3
reorder = 1.0
[flow]
given = 0.4
[model]
arch = "bezier_sketch_dit"
embed_dim = 32
num_layers = 2
num_heads = 4
[optim]
lr = 1e-4
[train]
steps = 50
batch_size = 16
log_every = 10
val_every = 25
save_every = 25
[sample]
every = 25
num_samples = 2
steps = 2
"""


def train(*words: str) -> None:
    from flowkit.training import validation

    validation.MIN_EVALUATIONS = 64  # 1,024, by micro-batches of two rows, take longer than the updates
    flowkit("train", "recipe.toml", *words)


def launch(folder: Path, processes: int, *arguments: str, **variables: str) -> SimpleNamespace:
    """Trains the recipe of the folder: the status (the first that is none of 0), and what all said."""
    ranks = start(folder, train, *arguments, ranks=processes, **variables)
    statuses = [rank.wait() for rank in ranks]
    return SimpleNamespace(returncode=next(filter(None, statuses), 0), stderr=ranks[0].err)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    rows = sketch_rows(100)
    condition = np.random.default_rng(0).standard_normal((100, 3, 4)).astype(np.float32)
    mask = np.arange(3) < 1 + np.arange(100)[:, None] % 3
    counts = np.arange(100) % 4  # images of a row: none, or up to three, of which each visit sees one
    image = np.random.default_rng(1).standard_normal((counts.sum(), 4, 5)).astype(np.float16)
    data = Dataset(
        "sketch", rows["x"], rows["class_label"], condition, class_names=rows["class_names"], condition_mask=mask,
        encoded={"image": Encoded(image, np.concatenate([[0], np.cumsum(counts)]))},
    )  # fmt: skip
    write_dataset(folder / "rows", data)
    (folder / "recipe.toml").write_text(RECIPE.replace("num_heads = 4", "num_heads = 4\nattend_conditions = true"))
    done = launch(folder, 1)
    assert done.returncode == 0, done.stderr
    return folder


def tensors(folder: Path, run: str, name: str = "model"):
    return load_file(folder / "runs" / run / "checkpoints" / "latest" / f"{name}.safetensors")


def distance(a, b) -> float:
    difference = sum((a[name].double() - b[name].double()).square().sum().item() for name in b)
    return math.sqrt(difference / sum(tensor.double().square().sum().item() for tensor in b.values()))


def metrics(folder: Path, run: str) -> list[dict]:
    return [json.loads(line) for line in (folder / "runs" / run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_two_processes_give_the_parameters_that_one_gives(folder, accumulation):
    run = f"two-{accumulation}"
    done = launch(folder, 2, "--set", f"run.name={run}", "--set", f"train.micro_batch_size={8 // accumulation}")
    assert done.returncode == 0, done.stderr
    assert distance(tensors(folder, run), tensors(folder, "one")) < 1e-5
    assert distance(tensors(folder, run, "ema"), tensors(folder, "one", "ema")) < 1e-5
    for mine, wanted in zip(metrics(folder, run), metrics(folder, "one"), strict=True):
        assert mine.keys() == wanted.keys()
        for name in mine.keys() & {"step", "loss", "lr", "grad_norm", "val_loss", "val_zero_loss"}:
            assert mine[name] == pytest.approx(wanted[name], rel=1e-4), name


def test_would_detect_wrong_rows(folder):
    """The same initial weights, noises and times; only the rows are others."""
    done = launch(folder, 1, "--set", "run.name=rows", "--set", "data.subset=80")
    assert done.returncode == 0, done.stderr
    assert distance(tensors(folder, "rows"), tensors(folder, "one")) > 1e-4


def test_one_process_resumes_what_two_began(folder):
    begun = launch(folder, 2, "--set", "run.name=moved", "--set", "train.steps=50")
    assert begun.returncode == 0, begun.stderr
    checkpoints = folder / "runs" / "moved" / "checkpoints"
    for path in sorted(checkpoints.glob("step-*"))[1:]:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    (checkpoints / "latest").unlink()
    resumed = launch(folder, 1, "--set", "run.name=moved", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert distance(tensors(folder, "moved"), tensors(folder, "one")) < 1e-5


def test_bad_input_is_printed_once_by_two_processes(folder):
    done = launch(folder, 2, "--set", "run.name=odd", "--set", "train.batch_size=15")
    said = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(said) == 1 and "15 rows cannot be split evenly among 2 processes" in said[0]
    assert done.returncode != 0 and not (folder / "runs" / "odd").exists()


def test_ranks_that_do_not_see_each_other_are_refused(folder):
    """With no GPU and no ACCELERATE_USE_CPU, accelerate would start two runs of one process each."""
    done = launch(
        folder, 2, "--set", "run.name=joined", "--set", "train.steps=2",
        ACCELERATE_USE_CPU="false", CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "processes=2" in done.stderr
