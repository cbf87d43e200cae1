"""Recipes that come with flowkit: `flowkit train NAME`, `flowkit recipes`, `flowkit new`, and that the package holds them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import flowkit
from flowkit import cli
from flowkit.inspect import inspect
from flowkit.packaged import find_recipe, packaged_recipes, summary

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "recipes").glob("*.toml"))
SHORT = ["--set", "train.steps=2", "--set", "data.num_samples=200", "--set", "train.batch_size=16", "--quiet"]


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["flowkit", *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return int(exit_.value.code or 0), *capfd.readouterr()

    return run


def test_every_recipe_is_listed_with_its_first_sentence(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    status, out, _ = run("recipes")
    assert status == 0 and list(packaged_recipes()) == NAMES and len(NAMES) >= 10
    for name, path in packaged_recipes().items():
        assert re.search(rf"^{name} +{re.escape(summary(path))}", out, re.MULTILINE)
        assert len(summary(path)) > 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# One sentence. Another.\n[run]\n", "One sentence"),
        ("# One that is\n# broken in two.\n#\n# More.\n", "One that is broken in two"),
        ("# No dot\n[run]\n", "No dot"),
        ("[run]\n# late\n", ""),
        ("", ""),
    ],
)
def test_the_summary_is_the_first_sentence(tmp_path, text, expected):
    (tmp_path / "a.toml").write_text(text)
    assert summary(tmp_path / "a.toml") == expected


def test_train_takes_the_name_of_a_recipe(run, tmp_path):
    status, _, err = run("train", "points_quickstart", *SHORT)
    assert status == 0, err
    assert (tmp_path / "runs/points-quickstart/checkpoints/step-00000002").is_dir()


def test_python_takes_the_name_of_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = flowkit.train("points_quickstart", overrides=SHORT[1:-1:2])
    assert model.sample(3).x.shape == (3, 2)


def test_inspect_takes_the_name_of_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert inspect("quickstart")["recipe"]["run"]["name"] == "quickstart"


def test_a_file_or_a_run_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = packaged_recipes()["quickstart"]
    assert find_recipe("quickstart") == packaged
    Path("quickstart").mkdir()  # any folder
    assert find_recipe("quickstart") == packaged
    Path("quickstart.toml").write_text("# mine")
    assert find_recipe("quickstart") == Path("quickstart.toml")
    Path("quickstart/recipe.toml").write_text("")  # a run
    assert find_recipe("quickstart") == Path("quickstart")
    for path in ("runs/quickstart", "quickstart.toml", "recipes/nope.toml"):
        assert find_recipe(path) == Path(path)


@pytest.mark.parametrize("command", ["train", "new"])
@pytest.mark.parametrize(("name", "near"), [("quikstart", "quickstart"), ("DIT_text", "dit_text"), ("zzz", None)])
def test_a_misspelled_name_offers_the_nearest_and_the_list(run, tmp_path, command, name, near):
    status, out, err = run(command, name)
    assert status == 2 and not out and "Traceback" not in err and "flowkit recipes" in err
    assert err.startswith(f"error: {name}: ") and (near is None or f"'{near}'" in err)
    assert not list(tmp_path.iterdir())


def test_new_copies_a_recipe_and_never_replaces_a_file(run, tmp_path):
    original = packaged_recipes()["quickstart"].read_bytes()
    status, out, _ = run("new", "quickstart")
    assert status == 0 and Path("quickstart.toml").read_bytes() == original
    assert "flowkit train quickstart.toml" in out
    Path("quickstart.toml").write_text("mine")
    status, _, err = run("new", "quickstart")
    assert status == 2 and "--out" in err and Path("quickstart.toml").read_text() == "mine"
    Path("folder").mkdir()
    for out_option, written in (
        ("deep/er/a.toml", "deep/er/a.toml"),
        ("folder", "folder/quickstart.toml"),
        ("b", "b.toml"),
    ):
        assert run("new", "quickstart", "--out", out_option)[0] == 0
        assert Path(written).read_bytes() == original
    status, _, err = run("new", "quickstart", "--out", "b.toml/c.toml")
    assert status == 2 and "b.toml/c.toml" in err and "Traceback" not in err


def test_listing_recipes_needs_no_torch(tmp_path):
    code = "import sys; from flowkit.cli import app\ntry: app(sys.argv[1:])\nfinally: assert 'torch' not in sys.modules"
    for arguments in (["recipes"], ["new", "quickstart"]):
        subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, check=True, capture_output=True)


def test_the_build_includes_the_recipes():
    """The same as the slow test of the wheel, from the configuration alone."""
    from setuptools import find_namespace_packages

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = find_namespace_packages(str(ROOT), **settings["packages"]["find"])
    assert "flowkit.recipes" in found and not any(name.startswith("flowkit.recipes.") for name in found)
    included = {path.stem for pattern in settings["package-data"]["flowkit.recipes"]
                for path in (ROOT / "flowkit/recipes").glob(pattern)}  # fmt: skip
    assert sorted(included) == NAMES


@pytest.mark.slow
def test_a_wheel_holds_the_recipes(tmp_path):
    """Needs a network, for the build's own setuptools."""
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(source)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", str(source), "--no-deps", "-q", "-w", str(tmp_path)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = [name for name in archive.namelist() if name.startswith("flowkit/recipes/")]
    assert held == [f"flowkit/recipes/{name}.toml" for name in NAMES]
