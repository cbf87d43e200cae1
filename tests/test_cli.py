"""What a user sees: the commands end to end on a small run, and bad input as one message, status 2 and nothing half-written."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import rich.markdown
import rich.traceback  # both loaded here, so that `--help` in this process puts no stand-ins in their place
from safetensors.numpy import save_file

from flowkit import cli
from flowkit.cli import options
from flowkit.data.dataset import Dataset, read_dataset, write_dataset
from tests import processes
from tests.conftest import sketch_rows

RECIPE = """
[run]
name = "cli"
[data]
source = "rows.safetensors"
val_fraction = 0.1
[model]
arch = "bezier_sketch_dit"
embed_dim = 32
num_layers = 2
num_heads = 4
[train]
steps = 6
batch_size = 16
log_every = 2
val_every = 3
save_every = 3
[sample]
every = 3
num_samples = 3
steps = 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a recipe, its data and a finished run."""
    folder = tmp_path_factory.mktemp("cli")
    rows = sketch_rows()
    write_dataset(folder / "rows", Dataset("sketch", rows["x"], rows["class_label"], class_names=rows["class_names"]))
    (folder / "recipe.toml").write_text(RECIPE)
    (training,) = processes.start(folder, processes.flowkit, "train", "recipe.toml")
    assert training.wait() == 0, training.err
    assert training.out == ""  # the view is stderr's; stdout is for what other programs read
    return folder


@pytest.fixture
def flowkit(folder, monkeypatch, capfd):
    """Runs a command in the folder: (status, stdout, stderr)."""
    monkeypatch.chdir(folder)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["flowkit", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        out, err = capfd.readouterr()
        return int(exit_.value.code or 0), out, err

    return run


assert rich.markdown and rich.traceback


def test_help_names_every_command_and_shows_examples(flowkit):
    status, out, _ = flowkit("--help")
    assert status == 0
    for command in ("train", "sample", "decode", "inspect", "prepare", "evaluate"):
        assert command in out
        status, text, _ = flowkit(command, "--help")
        assert status == 0 and f"flowkit {command} " in text, command


@pytest.mark.parametrize("columns", [100, 80, 60])
@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_help_fits_the_terminal_and_shows_a_flag_without_a_type(flowkit, monkeypatch, command, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    status, out, _ = flowkit(command, "--help")
    assert status == 0 and max(map(len, out.splitlines())) <= columns
    assert "bool" not in out and " range" not in out and "…" not in out
    assert re.search(r"--help,? -h", out)


@pytest.mark.parametrize(("text", "count"), [("6", 6), ("1e1", 10), ("0.5k", 500), ("2k", 2000), (16, 16)])
def test_counts_are_written_as_in_a_recipe(text, count):
    assert options._count(text) == count


@pytest.mark.parametrize("text", ["0", "-3", "2.5", "x", "1e400", "nan", "", "1kk"])
def test_invalid_counts(flowkit, text):
    status, out, err = flowkit("sample", "runs/cli", "-n", text)
    assert status == 2 and not out and "whole number >= 1" in " ".join(err.replace("│", "").split())


def test_version(flowkit):
    import flowkit as package

    assert flowkit("--version") == (0, f"flowkit {package.__version__}\n", "")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line(monkeypatch, capfd, code):
    """Whatever was being written, also the summary itself: `flowkit prepare ... > /dev/full`."""
    replaced = []
    monkeypatch.setattr(os, "dup2", lambda file, number: replaced.append(number))
    for name, shown in (("a/b.json", r" \(a/b\.json\)"), (None, "")):
        monkeypatch.setattr(cli, "make_app", Mock(side_effect=OSError(code, os.strerror(code), name)))
        with pytest.raises(SystemExit, match="1"):
            cli.main()
        assert re.fullmatch(rf"error: {os.strerror(code)}{shown}: free some disk space, .*\n", capfd.readouterr().err)
    assert len(replaced) == 2
    monkeypatch.setattr(cli, "make_app", Mock(side_effect=OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        cli.main()


def test_help_and_inspect_need_no_torch(folder):
    for arguments in (["--help"], ["train", "--help"], ["inspect", "runs/cli"], ["inspect", "rows.safetensors"]):
        code = (
            "import sys\nfrom flowkit.cli import app\n"
            "try: app(sys.argv[1:])\n"
            "finally: print([m for m in ('torch', 'timm', 'wandb', 'sonar') if m in sys.modules], file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stderr.strip().endswith("[]"), arguments


def test_the_core_never_imports_the_extras(folder):
    code = (
        "import sys; sys.argv = ['flowkit', 'sample', '--ckpt', 'runs/cli', '-n', '1', '--out', 'bare']\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('wandb', 'sonar', 'fairseq2'): raise AssertionError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from flowkit.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_sample_then_decode(flowkit, folder):
    status, out, _ = flowkit(
        "sample", "--ckpt", "runs/cli", "--class-label", "boat", "-n", 5, "-w", 2, "--out", "boats"
    )
    assert status == 0
    assert "NFE 8" in out and "sketches/s" in out and "boats/sheet.png" in out and "guidance 2" in out
    samples = read_dataset(folder / "boats")
    assert samples.x.shape == (5, 6, 8) and samples.class_label.tolist() == [1] * 5
    made = json.loads((folder / "boats" / "samples.json").read_text())
    assert {
        "step": 6,
        "seed": 0,
        "solver": "midpoint",
        "steps": 2,
        "nfe": 8,
        "guidance_scale": 2.0,
    }.items() <= made.items()
    assert len(list((folder / "boats").glob("*.svg"))) == 5 and (folder / "boats" / "sheet.png").is_file()
    status, out, _ = flowkit("decode", "boats/samples.safetensors", "--out", "again", "--limit", 3)
    assert status == 0 and len(list((folder / "again").glob("*.svg"))) == 3
    first = sorted((folder / "boats").glob("*.svg"))[0]
    assert (folder / "again" / first.name).read_text() == first.read_text()


def test_samples_of_every_class_by_default(flowkit, folder):
    status, _, _ = flowkit("sample", "--ckpt", "runs/cli", "-n", 6, "--no-preview")
    assert status == 0
    samples = read_dataset(folder / "runs/cli")
    assert samples.class_label.tolist() == [0, 0, 1, 1, 2, 2]


def test_inspect_and_evaluate_run_on_it(flowkit):
    status, out, _ = flowkit("inspect", "runs/cli", "--json")
    assert status == 0 and isinstance(json.loads(out), dict)
    status, out, err = flowkit("evaluate", "--ckpt", "runs/cli", "--num-samples", 30, "--json")
    assert status == 0, err
    assert isinstance(json.loads(out), dict)


def bad_files(folder: Path) -> None:
    rows = sketch_rows()
    good = Dataset("sketch", rows["x"], rows["class_label"], class_names=rows["class_names"])
    holes = rows["x"].copy()
    holes[[3, 9], 0, 0] = np.nan
    write_dataset(folder / "nan", Dataset("sketch", holes))
    write_dataset(folder / "flat", Dataset("sketch", rows["x"].reshape(len(holes), -1)))
    write_dataset(folder / "pixels", Dataset("sketch", rows["x"] * 512))
    write_dataset(folder / "few", good.take(np.arange(10)))
    write_dataset(folder / "labels", good)
    save_file({"x": rows["x"], "class_label": rows["class_label"] + 7}, folder / "labels.safetensors")
    write_dataset(folder / "cut", good)
    (folder / "cut.safetensors").write_bytes((folder / "cut.safetensors").read_bytes()[:-100])
    (folder / "broken.toml").write_text("[run\nname = 1")
    (folder / "typo.toml").write_text(RECIPE.replace("num_layers", "num_layer").replace("steps = 6", 'steps = "six"'))
    (folder / "both.toml").write_text(RECIPE.replace("steps = 6", "steps = 6\nepochs = 2"))
    (folder / "file").write_text("no folder")
    (folder / "empty").mkdir(exist_ok=True)


def source(name: str) -> list[str]:
    return ["train", "recipe.toml", "--set", "run.name=new", "--set", f"data.source={name}"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "missing.toml"], ["missing.toml", "recipe.toml"]),
        (["train", "broken.toml"], ["broken.toml", "line"]),
        (["train", "typo.toml"], ["model.num_layer", "did you mean", "num_layers", "train.steps", "whole number"]),
        (["train", "both.toml"], ["train.steps", "train.epochs"]),
        (["train", "recipe.toml", "--set", "optim.lrr=1"], ["optim.lrr", "did you mean", "lr"]),
        (["train", "recipe.toml", "--set", "optim.lr"], ["optim.lr", "="]),
        (["train", "recipe.toml", "--set", "run.name=new", "--set", "train.micro_batch_size=5"], ["micro_batch_size", "4", "8"]),
        (["train", "recipe.toml"], ["--resume", "--overwrite", "run.name=cli-2"]),
        (["train", "recipe.toml", "--set", "run.dir=file/deep"], ["file/deep"]),
        (["train", "recipe.toml", "--set", "run.name=new", "--init-from", "runs/clo"], ["runs/clo", "did you mean 'cli'"]),
        (source("doodle"), ["'doodle' is neither a built-in data set", "did you mean 'doodles'"]),
        (source("nan"), ["2 of 96 rows of 'x' contain NaN or infinity: 3, 9"]),
        (source("flat"), ["x has shape (96, 48)", "(N, S, 8)"]),
        (source("pixels"), ["expected canvas units"]),
        (source("few"), ["train.batch_size: 16, but", "9 training rows"]),
        (source("labels"), ["class_label of row 0 is 7; expected 0 to 2"]),
        (source("cut"), ["cut.safetensors: not a valid safetensors file"]),
        (["sample", "--ckpt", "runs/none"], ["runs/none", "no such run"]),
        (["sample", "--ckpt", "empty"], ["has no model.safetensors"]),
        (["sample", "--ckpt", "runs/cli", "--class-label", "boot"], ["unknown class 'boot'", "did you mean 'boat'"]),
        (["sample", "--ckpt", "runs/cli", "--out", "file/here"], ["file/here", "--out"]),
        (["sample", "--ckpt", "runs/cli", "--solver", "rk5"], ["did you mean 'rk4'?", "rk4"]),
        (["sample", "--ckpt", "runs/cli", "--weights", "best"], ["expected 'ema' or 'raw'"]),
        (["sample", "--ckpt", "runs/cli", "--condition", "rows.safetensors"], ["has no tensor 'condition'"]),
        (["decode", "nothing.safetensors"], ["nothing.safetensors: no such file"]),
        (["decode", "cut"], ["not a valid safetensors file"]),
        (["decode", "rows", "--out", "file"], ["file", "--out"]),
        (["inspect", "runs/none"], ["runs/none"]),
        (["evaluate", "--ckpt", "runs/none"], ["runs/none"]),
        (["evaluate", "rows", "--data", "rows", "--steps", 3], ["--steps has no effect"]),
        (["evaluate", "rows"], ["--data"]),
        (["train", "recipe.toml", "--resume", "--set", "optim.lr=1"], ["optim.lr", "--allow-changes"]),
        (["train", "recipe.toml", "--resume", "--init-from", "runs/cli"], ["mutually exclusive"]),
    ],
)  # fmt: skip
def test_bad_input_is_one_message(flowkit, folder, arguments, says):
    bad_files(folder)
    before = {path for path in folder.rglob("*")}
    status, out, err = flowkit(*arguments)
    assert status == 2, (out, err)
    assert err.startswith("error: ") and "Traceback" not in err and out == ""
    for part in says:
        assert part in err, err
    assert {path for path in folder.rglob("*")} == before


def test_a_bug_keeps_its_traceback(folder, monkeypatch):
    def broken(*_, **__):
        raise ValueError("a bug")

    import flowkit.decode

    monkeypatch.setattr(flowkit.decode, "decode", broken)
    monkeypatch.setattr(sys, "argv", ["flowkit", "decode", "rows"])
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match="a bug"):
        cli.main()


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("more", [[], ["--quiet"], ["--set", "data.source=doodle"]])
def test_startup_shows_its_stages_on_a_terminal(flowkit, folder, monkeypatch, terminal, more):
    err = io.StringIO()
    err.isatty = lambda: terminal  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setenv("NO_COLOR", "1")
    status, _, _ = flowkit(
        "train", "recipe.toml", "--set", "run.name=said", "--set", "train.steps=1", "--overwrite", *more
    )
    text = err.getvalue()
    if not terminal or "--quiet" in more:
        assert "loading torch" not in text
    elif more:
        assert status == 2 and text.index("loading torch") < text.index("error: ")
        assert text.startswith("\r\x1b[Kloading torch\r") and "\r\x1b[K\rerror: " in text  # nothing of it is left
    else:
        assert status == 0 and text.index("loading torch") < text.index("preparing data") < text.index("said")
        assert "preparing data\r\r\x1b[K\r" in text


def test_interrupted_run_is_saved_and_resumes(folder):
    command = ["train", "recipe.toml", "--set", "run.name=long", "--set", "train.steps=100000"]
    (process,) = processes.start(folder, processes.flowkit, *command, "--set", "train.log_every=1")
    metrics = folder / "runs" / "long" / "metrics.jsonl"
    until = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") > 3):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 128 + signal.SIGINT and "Traceback" not in process.err, process.err
    step = latest_step(folder / "runs" / "long")
    (resumed,) = processes.start(folder, processes.flowkit, *command[:-1], f"train.steps={step + 2}", "--resume")
    assert resumed.wait() == 0, resumed.err
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines() if '"loss"' in line]
    assert steps == sorted(set(steps)) and steps[-1] == step + 2


def test_max_hours_is_reported(flowkit, folder):
    command = (
        "train",
        "recipe.toml",
        "--set",
        "run.name=hours",
        "--set",
        "train.steps=100000",
        "--set",
        "train.max_hours=1e-6",
    )
    status, _, err = flowkit(*command)
    assert status == 75 and "out of time at step" in err and "interrupted" not in err, err
    assert "--resume" in err
    status, out, _ = flowkit("inspect", "runs/hours")
    assert status == 0 and "out of time" in out


def test_wandb_offline_resumes_the_same_run_id(flowkit, folder):
    pytest.importorskip("wandb")
    assert os.environ["WANDB_MODE"] == "offline"
    command = ("train", "recipe.toml", "--set", "run.name=tracked", "--set", "track.wandb=true", "-q")
    status, _, err = flowkit(*command)
    run_dir = folder / "runs" / "tracked"
    kept = run_dir / "wandb_id"
    assert status == 0 and "Traceback" not in err, err
    number = kept.read_text().strip()
    (first,) = (run_dir / "wandb").glob(f"offline-run-*-{number}/*.wandb")
    more = (*command, "--resume", "--set", f"train.steps={latest_step(run_dir) + 2}")
    time.sleep(1.1)  # its folders are named after the second
    status, _, err = flowkit(*more)
    assert status == 0 and kept.read_text().strip() == number, err
    assert len({first, *(run_dir / "wandb").glob(f"offline-run-*-{number}/*.wandb")}) == 2
    before = (run_dir / "metrics.jsonl").read_bytes()
    for wrong in (b"../../elsewhere", b"", b"\xff", b"x" * 2000):
        kept.write_bytes(wrong)
        status, _, err = flowkit(*more[:-1], f"train.steps={latest_step(run_dir) + 2}")
        assert status == 2 and "wandb_id" in err and "Traceback" not in err, err
    assert (run_dir / "metrics.jsonl").read_bytes() == before


def latest_step(run_dir: Path) -> int:
    return int((run_dir / "checkpoints" / "latest").readlink().name.removeprefix("step-"))


def test_resume_auto_accepts_both_spellings(flowkit):
    quick = ("--set", "train.steps=2", "--set", "run.name=auto", "--set", "sample.every=never")
    assert flowkit("train", "recipe.toml", *quick, "--resume", "auto", "-q")[0] == 0
    status, _, err = flowkit("train", "recipe.toml", *quick, "--resume-auto")
    assert status == 0 and "all updates are done" in err
    status, _, err = flowkit("train", "recipe.toml", *quick, "--resume")
    assert status == 2 and "has already trained 2 of 2 updates" in err
