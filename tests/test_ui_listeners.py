"""A run's events as plain lines and as a live view."""

import io
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import IO, cast

import numpy as np
import pytest
from rich.console import Console

from flowkit.data.dataset import Dataset
from flowkit.domain import Preview, get_domain
from flowkit.events import Doing, Finished, Logged, Notice, RunStarted, Sampled, Saved, Stepped, Validated
from flowkit.ui import listener, view
from flowkit.ui.live import LiveListener
from flowkit.ui.plain import PlainListener
from flowkit.ui.state import RunState
from tests.test_ui_frame import Terminal

RUN = Path("runs/kanji")
STARTED = RunStarted(
    name="kanji", run_dir=RUN, arch="bezier_sketch_dit", num_parameters=7_412_232, data="kanji (15 classes)",
    noun="sketches", train_rows=1239, val_rows=65, x_shape=(32, 8), device="NVIDIA H100 80GB HBM3", num_processes=2,
    precision="bf16", batch_size=256, micro_batch_size=32, accumulation=4, start_step=0, total_steps=2000,
    steps_per_epoch=4.84, ema_decay=0.9999,
)  # fmt: skip
PICTURES = tuple(
    Preview(name, ("⠿" * 24,) * 12) for name in ("water", "tree", "hand", "sun", "fire", "rain", "mouth", "gold")
)
EVENTS = [
    STARTED,
    Notice("the launcher says fp16;\nbf16 is used"),
    *(Stepped(step) for step in range(1, 51)),
    Logged(
        50, 10.3, 0.81234, 9.3e-5, 1.25, 0.91, 21412.0, 724.0, 3_100_000_000, skipped=2, terms={"smoothness": 0.0123}
    ),
    Validated(50, 0.412, 0.415, 1.648, ((0.0, 0.5, 0.6), (0.5, 1.0, 0.2)), True, {"diagonal": 0.62, "full": 0.51}),
    Saved(50, RUN / "checkpoints/step-00000050", True, 0.21),
    Sampled(50, PICTURES, RUN / "samples/step-00000050", 49, 1.23, count=64),
]
DONE = Finished(2000, 3723.0, RUN, "done")


def _plain(*events) -> list[str]:
    stream = io.StringIO()
    with PlainListener(stream) as on:
        for event in events:
            on(event)
    lines = stream.getvalue().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    return [line[20:] for line in lines]


def test_plain_lines_are_one_an_event_and_keep_their_keys():
    lines = _plain(*EVENTS, DONE)
    kinds = ["run", "notice", "step", "validation", "saved", "samples", "done", "next:", "next:"]
    assert [line.split()[0] for line in lines] == kinds
    assert not any("\x1b" in line for line in lines)
    assert lines[1] == "notice the launcher says fp16; bf16 is used"
    assert lines[2] == (
        "step 50/2000 epoch=10.30 loss=0.8123 smoothness=0.0123 grad_norm=1.250 lr=9.300e-05 ema=0.91 "
        "sketches/s=21412.0 memory=3.1GB left=12:04 skipped=2"
    )
    assert (
        lines[3]
        == "validation step=50 loss=0.4120 raw=0.4150 zero=1.648 diagonal=0.6200 full=0.5100 bins=0.6000,0.2000 best"
    )
    assert lines[4] == f"saved step=50 seconds=0.21 path={RUN}/checkpoints/step-00000050 best"
    assert lines[5] == f"samples step=50 count=64 nfe=49 seconds=1.23 path={RUN}/samples/step-00000050"
    assert lines[6] == "done at step 2,000 after 1:02:03, validation loss 0.4120, best 0.4120 at step 50"
    assert lines[7:] == ["next: flowkit sample runs/kanji", "next: flowkit inspect runs/kanji"]


def test_interrupted_run_names_the_command_to_resume():
    for reason in ("interrupted", "out of time"):
        *_, told, resume, _ = _plain(STARTED, Finished(700, 60.0, RUN, reason))
        assert told == f"{reason} at step 700 after 1:00"
    assert resume == "next: flowkit train runs/kanji --resume"


def test_non_terminals_get_plain_lines(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as CI services set it: colors, perhaps, but never a screen
    assert isinstance(listener(), PlainListener)
    assert isinstance(listener(Console(file=io.StringIO())), PlainListener)
    with listener() as on:
        on(STARTED)
    assert " run name=kanji " in capsys.readouterr().err


@pytest.mark.parametrize("variable", [{"TERM": "dumb"}, {"TERM": "xterm"}])
def test_a_terminal_gets_the_live_view_unless_it_is_dumb(variable):
    console = Console(file=cast(IO[str], Terminal()), force_terminal=True, _environ=variable)
    assert isinstance(listener(console), PlainListener if variable["TERM"] == "dumb" else LiveListener)


def _state(*events) -> RunState:
    state = RunState()
    for event in events:
        state.update(event)
    return state


@pytest.mark.parametrize("width", [20, 40, 79, 119, 159, 300])
@pytest.mark.parametrize("height", [3, 10, 23, 39, 49])
def test_the_view_fits_its_window(width, height):
    for count in (1, 2, len(EVENTS)):
        lines = view.lines(_state(*EVENTS[:count]), width, height)
        assert 1 <= len(lines) <= height
        assert max(line.cell_len for line in lines) <= width


@pytest.mark.parametrize(("width", "height"), [(79, 23), (159, 49)])
def test_nothing_moves_when_values_come_in(width, height):
    """Every label stands where it stood from the first moment on, and the samples come below everything."""
    before = [line.plain for line in view.lines(_state(STARTED), width, height)]
    after = [line.plain for line in view.lines(_state(*EVENTS), width, height)]
    labels = ("loss", "validation", "learning rate", "EMA decay", "sketches/s", "memory", "checkpoint", "best", "left")
    for label in labels:
        row = next(i for i, line in enumerate(before) if re.search(rf"\b{label}\b", line))
        assert re.search(rf"\b{label}\b", after[row]), label
    assert after[len(before) :][0].strip() == "" or "samples at step 50" in after[len(before)]


@pytest.mark.parametrize(("width", "height", "pictures"), [(79, 23, 3), (119, 39, 4), (159, 49, 8)])
def test_view_shows_all_values(width, height, pictures):
    text = "\n".join(line.plain for line in view.lines(_state(*EVENTS), width, height))
    for fact in ("kanji", "bezier_sketch_dit", "7.41 M", "15 classes", "NVIDIA H100", "2 processes", "bf16",
                 "256 = 2 × 4 × 32", "0.91000" if width < 119 else "EMA of the last 10,000 updates",
                 "2%", "50 / 2,000", "0.8123", "0.4120", "zero 1.648", "full 0.5100", "9.30e-05",
                 "1.250", "0.91000", "21,412 sketches/s", "3.1 GB", "2 updates skipped", "smoothness 0.0123",
                 "step 50", "0.4120 at step 50", "samples at step 50", "49 NFE"):  # fmt: skip
        assert fact in text, fact
    assert len([name for name in (p.title for p in PICTURES) if name in text]) == pictures
    assert text.count("⠿") == pictures * 24 * 12


@pytest.mark.parametrize("width", [39, 50, 59, 69, 79, 99, 119])
@pytest.mark.parametrize("height", [19, 29, 44])
def test_a_narrow_terminal_drops_whole_fields(width, height):
    """Values stand whole or not at all: `EMA decay 0.9...` says nothing."""
    text = [line.plain for line in view.lines(_state(*EVENTS), width, height)]
    assert not any("…" in line for line in text)
    if height > 19:
        shown = "\n".join(text)
        for fact in ("0.8123", "0.4120", "9.30e-05", "1.250", "0.91000", "21,412 sketches/s", "3.1 GB", "at step 50"):
            assert fact in shown, fact


def _sketches(count: int) -> tuple[Preview, ...]:
    """Pictures in the sizes in which the domain draws sketches."""
    rows = np.random.default_rng(0).uniform(-1, 1, (count, 3, 8)).astype(np.float32)
    return tuple(get_domain("sketch").preview(Dataset("sketch", rows)))


@pytest.mark.parametrize(("width", "height", "pictures"), [(59, 19, 3), (79, 23, 3), (99, 29, 8), (139, 44, 8)])
def test_pictures_are_as_large_as_the_terminal_allows(width, height, pictures):
    sampled = replace(cast(Sampled, EVENTS[-1]), previews=_sketches(8))
    text = [line.plain for line in view.lines(_state(*EVENTS[:-1], sampled), width, height)]
    (titles,) = {row for row, line in enumerate(text) if "samples at step" in line}
    drawn = [line for line in text[titles + 1 :] if line.strip() and not re.search("[⠀-⣿]", line)]
    assert len(" ".join(drawn).split()) == pictures


def test_time_left_is_paused_during_validation(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    state = _state(STARTED, cast(Logged, EVENTS[-4]))
    clock[0] += 10
    assert state.seconds_left == 714
    state.update(Doing("validating"))
    clock[0] += 50
    assert "validating" in view.progress(state, 79).plain and "11:54 left" in view.progress(state, 79).plain
    state.update(Doing("sampling"))
    clock[0] += 30
    assert "sampling" in view.progress(state, 79).plain and state.seconds_left == 714
    state.update(Doing(""))
    assert "epoch" in view.progress(state, 79).plain and state.seconds_left == 714
    clock[0] += 4
    assert state.seconds_left == 710


def test_what_was_printed_last_is_shown_below_the_view(monkeypatch):
    terminal = Terminal(width=80, height=20)
    monkeypatch.setattr(sys, "stderr", terminal)
    with _live(terminal) as on:
        on(STARTED)
        print("first\nsecond\nthird\nfourth", file=sys.stderr)
        on(Notice("loss spike"))
        _wait_for(lambda: terminal.screen[-3:] == ["third", "fourth", "notice loss spike"])
        assert len(terminal.screen) < terminal.height


def test_a_loss_that_is_not_finite_is_shown_and_breaks_nothing():
    bad = Logged(100, 20.0, float("nan"), 1e-4, float("inf"), 0.9, float("nan"), float("inf"), 1)
    text = "\n".join(line.plain for line in view.lines(_state(*EVENTS, bad), 159, 49))
    assert "nan" in text and "inf" in text
    assert "loss=nan" in _plain(STARTED, bad)[-1] and "left=?" in _plain(STARTED, bad)[-1]


def _live(terminal: Terminal, **settings) -> LiveListener:
    return LiveListener(
        Console(
            file=cast(IO[str], terminal), force_terminal=True, width=terminal.width, height=terminal.height, **settings
        )
    )


def test_the_last_state_stays_with_what_to_do_next():
    terminal = Terminal(width=120)
    with _live(terminal) as on:
        for event in (*EVENTS, Stepped(2000), DONE):
            on(event)
    shown = "\n".join(terminal.screen)
    assert shown.index("notice the launcher") < shown.index("── kanji") < shown.index("done at step 2,000")
    assert shown.count("── kanji") == 1
    assert "2,000 / 2,000" in shown and "100%" in shown
    assert shown.rstrip().endswith("next  flowkit sample runs/kanji\nor    flowkit inspect runs/kanji")
    assert terminal.cursor_visible


def test_the_thread_repaints_by_itself():
    terminal = Terminal(width=120)
    with _live(terminal) as on:
        on(STARTED)
        on(Stepped(7))
        _wait_for(lambda: "7 / 2,000" in "\n".join(terminal.screen))
        on(Stepped(8))
        _wait_for(lambda: "8 / 2,000" in "\n".join(terminal.screen))
    assert not any(thread.name == "flowkit-live" for thread in threading.enumerate())


def test_error_leaves_a_clean_terminal():
    terminal = Terminal(width=120)
    before = sys.stdout, sys.stderr
    with pytest.raises(RuntimeError, match="boom"), _live(terminal) as on:
        on(STARTED)
        on(Stepped(3))
        raise RuntimeError("boom")
    assert terminal.cursor_visible and (sys.stdout, sys.stderr) == before
    assert "3 / 2,000" in "\n".join(terminal.screen)
    assert "next" not in terminal.screen[-1]


def test_no_color():
    for environment, colored in (({}, True), ({"NO_COLOR": "1"}, False)):
        terminal = Terminal(width=120)
        with _live(terminal, color_system="256", _environ=environment) as on:
            for event in EVENTS:
                on(event)
        assert bool(re.search(r"\x1b\[[\d;]*3[1-7][\d;]*m", terminal.raw)) is colored


def _wait_for(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing was repainted"
        time.sleep(0.02)


def test_nothing_here_imports_torch():
    code = ("import sys, flowkit.ui, flowkit.ui.live, flowkit.ui.plain, flowkit.ui.view, flowkit.ui.inspect_view; "
            "assert not {'torch', 'numpy', 'scipy', 'PIL', 'pydantic'} & set(sys.modules), sys.modules.keys()")  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True)
