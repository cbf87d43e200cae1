"""A resumed run's view starts with what the run had before: curves, validation, samples, checkpoint and time."""

import json
import math
import shutil
from dataclasses import asdict, replace

import pytest

import flowkit
from flowkit.checkpoint import list_checkpoints
from flowkit.events import Logged, RunStarted, Sampled, Saved, Validated
from flowkit.training.trackers import metrics_of
from flowkit.ui import view
from flowkit.ui.past import recall
from flowkit.ui.state import RunState
from flowkit.ui.wording import summary
from tests.conftest import Recorder
from tests.test_ui_listeners import DONE, STARTED

RESUMED = replace(STARTED, start_step=40, best=(20, 0.5))


def _logged(step: int) -> Logged:
    return Logged(step, 1.0, 1 / step, 1e-3, 1.5, 0.9, 100.0, 10.0, 1000, 2, {"smoothness": 0.25})


VALIDATED = Validated(
    40, 0.5, 0.6, 2.0, ((0.0, 0.5, 0.7), (0.5, 1.0, math.nan)), True, {"diagonal": 0.9, "full": 0.8}, {}, 0.125
)


def _write(run_dir, *events, elapsed=12.5, more=""):
    rows = [{**(metrics_of(event) or {}), "time": "2026-11-29T03:28:22+00:00", "elapsed": elapsed} for event in events]
    text = "".join(json.dumps(row).replace("NaN", "null") + "\n" for row in rows)
    (run_dir / "metrics.jsonl").write_text(text + more)


def test_events_are_read_back_as_they_were(tmp_path):
    told = [*map(_logged, (10, 20)), VALIDATED, _logged(41)]
    _write(tmp_path, *told, elapsed=33.0)
    found = []
    assert recall(tmp_path, 40, found.append) == 33.0
    # What was left at the time is not known any more.
    before = [replace(event, seconds_left=math.nan) if isinstance(event, Logged) else event for event in told[:-1]]
    assert list(map(repr, map(asdict, found))) == list(map(repr, map(asdict, before)))


def test_the_chart_is_refilled_and_the_heading_says_where_the_run_resumed(tmp_path):
    _write(tmp_path, *map(_logged, range(1, 41)), VALIDATED)
    state = RunState()
    state.update(replace(RESUMED, run_dir=tmp_path))
    assert [step for step, _ in state.losses.points] == list(range(1, 41))
    for width, height in ((59, 19), (79, 23), (139, 44)):
        shown = "\n".join(line.plain for line in view.lines(state, width, height))
        for fact in ("resumed at step 40", "0.0250", "0.5000", "zero 2.000", "0.5000 at step 20"):
            assert fact in shown, fact
    assert state.seconds_left is None
    assert "0:12 in all" in view.progress(state, 139).plain.replace("0:13", "0:12")
    assert summary(state, replace(DONE, seconds=60.0)).startswith(
        "done at step 2,000 after 1:00 (1:12 in all sessions)"
    )


def test_a_fresh_run_reads_nothing(tmp_path):
    _write(tmp_path, _logged(10))
    state = RunState()
    state.update(replace(STARTED, run_dir=tmp_path))
    assert not state.losses.points and "resumed" not in view.lines(state, 79, 23)[0].plain


@pytest.mark.parametrize(
    "line",
    ['{"step": 11, "lo', "[]", "7", '{"step": "x", "loss": 1}', '{"step": 11, "loss": "y"}', '{"step": 11, "loss": 1}',
     '{"step": 11, "val_loss": 1}', '{"step": 11, "val_loss": 1, "val_bins": 3}', '{"step": 11, "elapsed": null}'],
)  # fmt: skip
def test_lines_that_cannot_be_read_are_skipped(tmp_path, line):
    _write(
        tmp_path, _logged(10), more=line + "\n" + json.dumps({**(metrics_of(_logged(12)) or {}), "elapsed": 50}) + "\n"
    )
    found = []
    assert recall(tmp_path, 40, found.append) == 50
    assert [event.step for event in found] == [10, 12]


def test_a_run_without_its_files_starts_an_empty_view(tmp_path):
    found = []
    assert recall(tmp_path / "gone", 40, found.append) == 0 and not found


def test_a_resumed_run_shows_its_samples_and_its_checkpoint(tiny, rows, tmp_path):
    tiny["train"].update(steps=9, save_every=3, log_every=1, val_every=3)
    tiny["sample"].update(every=3)
    flowkit.train(tiny, data=rows)
    run_dir = tmp_path / "runs" / "tiny"
    for path in list_checkpoints(run_dir)[2:]:
        shutil.rmtree(path)
    seen = []

    class Listener(Recorder):
        def __call__(self, event):
            super().__call__(event)
            if isinstance(event, RunStarted):
                state = RunState()
                state.update(event)
                seen.append(state)

    flowkit.train(tiny, data=rows, resume=True, listeners=lambda: [Listener()])
    (state,) = seen
    assert isinstance(state.sampled, Sampled) and isinstance(state.saved, Saved)
    assert (state.sampled.step, state.saved.step, state.validated.step, state.logged.step) == (6, 6, 6, 6)
    assert len(state.sampled.previews) == 3 and state.sampled.nfe == 4
    assert state.earlier_seconds > 0
    shown = "\n".join(line.plain for line in view.lines(state, 139, 44))
    assert "samples at step 6" in shown and "checkpoint step 6" in shown and "4 NFE ·" in shown
    sessions = (run_dir / "sessions.jsonl").read_text().splitlines()
    assert [json.loads(line)["start_step"] for line in sessions] == [0, 6]
