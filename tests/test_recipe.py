"""Recipes: the files in recipes/, defaults, choices, intervals, and the round trip through TOML."""

import tomllib
from fractions import Fraction
from inspect import signature
from math import ceil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flowkit.components import FROM_DATA, choose, find, names, section_of
from flowkit.errors import UserError
from flowkit.flow.times import LogitNormal, Uniform
from flowkit.recipe import Interval, Recipe, Warmup, check_batch, diff, dump_toml, load_recipe, recipe_from_dict

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))


def table(**sections) -> dict:
    base = {"run": {"name": "a"}, "model": {"arch": "bezier_sketch_dit"}, "train": {"steps": 100}}
    return {name: {**base.get(name, {}), **sections.get(name, {})} for name in {**base, **sections}}


def test_the_three_recipes_are_there():
    assert {path.name for path in RECIPES} >= {"quickstart.toml", "dit_sketch.toml", "transformer_sketch.toml"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_recipe_files_load_without_ignored_keys(path):
    recipe = load_recipe(path)
    resolved = recipe.to_dict()
    for section, keys in tomllib.loads(path.read_text("utf-8")).items():
        for key, value in keys.items():
            found = resolved[section][key]
            if isinstance(value, dict):  # a choice: the settings that the file leaves out have their defaults
                found = {name: found[name] for name in value}
            assert (list(found) if isinstance(found, tuple) else found) == value, f"{section}.{key}"
    assert load_recipe(path).run.name == recipe.run.name
    assert recipe_from_dict(tomllib.loads(dump_toml(recipe))) == recipe


def test_documented_defaults():
    recipe = recipe_from_dict(table())
    assert (recipe.optim.lr, recipe.optim.weight_decay, recipe.optim.min_lr_factor) == (1e-4, 0.05, 0.01)
    assert recipe.optim.warmup == Warmup(0.05) and recipe.optim.max_grad_norm == 1.0
    assert recipe.ema.decay == 0.9999 and recipe.ema.warmup and recipe.ema.warmup_share == 0.1
    assert recipe.flow.cond_drop == 0.1 and recipe.train.batch_size == 256
    assert recipe.aux_loss.model_dump() == dict.fromkeys(("smoothness", "bending", "degenerate", "raster"), 0.0)
    assert recipe.run.directory == Path("runs/a")


@pytest.mark.parametrize("arch", [name for name in names("arch") if name != "custom"])
def test_model_keys_are_the_constructors_arguments_with_the_same_defaults(arch):
    settings = section_of("arch", arch)()
    known = {name: parameter.default for name, parameter in signature(find("arch", arch)).parameters.items()}
    assert settings.arguments() == {name: default for name, default in known.items() if name not in FROM_DATA}


def test_component_instances_are_accepted():
    made = recipe_from_dict(table(flow={"times": LogitNormal(mean=1.0)}))
    assert made == recipe_from_dict(table(flow={"times": {"name": "logit_normal", "mean": 1.0}}))
    with pytest.raises(UserError, match=r"flow\.path: is a LogitNormal, not a valid path"):
        recipe_from_dict(table(flow={"path": LogitNormal()}))
    with pytest.raises(UserError, match="is a LogitNormal, not a valid solver"):
        choose("solver", LogitNormal())


def test_the_transformers_own_keys_shape_the_network():
    import torch

    from flowkit.models import create_model

    small = {"embed_dim": 8, "num_layers": 1, "num_heads": 2, "num_strokes": 4, "num_classes": 3}
    own = {"class_embed_dim": 5, "num_memory_tokens": 3, "mlp_ratio": 2.5}
    model = create_model("bezier_sketch_transformer", **small, **own)
    assert model.class_tokens.weight.shape == (3 * 8, 5) and model.blocks[0].mlp[0].weight.shape == (20, 8)
    assert model(torch.zeros(2, 4, 8), torch.zeros(2), torch.tensor([0, 2])).shape == (2, 4, 8)


# ---- choices ----


def test_a_choice_is_a_name_or_a_table():
    by_name = recipe_from_dict(table(flow={"times": "logit_normal"}))
    by_table = recipe_from_dict(table(flow={"times": {"name": "logit_normal", "mean": 0, "std": 1.0}}))
    assert by_name == by_table and by_name.flow.times == LogitNormal()
    assert by_table.to_dict()["flow"]["times"] == "logit_normal"
    assert recipe_from_dict(table(flow={"times": "uniform"})).flow.times == Uniform()
    settings = {"name": "logit_normal", "mean": -0.5, "std": 1.0}
    assert recipe_from_dict(table(flow={"times": settings})).to_dict()["flow"]["times"] == {
        **settings,
        "uniform_share": 0.05,
    }


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ("auto", "auto"), ("robust", "robust"), ({"name": "zscore"}, "zscore"), ({"name": "whitening"}, "whitening"),
        ({"name": "whitening", "components": 128}, {"name": "whitening", "floor": 0.01, "components": 128}),
        ({"name": "whitening", "components": 0.9}, {"name": "whitening", "floor": 0.01, "components": 0.9}),
        ({"name": "whitening", "floor": 1}, {"name": "whitening", "floor": 1.0}),
    ],
)  # fmt: skip
def test_normalizers_are_chosen_by_name_or_table_and_survive_toml(given, resolved):
    recipe = recipe_from_dict(table(data={"normalizer": given}))
    assert recipe.to_dict()["data"]["normalizer"] == resolved
    again = recipe_from_dict(tomllib.loads(dump_toml(recipe)))
    assert again == recipe and again.to_dict()["data"]["normalizer"] == resolved
    assert recipe_from_dict(table()).data.normalizer.tag() == "auto"


def test_every_normalizer_setting_can_be_fitted():
    import numpy as np

    x = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    for choice in (
        "none",
        "global",
        "zscore",
        "robust",
        "whitening",
        {"name": "whitening", "components": 2},
        {"name": "whitening", "components": 0.5},
    ):
        resolved = recipe_from_dict(table(data={"normalizer": choice})).to_dict()["data"]["normalizer"]
        fitted = choose("normalizer", resolved).fit(x, np.arange(50))
        assert fitted.name == (choice if isinstance(choice, str) else choice["name"])


def test_the_prediction_is_left_to_the_domain_unless_it_is_said():
    assert recipe_from_dict(table()).flow.prediction == "auto"
    assert recipe_from_dict(table(flow={"prediction": "data"})).flow.prediction == "data"


def test_a_recipe_is_frozen_and_hashable():
    recipe = recipe_from_dict(table(track={"tags": ["a", "b"]}))
    with pytest.raises(ValidationError, match="frozen"):
        recipe.optim.lr = 1.0  # pyright: ignore
    assert hash(recipe) == hash(recipe_from_dict(recipe.to_dict()))


# ---- to TOML and back ----

LENGTHS = st.one_of(
    st.integers(0, 10**9),
    st.sampled_from(["never", "1 epoch", "0.5 epochs", "12 epochs", "0.00001 epochs", "0 epochs"]),
)
POSITIVE = st.floats(1e-12, 1e12)


@given(
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,20}", fullmatch=True),
    group=st.one_of(st.none(), st.text()),
    tags=st.lists(st.text()),
    lr=POSITIVE,
    every=LENGTHS,
    warmup=st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0, 3, "0.25 epochs"])),
    mean=st.floats(-9, 9),
    subset=st.one_of(st.none(), st.integers(1, 10**9), st.just("3k")),
)
def test_every_recipe_survives_toml(name, group, tags, lr, every, warmup, mean, subset):
    recipe = recipe_from_dict(
        table(
            run={"name": name},
            data={"subset": subset},
            flow={"times": {"name": "logit_normal", "mean": mean}},
            optim={"lr": lr, "warmup": warmup},
            train={"save_every": every},
            track={"group": group, "tags": tags},
        )
    )
    assert recipe_from_dict(tomllib.loads(dump_toml(recipe))) == recipe


def test_unset_keys_are_left_out_of_the_toml():
    parsed = tomllib.loads(dump_toml(recipe_from_dict(table())))
    assert set(parsed) == set(Recipe.model_fields)
    assert (
        "epochs" not in parsed["train"] and "subset" not in parsed["data"] and parsed["optim"]["betas"] == [0.9, 0.999]
    )


def test_thousands_of_rows():
    assert recipe_from_dict(table(data={"subset": "2k"})).data.subset == 2000


def test_diff_names_the_keys_that_differ():
    a = recipe_from_dict(table())
    assert diff(a, recipe_from_dict(table())) == []
    b = recipe_from_dict(
        table(optim={"lr": 0.1}, flow={"times": "uniform"}, train={"save_every": "2 epochs"}, data={"subset": 5})
    )
    assert diff(a, b) == [
        "data.subset: unset -> 5",
        'flow.times: "logit_normal" -> "uniform"',
        "optim.lr: 0.0001 -> 0.1",
        'train.save_every: 1000 -> "2 epochs"',
    ]
    c = recipe_from_dict(table(model={"arch": "bezier_sketch_transformer"}))
    assert diff(a, c)[0] == 'model.arch: "bezier_sketch_dit" -> "bezier_sketch_transformer"'
    assert "model.class_embed_dim: unset -> 128" in diff(a, c)
    assert len(diff(a, recipe_from_dict(table(optim={"lr": 1e-4 * (1 + 1e-15)})))) == 1


# ---- lengths ----


def test_intervals():
    assert Interval.parse(50).steps(7.5) == 50
    assert Interval.parse("1 epoch").steps(7.5) == 8
    assert Interval.parse("2 epochs").steps(7.5) == 15
    assert Interval.parse("0.01 epochs").steps(7.5) == 1
    assert Interval.parse("0.07 epochs").steps(100) == 7  # 0.07 * 100 is 7.000000000000001
    for off in (0, "never", "0 epochs"):
        assert not Interval.parse(off) and Interval.parse(off).steps(7.5) == 0
    assert Interval.parse("1 epochs").plain() == "1 epoch" and Interval.parse("0.5 epochs").plain() == "0.5 epochs"


@pytest.mark.parametrize(("text", "number"), [("1e4", 10_000), ("2k", 2000), ("1.5k", 1500), ("10k", 10_000), ("2M", 2 * 10**6),
                                              ("3.0", 3), ("400", 400)])  # fmt: skip
@pytest.mark.parametrize("key", ["train.steps", "train.save_every", "data.num_samples", "data.subset", "sample.num_samples",
                                 "train.batch_size", "run.seed"])  # fmt: skip
def test_a_whole_number_is_written_in_one_way_everywhere(text, number, key):
    recipe = recipe_from_dict(table(), ["train.steps=10", f"{key}={text}"])
    section, name = key.split(".")
    found = getattr(getattr(recipe, section), name)
    assert getattr(found, "count", found) == number
    assert recipe_from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    "text", ["1.5", "1e400", "nan", '"5"', "1.0001k", "1kk", "k", "1K", "2 k", "-1k", "0k", "true", "1e-3"]
)
def test_invalid_whole_numbers(text):
    with pytest.raises(UserError, match=r"train\.steps: expected a whole number >= 1, found"):
        recipe_from_dict(table(), [f"train.steps={text}"])


@pytest.mark.parametrize(
    "bad",
    [-1, 1.5, 1e400, True, "50", "1.5", "0.0001k", "-1k", "epochs", "-1 epochs", "1 epoch ", "nan epochs", None, [1]],
)
def test_invalid_intervals(bad):
    with pytest.raises(ValueError):
        Interval.parse(bad)


def test_warmups():
    assert Warmup.parse(0.05).steps(1000, 7.5) == 50
    assert Warmup.parse(0.0).steps(1000, 7.5) == 0
    assert Warmup.parse(30).steps(1000, 7.5) == 30
    assert Warmup.parse("2 epochs").steps(1000, 7.5) == 15
    for bad in (1.0, 500.0, -0.1, float("nan"), True, "0.05", -3):
        with pytest.raises(ValueError):
            Warmup.parse(bad)


@given(epochs=st.integers(1, 2000), rows=st.integers(1, 10**6), batch=st.integers(1, 4096))
def test_epochs_are_rounded_up_to_updates_exactly(epochs, rows, batch):
    recipe = recipe_from_dict({**table(), "train": {"epochs": epochs, "batch_size": batch}})
    assert recipe.train.total_steps(rows) == ceil(Fraction(epochs * rows, batch))


def test_steps_are_steps():
    assert recipe_from_dict(table(train={"steps": 7})).train.total_steps(10**6) == 7


# ---- the batch over processes ----


def test_check_batch():
    assert check_batch(256, None, 1) == (256, 1)
    assert check_batch(256, None, 8) == (32, 1)
    assert check_batch(256, 16, 4) == (16, 4)
    with pytest.raises(UserError, match=r"train.batch_size: 250 .* 8 processes; .*248 and 256"):
        check_batch(250, None, 8)
    with pytest.raises(UserError, match=r"train.batch_size: 3 .* 8 processes; .* 8$"):
        check_batch(3, None, 8)
    with pytest.raises(UserError, match=r"train.micro_batch_size: 12 .* 32 rows \(256 over 8\); .* 8 and 16"):
        check_batch(256, 12, 8)
    with pytest.raises(UserError, match=r"train.micro_batch_size: 64 .* 32 rows .* that does is 32"):
        check_batch(256, 64, 8)
