"""Mistakes in recipes: all are reported at once, with their key and the nearest valid name."""

import copy
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowkit.errors import UserError
from flowkit.recipe import Recipe, load_recipe, recipe_from_dict
from flowkit.recipe.describe import key_table

BASE = {"run": {"name": "a"}, "model": {"arch": "bezier_sketch_dit"}, "train": {"steps": 100}}


def complaint(changes: dict | None = None, *overrides: str) -> str:
    data = copy.deepcopy(BASE)
    for key, value in (changes or {}).items():
        section, _, name = key.partition(".")
        if name:
            data.setdefault(section, {})[name] = value
        else:
            data[section] = value
    with pytest.raises(UserError) as caught:
        recipe_from_dict(data, overrides)
    return str(caught.value)


def lines(text: str) -> dict[str, str]:
    """The mistakes by key."""
    rows = text.removeprefix("recipe: ").splitlines()
    rows = [row.strip() for row in (rows[1:] if len(rows) > 1 else rows)]
    return dict(row.split(": ", 1) for row in rows)


# ---- keys and types ----


def test_all_mistakes_in_keys_and_types_come_at_once():
    text = complaint(
        {
            "lr": 3,
            "optm": {"lr": 3},
            "optim.lrr": 1,
            "optim.batch_size": 4,
            "optim.lr": "1e-4",
            "optim.betas": [0.9],
            "run.name": "../up",
            "run.deterministic": "True",
            "model.arch": "bezier_sketch_dti",
            "model.embed_dim": 256.5,
            "model.mlp_ratio": 4.0,  # a key of another architecture is allowed, because the intended one is unknown
            "model.clas_embed_dim": 3,
            "flow.path": "liner",
            "flow.prediction": "velocty",
            "flow.times": {"name": "logit_normal", "std": 0, "men": 1},
            "ema.decay": float("nan"),
            "train.epochs": True,  # contradicts steps; reported in the second round
            "train.log_every": "never",
            "train.save_every": "10 epoch s",
            "track.tags": ["a", 3],
            "data.subset": 0,
        }
    )
    found = lines(text)
    assert text.startswith(f"recipe: {len(found)} mistakes:\n")
    assert found == {
        "run.name": 'expected a folder name: letters, digits and . _ - + =, found "../up"',
        "run.deterministic": 'expected true or false, found "True"; write true',
        "data.subset": 'expected a whole number >= 1, or "1k" for 1000, found 0',
        "model.arch": 'expected "bezier_sketch_dit", "bezier_sketch_transformer", "mlp", "dit", "selu_mlp", '
        '"residual_mlp" or "custom", '
        "found \"bezier_sketch_dti\"; did you mean 'bezier_sketch_dit' or 'bezier_sketch_transformer'?",
        "model.embed_dim": "expected a whole number >= 1, found 256.5",
        "model.clas_embed_dim": "unknown key; did you mean 'class_embed_dim' or 'embed_dim'?",
        "flow.path": 'expected "linear", "cosine", "vp", "icfm", "schrodinger_bridge" or "spherical", '
        "found \"liner\"; did you mean 'linear'?",
        "flow.prediction": 'expected "auto", "velocity", "data" or "noise", found "velocty"; did you mean \'velocity\'?',
        "flow.times.std": "expected a number > 0, found 0",
        "flow.times.men": "unknown key; did you mean 'mean'?",
        "optim.lr": 'expected a number > 0, found "1e-4"; remove the quotes',
        "optim.betas": "expected two numbers >= 0 and < 1, found [0.9]",
        "optim.lrr": "unknown key; did you mean 'lr'?",
        "optim.batch_size": "unknown key; did you mean 'train.batch_size'?",
        "ema.decay": "expected a number >= 0 and < 1, or a list of such numbers above 0, found nan",
        "train.epochs": "expected a number > 0, found true",
        "train.log_every": 'expected a number of steps >= 1 or "N epochs", found "never"',
        "train.save_every": 'expected a number of steps, "N epochs" or "never", found "10 epoch s"',
        "track.tags": 'expected a list of text, found ["a", 3]',
        "lr": "unknown key; did you mean 'optim.lr'?",
        "optm": "unknown section; did you mean 'optim'?",
    }


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("optim.lr", True, "expected a number > 0, found true"),
        ("train.batch_size", 2.5, "expected a whole number >= 1, found 2.5"),
        ("train.batch_size", True, "expected a whole number >= 1, found true"),
        ("run.seed", -1, "expected a whole number >= 0, found -1"),
        ("run.dir", 3, 'expected text, found 3; put it in quotes: "3"'),
        ("run.dir", "", 'expected text, found ""'),
        ("optim.betas", [0.9, 1.0], "expected two numbers >= 0 and < 1, found [0.9, 1.0]"),
        ("optim.min_lr_factor", 1.5, "expected a number from 0 to 1, found 1.5"),
        ("optim.warmup", 500.0, 'expected a fraction below 1, a number of steps or "N epochs", found 500.0'),
        ("optim", 3, "expected a table, found 3"),
        ("model", "dit", 'expected a table, found "dit"'),
        ("flow.times", 3, 'expected "uniform", "logit_normal" or "shifted", or a table with its settings, found 3'),
        ("optim.learning_rate", 3, "unknown key; [optim] has lr, betas, eps, weight_decay, warmup"),
        ("model.mlp_ratio", 2.0, "unknown key; only 'bezier_sketch_transformer' has it"),
        (
            "flow.coupling",
            None,
            'expected "independent", "ot", "sinkhorn", "c2ot" or "paired", or a table with its settings, found None',
        ),
        (
            "flow.times",
            "unifrom",
            'expected "uniform", "logit_normal" or "shifted", found "unifrom"; did you mean \'uniform\'?',
        ),
        ("model.num_tokens", 16, "unknown key; only 'dit' has it"),
        ("model.hidden_dim", 16, "unknown key; only 'mlp', 'dit', 'selu_mlp', 'residual_mlp' have it"),
    ],
)
def test_one_mistake_is_one_line(key, value, expected):
    text = complaint({key: value})
    assert "\n" not in text
    assert text.startswith(f"recipe: {key}: {expected}")


def test_settings_of_another_choice_and_a_table_without_name():
    assert lines(complaint({"flow.times": {"name": "uniform", "std": 1.0}})) == {
        "flow.times.std": "unknown key; only 'logit_normal' has it"
    }
    assert lines(complaint({"flow.times": {"std": 1.0}})) == {
        "flow.times.name": 'missing; expected "uniform", "logit_normal" or "shifted"'
    }


NORMALIZERS = '"auto", "none", "global", "zscore", "robust", "whitening" or "strokes"'
COMPONENTS = "expected a whole number >= 1, or a fraction of the variance below 1, found "


@pytest.mark.parametrize(
    ("normalizer", "key", "expected"),
    [
        ("whitenin", "data.normalizer", f"expected {NORMALIZERS}, found \"whitenin\"; did you mean 'whitening'?"),
        ({"name": "zscor"}, "data.normalizer.name", f"expected {NORMALIZERS}, found \"zscor\"; did you mean 'zscore'?"),
        (3, "data.normalizer", f"expected {NORMALIZERS}, or a table with its settings, found 3"),
        ({"name": "whitening", "components": 0}, "data.normalizer.components", COMPONENTS + "0"),
        ({"name": "whitening", "components": 1.0}, "data.normalizer.components", COMPONENTS + "1.0"),
        ({"name": "whitening", "components": True}, "data.normalizer.components", COMPONENTS + "true"),
        ({"name": "whitening", "floor": 0}, "data.normalizer.floor", "expected a number > 0, found 0"),
        ({"name": "robust", "floor": 1}, "data.normalizer.floor", "unknown key; only 'whitening' has it"),
    ],
)
def test_mistakes_in_a_normalizer(normalizer, key, expected):
    assert lines(complaint({"data.normalizer": normalizer})) == {key: expected}


def test_an_empty_recipe_says_what_it_needs():
    with pytest.raises(UserError) as caught:
        recipe_from_dict({})
    assert set(lines(str(caught.value))) == {"run.name", "model.arch"}


def test_an_int_is_fine_for_a_float():
    lr = recipe_from_dict({**BASE, "optim": {"lr": 1}}).optim.lr
    assert lr == 1.0 and isinstance(lr, float)


KEYS = [row.dotted for row in key_table()] + list(Recipe.model_fields)
JUNK = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(), st.text(), st.dates(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), JUNK, max_size=4), st.lists(st.text(), max_size=2))
def test_junk_gives_a_recipe_or_one_message(changes, overrides):
    data = copy.deepcopy(BASE)
    for key, value in changes.items():
        *tables, name = key.split(".")
        inside = data
        for each in tables:
            inside = inside.setdefault(each, {})
            if not isinstance(inside, dict):
                break
        else:
            inside[name] = value
    try:
        recipe = recipe_from_dict(data, overrides)
    except UserError as error:
        assert str(error).startswith("recipe: ")
    else:
        assert recipe_from_dict(recipe.to_dict()) == recipe


# ---- impossible combinations ----


def test_all_impossible_combinations_come_at_once_and_after_the_types():
    changes = {
        "run.device": "cpu",
        "train.precision": "fp16",
        "train.epochs": 3,
        "train.batch_size": 64,
        "train.micro_batch_size": 6,
        "model.num_heads": 5,
        "flow.cond_drop": 0,
        "sample.guidance_scale": 2,
    }
    found = lines(complaint(changes))
    assert found == {
        "train.steps": "100, but train.epochs = 3 is set too; remove one of them",
        "train.micro_batch_size": "6 does not divide train.batch_size = 64; the nearest that do are 4 and 8",
        "model.num_heads": "5 does not divide model.embed_dim = 256; the nearest that do are 4 and 8, "
        "or an embed_dim of 255 or 260",
        "sample.guidance_scale": "2 needs a model trained with dropped conditions, but flow.cond_drop is 0; "
        "set flow.cond_drop = 0.1 or sample.guidance_scale = 1.0",
        "train.precision": '"fp16" requires a GPU, but run.device is "cpu"; use "bf16" or "fp32"',
    }
    assert set(lines(complaint({**changes, "optim.lr": "x"}))) == {"optim.lr"}


def test_without_dropped_conditions_only_guidance_is_impossible():
    assert recipe_from_dict({**BASE, "flow": {"cond_drop": 0}}).flow.cond_drop == 0
    assert set(lines(complaint({"flow.cond_drop": 0, "sample.guidance_scale": 0.0}))) == {"sample.guidance_scale"}


def test_neither_steps_nor_epochs():
    assert lines(complaint({"train": {}})) == {
        "train.steps": "missing; set train.steps or train.epochs, the length of the run"
    }


@pytest.mark.parametrize("warmup, length", [(100, {"steps": 100}), ("3 epochs", {"epochs": 2.5})])
def test_a_warmup_as_long_as_the_run(warmup, length):
    assert "optim.warmup" in lines(complaint({"train": length, "optim.warmup": warmup}))


def test_heads_of_a_dit_divide_its_hidden_width_and_an_mlp_has_none():
    text = "5 does not divide model.hidden_dim = 384; the nearest that do are 4 and 6, or a hidden_dim of 380 or 385"
    assert lines(complaint({"model": {"arch": "dit", "num_heads": 5}})) == {"model.num_heads": text}
    assert recipe_from_dict({**BASE, "model": {"arch": "mlp", "hidden_dim": 7}}).model.arguments()["hidden_dim"] == 7


def test_a_module_of_ones_own_has_no_heads_to_divide():
    assert recipe_from_dict({**BASE, "model": {"arch": "custom"}}).model.arguments() == {}


# ---- overrides ----


def test_overrides_are_toml_or_text():
    recipe = recipe_from_dict(
        BASE,
        [
            "optim.lr=3e-4", "run.deterministic=true", 'track.tags=["a", "b"]', "train.save_every=50 epochs",
            "run.dir = out dir ", "run.name=2024-01-01", "track.project=42", "data.subset=1k", "flow.times.std=0.5",
            "train.steps=5", "train.steps=7",
        ],
    )  # fmt: skip
    assert recipe.optim.lr == 3e-4 and recipe.run.deterministic is True and recipe.track.tags == ("a", "b")
    assert recipe.train.save_every.plain() == "50 epochs" and recipe.run.dir == "out dir" and recipe.data.subset == 1000
    assert recipe.run.name == "2024-01-01" and recipe.track.project == "42" and recipe.train.steps == 7
    assert recipe.to_dict()["flow"]["times"] == {"name": "logit_normal", "mean": 0.0, "std": 0.5, "uniform_share": 0.05}


def test_overrides_leave_the_dict_alone_and_may_take_keys_out():
    data = {**copy.deepcopy(BASE), "data": {"subset": 5}}
    before = copy.deepcopy(data)
    assert recipe_from_dict(data, ["data.subset=", "flow.times=uniform"]).data.subset is None
    assert data == before


def test_a_setting_of_a_choice_that_the_file_gives_by_name_or_as_a_table():
    for times in ("logit_normal", {"name": "logit_normal", "mean": 0.0}):
        recipe = recipe_from_dict({**BASE, "flow": {"times": times}}, ["flow.times.mean=-1"])
        wanted = {"name": "logit_normal", "mean": -1.0, "std": 1.0, "uniform_share": 0.05}
        assert recipe.to_dict()["flow"]["times"] == wanted


def test_steps_and_epochs_replace_each_other():
    assert recipe_from_dict(BASE, ["train.epochs=3"]).train.steps is None
    by_epochs = {**BASE, "train": {"epochs": 3}}
    assert recipe_from_dict(by_epochs, ["train.steps=30"]).train.epochs is None
    assert "train.steps: 30, but train.epochs = 3 is set too" in complaint(None, "train.epochs=3", "train.steps=30")


def test_mistakes_in_overrides_name_them():
    found = lines(
        complaint(None, "optim.lrr=3", "train.batch_size=x", "optim={lr = true}", "optim.eps", "=3", "run.seed.x=3")
    )
    assert found["optim.lr"] == "expected a number > 0, found true (from --set optim={lr = true})"
    assert found["train.batch_size"] == 'expected a whole number >= 1, found "x" (from --set train.batch_size=x)'
    assert found["--set optim.eps"].startswith("has no value; write --set section.key=value")
    assert found["--set =3"].startswith("names no key")
    assert "run.seed" in complaint(None, "run.seed.x=3") and "(from --set" in complaint(None, "optimm.lr=3")
    assert lines(complaint(None, "optim.lrr=3")) == {
        "optim.lrr": "unknown key; did you mean 'lr'? (from --set optim.lrr=3)"
    }


def test_override_sets_one_key_only():
    text = complaint(None, "run.seed=1\nname=2")
    assert "expected a whole number" in text


# ---- files ----


def said_of(path, content=None) -> str:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def test_broken_toml_names_the_line(tmp_path):
    text = said_of(tmp_path / "a.toml", b'[run]\nname = "a"\nseed 3\n')
    assert text.startswith("is not valid TOML: ") and "line 3" in text and text.endswith("line 3: seed 3")
    assert "line 3" in said_of(tmp_path / "b.toml", b"[run]\nseed = 1\nseed = 2\n")
    assert "is not valid TOML" in said_of(tmp_path / "c.toml", b"a = " + b"[" * 5000)
    assert "is not valid TOML" in said_of(tmp_path / "d.toml", b"a = " + b"9" * 5000)


def test_not_utf8(tmp_path):
    assert said_of(tmp_path / "a.toml", b"[run]\n\xff\xfe").startswith("is not UTF-8 text (byte 6)")
    assert "is larger than 1 MiB" in said_of(tmp_path / "b.toml", b"#" * (1 << 20) + b"##")


def test_missing_file_suggests_recipes(tmp_path):
    (tmp_path / "quickstart.toml").write_text("")
    (tmp_path / "dit.toml").write_text("")
    assert said_of(tmp_path / "quickstrat.toml") == f"no such file; did you mean '{tmp_path / 'quickstart.toml'}'?"
    assert said_of(tmp_path / "zzz") == "no such file; recipes in that folder: dit.toml, quickstart.toml"
    assert re.match("no such file; there is no folder '.*none' either", said_of(tmp_path / "none" / "a.toml"))


def test_folder_suggests_its_recipe(tmp_path):
    assert said_of(tmp_path) == "is a folder; that folder has no recipes (*.toml)"
    (tmp_path / "recipe.toml").write_text("")
    assert said_of(tmp_path) == f"is a folder; did you mean '{tmp_path / 'recipe.toml'}'?"


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(
        b'\xef\xbb\xbf[run]\r\nname = "a"\r\n[model]\r\narch = "bezier_sketch_dit"\r\n[train]\r\nsteps = 3\r\n'
    )
    assert load_recipe(path).train.steps == 3
