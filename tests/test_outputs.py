"""The files in an output folder are those of one call: a second one replaces what flowkit wrote, and touches nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

import flowkit
from flowkit import cli, outputs
from flowkit.data.dataset import Dataset, read_dataset, write_dataset
from flowkit.decode import decode, write_readable
from flowkit.errors import Interrupted, UserError
from flowkit.evaluate import evaluate_files
from flowkit.outputs import MANIFEST, earlier_files, one_call
from flowkit.sampling.load import load as load_checkpoint
from flowkit.text.decoding import Sentences, write_file
from tests.conftest import sketch_rows


def sketches(count: int, names: tuple[str, ...] = ("cat", "dog", "eel"), seed: int = 0) -> Dataset:
    rows = sketch_rows(count, classes=3, seed=seed)
    return Dataset("sketch", rows["x"] * 0.5, rows["class_label"], class_names=names)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {MANIFEST}


def sheet(*drawings: str) -> set[str]:
    return {"sheet.png", *drawings}


def test_fewer_drawings_and_other_labels(tmp_path):
    out = tmp_path / "x"
    assert write_readable(sketches(12), out).replaced == ""
    second = write_readable(sketches(2, ("ant", "bee", "cow")), out)
    assert second.replaced == "replaced 13 files of an earlier call"
    assert names(out) == sheet("000-ant.svg", "001-bee.svg")
    assert {path.name for path in second.files} == names(out) and all(path.is_file() for path in second.files)


def test_user_files_are_kept(tmp_path):
    out = tmp_path / "x"
    out.mkdir()
    own = {
        "notes.txt": b"mine",
        "007-bond.svg": b"<svg/>",
        "sheet.png": b"a sheet of mine",
        "000-cat.svg": b"<svg>mine</svg>",
    }
    for name, content in own.items():
        (out / name).write_bytes(content)
    first = write_readable(sketches(3), out)
    assert first.replaced == "your own 000-cat.svg is now 000-cat.svg~; your own sheet.png is now sheet.png~"
    write_readable(sketches(1), out)
    (out / "000-cat.svg~").rename(out / "cat of mine.svg")
    assert names(out) == sheet("000-cat.svg", "notes.txt", "007-bond.svg", "sheet.png~", "cat of mine.svg")
    for name, now in (("notes.txt",) * 2, ("007-bond.svg",) * 2, ("sheet.png", "sheet.png~")):
        assert (out / now).read_bytes() == own[name]
    assert (out / "cat of mine.svg").read_bytes() == own["000-cat.svg"]


def test_a_folder_of_an_older_flowkit_is_known_by_its_content(tmp_path):
    out = tmp_path / "x"
    write_readable(sketches(5), out)
    (out / MANIFEST).unlink()
    (out / "004-eagle.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0"/></svg>')
    assert len(earlier_files(out)) == 6
    write_readable(sketches(1), out)
    assert names(out) == sheet("000-cat.svg", "004-eagle.svg")
    write_dataset(out / "samples", Dataset("sketch", sketches(1).x, info={"source": "samples"}))
    (out / MANIFEST).unlink()
    assert {"samples.safetensors", "samples.json", "sheet.png"} <= earlier_files(out).keys()


@pytest.mark.parametrize("stranger", ["../victim", "/etc/passwd", "..", ".", "", "a/b", "\0"])
def test_manifest_cannot_remove_files_elsewhere(tmp_path, stranger):
    out, victim = tmp_path / "x", tmp_path / "victim"
    out.mkdir()
    victim.write_text("keep me")
    for content in ({"format": 1, "files": {stranger: "pictures"}}, {"format": 1, "files": [stranger]}, {"format": 9}):
        (out / MANIFEST).write_text(json.dumps(content))
        write_readable(sketches(1), out)
        assert victim.exists() and names(out) >= sheet("000-cat.svg")


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, UserError("disk full"), OSError(28, "No space left"), RuntimeError]
)
def test_failed_call_keeps_earlier_files(tmp_path, error):
    out = tmp_path / "x"
    write_readable(sketches(3), out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fails(folder: Path) -> None:
        assert (folder / "000-ant.svg").is_file()
        raise error

    for place in (out, tmp_path / "new" / "place"):
        with pytest.raises((KeyboardInterrupt, UserError, RuntimeError)):
            write_readable(sketches(9, ("ant", "bee", "cow")), place, also=fails)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not (tmp_path / "new").exists()


def test_kill_during_replacement_never_mixes_calls(tmp_path, monkeypatch):
    out = tmp_path / "x"
    write_readable(sketches(4), out)
    replace, moved = Path.replace, []

    class Killed(BaseException):
        pass

    def dies(self: Path, target: Path) -> Path:
        if self.suffix == ".svg" and self.parent.name.startswith(".flowkit-"):
            moved.append(target)
            if len(moved) == 2:
                raise Killed
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", dies)
    with pytest.raises(Killed):
        write_readable(sketches(4, ("ant", "bee", "cow")), out)
    monkeypatch.undo()
    assert names(out) == {"000-ant.svg"}
    write_readable(sketches(1), out)
    assert names(out) == sheet("000-cat.svg")


def test_signal_during_replacement_is_delayed(tmp_path, monkeypatch):
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append("now"))
    unlink = Path.unlink

    def interrupted(self: Path, missing_ok: bool = False) -> None:
        if self.suffix == ".svg":
            os.kill(os.getpid(), signal.SIGINT)
            heard.append("still writing")
        unlink(self, missing_ok)

    try:
        write_readable(sketches(1), tmp_path)
        monkeypatch.setattr(Path, "unlink", interrupted)
        write_readable(sketches(1, ("ant", "bee", "cow")), tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == ["still writing", "now"] and names(tmp_path) == sheet("000-ant.svg")
    monkeypatch.undo()
    with pytest.raises(Interrupted, match="all files were written"), one_call(tmp_path, "pictures") as call:
        (call.partial / "one.svg").write_text("")
        monkeypatch.setattr(outputs, "_put", lambda *_: (shutil.rmtree(call.partial), os.kill(os.getpid(), 2)))


def test_stale_folder_is_removed(tmp_path):
    stale, fresh = tmp_path / ".flowkit-a.partial", tmp_path / ".flowkit-b.partial"
    for folder in (stale, fresh):
        folder.mkdir()
        (folder / "000-cat.svg").touch()
    os.utime(stale, (0, 0))
    write_readable(sketches(1), tmp_path)
    assert not stale.exists() and fresh.exists()  # which another process may be writing to


def test_decode_leaves_the_samples_that_it_reads(tmp_path):
    """Its default folder is that of the samples; another input replaces these, too."""
    samples = Dataset("sketch", sketches(5).x, info={"source": "samples"})
    write_dataset(tmp_path / "out" / "samples", samples)
    decode(tmp_path / "out" / "samples.safetensors")
    assert len(names(tmp_path / "out")) == 8
    decode(tmp_path / "out")
    assert len(read_dataset(tmp_path / "out")) == 5 and len(names(tmp_path / "out")) == 8
    outputs.record_samples(tmp_path / "out" / "samples.safetensors", outputs.earlier_files(tmp_path / "out"))
    decode(write_dataset(tmp_path / "two", sketches(2)), out=tmp_path / "out")
    assert names(tmp_path / "out") == sheet("000-cat.svg", "001-dog.svg")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    recipe = {
        "run": {"name": "run", "dir": str(tmp_path_factory.mktemp("outputs"))},
        "data": {"source": "8gaussians-labelled", "num_samples": 64, "val_fraction": 0.25},
        "model": {"arch": "selu_mlp", "hidden_dim": 8, "num_layers": 1},
        "train": {"steps": 1, "batch_size": 16},
        "sample": {"every": "never", "steps": 2},
    }
    flowkit.train(recipe)
    return Path(recipe["run"]["dir"]) / "run"


def called(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["flowkit", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


def test_sample_twice(run, tmp_path, monkeypatch, capsys):
    last, out = run / "samples" / "last", tmp_path / "out"
    for extra in (("--trajectories",), ()):
        assert called(monkeypatch, "sample", run, "-n", 3, *extra) == 0
        assert called(monkeypatch, "sample", "--ckpt", run, "-n", 3, "--out", out, *extra) == 0
    assert capsys.readouterr().out.count("of an earlier call") == 2
    assert names(last) == {"scatter.png"}
    assert names(out) == {"scatter.png", "samples.safetensors", "samples.json"}
    assert not (run / MANIFEST).exists() and (run / "recipe.toml").exists()


def test_sample_never_replaces_a_data_set(run, tmp_path, monkeypatch, capsys):
    write_dataset(tmp_path / "samples", Dataset("points", np.zeros((3, 2), np.float32), info={"source": "mine"}))
    assert called(monkeypatch, "sample", run, "--out", tmp_path) == 2
    assert "samples.safetensors: already exists and was not written by flowkit" in capsys.readouterr().err
    assert len(read_dataset(tmp_path / "samples")) == 3


@pytest.mark.parametrize("own", ["scatter.png", "trajectories.png"])
def test_sample_keeps_pictures_of_the_users_own(own, run, tmp_path, monkeypatch, capsys):
    """The samples that were just written do not make the folder's other files flowkit's."""
    (tmp_path / own).write_text("mine")
    for _ in range(2):
        assert called(monkeypatch, "sample", run, "-n", 3, "--trajectories", "--no-preview", "--out", tmp_path) == 0
    assert f"your own {own} is now {own}~" in capsys.readouterr().out
    assert (tmp_path / f"{own}~").read_text() == "mine" and not (tmp_path / f"{own}~2").exists()


def test_samples_of_a_single_file_go_to_its_run(run, tmp_path, monkeypatch):
    """The folder of a checkpoint is removed with it. Samples of a file outside a run go to samples/ next to it."""
    copied = shutil.copytree(run, tmp_path / "run")
    step = copied / "checkpoints" / "step-00000001"
    for name in ("ema.safetensors", "model.json"):
        (tmp_path / "lone").mkdir(exist_ok=True)
        (copied / "ema").mkdir(exist_ok=True)
        shutil.copy(step / name, tmp_path / "lone" / name)
        shutil.copy(step / name, copied / "ema" / name)
    before = names(step)
    for named in (
        step / "model.safetensors",
        step.with_name("latest") / "ema.safetensors",
        copied / "ema" / "ema.safetensors",
    ):
        assert load_checkpoint(named).default_out() == (copied / "samples.safetensors", copied / "samples" / "last")
    assert load_checkpoint(tmp_path / "lone" / "ema.safetensors").default_out()[1] == tmp_path / "lone" / "samples"
    (tmp_path / "lone" / "samples").mkdir()
    (tmp_path / "lone" / "samples" / "scatter.png").write_text("mine")
    assert called(monkeypatch, "sample", tmp_path / "lone" / "ema.safetensors", "-n", 2, "--no-preview") == 0
    assert (tmp_path / "lone" / "samples" / "scatter.png~").read_text() == "mine"
    monkeypatch.chdir(step)
    assert called(monkeypatch, "sample", "model.safetensors", "-n", 2, "--no-preview") == 0
    assert names(step) == before and (copied / "samples" / "last" / "scatter.png").is_file()


def test_an_interrupted_second_call_of_sample(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert called(monkeypatch, "sample", run, "-n", 3, "--trajectories", "--out", out) == 0
    whole = names(out)

    def stopped(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(flowkit.sampling.load.LoadedModel, "sample", stopped)  # while they are drawn
        assert called(patch, "sample", run, "-n", 2, "--out", out) == 130
    assert "interrupted: nothing was written" in capsys.readouterr().err
    assert names(out) == whole and len(read_dataset(out)) == 3
    with monkeypatch.context() as patch:
        patch.setattr("flowkit.points.domain.PointsPresenter.__call__", stopped)  # while they are shown
        assert called(patch, "sample", run, "-n", 2, "--out", out) == 130
    assert (
        f"all samples are in {out / 'samples.safetensors'}. To decode them: flowkit decode" in capsys.readouterr().err
    )
    assert names(out) == {"samples.safetensors", "samples.json"} and len(read_dataset(out)) == 2


def test_evaluate_twice_and_beside_samples(tmp_path):
    rng = np.random.default_rng(0)
    rows = {name: Dataset("points", rng.standard_normal((64, 2)).astype(np.float32)) for name in ("real", "samples")}
    files = {name: write_dataset(tmp_path / name / name, data) for name, data in rows.items()}
    (tmp_path / "samples" / "scatter of mine.png").write_text("mine")
    decode(files["samples"])
    for number in range(2):
        found = evaluate_files(files["samples"], files["real"], num_samples=32, out=tmp_path / "samples")
        assert ("replaced 2 files of an earlier call" in found.notes) == bool(number)
    assert all(Path(path).is_file() for path in found.files)
    assert names(tmp_path / "samples") == {
        "samples.safetensors", "samples.json", "scatter.png", "evaluation.json", "scatter of mine.png",
        *(name for name in names(tmp_path / "samples") if name.endswith("~")),
    }  # fmt: skip


def test_sentences_of_other_languages(tmp_path, monkeypatch):
    def said(*langs: str) -> Sentences:
        return Sentences({lang: [lang] for lang in langs}, None, None, None, "")

    (tmp_path / "s.eng_Latn.txt").write_text("a corpus of mine")
    write_file(said("fra_Latn", "deu_Latn"), tmp_path / "s.txt")
    write_file(said("fra_Latn", "deu_Latn"), tmp_path / "other.txt")
    second = write_file(said("spa_Latn", "deu_Latn"), tmp_path / "s.txt")
    assert second.replaced == "replaced 2 files of an earlier call"
    third = write_file(said("fra_Latn"), tmp_path / "s.txt")
    assert names(tmp_path) == {"s.txt", "s.eng_Latn.txt", "other.fra_Latn.txt", "other.deu_Latn.txt"}
    assert third.files == (tmp_path / "s.txt",) and (tmp_path / "s.eng_Latn.txt").read_text() == "a corpus of mine"
    write_file(said("fra_Latn"), tmp_path / "alone" / "s.txt")
    assert names(tmp_path / "alone") == {"s.txt"} and not (tmp_path / "alone" / MANIFEST).exists()
