"""`flowkit evaluate` from end to end: figures that mean what they say, files, rows chosen fairly, and bad input."""

import io
import json
import shutil
import sys

import numpy as np
import pytest
from rich.console import Console

import flowkit
from flowkit.cli import main
from flowkit.data.dataset import Dataset, read_dataset, write_dataset
from flowkit.domain import get_domain
from flowkit.errors import UserError
from flowkit.evaluate import evaluate_checkpoint, evaluate_files
from flowkit.flow.inversion import Inversion
from flowkit.inspect import inspect
from flowkit.metrics.comparison import choose_sides, match_samples, pick_samples
from flowkit.sampling.likelihood import LikelihoodFigures
from flowkit.sketch.evaluation import FIGURES
from flowkit.ui.evaluate_view import print_evaluation

NAMES = ("anchor", "boat", "cat")


def labeled(counts, split=None, seed=0, strokes=3):
    """counts[k] rows of class k, mixed."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    x = np.random.default_rng(seed + 1).uniform(-0.9, 0.9, (len(labels), strokes, 8)).astype(np.float32)
    return Dataset("sketch", x, labels, None, split, NAMES[: len(counts)])


@pytest.fixture(autouse=True, scope="module")
def few_repeats():
    """The intervals have tests of their own; here they need not be fine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowkit.metrics.resampling.REPEATS", 20)
        yield


# ---- which rows are compared ----
def class_counts(data, rows):
    return np.bincount(data.class_label[rows], minlength=len(data.class_names)).tolist()


def test_halves_share_no_row_and_have_the_same_classes():
    data = labeled((41, 30, 8))
    sides = choose_sides(data)
    assert sides.split == "all" and not set(sides.reference) & set(sides.real)
    assert class_counts(data, sides.reference) == class_counts(data, sides.real) == [20, 15, 4]
    again = choose_sides(labeled((41, 30, 8)))
    np.testing.assert_array_equal(sides.reference, again.reference)


def test_rows_are_cut_in_proportion_to_the_classes():
    data = labeled((400, 200, 100))
    sides = choose_sides(data, limit=70)
    assert class_counts(data, sides.reference) == class_counts(data, sides.real) == [40, 20, 10]
    uneven = labeled((400, 200, 98))  # of 200, 100 and 49: 28.65, 14.33 and 7.02
    assert class_counts(uneven, choose_sides(uneven, limit=50).reference) == [29, 14, 7]


def test_held_out_rows_are_the_reference_if_enough():
    split = np.repeat(np.array([0, 1], np.uint8), [900, 600])
    data = labeled((700, 800), split)
    sides = choose_sides(data)
    assert sides.split == "validation" and len(sides.reference) == 600
    assert set(data.split[sides.reference]) == {1} and set(data.split[sides.real]) == {0}
    assert class_counts(data, sides.reference) == class_counts(data, sides.real)
    few = labeled((700, 800), np.repeat(np.array([0, 1], np.uint8), [1100, 400]))
    assert choose_sides(few).split == "all" and len(choose_sides(few, "validation").reference) == 400


def test_a_test_split_of_other_classes_is_halved():
    data = labeled((100, 100, 100))
    data.split = np.where(data.class_label == 2, 2, 0).astype(np.uint8)
    sides = choose_sides(data, "test")
    assert class_counts(data, sides.reference) == class_counts(data, sides.real) == [0, 0, 50]
    assert not set(sides.reference) & set(sides.real)


def test_rows_in_no_split_are_left_out():
    data = labeled((100, 100), np.repeat(np.array([0, 1, 255, 2], np.uint8), 50))
    sides = choose_sides(data)
    assert set(data.split[np.concatenate([sides.reference, sides.real])]) <= {0, 1}
    assert set(data.split[sides.train]) == {0} and set(data.split[sides.held_out]) == {1}


def test_samples_are_matched_to_the_reference_by_class_name():
    data, samples = labeled((60, 60, 60)), labeled((10, 50, 40), seed=3)
    samples.class_names = ("cat", "anchor", "boat")
    matched = match_samples(samples, data)
    assert [matched.class_names[k] for k in matched.class_label] == [
        samples.class_names[k] for k in samples.class_label
    ]
    sides = choose_sides(data, samples=matched)
    assert class_counts(data, sides.reference) == [30, 30, 10]
    used = pick_samples(matched, data.class_label[sides.reference])
    np.testing.assert_array_equal(used.class_label, data.class_label[sides.reference])
    assert len(np.unique(used.x[:, 0, 0])) == 70  # no sample twice


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: setattr(s, "class_names", ("anchor", "boat", "dragon")), "dragon"),
        (lambda s: setattr(s, "x", s.x[:, :2]), r"\(2, 8\).*\(3, 8\)"),
        (lambda s: setattr(s, "kind", "embedding"), "text rows"),
        (lambda s: s.x.__setitem__((3, 1), np.nan), "1 of 90 samples"),
    ],
)
def test_samples_that_do_not_fit_the_data(change, says):
    samples = labeled((30, 30, 30))
    change(samples)
    with pytest.raises(UserError, match=says):
        match_samples(samples, labeled((30, 30, 30), seed=5))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"split": "test"}, "train 60, validation 0, test 0"),
        ({"split": "dev"}, "'dev'"),
        ({"limit": 5}, "at least 20"),
        ({"samples": labeled((9, 9, 0))}, "18 on a side"),
    ],
)
def test_rows_that_are_too_few(arguments, says):
    with pytest.raises(UserError, match=says):
        choose_sides(labeled((30, 30, 0)), **arguments)


# ---- two files ----
def doodles(seed):
    """200 doodles of five classes."""
    data = get_domain("sketch").generate("doodles", 800, seed)
    return data.take(np.flatnonzero(data.class_label < 5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doodles")
    data = doodles(0)
    data.split = (np.arange(len(data)) % 10 == 0).astype(np.uint8)
    write_dataset(folder / "real", data)
    return folder


def evaluate_variant(folder, name, x, **arguments):
    """Sketches x (200, 32, 8) with the labels of doodles(1), against the real ones."""
    labels = doodles(1)
    write_dataset(folder / name, Dataset("sketch", x, labels.class_label, None, None, labels.class_names))
    return evaluate_files(folder / name, folder / "real", **arguments)


@pytest.fixture(scope="module")
def fresh(folder):
    return evaluate_variant(folder, "fresh", doodles(1).x)


def values(found, key):
    figure = next(figure for figure in found.figures if figure.key == key)
    return figure.samples.value, figure.real.value, figure.gaussian.value


def test_fresh_drawings_look_real(fresh):
    assert [figure.key for figure in fresh.figures] == list(FIGURES) and fresh.settings["rows"] == 100
    samples, real, gaussian = values(fresh, "one_nn_chamfer")
    assert abs(samples - real) < 0.12 and gaussian > real + 0.1
    samples, real, gaussian = values(fresh, "memorisation")
    assert abs(samples - 1) < 0.15 and real == 1 and gaussian > 1.2
    samples, real, gaussian = values(fresh, "class_fidelity")
    assert samples > 0.9 and real > 0.9
    for figure in fresh.figures:
        for estimate in (figure.samples, figure.real, figure.gaussian):
            assert estimate.low <= estimate.high and np.isfinite([estimate.low, estimate.value, estimate.high]).all()


def test_copies_are_detected_and_baselines_unchanged(folder, fresh):
    real, wanted = read_dataset(folder / "real"), doodles(1).class_label
    train = real.rows("train")
    rows = [train[real.class_label[train] == label] for label in range(5)]
    turn = [int((wanted[:i] == label).sum()) for i, label in enumerate(wanted)]
    copies = real.x[[rows[label][at % len(rows[label])] for label, at in zip(wanted, turn, strict=True)]]
    found = evaluate_variant(folder, "copies", copies)
    assert values(found, "memorisation")[0] < 0.05 and values(found, "one_nn_chamfer")[0] < 0.45
    assert [figure.real for figure in found.figures] == [figure.real for figure in fresh.figures]
    assert [figure.gaussian for figure in found.figures] == [figure.gaussian for figure in fresh.figures]


def test_noise_is_distinguished_from_drawings(folder):
    noise = 0.5 * np.random.default_rng(0).standard_normal((200, 32, 8)).astype(np.float32)
    found = evaluate_variant(folder, "noise", noise, num_samples=50)
    assert values(found, "one_nn_chamfer")[0] > 0.95 and values(found, "precision_ink")[0] < 0.1
    assert values(found, "class_fidelity")[0] < 0.5 and values(found, "on_canvas")[0] < 0.95
    samples, real, gaussian = values(found, "frechet_strokes")
    assert samples > gaussian > real


def test_repeated_shape_has_low_coverage(folder):
    data = doodles(1)
    first = [np.flatnonzero(data.class_label == label)[0] for label in range(5)]
    found = evaluate_variant(folder, "collapsed", data.x[[first[label] for label in data.class_label]], num_samples=50)
    samples, real, _ = values(found, "coverage_chamfer")
    assert samples <= 0.1 < 0.4 < real  # five drawings, fifty of the reference
    samples, real, _ = values(found, "mmd_chamfer")
    assert samples > 1.3 * real  # far from most of the reference, though each sample has a near one
    assert values(found, "recall_ink")[0] < 0.1 and values(found, "class_fidelity")[0] > 0.9


def test_the_same_files_give_the_same_figures(folder, fresh):
    again = evaluate_files(folder / "fresh.safetensors", folder / "real", out=folder / "elsewhere")
    assert again.figures == fresh.figures and (folder / "elsewhere" / "nearest.png").exists()


def test_samples_without_classes(folder):
    write_dataset(folder / "plain", Dataset("sketch", doodles(1).x))
    found = evaluate_files(folder / "plain", folder / "real", num_samples=40)
    assert "no classes" in found.notes[0]
    figures = {figure.key: figure for figure in found.figures}
    assert figures["class_fidelity"].samples is None and figures["recall_ink"].samples is not None
    assert found.to_json()["figures"]["class_fidelity"]["samples"] is None


def test_table_and_files(folder, fresh):
    written = json.loads((folder / "fresh-evaluation" / "evaluation.json").read_text())
    assert written["format"] == 1 and written["protocol"] == "sketch-2" and set(written["figures"]) == set(FIGURES)
    assert (folder / "fresh-evaluation" / "nearest.png").read_bytes().startswith(b"\x89PNG")
    for width in (72, 80, 120, 200):
        console = Console(width=width, record=True, file=io.StringIO())
        print_evaluation(fresh, console)
        text = console.export_text()
        assert max(len(line.rstrip()) for line in text.splitlines() if str(folder) not in line) <= width
        assert (
            all(word in text for word in ("1-NN", "50 is perfect", "Gaussian", "memorization ratio"))
            and "…" not in text
        )


# ---- the command, and checkpoints ----
def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["flowkit", "evaluate", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return stop.code or 0
    return 0


def test_command_on_two_files_prints_json(folder, fresh, monkeypatch, capsys):
    assert run(monkeypatch, folder / "fresh", "--data", folder / "real", "--json", "--num-samples", 60) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["rows"] == 60 and found["figures"]["recall_ink"]["real"]["value"] > 0.5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "either a run or checkpoint, or a samples file"),
        (["a.safetensors"], "--data"),
        (["a.safetensors", "--data", "b.safetensors"], "no such file"),
        (["--ckpt", "runs/none"], "runs/none"),
        (
            ["a.safetensors", "--data", "doodels"],
            "no built-in data set of this name; did you mean 'doodles' or 'pen_doodles'?",
        ),
    ],
)
def test_command_on_bad_input(arguments, says, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error and not list(tmp_path.iterdir())


def test_checkpoint_is_compared_with_its_own_data(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny["data"]["num_samples"] = 120
    flowkit.train(tiny)
    told = []
    found = evaluate_checkpoint(
        tmp_path / "runs" / "tiny", tell=lambda what, done, total: told.append((what, done, total))
    )
    assert found.settings["rows"] == 60 and found.settings["split"] == "all" and found.settings["train_rows"] == 90
    assert found.settings["samples"]["nfe"] == 4 and "memorization" in found.notes[0]
    assert ("sampling sketches", 60, 60) in told and told[-1] == ("done", 3, 3)
    out = tmp_path / "runs" / "tiny" / "evaluation" / "step-00000008-ema-midpoint2-w1"
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == {
        "evaluation.json",
        "nearest.png",
        "samples.safetensors",
        "samples.json",
    }
    assert values(found, "one_nn_chamfer")[0] > 0.9  # 8 updates teach nothing
    # the samples that were written, compared as files, are the same comparison
    write_dataset(tmp_path / "real", _with_split(tiny))
    again = evaluate_files(out / "samples.safetensors", tmp_path / "real")
    assert [f.samples for f in again.figures] == [f.samples for f in found.figures]


def _with_split(tiny):
    from flowkit.data_source import open_data
    from flowkit.recipe import recipe_from_dict

    return open_data(recipe_from_dict(tiny))


def test_checkpoint_with_other_settings_and_other_data(tiny, tmp_path):
    tiny["data"]["num_samples"] = 100
    flowkit.train(tiny)
    run_dir = tmp_path / "runs" / "tiny"
    other = labeled((30, 30), strokes=32)
    other.class_names = ("cat", "dragon")
    write_dataset(tmp_path / "other", other)
    with pytest.raises(UserError, match="does not know: dragon"):
        evaluate_checkpoint(run_dir, data=tmp_path / "other")
    other.class_names = ("cat", "fish")
    write_dataset(tmp_path / "other", other)
    found = evaluate_checkpoint(
        run_dir, data=tmp_path / "other", guidance_scale=2.0, solver="euler", steps=3, weights="raw"
    )
    assert any("not the data" in note for note in found.notes)
    assert (run_dir / "evaluation" / "step-00000008-raw-euler3-w2-data-other" / "nearest.png").exists()
    assert found.settings["samples"]["nfe"] >= 3 and found.settings["classes"] == 2


def test_checkpoint_with_missing_data(tiny, rows, tmp_path):
    tiny["data"]["source"] = str(tmp_path / "mine.safetensors")
    arrays = {name: rows[name] for name in ("x", "class_label", "class_names")}
    write_dataset(tmp_path / "mine", Dataset("sketch", **arrays))
    flowkit.train(tiny)
    (tmp_path / "mine.safetensors").unlink()
    with pytest.raises(UserError, match="--data"):
        evaluate_checkpoint(tmp_path / "runs" / "tiny")
    write_dataset(tmp_path / "mine", Dataset("sketch", **arrays).take(np.arange(70)))
    with pytest.raises(UserError, match="not the same data"):
        evaluate_checkpoint(tmp_path / "runs" / "tiny")


# ---- where results are kept ----
def kept(folder):
    """The settings and the figures, by the folder of the results."""
    found = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/evaluation.json")}
    return {name: (content["settings"].get("asked"), content["figures"]) for name, content in found.items()}


@pytest.fixture
def model(monkeypatch):
    """A checkpoint that draws at once, and an evaluation without its figures."""
    nothing = Inversion(0.0, 1.0, 1.0)
    monkeypatch.setattr("flowkit.sampling.draw.invert", lambda *arguments: (nothing, nothing))
    unlikely = LikelihoodFigures("validation", 1, 0.0, 0.0, None, "exact", 1, None, 0)
    monkeypatch.setattr("flowkit.sampling.likelihood.likelihood_figures", lambda *arguments, **named: unlikely)
    monkeypatch.setattr("flowkit.sketch.evaluation.SketchEvaluator.figures", lambda self, tell: [])
    monkeypatch.setattr("flowkit.sketch.evaluation.SketchEvaluator.write", lambda self, out: ())


def test_results_of_other_settings_get_their_own_folder(tiny, tmp_path, model):
    tiny["data"]["num_samples"] = 120
    flowkit.train(tiny)
    data = _with_split(tiny)
    for folder in ("a", "b"):
        write_dataset(tmp_path / folder / "mine", data)
    run_dir, name = tmp_path / "runs" / "tiny", "step-00000008-ema-midpoint2-w1"
    settings = {
        name: {},
        f"{name}-validation": {"split": "validation"},
        f"{name}-n30": {"num_samples": 30},
        f"{name}-seed7": {"seed": 7},
        f"{name}-data-mine": {"data": tmp_path / "a" / "mine"},
        f"{name}-data-mine-2": {"data": tmp_path / "b" / "mine.safetensors"},
        f"{name}-likelihood5": {"likelihood": 5},
        f"{name}-likelihood5-probes2": {"likelihood": 5, "probes": 2},
        f"{name}-no-decode": {"decode": False},
        f"{name}-validation-n25-seed2": {"split": "validation", "num_samples": 25, "seed": 2},
        name.replace("-ema-", "-raw-"): {"weights": "raw"},
        name.replace("midpoint2-w1", "midpoint3-w2"): {"steps": 3, "guidance_scale": 2.0},
        name.replace("midpoint2", "dopri5-rtol0.5"): {"solver": {"name": "dopri5", "rtol": 0.5}},
        name.replace("midpoint2", "dopri5-rtol0.25"): {"solver": {"name": "dopri5", "rtol": 0.25}},
    }
    for arguments in settings.values():
        evaluate_checkpoint(run_dir, **arguments)
    found = kept(run_dir / "evaluation")
    assert found.keys() == settings.keys()
    for again in (name, f"{name}-data-mine-2", f"{name}-seed7"):
        (run_dir / "evaluation" / again / "samples.json").unlink()
        evaluate_checkpoint(run_dir, batch_size=5, **settings[again])  # the same results, whatever the batch
        assert (run_dir / "evaluation" / again / "samples.json").exists()
    assert kept(run_dir / "evaluation") == found
    for seed in (0, 7):
        assert found[name if not seed else f"{name}-seed7"][0]["seed"] == seed
    # Results of an earlier version do not contain their settings, so they are kept.
    old = run_dir / "evaluation" / name / "evaluation.json"
    content = json.loads(old.read_text())
    del content["settings"]["asked"]
    old.write_text(json.dumps(content))
    evaluate_checkpoint(run_dir)
    assert (
        json.loads(old.read_text()) == content and (run_dir / "evaluation" / f"{name}-2" / "evaluation.json").exists()
    )
    assert inspect(run_dir / "evaluation" / f"{name}-2")["what"] == "data" and inspect(run_dir)["what"] == "run"


def test_results_are_named_by_the_settings_in_effect(tiny, tmp_path, model):
    """A custom grid has steps of its own; a sidecar without settings is sampled by the default of its version."""
    tiny["data"]["num_samples"] = 120
    tiny["sample"]["grid"] = {"name": "custom", "times": [0.0, 0.2, 0.5, 1.0]}
    flowkit.train(tiny)
    run_dir = tmp_path / "runs" / "tiny"
    evaluate_checkpoint(run_dir)
    (found,) = kept(run_dir / "evaluation").items()
    assert found[0] == "step-00000008-ema-midpoint3-w1" and found[1][0]["sampling"]["steps"] == 3
    with pytest.raises(UserError, match="the custom grid has 3 steps"):
        evaluate_checkpoint(run_dir, steps=9)
    sidecar = run_dir / "checkpoints" / "step-00000008" / "model.json"
    content = json.loads(sidecar.read_text())
    (sidecar.parent / "checksums.json").unlink()
    for numerics, solver in ((2, "midpoint"), (1, "heun")):
        del (content := {**content, "sampling": {}, "numerics": numerics})["sampling"]
        sidecar.write_text(json.dumps(content))
        evaluate_checkpoint(run_dir, seed=numerics)
        name = f"step-00000008-ema-{solver}25-w1-seed{numerics}"
        assert kept(run_dir / "evaluation")[name][0]["sampling"]["solver"] == solver


def test_missing_likelihood_is_reported_before_sampling(tiny, tmp_path, model, monkeypatch):
    tiny["data"] |= {"num_samples": 120, "val_fraction": 0.0}
    flowkit.train(tiny)
    monkeypatch.setattr("flowkit.sampling.load.LoadedModel.sample", lambda *arguments, **named: pytest.fail("sampled"))
    with pytest.raises(UserError, match="likelihood: the data has no validation rows"):
        evaluate_checkpoint(tmp_path / "runs" / "tiny", likelihood=5, num_samples=30)


def test_results_of_weights_in_one_folder_are_kept_apart(tiny, tmp_path, model):
    tiny["data"]["num_samples"] = 120
    flowkit.train(tiny)
    folder = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "runs" / "tiny" / "checkpoints" / "step-00000008", folder)
    for path in (folder, folder / "ema.safetensors", folder / "ema.safetensors"):
        evaluate_checkpoint(path)
    name = "step-00000008-ema-midpoint2-w1"
    assert kept(folder / "evaluation").keys() == {name, f"ema-{name}"}


def test_results_of_the_same_samples_are_kept_apart(tmp_path, model):
    data = labeled((60, 60, 60), np.repeat(np.array([0, 1, 2], np.uint8), 60))
    for name in ("one/real", "two/real", "other"):
        write_dataset(tmp_path / name, data)
    write_dataset(tmp_path / "drawn", labeled((40, 40, 40), seed=3))
    calls = {
        "drawn-evaluation": ("one/real", {}),
        "drawn-evaluation-data-other": ("other", {}),
        "drawn-evaluation-data-real": ("two/real", {}),
        "drawn-evaluation-test": ("one/real", {"split": "test"}),
        "drawn-evaluation-n20": ("one/real", {"num_samples": 20}),
        "drawn-evaluation-n20-no-decode": ("one/real", {"num_samples": 20, "decode": False}),
    }
    for _ in range(2):
        for real, arguments in calls.values():
            evaluate_files(tmp_path / "drawn", tmp_path / real, **arguments)
        found = kept(tmp_path)
        assert found.keys() == calls.keys()
        for name, (real, _) in calls.items():
            assert found[name][0]["data"] == str(tmp_path / f"{real}.safetensors")
