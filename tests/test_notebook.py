"""What notebooks show of models, samples, data, recipes, evaluations and histories, and the progress of training there."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import flowkit
from flowkit import notebook
from flowkit.checkpoint.history import read_history
from flowkit.errors import UserError
from flowkit.evaluate import evaluate_checkpoint
from flowkit.recipe import recipe_from_dict
from tests.test_report import Page

FIXTURES = Path(__file__).parent / "fixtures" / "runs"


def shown(thing) -> Page:
    text = thing._repr_html_()
    assert text.startswith('<div class="flowkit">') and text.endswith("</div>") and ":root" not in text
    return Page(text)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("notebook")
    recipe = {"run": {"name": "a", "dir": str(folder)}, "data": {"source": "8gaussians", "num_samples": 300},
              "model": {"arch": "selu_mlp", "hidden_dim": 8, "num_layers": 1}, 
              "sample": {"every": 10, "num_samples": 20, "steps": 2},
              "train": {"steps": 20, "batch_size": 16, "log_every": 5, "val_every": 10}}  # fmt: skip
    flowkit.train(recipe)
    return folder / "a"


def test_a_model_and_its_history(run):
    model = flowkit.load(run)
    page = shown(model)
    for said in ("selu_mlp", "parameters", "ema of step 20", "points of shape 2", "of predicting zero", "validation"):
        assert said in page.text, said
    history = model.history
    assert next(iter(history)) == "step" and {len(column) for column in history.values()} == {4}
    assert history["step"].tolist() == [5, 10, 15, 20] and np.isnan(history["val_loss"]).tolist() == [True, False] * 2
    steps, losses = history.curve("val_loss")
    assert steps.tolist() == [10, 20] and losses[-1] == model.info["validation"]["loss"]
    with pytest.raises(KeyError, match="did you mean 'val_loss'"):
        history["val_los"]
    assert "4 rows, to step 20" in repr(history) and shown(history).of("chart") == 1
    assert history.keys() >= {"loss", "lr", "grad_norm", "elapsed"} and "time" not in history


def test_a_model_outside_a_run_has_no_history(run, tmp_path):
    for name in ("model.safetensors", "model.json"):
        shutil.copy(run / "checkpoints" / "step-00000020" / name, tmp_path / name)
    model = flowkit.load(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="outside a run"):
        _ = model.history
    assert shown(model).of("chart") == 0


def test_lines_of_metrics_that_cannot_be_read_are_skipped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '[]\n{"step": 2, "loss": null, "val_bins": [[0, 1, 2]]}\n{"step": 1, "best": true}\n{"st'
    )
    history = read_history(tmp_path)
    assert history["step"].tolist() == [1, 2] and history["best"][0] == 1 and list(history) == ["step", "loss", "best"]
    (tmp_path / "metrics.jsonl").write_text("")
    assert shown(read_history(tmp_path)).of("chart") == 0 and repr(read_history(tmp_path)).startswith(
        "<History: 0 rows"
    )


def test_data_sets_and_samples(run):
    samples = flowkit.load(run).sample(5)
    assert shown(samples).of("pictures") == 1
    rows = np.random.default_rng(0).uniform(-1, 1, (40, 4, 8)).astype(np.float32)
    labels = np.repeat(np.arange(2), 20)
    sketches = flowkit.Dataset("sketch", rows, labels, class_names=("<b>", "cat"), split=(labels * 2).astype(np.uint8))
    page = shown(sketches)
    assert sum(tag == "figure" for tag, _ in page.elements) == 12 and "20 train" in page.text
    assert "<b>" in page.text and "cat" in page.text  # both classes, escaped
    texts = flowkit.Dataset("embedding", np.zeros((2, 3), np.float32), texts=["<i>One</i>.", "Two."])
    assert "<i>One</i>." in shown(texts).text
    assert shown(flowkit.Dataset("array", np.zeros((0, 3), np.float32))).of("pictures") == 0
    assert shown(flowkit.Dataset("my_module:Kind", np.zeros((1, 3), np.float32))).of("pictures") == 0


def test_recipes_and_evaluations(run, tmp_path):
    recipe = recipe_from_dict(json.loads((run / "checkpoints" / "step-00000020" / "model.json").read_text())["recipe"])
    page = shown(recipe)
    assert "[optim]" in page.text and page.of("default") > 20
    page = shown(evaluate_checkpoint(run, num_samples=20, out=tmp_path / "out"))
    assert "2-Wasserstein" in page.text and page.of("interval") == 2 and "real rows" in page.text
    with pytest.raises(TypeError, match="does not show int"):
        notebook.as_html(3)


class Cells:
    """IPython's display, as far as it is used."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made, self.updates = [], []
        display = types.ModuleType("IPython.display")
        display.HTML = lambda text: text  # type: ignore[attr-defined]
        display.display = self.show  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
        monkeypatch.setitem(sys.modules, "IPython.display", display)
        monkeypatch.setitem(sys.modules, "ipykernel", sys)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)

    def show(self, html: str, display_id: bool) -> Cells:
        assert display_id
        self.made.append(html)
        return self

    def update(self, html: str) -> None:
        self.updates.append(html)


def test_progress_is_one_cell_that_is_redrawn(tiny, monkeypatch, capsys):
    cells = Cells(monkeypatch)
    monkeypatch.setattr(notebook, "REDRAWN", 1e9)
    tiny["train"] |= {"steps": 30, "log_every": 1}
    tiny["sample"]["every"] = 10
    flowkit.train(tiny)
    assert len(cells.made) == 1 and len(cells.updates) == 2  # at the start, and twice at the end
    page = Page(cells.updates[-1])
    assert "done at step 30" in page.text and page.of("chart") == 1 and page.of("pictures") == 1
    assert capsys.readouterr().out == ""


def test_a_run_that_fails_says_so_in_its_cell(tiny, monkeypatch):
    cells = Cells(monkeypatch)

    def fail(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr("flowkit.training.loop.one_update", fail)
    with pytest.raises(RuntimeError):
        flowkit.train(tiny)
    assert "ended with RuntimeError" in Page(cells.updates[-1]).text
