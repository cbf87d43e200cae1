"""`flowkit report`: the page is whole and needs nothing but itself, whatever the runs are like."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import tomllib
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from rich.console import Console
from typer.testing import CliRunner

import flowkit.report
from flowkit.checkpoint.history import read_history
from flowkit.cli import app
from flowkit.data.dataset import Dataset, write_dataset
from flowkit.domain import get_domain
from flowkit.errors import UserError
from flowkit.html import VOID, Markup, element, join
from flowkit.recipe import recipe_from_dict
from flowkit.recipe.dump import default_keys
from flowkit.report import write_report
from flowkit.report.charts import Line, interval_bar, line_chart, log_ticks, ticks
from flowkit.report.page import page
from flowkit.report.samples import nearest_rows, spread
from flowkit.runs import open_run
from flowkit.runs.comparison import compare
from flowkit.runs.curves import POINTS, read_curves
from flowkit.runs.sessions import read_sessions
from flowkit.ui.compare_view import show_comparison
from flowkit.ui.runs_view import show_runs
from tests.test_runs import FIXTURES, evaluation, made

runner = CliRunner()


class Page(HTMLParser):
    """Checks that elements are closed in order, and keeps what they are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID and tag not in ("rect",):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += f" {data}"

    def of(self, class_: str) -> int:
        return sum(class_ in (attributes.get("class") or "").split() for _, attributes in self.elements)


def report(tmp_path: Path, *runs: Path) -> Page:
    written = write_report([open_run(run) for run in runs], tmp_path / "report.html")
    text = written.path.read_text("utf-8")
    assert len(text.encode()) == written.bytes < 5_000_000
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text) and "url(" not in text and "@import" not in text
    return Page(text)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of points with samples of two steps and an evaluation."""
    folder = tmp_path_factory.mktemp("trained")
    keys = {"run.dir": folder, "data.num_samples": 400, "train.steps": 40, "train.batch_size": 64, "train.val_every": 10,
            "train.log_every": 2, "sample.every": 20, "sample.num_samples": 30, "sample.steps": 2}  # fmt: skip
    sets = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
    for command in (["train", "points_quickstart", *sets, "--quiet"],
                    ["evaluate", f"{folder}/points-quickstart", "-n", "50"]):  # fmt: skip
        answer = runner.invoke(app, command)
        assert answer.exit_code == 0, answer.output
    return folder / "points-quickstart"


def test_a_page_about_one_run(trained, tmp_path):
    page = report(tmp_path, trained)
    for said in ("points-quickstart", "done", "Best validation loss", "Learning rate", "Gradient norm", "Samples over time",
                 "step 20", "step 40", "2-Wasserstein", "real rows", "predicting zero", "full Gaussian", "loss by time t",
                 "[optim]", "command", "versions", "torch"):  # fmt: skip
        assert said in page.text, said
    assert page.of("chart") == 4 and page.of("frame") == 2 and page.of("interval") == 2
    assert page.of("default") > 20
    assert [tag for tag, _ in page.elements].count("script") == 1


def test_a_page_about_several_runs(trained, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trained, other, symlinks=True)
    (other / "recipe.toml").write_text((other / "recipe.toml").read_text().replace("lr = 0.002", "lr = 0.003"))
    page = report(tmp_path, trained, other, FIXTURES / "sketch-dit")
    for said in ("Differences", "optim.lr", "0.003", "within chance", "sketch-dit", "not comparable"):
        assert said in page.text, said
    assert page.of("over-time") == 3


def test_evaluations_of_one_run_stand_side_by_side(tmp_path):
    run = made(tmp_path / "run")
    for solver, ends in (("euler", (2, 1.9, 2.1)), ("midpoint", (1, 0.9, 1.1))):
        evaluation(run, solver, solver=f"100, {solver}, seed 0", f=("lower is better", ends))
    evaluation(run, "other", protocol="points-0", step=1, f=("lower is better", (7, 6, 8)))
    page = report(tmp_path, run)
    assert "euler" in page.text and "midpoint" in page.text and "7.00" not in page.text
    assert page.text.count("better") > page.text.count("lower is better") and page.of("whisker") == 3
    # A run with one evaluation needs no names.
    evaluation(other := made(tmp_path / "other"), f=("lower is better", (1, 0.9, 1.1)))
    assert "samples" in report(tmp_path, other).text


def test_sketches_and_sentences(tmp_path):
    sketches = np.random.default_rng(0).uniform(-1, 1, (3, 4, 8)).astype(np.float32)
    run = made(tmp_path / "sketches")
    labels = {"class_label": np.arange(3), "class_names": ("cat", "<b>", "c")}
    write_dataset(run / "samples" / "step-00000005" / "samples.safetensors", Dataset("sketch", sketches, **labels))
    (run / "samples" / "step-00000009").mkdir()  # is being written
    text = made(tmp_path / "text")
    vectors = Dataset("embedding", np.zeros((2, 3), np.float32), texts=["A <b>bold</b> one.", "Another."])
    write_dataset(text / "samples" / "step-00000005" / "samples.safetensors", vectors)
    evaluation(text, f=("lower is better", (1, 0, 2)))
    table = "# Samples\n\n| row | sample | cosine |\n|---:|---|---:|\n| 0 | A \\| <i>sentence</i> | 0.5 |\n"
    (text / "evaluation" / "one" / "samples.md").write_text(table)
    page = report(tmp_path, run, text)
    assert "A <b>bold</b> one." in page.text and "A | <i>sentence</i>" in page.text
    assert sum(tag == "path" and attributes.get("d", "").startswith("M") and "class" not in attributes
               for tag, attributes in page.elements) == 12  # fmt: skip
    assert not any(tag == "i" and "class" not in attributes for tag, attributes in page.elements)


def test_damaged_runs_are_shown_as_such(tmp_path):
    runs = [
        made(tmp_path / name)
        for name in ("toml", "metrics", "empty", "samples", "<script>alert(1)</script>".replace("/", "-"))
    ]
    (runs[0] / "recipe.toml").write_text("[")
    (runs[1] / "metrics.jsonl").write_text(
        '{"step": 1, "val_loss": 1, "val_bins": [3, [1]], "val_zero_loss": null}\n{"st'
    )
    for path in runs[2].iterdir():
        path.write_bytes(b"")
    (runs[3] / "samples" / "step-00000001").mkdir(parents=True)
    (runs[3] / "samples" / "step-00000001" / "samples.safetensors").write_bytes(b"junk")
    (runs[3] / "sessions.jsonl").write_text('{"time": 3, "git": 4, "versions": [], "command": {}}\n[]\njunk\n')
    page = report(tmp_path, *runs)
    assert "broken" in page.text and "not valid TOML" in page.text and "<script>alert(1)" in page.text
    for run in runs:
        report(tmp_path, run)
    fixtures = [path for path in FIXTURES.iterdir() if path.is_dir()]
    assert len(fixtures) > 10
    report(tmp_path, *fixtures)


def test_a_page_that_would_be_too_large_shows_fewer_samples(trained, tmp_path, monkeypatch):
    whole = write_report([open_run(trained)], tmp_path / "whole.html")
    monkeypatch.setattr(flowkit.report, "LARGEST", whole.bytes - 1000)
    monkeypatch.setattr(flowkit.report, "FRAMES", (2, 1))
    assert write_report([open_run(trained)], tmp_path / "less.html").frames == 1
    monkeypatch.setattr(flowkit.report, "LARGEST", 1000)
    assert write_report([open_run(trained)], tmp_path / "least.html").frames == 0


def test_bad_input(tmp_path):
    run = made(tmp_path / "run")
    for out, said in (
        (tmp_path, "is a folder"),
        (tmp_path / "a.pdf", "ends in .html"),
        (run / "recipe.toml" / "a.html", "cannot"),
    ):
        with pytest.raises((UserError, OSError), match=said):
            write_report([open_run(run)], out)
    assert (run / "recipe.toml").is_file()
    (tmp_path / "mine.html").write_text("<p>my own page</p>")
    with pytest.raises(UserError, match="is not replaced"):
        write_report([open_run(run)], tmp_path / "mine.html")
    assert (tmp_path / "mine.html").read_text() == "<p>my own page</p>"
    first, again = (write_report([open_run(run)], tmp_path / "again.html") for _ in range(2))
    assert first.bytes == again.bytes
    answer = runner.invoke(app, ["report", str(tmp_path / "rum"), "--out", str(tmp_path / "a.html")])
    assert isinstance(answer.exception, UserError) and "did you mean 'run'" in str(answer.exception)
    assert not (tmp_path / "a.html").exists()


def test_elements_escape_what_is_not_markup():
    assert element("a", "<b>", Markup("<i>"), [None, 3], class_="x", data_step='"', hidden=True, title=None) == (
        '<a class="x" data-step="&quot;" hidden>&lt;b&gt;<i>3</a>'
    )
    assert element("br") == "<br>" and join(["a", None, "b"], ", ") == "a, b"


def test_ticks_are_round_and_within():
    assert ticks(0, 1500) == [0, 500, 1000, 1500] and ticks(0.13, 0.49) == pytest.approx([0.2, 0.3, 0.4])
    assert ticks(3, 3) == [3] and log_ticks(1, 100) == [1, 10, 100] and log_ticks(0.2, 3) == [0.2, 0.5, 1, 2]
    for low, high in ((1e-5, 1e3), (0.9, 1.1), (0.23, 2.1), (5, 5.001)):
        found = log_ticks(low, high)
        assert 1 <= len(found) <= 8 and all(low * 0.96 <= tick <= high * 1.04 for tick in found)


def test_charts_of_odd_curves():
    assert line_chart([Line("a", [], "red")], label="none") is None
    for points in ([(5, 1.0)], [(1, 0.0), (2, 0.0)], [(1, -1.0), (2, 1e30)], [(0, 1e-30), (10**9, 1e-30)]):
        for log in (True, False):
            chart = line_chart([Line("a", points, "red", dots=True)], label="odd", log=log)
            assert chart is not None and "nan" not in chart and "inf" not in chart.replace("interval", "")
            Page(chart)
    assert interval_bar([("a", None, "red")]) == ""
    Page(interval_bar([("a", (1, 1, 1), "red"), ("b", None, "red")], target=1))


def test_curves_are_thinned(tmp_path):
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step in range(1, 2501):
            file.write(json.dumps({"step": step, "loss": float(step), "lr": None, "time": "x"}) + "\n")
            file.write(json.dumps({"step": step, "val_loss": 1.0, "n": step}) + "\n")
    curves = read_curves(tmp_path / "metrics.jsonl")
    assert POINTS <= len(curves.logged["loss"]) < 2 * POINTS and curves.logged["lr"] == []
    assert all(step == value for step, value in curves.logged["loss"])
    assert POINTS <= len(curves.validations) <= 2 * POINTS and curves.validations[-1]["step"] == 2500
    assert spread(range(10), 4) == [1, 4, 7, 9] and spread("ab", 4) == ["a", "b"]


def test_points_are_drawn_over_the_data():
    points, data = np.array([[0.0, 0.0], [1, 1], [np.nan, 0]], np.float32), np.array([[0, 0], [2, 2]], np.float32)
    (drawn,) = get_domain("points").draw(Dataset("points", points, np.array([0, 9, 1])), data)
    Page(drawn)
    assert "--series-0" in drawn and "--series-1" in drawn and "nan" not in drawn
    assert get_domain("points").draw(Dataset("points", np.zeros((2, 3), np.float32))) == []
    assert get_domain("array").draw(Dataset("array", np.zeros((2, 3), np.float32))) == []


def test_keys_at_their_defaults():
    tables = {
        "run": {"name": "a", "seed": 0},
        "model": {"arch": "mlp", "hidden_dim": 8},
        "train": {"steps": 5},
        "optim": {"lr": 1e-3},
    }
    keys = default_keys(recipe_from_dict(tables))
    assert {"run.seed", "optim.eps", "data.order", "flow.path", "train.epochs"} <= keys
    assert not {"run.name", "model.arch", "model.hidden_dim", "train.steps", "optim.lr"} & keys


def test_nearest_rows_that_cannot_be_read(tmp_path):
    assert nearest_rows(tmp_path) is None
    (tmp_path / "samples.md").write_text("no table")
    assert nearest_rows(tmp_path) is None
    (tmp_path / "nearest.png").mkdir()
    assert nearest_rows(tmp_path) is None


@pytest.mark.slow
def test_the_slider_works_in_a_browser(trained, tmp_path):
    """Needs Chromium (Debian: apt install chromium)."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here")
    write_report([open_run(trained)], tmp_path / "report.html")
    done = subprocess.run([chromium, "--headless", "--no-sandbox", "--dump-dom", f"file://{tmp_path / 'report.html'}"],
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    page = Page(done.stdout.replace("<!DOCTYPE html>", ""))
    assert page.of("slider") == 1 and page.of("live") == 1 and page.of("on") == 1


ODD = [
    None,
    True,
    -1,
    0,
    10**19,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "<i>",
    [],
    [[]],
    {},
    {"name": []},
    {"name": 3},
    "\u202e",
]


def changed(content: Any, rng: random.Random) -> Any:
    """Return a JSON value with one inner value replaced by an odd one."""
    if isinstance(content, dict | list) and content and rng.random() < 0.8:
        keys = list(content) if isinstance(content, dict) else range(len(content))
        key, copied = rng.choice(keys), content.copy()
        copied[key] = changed(content[key], rng)
        return copied
    return rng.choice(ODD)


def test_whatever_a_run_says_it_has_a_line_and_a_page(trained, tmp_path):
    """Odd values at odd places of its files: `runs`, `compare` and `report` work all the same. FLOWKIT_FUZZ=100 tries more."""
    rng = random.Random(int(os.environ.get("FLOWKIT_FUZZ_SEED", "0")))
    recipe = tomllib.loads((trained / "recipe.toml").read_text())
    for number in range(int(os.environ.get("FLOWKIT_FUZZ", "1")) * 15):
        run = tmp_path / str(number)
        shutil.copytree(trained, run, symlinks=True)
        files = [path for path in (*run.rglob("*.json"), *run.rglob("*.jsonl")) if not path.is_symlink()]
        for path in (*rng.sample(files, 2), run / "metrics.jsonl"):
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            place = rng.randrange(len(lines))
            lines[place] = json.dumps(changed(json.loads(lines[place]), rng))
            path.write_text("\n".join(lines) + "\n")
        with contextlib.suppress(TypeError, AttributeError):  # what TOML cannot hold
            (run / "recipe.toml").write_text(tomli_w.dumps(changed(recipe, rng)))
        for sums in run.rglob("checksums.json"):
            sums.unlink()
        found = [open_run(run), open_run(trained)]
        json.dumps([one.to_json() for one in found])
        show_runs(found, Console(file=io.StringIO()))
        show_comparison(
            compare(found, [(read_sessions(one.path) or [{}])[-1] for one in found]), Console(file=io.StringIO())
        )
        Page(page(found, datetime.now(), frames=2, pictures=True))
        Page(page(found[:1], datetime.now(), frames=2, pictures=True))
        with contextlib.suppress(UserError):
            repr(read_history(run))
        shutil.rmtree(run)
