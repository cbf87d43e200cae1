"""Renamed keys: an error that tells the new name in a user's recipe, translated silently in what a run saved."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import flowkit
from flowkit.checkpoint import read_model_json
from flowkit.checkpoint.run_dir import load_run_recipe
from flowkit.errors import UserError
from flowkit.inspect import inspect
from flowkit.recipe import load_recipe, recipe_from_dict
from flowkit.recipe.describe import key_table
from flowkit.renamed import KEYS, VALUES, translated

RUNS = Path(__file__).parent / "fixtures" / "runs"
# Old keys by hand: not from the table, which could lose one.
OLD: list[tuple[str, Any, str]] = [
    ("loss.smoothness", 0.1, "loss.smoothness: renamed to aux_loss.smoothness"),
    ("flow.loss_space", "data", "flow.loss_space: renamed to flow.loss.space"),
    ("flow.error", "l1", "flow.error: renamed to flow.loss.error"),
    ("flow.error", {"name": "pseudo_huber", "c": 0.1}, "flow.error: renamed to flow.loss.error"),
    ("flow.weights", "min_snr", "flow.weights: renamed to flow.loss.weights"),
    (
        "flow.coupling",
        {"name": "sinkhorn", "regularisation": 2.0},
        "flow.coupling.regularisation: renamed to flow.coupling.regularization",
    ),
    ("train.precision", "no", 'train.precision: "no" was renamed to "fp32"'),
]


def tables(key: str = "", value: Any = None) -> dict[str, Any]:
    found: dict[str, Any] = {"run": {"name": "a"}, "model": {"arch": "mlp"}, "train": {"steps": 1}}
    if key:
        section, name = key.split(".")
        found.setdefault(section, {})[name] = value
    return found


@pytest.mark.parametrize(("key", "value", "told"), OLD)
def test_old_key_in_a_recipe_names_the_new_one(key, value, told):
    with pytest.raises(UserError) as refused:
        recipe_from_dict(tables(key, value))
    assert str(refused.value) == f"recipe: {told}"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("loss.bending=0.1", "loss.bending: renamed to aux_loss.bending"),
        ("flow.loss_space=noise", "flow.loss_space: renamed to flow.loss.space"),
        ("flow.error=l1", "flow.error: renamed to flow.loss.error"),
        ("flow.weights.gamma=3", "flow.weights: renamed to flow.loss.weights"),
        ("train.precision=no", 'train.precision: "no" was renamed to "fp32"'),
    ],
)
def test_old_key_in_set_names_the_new_one(override, told):
    with pytest.raises(UserError) as refused:
        recipe_from_dict(tables(), [override])
    assert f"{told} (from --set {override})" in str(refused.value)


def test_old_keys_are_reported_with_all_other_mistakes():
    given = tables("flow.loss_space", "dta")
    given["optim"] = {"rate": 1.0}
    with pytest.raises(UserError) as refused:
        recipe_from_dict(given)
    lines = str(refused.value).splitlines()
    assert len(lines) == 4 and "flow.loss_space: renamed" in lines[1]
    assert any("flow.loss.space: expected" in line for line in lines) and any("optim.rate" in line for line in lines)


def test_the_table_leads_to_keys_that_exist():
    known = {row.dotted for row in key_table()}
    sections = {key.partition(".")[0] for key in known}
    assert all(new in known or new in sections or new.rpartition(".")[0] in known for new in KEYS.values())
    assert not known & set(KEYS) and set(VALUES) <= known


@pytest.mark.parametrize(("key", "value", "told"), OLD)
def test_what_a_run_saved_is_translated_and_the_users_own_changes_are_not(tmp_path, key, value, told):
    """The same file is a run's recipe if it is next to metrics, and a user's own recipe elsewhere."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.toml").write_text(tomli_w.dumps(tables(key, value)))
    with pytest.raises(UserError, match="renamed to"):
        load_run_recipe(run / "recipe.toml")
    (run / "metrics.jsonl").touch()
    recipe, found = load_run_recipe(run)
    assert found == run and recipe == recipe_from_dict(translated(tables(key, value))[0])
    assert recipe == load_run_recipe(run / "recipe.toml")[0] == load_recipe(run / "recipe.toml", saved=True)
    assert recipe != recipe_from_dict(tables()) or value == "no"
    with pytest.raises(UserError, match=r"flow.loss_space: renamed to flow.loss.space \(from --set"):
        load_run_recipe(run, ["flow.loss_space=velocity"])
    assert inspect(run / "recipe.toml")["recipe"] == recipe.to_dict()


@pytest.mark.parametrize("run", ["text-mlp", "sketch-transformer", "points-base-file"])
def test_a_sidecar_with_old_keys_loads_and_is_shown_by_the_new_ones(tmp_path, run):
    (step,) = (path for path in (RUNS / run / "checkpoints").glob("step-*") if not path.is_symlink())
    raw = json.loads((step / "model.json").read_text())
    assert {"loss_space", "error", "weights"} < raw["flow"].keys() and "loss" in raw["recipe"]
    content = read_model_json(step / "model.json")
    was = {"space": raw["flow"]["loss_space"], "error": raw["flow"]["error"], "weights": raw["flow"]["weights"]}
    assert content["flow"]["loss"] == was and not {"loss_space", "error", "weights"} & content["flow"].keys()
    assert content["recipe"]["aux_loss"] == raw["recipe"]["loss"] and "loss" not in content["recipe"]
    assert content["recipe"]["train"]["precision"] == "fp32" and raw["recipe"]["train"]["precision"] == "no"
    copy = tmp_path / "checkpoint"
    shutil.copytree(step, copy)
    flow = flowkit.load(copy, device="cpu").flow.plain()["loss"]
    assert json.loads(json.dumps(flow)) == was


def test_a_new_run_writes_the_new_keys(tmp_path):
    recipe = recipe_from_dict(tables("flow.loss", {"space": "noise", "error": "l1"}))
    saved = tomllib.loads(tomli_w.dumps(recipe.to_dict()))
    assert saved["flow"]["loss"] == {"space": "noise", "error": "l1", "weights": "uniform"}
    assert saved["train"]["precision"] == "auto" and "aux_loss" in saved and "loss" not in saved
    assert translated(saved) == (saved, [])


@pytest.mark.parametrize("broken", [{"flow": 3}, {"flow": {"loss": 5, "error": "l1"}}, {"loss": 3}, {"train": []}, {}])
def test_tables_of_another_shape_are_left_for_the_checks(broken):
    translated(broken)
