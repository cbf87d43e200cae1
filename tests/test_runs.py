"""`flowkit runs` and `flowkit compare`: whole, half-written and damaged runs, made by hand or copied from the fixtures."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from flowkit.checkpoint.run_dir import LOCK as TRAINERS_LOCK
from flowkit.cli import app
from flowkit.errors import UserError
from flowkit.runs import LOCK, list_runs, named_apart, open_run, summarize
from flowkit.runs.comparison import compare, difference, judge, recipe_rows
from flowkit.runs.evaluations import FigureResult, Interval, best_of
from flowkit.ui.compare_view import show_comparison

FIXTURES = Path(__file__).parent / "fixtures" / "runs"
RECIPE = '[run]\nname = "a"\n[data]\nsource = "8gaussians"\n[model]\narch = "mlp"\nhidden_dim = 8\n[optim]\nlr = {lr}\n'
runner = CliRunner()


def evaluation(
    run: Path,
    name: str = "one",
    protocol: str = "points-1",
    step: int = 10,
    solver: str = "midpoint",
    rows: int = 100,
    **figures: Any,
) -> None:
    folder = run / "evaluation" / name
    folder.mkdir(parents=True)
    column = lambda ends: dict(zip(("value", "low", "high"), ends, strict=True))  # noqa: E731
    table = {key: {"name": key, "good": good, "samples": column(ends), "real": column((0.4, 0.3, 0.5))}
             for key, (good, ends) in figures.items()}  # fmt: skip
    settings = {
        "asked": {"data": None, "step": step, "weights": "ema", "sampling": {"solver": solver}},
        "split": "validation",
        "rows": rows,
        "held_out_rows": 100,
    }
    content = {"format": 1, "protocol": protocol, "settings": settings, "facts": {"samples": solver}, "figures": table}
    (folder / "evaluation.json").write_text(json.dumps(content))


def made(
    run: Path, lr: float = 1e-3, steps: str = "steps = 10", last: int = 10, loss: float = 0.5, zero: float = 1.0
) -> Path:
    """A run of `last` steps without checkpoints."""
    run.mkdir(parents=True)
    (run / "recipe.toml").write_text(RECIPE.format(lr=lr) + f"[train]\nbatch_size = 4\n{steps}\n")
    lines = [{"step": last, "epoch": last / 5, "loss": loss + 0.1, "elapsed": 7.0},
             {"step": last, "val_loss": loss, "val_zero_loss": zero, "elapsed": 8.0}]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def end(run: Path, step: int, reason: str) -> None:
    (run / "end.json").write_text(json.dumps({"format": 1, "step": step, "reason": reason}))


def test_states(tmp_path):
    runs = tmp_path / "runs"
    made(runs / "done")
    end(made(runs / "ended early", last=6), 6, "out of time")
    made(runs / "deep" / "er" / "killed", last=4)
    (runs / "begun").mkdir()
    (runs / "begun" / "recipe.toml").write_text(RECIPE.format(lr=1) + "[train]\nsteps = 3\n")
    made(runs / "in epochs", steps="epochs = 4.0", last=10)  # five updates an epoch
    (made(runs / "toml") / "recipe.toml").write_text("[run\n")
    shutil.copytree(FIXTURES / "points-selu", runs / "newer", symlinks=True)
    sidecar = next((runs / "newer" / "checkpoints").glob("step-*")) / "model.json"
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "format": 9}))
    (sidecar.parent / "checksums.json").unlink()
    (runs / "no run").mkdir()
    (runs / ".hidden").mkdir()
    made(runs / ".hidden" / "run")
    found = {run.name: run for run in list_runs(runs)}
    assert {name: (run.state, run.reason) for name, run in found.items() if run.state != "broken"} == {
        "done": ("done", ""), "ended early": ("interrupted", "out of time"), "deep/er/killed": ("interrupted", "killed"),
        "begun": ("interrupted", "not begun"), "in epochs": ("interrupted", "killed"),
    }  # fmt: skip
    assert found["in epochs"].total_steps == 20 and found["done"].seconds == 8.0
    assert found["toml"].state == "broken" and "not valid TOML" in found["toml"].reason
    assert found["newer"].state == "broken" and "upgrade flowkit" in found["newer"].reason
    assert found["begun"].loss is None and found["begun"].step is None and found["begun"].arch == "mlp"


def test_a_run_whose_lock_is_held_is_running(tmp_path):
    run = made(tmp_path / "a", last=4)
    assert LOCK == TRAINERS_LOCK
    with (run / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert summarize(run, "a").state == "running"
    assert summarize(run, "a").state == "interrupted"


def test_damage_that_does_not_break_a_run_is_a_remark(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(FIXTURES / "interrupted", run, symlinks=True)
    newest = run / "checkpoints" / "step-00000008" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    (run / "end.json").write_text("[")
    (run / "evaluation" / "x").mkdir(parents=True)
    (run / "evaluation" / "x" / "evaluation.json").write_text('{"format": 1}')
    found = summarize(run, "run")
    assert found.state == "interrupted" and found.evaluations == ()
    text = "\n".join(found.remarks)
    for said in ("step-00000008 is not usable", "1 line of metrics.jsonl", "end.json", "not an evaluation"):
        assert said in text
    answer = runner.invoke(app, ["runs", str(tmp_path)], env={"COLUMNS": "80"})
    assert answer.exit_code == 0 and "1 line of metrics.jsonl" in answer.stdout


def test_every_byte_of_a_run_may_be_wrong(tmp_path):
    """Whatever a file holds, the list has a line for its run."""
    for number, (name, content) in enumerate(
        (name, content)
        for name in ("recipe.toml", "metrics.jsonl", "end.json", "run.json", "evaluation/x/evaluation.json", "sessions.jsonl")
        for content in (b"", b"\xff\x00", b"[]", b"3", b'{"format": 1, "step": "x", "figures": 3}', b'model = "no table"')
    ):  # fmt: skip
        run = made(tmp_path / f"run{number}")
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(content)
    (made(tmp_path / "folder") / "end.json").mkdir()
    found = list_runs(tmp_path)
    assert len(found) == 37
    compare(found)
    answer = runner.invoke(app, ["compare", *(str(run.path) for run in found)])
    assert answer.exit_code == 0, answer.output
    assert "Traceback" not in answer.output


def test_best_figures(tmp_path):
    run = made(tmp_path / "a")
    ends = (0.6, 0.5, 0.7)
    evaluation(run, "first", step=5, low=("lower is better", ends), high=("higher is better", ends),
               half=("50 is perfect", (0.52, 0.5, 0.6)), real=("like real", (0.1, 0, 1)),
               no=("informative only", ends))  # fmt: skip
    evaluation(run, "second", step=9, low=("lower is better", (0.5, 0.4, 0.6)), high=("higher is better", (0.5, 0.4, 0.6)),
               half=("50 is perfect", (0.4, 0.3, 0.5)), real=("like real", (0.39, 0, 1)))  # fmt: skip
    evaluation(run, "another", protocol="points-0", step=1, low=("lower is better", (0, 0, 0)))
    best = {key: one.evaluation for key, one in best_of(summarize(run, "a").evaluations).items()}
    assert best == {"low": "second", "high": "first", "half": "first", "real": "second"}


def test_the_difference_of_two_intervals():
    found = difference(Interval(1.0, 0.7, 1.4), Interval(2.0, 1.7, 2.4))
    assert found.value == 1.0
    assert found.low == pytest.approx(1 - 0.5) and found.high == pytest.approx(1 + 0.5)
    figure = FigureResult("f", "f", "lower is better", "", "", "", 1.0, None, Interval(1.5, 1, 2), None)
    a, b, near = Interval(1.0, 0.9, 1.1), Interval(2.0, 1.9, 2.1), Interval(1.05, 0.95, 1.15)
    assert judge(figure, a, b).verdict == "worse" and judge(figure, b, a).verdict == "better"
    assert judge(figure, a, near).verdict == "within chance"
    other = FigureResult("f", "f", "informative only", "", "", "", 1.0, None, None, None)
    assert judge(other, a, b).verdict == "different"


def test_recipes_differ_without_defaults_and_names():
    one = {"run": {"name": "a"}, "model": {"arch": "mlp", "hidden_dim": 8}, "flow": {"path": "linear"},
           "sample": {"solver": {"name": "sde", "scale": 1}}, "optim": {"lr": 1}}  # fmt: skip
    two = {"run": {"name": "b"}, "model": {"arch": "dit", "depth": 3}, "flow": {"path": "linear"},
           "sample": {"solver": "euler"}, "optim": {"lr": 1, "new_key": 3}}  # fmt: skip
    rows = {row.name: row.values for row in recipe_rows([one, two])}
    assert rows == {"model.arch": ("mlp", "dit"), "sample.solver": ({"name": "sde", "scale": 1}, "euler"),
                    "optim.new_key": (None, 3)}  # fmt: skip
    same_arch = [{"model": {"arch": "mlp"}}, {"model": {"arch": "mlp", "depth": 2}}]
    assert [row.name for row in recipe_rows(same_arch)] == ["model.depth"]


def shown(runs: list[Path], width: int = 120) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"), highlight=False)  # noqa: SIM115
    show_comparison(compare(named_apart([open_run(run) for run in runs])), console)
    return console.export_text()


def test_compare(tmp_path):
    a, b = made(tmp_path / "a"), made(tmp_path / "b", lr=2e-3, loss=0.25)
    evaluation(a, fine=("lower is better", (1.0, 0.9, 1.1)), same=("lower is better", (1.0, 0.9, 1.1)))
    evaluation(b, fine=("lower is better", (0.5, 0.4, 0.6)), same=("lower is better", (1.05, 0.9, 1.1)))
    text = " ".join(shown([a, b]).split())
    for said in ("optim.lr 0.001 0.002", "of predicting zero 50.0% 25.0%", "better", "within chance", "[0.400, 0.600]"):
        assert said in text
    assert "note:" not in text and "batch_size" not in text
    answer = runner.invoke(app, ["compare", str(a), str(b), "--json"])
    found = json.loads(answer.stdout)
    assert found["recipe"] == {"optim.lr": [0.001, 0.002]}
    assert [one and one["verdict"] for one in found["figures"]["fine"]["differences"]] == [None, "better"]
    assert shown([a, b], width=60)


def test_what_cannot_be_compared_is_said(tmp_path):
    a, b, c, d = (made(tmp_path / name / "same", zero=zero) for name, zero in zip("abcd", (1, 1, 2, 1), strict=True))
    evaluation(a, f=("lower is better", (1.0, 0.9, 1.1)))
    evaluation(b, "new", f=("lower is better", (1.0, 0.9, 1.1)))
    evaluation(c, protocol="points-2", f=("lower is better", (3.0, 2.9, 3.1)))
    text = " ".join(shown([a, b, c, d], width=200).split())
    assert f"Not evaluated: {d}" in text
    assert f"{c}: evaluated by another protocol" in text and "3.00" not in text
    assert "validated on different rows" in text
    (b / "recipe.toml").write_text((b / "recipe.toml").read_text().replace("8gaussians", "moons"))
    assert f"{b} and {c}: evaluated" in " ".join(shown([c, a, b][::-1], width=200).split()) or "evaluated by" in text


def test_evaluations_that_were_drawn_alike_are_preferred(tmp_path):
    a, b, c = (made(tmp_path / name) for name in "abc")
    for number, (run, solver) in enumerate(
        [(a, "midpoint"), (b, "euler"), (a, "euler"), (b, "midpoint"), (a, "sde"), (c, "heun")]
    ):
        evaluation(run, solver, solver=solver, f=("lower is better", (1, 0.5, 1.5)))
        os.utime(run / "evaluation" / solver / "evaluation.json", (number, number))
    found = compare([open_run(run) for run in (a, b)])
    assert [one and one.folder.name for one in found.evaluations] == ["midpoint", "midpoint"] and not found.notes
    found = compare([open_run(run) for run in (a, c)])
    assert [one and one.folder.name for one in found.evaluations] == ["sde", "heun"]
    assert "drawn differently. a: sde. c: heun" in found.notes[0]


def test_figures_on_other_rows_are_not_compared(tmp_path):
    a, b = made(tmp_path / "a"), made(tmp_path / "b")
    evaluation(a, f=("lower is better", (1, 0.5, 1.5)))
    evaluation(b, rows=50, f=("lower is better", (1, 0.5, 1.5)))
    found = compare([open_run(a), open_run(b)])
    assert found.evaluations.count(None) == 1 and "on other rows" in " ".join(found.notes)


def test_bad_input(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        list_runs(tmp_path / "none")
    made(tmp_path / "quick")
    with pytest.raises(UserError, match="did you mean 'quick'"):
        open_run(tmp_path / "quik")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is not a run"):
        open_run(tmp_path / "empty")
    for arguments, said in (
        ([], "two or more runs"),
        (["empty"], "two or more runs"),
        (["quick", "empty"], "is not a run"),
    ):
        paths = [str(tmp_path / name) for name in arguments]
        done = subprocess.run([sys.executable, "-m", "flowkit", "compare", *paths], capture_output=True, text=True)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert said in done.stderr or "Missing argument" in done.stderr
    answer = runner.invoke(app, ["runs", str(tmp_path / "empty")])
    assert answer.exit_code == 0 and "no runs" in answer.stdout
    assert json.loads(runner.invoke(app, ["runs", str(tmp_path / "empty"), "--json"]).stdout) == []


def test_neither_torch_nor_numpy_is_imported(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(FIXTURES / "sketch-dit", run, symlinks=True)
    heavy = {"torch", "numpy", "accelerate", "PIL", "safetensors"}
    for arguments in (["runs", str(tmp_path)], ["compare", str(run), str(run)], ["runs", str(tmp_path), "--json"]):
        code = (
            "import sys\nfrom flowkit.cli import make_app\n"
            "try: make_app(sys.argv[1:2])(sys.argv[1:])\n"
            f"finally: print(sorted({heavy!r} & sys.modules.keys()), file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stderr.strip().endswith("[]"), (arguments, done.stderr)
