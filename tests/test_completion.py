"""Shell completion: runs, recipes, class names, and that it answers without torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flowkit.cli import completion
from flowkit.cli.completion import complete_recipe, complete_run
from tests.test_runs import FIXTURES, made

CODE = (
    "import sys, atexit; sys.argv = ['flowkit']\n"
    "atexit.register(lambda: print(sorted({'torch', 'numpy', 'accelerate'} & sys.modules.keys()), file=sys.stderr))\n"
    "from flowkit.cli import main; main()"
)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", "quick-dit", "group/points", ".hidden/no"):
        made(tmp_path / "runs" / name)
    made(tmp_path / "elsewhere" / "one")
    shutil.copytree(FIXTURES / "sketch-dit", tmp_path / "runs" / "sketches", symlinks=True)
    (tmp_path / "mine.toml").write_text("")
    return tmp_path


def pressed(folder: Path, line: str) -> list[str]:
    """What bash is offered after `line` and Tab."""
    words = line.split(" ")
    environment = {"_FLOWKIT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1),
                   "PYTHONPATH": str(Path(__file__).parents[1]), "PATH": ""}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", CODE], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.stderr.strip() == "[]", done.stderr
    return done.stdout.split()


def test_runs(folder):
    everything = ["runs/group/points", "runs/quick-dit", "runs/quickstart", "runs/sketches"]
    assert complete_run("") == complete_run("ru") == complete_run("runs/") == everything
    assert complete_run("runs/quick") == ["runs/quick-dit", "runs/quickstart"]
    assert complete_run("elsewhere/") == ["elsewhere/one"] and complete_run("./runs/s") == ["./runs/sketches"]
    assert complete_run("nowhere/") == complete_run("x") == complete_run("mine.toml/") == []
    assert complete_run(f"{folder}/runs/g") == [f"{folder}/runs/group/points"]


def test_the_search_is_bounded(folder, monkeypatch):
    made(folder / "runs" / "a" / "b" / "c" / "d" / "deep")
    assert "runs/a/b/c/d/deep" not in complete_run("")
    monkeypatch.setattr(completion, "FOLDERS", 0)
    assert complete_run("") == []


def test_recipes(folder):
    found = complete_recipe("")
    assert {"quickstart", "points_quickstart", "mine.toml", "runs/quickstart"} <= set(found)
    assert complete_recipe("mi") == ["mine.toml"]


def test_the_tab_key(folder):
    assert pressed(folder, "flowkit re") == ["recipes", "report"]
    assert pressed(folder, "flowkit compare runs/quickstart runs/s") == ["runs/sketches"]
    assert "--class-label" in pressed(folder, "flowkit sample --cl")
    classes = pressed(folder, "flowkit sample runs/sketches --class-label ")
    assert classes[:2] == ["all", "null"] and len(classes) == 5
    assert pressed(folder, f"flowkit sample --ckpt runs/sketches --class-label {classes[2][:2]}")[0] == classes[2]
    assert pressed(folder, "flowkit sample runs/quickstart --class-label ") == []
    assert pressed(folder, "flowkit sample --class-label ") == []
    assert pressed(folder, "flowkit train points_q") == ["points_quickstart"]
