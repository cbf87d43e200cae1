"""A run is where its recipe.toml lies: from any folder, moved or renamed, whatever `run.dir` and `run.name` say."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flowkit
from flowkit.checkpoint import list_checkpoints
from flowkit.checkpoint.run_dir import load_run_recipe, what_is_kept
from flowkit.cli.evaluate import _is_checkpoint
from flowkit.cli.options import named_checkpoint
from flowkit.data.dataset import Dataset, write_dataset
from flowkit.errors import UserError
from flowkit.evaluate import evaluate_checkpoint, evaluate_files
from flowkit.events import Event, RunStarted
from tests.conftest import Recorder

TOML = """
[run]
name = "p"
[data]
source = "rows/moons.safetensors"
val_fraction = 0.25
[model]
arch = "selu_mlp"
hidden_dim = 8
num_layers = 1
[flow]
base = "rows/start"
[train]
steps = 2
batch_size = 16
val_every = 1
save_every = 1
[sample]
every = "never"
num_samples = 2
steps = 2
"""


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A folder with data and a run that was started in it; the working directory is another."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "recipe.toml").write_text(TOML)
    rows = np.random.default_rng(0).standard_normal((64, 2)).astype(np.float32)
    for name in ("moons", "start"):
        write_dataset(home / "rows" / name, Dataset("points", rows))
    monkeypatch.chdir(home)
    flowkit.train("recipe.toml")
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    return home


def resumed(path: Path | str, steps: int, **options: Any) -> int:
    recorder = Recorder()
    options = {"resume": True, **options}
    flowkit.train(path, overrides=[f"train.steps={steps}"], listeners=lambda: [recorder], **options)
    return recorder.of(RunStarted)[0].start_step


def steps(run: Path) -> list[int]:
    return [int(path.name[5:]) for path in list_checkpoints(run)]


@pytest.mark.parametrize("named", ["", "recipe.toml"])
def test_a_run_resumes_from_another_folder(home, named):
    assert resumed(Path("..") / "home" / "runs" / "p" / named, 4) == 2
    assert resumed(home / "runs" / "p" / named, 5, resume="auto") == 4
    assert steps(home / "runs" / "p")[-1] == 5 and not Path("runs").exists()


@pytest.mark.parametrize("place", ["elsewhere", "home/runs/a name (copy)", "p.bak/deeper"])
def test_a_run_that_was_moved_or_renamed(home, place):
    target = home.parent / place
    target.parent.mkdir(parents=True, exist_ok=True)
    (home / "runs" / "p").rename(target)
    assert resumed(target, 3) == 2 and steps(target)[-1] == 3
    assert [path.name for path in (home / "runs").iterdir()] == [
        target.name for _ in range(target.parent == home / "runs")
    ]
    assert not Path("runs").exists()


def test_a_whole_project_that_was_moved_has_its_own_data(home):
    moved = home.parent / "moved"
    home.rename(moved)
    assert resumed(moved / "runs" / "p", 3) == 2
    shutil.copytree(moved, home)  # where it was started: the data next to the run still takes precedence
    other = np.zeros((8, 2), np.float32)
    write_dataset(home / "rows" / "moons", Dataset("points", other))
    assert resumed(moved / "runs" / "p", 4) == 3


def test_missing_data_lists_the_places_searched(home):
    shutil.rmtree(home / "rows")
    with pytest.raises(UserError) as error:
        resumed(home / "runs" / "p", 3)
    for folder in (home, Path.cwd()):
        assert str(folder) in str(error.value)
    shutil.move(str(home / "runs" / "p"), "q")
    write_dataset("rows/moons", Dataset("points", np.zeros((64, 2), np.float32)))
    write_dataset("rows/start", Dataset("points", np.ones((64, 2), np.float32)))
    assert resumed("q", 3) == 2  # of the working directory, at last


def test_sampling_and_evaluating_find_the_data_too(home):
    run = home / "runs" / "p"
    assert flowkit.load(run / "recipe.toml").sample(3).x.shape == (3, 2)
    found = evaluate_checkpoint(run, num_samples=20)
    assert (run / "evaluation").is_dir() and "memorisation" not in found.title
    assert not list(Path().iterdir())


def test_another_name_is_another_run(home):
    flowkit.train(home / "runs/p/recipe.toml", overrides=["run.name=q", "data.source=moons", "flow.base=normal"])
    assert Path("runs/q/recipe.toml").exists() and steps(home / "runs/p") == [1, 2]
    with pytest.raises(UserError, match=r"home/runs/p: this run already exists.*run\.name=p-2"):
        flowkit.train(home / "runs/p/recipe.toml")
    assert load_run_recipe(home / "recipe.toml")[1] is None  # a recipe that lies in no run
    assert load_run_recipe(home / "runs/p", ["optim.lr=1"])[1] == home / "runs/p"
    with pytest.raises(UserError, match="is a folder"):
        load_run_recipe(home)


def test_overwrite_of_a_run_from_elsewhere_replaces_that_one(home):
    flowkit.train(home / "runs" / "p", overwrite=True, overrides=["train.steps=1"])
    assert steps(home / "runs" / "p") == [1] and not Path("runs").exists()


class Fails:
    """A listener that cannot begin, as Weights & Biases without a login, or one that fails before an update is done."""

    def __init__(self, entering: bool) -> None:
        self.entering = entering

    def __enter__(self) -> Fails:
        if self.entering:
            raise UserError("no login")
        return self

    def __exit__(self, *exception: object) -> None: ...

    def __call__(self, event: Event) -> None:
        raise UserError("no login")


@pytest.mark.parametrize("entering", [True, False])
def test_failed_start_leaves_nothing(home, entering):
    overrides = ["data.source=moons", "flow.base=normal"]
    with pytest.raises(UserError, match="no login"):
        flowkit.train(home / "recipe.toml", overrides=overrides, listeners=lambda: [Fails(entering)])
    assert not Path("runs").exists() and "not begun" in what_is_kept(Path("runs/p"))
    flowkit.train(home / "recipe.toml", overrides=overrides)  # the retry that is advised
    run = Path("runs/p")
    (run / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="no login"):
        flowkit.train(home / "recipe.toml", overrides=overrides, overwrite=True, listeners=lambda: [Fails(entering)])
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    shutil.copytree(run, run / ".replaced")  # as if killed before its first update, with a part of the new one written
    flowkit.train(home / "recipe.toml", overrides=overrides, overwrite=True)
    assert not (run / "notes.txt").exists() and not list(run.glob(".replaced"))


def test_wandb_without_a_login(home, monkeypatch):
    wandb = pytest.importorskip("wandb")

    def refuses(*arguments: Any, **named: Any) -> None:
        raise wandb.errors.UsageError("No API key configured")

    monkeypatch.setattr(wandb, "init", refuses)
    overrides = ["data.source=moons", "flow.base=normal"]
    with pytest.raises(UserError, match="wandb login"):
        flowkit.train(home / "recipe.toml", overrides=[*overrides, "track.wandb=true"])
    flowkit.train(home / "recipe.toml", overrides=overrides)


def test_a_run_is_named_positionally_or_by_ckpt(home):
    run = home / "runs" / "p"
    assert named_checkpoint(run, None, False) == named_checkpoint(None, run, False) == run
    for named in (run, run / "recipe.toml", run / "checkpoints"):
        assert named_checkpoint(named, None, True) == run / "checkpoints" / "best"
    for arguments, said in (
        ((run, run, False), "mutually exclusive"),
        ((None, None, False), "no checkpoint given"),
        ((run / "checkpoints" / "step-00000001", None, True), "--best"),
    ):
        with pytest.raises(UserError, match=said):
            named_checkpoint(*arguments)


def test_evaluate_tells_weights_from_samples(home):
    run = home / "runs" / "p"
    newest = run / "checkpoints" / "step-00000002"
    write_dataset("samples", Dataset("points", np.zeros((4, 2), np.float32)))
    for path in (run, newest, newest / "ema.safetensors", run / "checkpoints" / "best", run / "recipe.toml"):
        assert _is_checkpoint(path), path
    for path in (Path("samples"), Path("samples.safetensors"), home / "rows", home / "recipe.toml", Path("nothing")):
        assert not _is_checkpoint(path), path


def test_built_in_data_by_name(home):
    write_dataset("mine", Dataset("points", np.random.default_rng(1).standard_normal((64, 2)).astype(np.float32)))
    found = evaluate_files("mine", "moons", num_samples=32)
    assert "against moons" in found.title
    assert evaluate_checkpoint(home / "runs/p", data="moons", num_samples=32).figures
    assert not os.path.exists("moons.safetensors")
