"""flowkit in a Python prompt: what `dir` and `repr` show, progress, data sets that are sliced, saved and shown."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest

import flowkit
from flowkit import api
from flowkit.data.dataset import Dataset, read_dataset
from flowkit.errors import UserError
from flowkit.recipe import recipe_from_dict

TABLES = {
    "run": {"name": "api"},
    "data": {"source": "moons", "num_samples": 200},
    "model": {"arch": "selu_mlp", "hidden_dim": 8},
    "train": {"steps": 2, "batch_size": 16, "log_every": 1, "val_every": "never", "save_every": "never"},
    "sample": {"every": "never", "steps": 2},
}


def labeled(count: int = 12) -> Dataset:
    x = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    labels = np.arange(count) % 3
    split = (np.arange(count) % 4 == 0).astype(np.uint8)
    texts = [f"row {row}" for row in range(count)]
    return Dataset("points", x, labels, x + 1, split, ("a", "b", "c"), {"source": "test"}, texts)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_dir_shows_the_public_names():
    assert {"load", "train", "show", "Dataset", "Recipe"} <= set(dir(flowkit))
    assert all(hasattr(flowkit, name) for name in dir(flowkit))


@pytest.mark.parametrize(
    ("key", "rows"),
    [
        (slice(3), [0, 1, 2]),
        (slice(None, None, -5), [11, 6, 1]),
        (slice(20, 30), []),
        (4, [4]),
        (-1, [11]),
        (np.int64(2), [2]),
        ([5, 1, 5], [5, 1, 5]),
        (np.array([True] + [False] * 10 + [True]), [0, 11]),
    ],
)
def test_slicing_keeps_all_fields(key, rows):
    data = labeled()
    part = data[key]
    assert isinstance(part, Dataset) and len(part) == len(rows)
    for name in ("x", "class_label", "condition", "split"):
        np.testing.assert_array_equal(getattr(part, name), getattr(data, name)[rows])
    assert list(part.texts or ()) == [f"row {row}" for row in rows]
    assert part.class_names == data.class_names and part.info == data.info


def test_rows_that_do_not_exist_are_an_index_error():
    for key in (12, -13, [3, 99]):
        with pytest.raises(IndexError):
            labeled()[key]
    assert [len(row) for row in labeled()] == [1] * 12  # a loop ends


def test_save_writes_what_is_read_again(here):
    data = labeled()
    path = data[2:5].save("folder/part")
    assert path == Path("folder/part.safetensors")
    again = read_dataset(path)
    np.testing.assert_array_equal(again.x, data.x[2:5])
    assert list(again.texts or ()) == ["row 2", "row 3", "row 4"] and again.class_names == data.class_names


def test_reprs_describe_objects(here):
    assert repr(labeled()) == (
        "<Dataset points: 12 rows of shape (2,), 3 classes, condition (2,), 9 train + 3 validation, texts>"
    )
    assert repr(Dataset("array", np.zeros((1, 4), np.float32))) == "<Dataset array: 1 row of shape (4,)>"
    recipe = recipe_from_dict(TABLES)
    assert repr(recipe) == "<Recipe api: selu_mlp on moons, 2 steps of 16 rows>"
    epochs = recipe_from_dict({**TABLES, "train": {"epochs": 1.5}})
    assert "1.5 epochs of 256 rows" in repr(epochs)
    assert str(recipe).startswith('[run]\nname = "api"\n')
    model = flowkit.train(recipe)
    assert repr(model).startswith("<LoadedModel runs/api/checkpoints/step-00000002: selu_mlp, ")
    assert "ema weights of step 2, points (2,), on cpu>" in repr(model)


@pytest.fixture
def told(here, monkeypatch):
    """Trains with the default listeners: what went to (stdout, stderr)."""

    def told(terminal: bool, notebook: bool, **options) -> tuple[str, str]:
        out, err = io.StringIO(), io.StringIO()
        err.isatty = lambda: terminal  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        if notebook:
            monkeypatch.setitem(sys.modules, "ipykernel", sys)
        else:
            monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
        flowkit.train(TABLES, overwrite=True, **options)
        return out.getvalue(), err.getvalue()

    return told


def test_progress_is_shown_on_terminals_only(told):
    assert told(terminal=False, notebook=False) == ("", "")
    out, err = told(terminal=False, notebook=True)
    assert "loss=" in out
    assert err == ""
    out, err = told(terminal=True, notebook=False)
    assert out == "" and "api" in err
    for terminal, notebook in ((True, False), (False, True)):
        assert told(terminal, notebook, listeners=list) == ("", "")


@pytest.mark.parametrize(
    ("text", "python"),
    [
        ("go on with --resume, or --overwrite it", "go on with resume=True, or overwrite=True it"),
        ("another name: --set run.name=a-2", 'another name: overrides=["run.name=a-2"]'),
        ("expected 1, found 2 (from --set optim.lr=3e-4).", 'expected 1, found 2 (from overrides=["optim.lr=3e-4"]).'),
        ("--init-from starts a new run from it", "init_from starts a new run from it"),
        ("resume anyway with --allow-changes", "resume anyway with allow_changes=True"),
        ("`flowkit sample --pairs` writes such data", "`flowkit sample --pairs` writes such data"),
        ("flowkit train a/b.c --resume continues; --overwrite", "flowkit train a/b.c --resume continues; overwrite=True"),
        ("a - b -- c, x-y", "a - b -- c, x-y"),
    ],
)  # fmt: skip
def test_messages_use_python_names(text, python):
    with pytest.raises(UserError) as raised, api._python_names():
        raise UserError(text)
    assert str(raised.value) == python


def test_an_existing_run_is_explained_without_options_of_the_command_line(here):
    flowkit.train(TABLES)
    with pytest.raises(UserError, match=r"resume=True.*overwrite=True.*overrides=\[\"run.name=api-2\"\]") as raised:
        flowkit.train(TABLES)
    assert "--" not in str(raised.value)
    with pytest.raises(UserError, match=r"resume=True and init_from are mutually exclusive"):
        flowkit.train(TABLES, resume=True, init_from="runs/api")


def test_show_prints_data_and_files(here, capsys):
    labeled()[:0].save("empty")
    flowkit.show(labeled())
    out = capsys.readouterr().out
    assert "<Dataset points: 12 rows" in out and any(0x2800 < ord(mark) < 0x2900 for mark in out)
    flowkit.train(TABLES)
    capsys.readouterr()
    flowkit.show("runs/api")
    assert "selu_mlp" in capsys.readouterr().out
    flowkit.show(Path("runs/api/metrics.jsonl"))
    assert "loss" in capsys.readouterr().out
    with pytest.raises(UserError, match="no such file"):
        flowkit.show("runs/apj")
