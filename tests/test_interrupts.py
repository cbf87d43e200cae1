"""Ctrl-C and SIGTERM: every command says what was kept and how to continue, and leaves nothing half-written."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flowkit
from flowkit import cli
from flowkit.checkpoint import list_checkpoints
from flowkit.cli.interrupts import handled
from flowkit.errors import Interrupted
from flowkit.events import Event, Finished, Notice, Stepped
from tests.test_processes import environment

RECIPE: dict[str, Any] = {
    "data": {"source": "moons", "num_samples": 64, "val_fraction": 0.25},
    "model": {"arch": "selu_mlp", "hidden_dim": 8, "num_layers": 1},
    "train": {"steps": 8, "batch_size": 16, "log_every": 2, "val_every": 4, "save_every": 4},
    "sample": {"every": 4, "num_samples": 2, "steps": 2},
}
TOML = """
[run]
name = "run"
[data]
source = "8gaussians-labelled"
num_samples = 400
[model]
arch = "selu_mlp"
hidden_dim = 8
[train]
steps = 1000000
batch_size = 32
log_every = 100000
val_every = "never"
save_every = 20
[sample]
every = "never"
steps = 1000
"""


def recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    return {**RECIPE, "run": {"name": "run", "dir": str(folder)}, "train": {**RECIPE["train"], **changes}}


class Hears:
    """A listener that acts at some events, and keeps them with the thread they came from."""

    def __init__(self, action: Callable[[Event], object] = lambda event: None):
        self.events: list[tuple[Event, str]] = []
        self.action = action

    def __enter__(self) -> Hears:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def __call__(self, event: Event) -> None:
        self.events.append((event, threading.current_thread().name))
        self.action(event)

    def notices(self) -> list[str]:
        return [event.text for event, _ in self.events if isinstance(event, Notice)]


@pytest.mark.parametrize(("number", "again"), [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGUSR1, False)])
def test_the_first_signal_is_acknowledged_before_the_update_ends(tmp_path, number, again):
    said_at: list[bool] = []

    def act(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 3:
            os.kill(os.getpid(), number)
            end = time.monotonic() + 10
            while not hears.notices() and time.monotonic() < end:
                time.sleep(0.01)
            said_at.append(bool(hears.notices()))  # while this update is still being reported

    hears = Hears(act)
    flowkit.train(recipe(tmp_path), listeners=lambda: [hears])
    (said,) = hears.notices()
    assert said_at == [True]
    assert f"{number.name}: finishing this update, then saving" in said and ("again quits at once" in said) == again
    (finished,) = [event for event, _ in hears.events if isinstance(event, Finished)]
    assert finished.reason == "interrupted" and [path.name for path in list_checkpoints(tmp_path / "run")] == [
        "step-00000003"
    ]


@pytest.mark.parametrize(
    ("place", "step"),
    [("flowkit.training.loop.validate", 0), ("flowkit.training.preview.Sampler.__call__", 0),
     ("flowkit.training.loop.one_update", 0), ("flowkit.checkpoint.background.Saver.start", 0),
     ("flowkit.training.loop.validate", 4)],
)  # fmt: skip
def test_second_signal_exits_from_any_stage_and_says_what_is_kept(tmp_path, monkeypatch, place, step):
    if step:
        flowkit.train(recipe(tmp_path, steps=step))

    def twice(*arguments: Any, **named: Any) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr(place, twice)
    with pytest.raises(Interrupted) as stop:
        flowkit.train(recipe(tmp_path), resume=bool(step))
    run = tmp_path / "run"
    if step:
        assert str(stop.value) == f"the last checkpoint is step-00000004; resume with: flowkit train {run} --resume"
    else:
        assert "the run has not begun" in str(stop.value) or "no checkpoint was saved; start again with" in str(
            stop.value
        )
    assert not list(run.glob("checkpoints/.*partial")) and not list(run.glob("samples/*/.*"))
    monkeypatch.undo()
    flowkit.train(recipe(tmp_path), resume="auto")
    assert list_checkpoints(run)[-1].name == "step-00000008"


def stopping(monkeypatch, place: str, number: int = signal.SIGINT) -> None:
    """Have the process hear a signal where `place` is called."""

    def stopped(*arguments: Any, **named: Any) -> None:
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr(place, stopped)


def called(monkeypatch, capsys, *arguments: object) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["flowkit", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0), capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("interrupts")
    flowkit.train({**recipe(folder, steps=4), "ema": {"power": [0.1], "snapshot_every": 2}})
    return folder / "run"


COMMANDS: list[tuple[str, str, str]] = [
    ("sample RUN --out OUT", "flowkit.sampling.load.read_model_json", "nothing was written"),
    ("sample RUN --out OUT", "flowkit.sampling.model.draw_samples", "nothing was written"),
    ("sample RUN --out OUT", "flowkit.data.dataset.write_tensors", "nothing was written"),
    ("sample RUN --out OUT", "flowkit.evaluate.training_data", "all samples are in"),
    ("decode SAMPLES --out OUT", "flowkit.decode.read_dataset", "nothing was written"),
    ("decode SAMPLES --out OUT", "flowkit.points.scatter.write_scatter", "nothing was written"),
    ("evaluate RUN --out OUT -n 20", "flowkit.evaluate.choose_sides", "nothing was written"),
    ("evaluate RUN --out OUT -n 20", "flowkit.evaluate.write_json", "nothing was written"),
    ("ema RUN --sigma-rel 0.1 --out OUT/e.safetensors", "flowkit.ema.post_hoc._combined", "nothing was written"),
    ("ema RUN --sigma-rel 0.1 --out OUT/e.safetensors", "flowkit.ema.post_hoc.save_file", "nothing was written"),
    ("prepare DRAWINGS --out OUT/d", "flowkit.sketch.prepare.write_dataset", "nothing was written"),
    ("inspect RUN", "flowkit.inspect.run_report", "nothing was written"),
    ("doctor", "flowkit.doctor.examine", "nothing was written"),
    ("train RECIPE", "flowkit.training.train.open_data", "the run has not begun and nothing was written"),
    ("train RECIPE", "flowkit.training.train.build", "the run has not begun and nothing was written"),
    ("train RECIPE", "flowkit.ui.listener", "the run has not begun and nothing was written"),
    ("train RUN --resume --set train.steps=9", "flowkit.training.train.build", "the last checkpoint is step-00000004"),
]  # fmt: skip


@pytest.mark.parametrize("which", range(len(COMMANDS)), ids=[f"{command} in {place}" for command, place, _ in COMMANDS])
def test_every_command_at_every_stage(run, tmp_path, monkeypatch, capsys, which):
    (command, place, says), number = COMMANDS[which], (signal.SIGINT, signal.SIGTERM)[which % 2]
    monkeypatch.chdir(tmp_path)
    samples = flowkit.load(run).sample(3)
    from flowkit.data.dataset import write_dataset

    write_dataset("in/samples", samples)
    Path("drawings/cat").mkdir(parents=True)
    Path("drawings/cat/1.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><path fill="none" stroke="red" d="M1 1L8 8"/></svg>'
    )
    Path("r.toml").write_text(TOML)
    words = {"RUN": str(run), "SAMPLES": "in/samples", "DRAWINGS": "drawings", "RECIPE": "r.toml"}
    for word, path in words.items():
        command = command.replace(word, shlex.quote(path))
    before = {path for path in (*tmp_path.rglob("*"), *run.rglob("*"))}
    stopping(monkeypatch, place, number)
    status, err = called(monkeypatch, capsys, *shlex.split(command.replace("OUT", "out")))
    assert status == 128 + number and err.startswith("interrupted: ") and says in err and "Traceback" not in err, err
    assert err.count("\n") == 1
    left = {path for path in (*tmp_path.rglob("*"), *run.rglob("*"))} - before
    kept = {"out", "samples.safetensors", "samples.json", ".flowkit.json"} if "all samples" in says else set()
    assert {path.name for path in left} == kept


def test_interrupted_training_of_the_miniature(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("flowkit.text.sonar_packages.why_not_importable", lambda: None)
    monkeypatch.setenv("FLOWKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "s.txt").write_text("One.\nTwo.\n")
    stopping(monkeypatch, "flowkit.text.mini.codec._train")
    status, err = called(
        monkeypatch, capsys, "prepare", tmp_path / "s.txt", "--out", tmp_path / "d", "--codec", "mini-sonar"
    )
    assert status == 130 and "interrupted: the miniature SONAR was not trained completely" in err and "rerun the" in err
    assert {path.name for path in tmp_path.glob("*")} == {"cache", "s.txt"}


def test_an_extension_that_turns_an_interrupt_into_another_error(monkeypatch, capsys):
    def loading(*arguments: Any, **named: Any) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise ImportError("numpy could not be loaded") from None

    monkeypatch.setattr("flowkit.inspect.run_report", loading)
    status, err = called(monkeypatch, capsys, "inspect", Path(__file__).parent)
    assert status in (2, 130)
    monkeypatch.setattr("flowkit.doctor.examine", loading)
    status, err = called(monkeypatch, capsys, "doctor")
    assert status == 130 and "numpy" not in err


def test_interrupt_inside_a_callback_is_not_lost(capsys):
    class Fragile:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass

    with pytest.raises(KeyboardInterrupt), handled():
        Fragile()
        time.sleep(5)
    assert "Traceback" not in capsys.readouterr().err


def test_handlers_are_restored_and_ignored_signals_stay_ignored():
    before = signal.getsignal(signal.SIGINT)
    with handled():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # nohup, a script's background job
    try:
        with handled():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flowkit", *arguments], cwd=folder, env=environment(), text=True, stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


def until(what: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_real_processes(tmp_path):
    """While it is loaded; in the loop; then a second time, which needs no answer."""
    (tmp_path / "r.toml").write_text(TOML)
    loading = start(tmp_path, "train", "r.toml")
    until(lambda: b"torch" in Path(f"/proc/{loading.pid}/maps").read_bytes())
    loading.send_signal(signal.SIGTERM)
    _, err = loading.communicate(timeout=60)
    assert loading.returncode == 143 and err.startswith("interrupted: the run has not begun"), err
    assert [path.name for path in tmp_path.iterdir()] == ["r.toml"]

    running = start(tmp_path, "train", "r.toml")
    until(lambda: list_checkpoints(tmp_path / "runs" / "run"))
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130 and "Traceback" not in err
    assert err.count("notice SIGINT: finishing this update, then saving a checkpoint; Ctrl-C again quits at once") == 1
    assert "--resume" in err.splitlines()[-2]

    sampling = start(tmp_path, "sample", "runs/run", "--solver", "euler", "--steps", "9999999")
    until(lambda: b"torch" in Path(f"/proc/{sampling.pid}/maps").read_bytes())
    time.sleep(1)
    sampling.send_signal(signal.SIGINT)
    _, err = sampling.communicate(timeout=60)
    assert (
        sampling.returncode == 130 and err == "interrupted: nothing was written. Run the same command to start again\n"
    )
    assert not list(tmp_path.rglob("*.partial"))


STUBBORN = """
import signal, sys, time
from flowkit import cli
import flowkit.doctor

def stubborn(*arguments, **named):
    while True:
        try:
            print("working", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            pass

flowkit.doctor.examine = stubborn
sys.argv = ["flowkit", "doctor", "--json"]
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_a_hanging_process(tmp_path, number):
    process = subprocess.Popen([sys.executable, "-c", STUBBORN], env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(2):
        assert process.stdout.readline() == "working\n"
        process.send_signal(number)
    assert process.wait(timeout=30) == 128 + number
