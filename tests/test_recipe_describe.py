"""The table of keys, generated from the types, in recipes/README.md and in the terminal."""

from pathlib import Path

import pytest
from rich.console import Console

from flowkit.cli.train import keys_view
from flowkit.components import names
from flowkit.recipe import Recipe, recipe_from_dict
from flowkit.recipe.describe import key_table, markdown_table

README = Path(__file__).parents[1] / "recipes" / "README.md"
ROWS = {row.dotted: row for row in key_table()}


def test_every_key_is_there_once_with_a_line_of_description():
    assert len(ROWS) == len(key_table())
    for arch in ("bezier_sketch_dit", "bezier_sketch_transformer", "mlp", "dit"):
        recipe = recipe_from_dict({"run": {"name": "a"}, "model": {"arch": arch}, "train": {"steps": 1}})
        for section in Recipe.model_fields:
            for key in type(getattr(recipe, section)).model_fields:
                assert f"{section}.{key}" in ROWS or f"{section}.{key}" in (
                    "flow.loss",
                    "data.augment",
                )  # tables of their own
    assert {"flow.loss.space", "flow.loss.error", "flow.loss.error.c"} < set(ROWS) and "flow.loss" not in ROWS
    assert {"flow.times.mean", "flow.times.std"} < set(ROWS) and "flow.times.name" not in ROWS
    for row in ROWS.values():
        assert row.description and row.type and "\n" not in row.description and len(row.description) < 150
        assert row.description[0].isalnum(), row.dotted


def test_types_and_defaults_in_words():
    assert (ROWS["optim.lr"].type, ROWS["optim.lr"].default) == ("number > 0", "0.0001")
    assert (ROWS["run.name"].default, ROWS["train.steps"].default) == ("required", "-")
    assert (
        ROWS["model.arch"].type
        == '"bezier_sketch_dit", "bezier_sketch_transformer", "mlp", "dit", "selu_mlp", "residual_mlp" or "custom"'
    )
    assert ROWS["sample.state"].type == '"fp32" or "fp64"'
    assert ROWS["train.epochs"].type == "number > 0"
    assert ROWS["model.num_layers"].default == "8"
    assert ROWS["model.num_layers"].description.endswith(
        "; default of mlp 5, of dit 3, of selu_mlp 3, of residual_mlp 3"
    )
    assert "default of" not in ROWS["model.dropout"].description
    assert ROWS["data.normalizer.components"].type == "whole number >= 1, or a fraction of the variance below 1"
    assert ROWS["model.mlp_ratio"].description.startswith("bezier_sketch_transformer: ")


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_the_default_in_the_table_is_the_default(row):
    """Given as it stands there, where the key exists, it changes nothing."""
    if row.default == "required":
        return
    tag = row.description.split(": ")[0].split(", ")[0]  # of the first of the alternatives that have it
    arch = tag if row.section == "model" and tag in names("arch") else "bezier_sketch_transformer"
    parent = row.dotted.rpartition(".")[0]
    needed = [
        f"{other.dotted.rpartition('.')[2]}='x'"
        for other in ROWS.values()
        if other.default == "required" and other.dotted.startswith(f"{parent}.") and other.description.startswith(tag)
    ]
    choice = (
        [f"{parent}={{{','.join([f'name={tag!r}', *needed])}}}" if needed else f"{parent}={tag}"]
        if parent in ROWS
        else []
    )
    base = recipe_from_dict({"run": {"name": "a"}, "model": {"arch": arch}, "train": {"steps": 1}}, choice)
    if row.default == "-":
        return
    given = recipe_from_dict(base.to_dict(), [f"{row.dotted}={row.default}"])
    assert given == base


def test_the_page_of_recipes_has_the_table():
    text = README.read_text("utf-8")
    assert text.count("<!-- keys -->") == text.count("<!-- /keys -->") == 1
    shown = text.split("<!-- keys -->")[1].split("<!-- /keys -->")[0]
    assert shown.strip() == markdown_table().strip(), (
        "put this between the markers in recipes/README.md: "
        "python -c 'from flowkit.recipe.describe import markdown_table; print(markdown_table())'"
    )


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_terminal_shows_all_keys_and_cuts_none(width):
    console = Console(width=width, file=open("/dev/null", "w"), record=True)  # noqa: SIM115
    console.print(keys_view())
    text = console.export_text()
    for row in ROWS.values():
        assert f"  {row.key} " in text
    assert all(f"[{section}]" in text for section in Recipe.model_fields) and "…" not in text
