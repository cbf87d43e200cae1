"""`flowkit inspect` on runs, checkpoints, weight files, data and recipes, made by hand in the layout they have on disk."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file
from typer.testing import CliRunner

from flowkit.cli import app
from flowkit.cli.look import as_json
from flowkit.data.dataset import Dataset, write_dataset
from flowkit.data.files import write_json
from flowkit.errors import UserError
from flowkit.inspect import inspect
from flowkit.ui.facts import plain
from flowkit.ui.inspect_view import show

CLASSES = ["water", "tree", "hand"]


def _weights(blocks: int = 3, width: int = 4) -> dict[str, np.ndarray]:
    one = np.ones
    tensors = {"position": one((32, width), np.float32), "stroke_in.weight": one((width, 8), np.float32)}
    for i in range(blocks):
        tensors |= {f"blocks.{i}.attention.qkv.weight": one((3 * width, width), np.float32),
                    f"blocks.{i}.mlp.0.weight": one((16, width), np.float32),
                    f"blocks.{i}.mlp.0.bias": one(16, np.float16)}  # fmt: skip
    return tensors


PARAMETERS = 32 * 4 + 4 * 8 + 3 * (12 * 4 + 16 * 4 + 16)


def _sidecar(step: int) -> dict:
    return {
        "flowkit": "0.1.0", "architecture": "bezier_sketch_dit", "model_args": {"embed_dim": 4, "num_layers": 3},
        "num_parameters": PARAMETERS, "kind": "sketch", "shape": [32, 8], "class_names": CLASSES,
        "condition_shape": None, "normalizer": {"name": "zscore", "shift": [0.0] * 256, "scale": [1.0] * 256},
        "flow": {"path": "linear", "prediction": "velocity"}, "step": step, "an_extra": {"from": "the future"},
        "sampling": {"solver": "heun", "steps": 25, "guidance_scale": 1.0}, "ema": {"decay": 0.9999},
        "validation": {"loss": 0.4, "raw_loss": 0.45, "zero_loss": 1.6},
        "data": {"source": "data/[kanji].safetensors", "train_rows": 1239, "val_rows": 65},
        "recipe": {"optim": {"lr": 1e-4, "betas": [0.9, 0.999]}, "train": {"steps": 300}},
    }  # fmt: skip


def _checkpoint(directory: Path, step: int) -> None:
    directory.mkdir(parents=True)
    save_file(_weights(), directory / "model.safetensors")
    save_file(_weights(), directory / "ema.safetensors")
    moments = {f"exp_avg/{name}": tensor for name, tensor in _weights().items()}
    save_file({**moments, "step/position": np.ones((), np.float32)}, directory / "optimizer.safetensors")
    write_json(directory / "model.json", _sidecar(step))
    write_json(directory / "state.json", {"step": step, "best_loss": float("inf")})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = tmp_path / "runs" / "kanji"
    for step in (100, 200, 300):
        _checkpoint(run / "checkpoints" / f"step-{step:08d}", step)
    (run / "checkpoints" / "latest").symlink_to("step-00000300")
    (run / "checkpoints" / "best").symlink_to("step-00000200")
    (run / "checkpoints" / ".step-00000400.partial").mkdir()
    (run / "recipe.toml").write_text('[run]\nname = "kanji"\n')
    rows = [{"step": s, "epoch": s / 5, "loss": 2.0 / s, "lr": 1e-4} for s in range(1, 301)]
    rows += [{"step": s, "val_loss": loss, "val_zero_loss": 1.6, "val_bins": [[0, 1, loss]], "best": True}
             for s, loss in ((100, 0.5), (200, 0.4), (300, 0.6))]  # fmt: skip
    rows.append({"step": 301, "epoch": 60.2, "loss": None, "lr": 1e-4})  # a loss that was not finite
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 302, "lo')
    return run


def _shown(report: dict, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    with console.capture() as capture:
        show(report, console)
    return capture.get()


def test_a_run(run):
    report = inspect(run)
    assert report["what"] == "run" and report["model"]["step"] == 300
    assert report["model"]["architecture"] == "bezier_sketch_dit" and report["model"]["an_extra"] == {
        "from": "the future"
    }
    found = report["run"]
    assert [(one["step"], one["latest"], one["best"]) for one in found["checkpoints"]] == [
        (100, False, False), (200, False, True), (300, True, False)]  # fmt: skip
    size = sum(file.stat().st_size for file in (run / "checkpoints/step-00000100").iterdir())
    assert found["checkpoints"][0]["bytes"] == size
    metrics = found["metrics"]
    assert metrics["last"]["step"] == 301 and metrics["last"]["loss"] is None
    assert metrics["best_validation"]["step"] == 200 and metrics["last_validation"]["val_loss"] == 0.6
    assert metrics["unreadable_lines"] == 1
    assert len(metrics["loss_curve"]) == 60
    assert metrics["loss_curve"][-1] == [300, pytest.approx(np.mean([2 / s for s in range(296, 301)]))]
    assert json.loads(as_json(report))["state"]["best_loss"] is None  # strict JSON: infinity is null


def test_a_run_as_shown(run):
    text = _shown(inspect(run))
    for fact in ("kanji", "bezier_sketch_dit", f"{PARAMETERS:,} parameters", "F32, F16", "embed_dim 4", "sketch 32 × 8",
                 "data/[kanji].safetensors", "1,239 training rows", "3: water, tree, hand", "zscore · shift 256 values",
                 "path linear", "solver heun · steps 25", "decay 0.9999", "25.0% of predicting zero",
                 "without EMA 0.4500", "betas [0.9, 0.999]", "step 200", "latest", "best",
                 "1 line of metrics.jsonl cannot be read"):  # fmt: skip
        assert fact in text, fact


@pytest.mark.parametrize("reason", ["out of time", "interrupted", "done"])
def test_run_shows_why_it_ended(run, reason):
    assert inspect(run)["run"]["ended"] is None
    write_json(run / "end.json", {"step": 300, "reason": reason})
    report = inspect(run)
    assert report["run"]["ended"] == {"step": 300, "reason": reason}
    assert f"step-00000300 · {reason}" in _shown(report)


@pytest.mark.parametrize("content", [{}, {"step": "x", "reason": "done"}, {"step": 3, "reason": ["done"]}])
def test_a_run_whose_end_is_damaged(run, content):
    write_json(run / "end.json", content)
    with pytest.raises(UserError, match=r"end\.json: expected .*Remove the file"):
        inspect(run)


def test_parameters_by_module(run):
    weights = inspect(run)["weights"]
    assert weights["elements"] == PARAMETERS
    assert weights["dtypes"] == {"F32": PARAMETERS - 48, "F16": 48}
    modules = {module["name"]: module for module in weights["modules"]}
    assert list(weights["own_tensors"]) == ["position"]
    blocks = modules["blocks.0-2"]
    assert blocks["repeat"] == 3 and blocks["elements"] == 3 * (12 * 4 + 16 * 4 + 16)
    assert {child["name"]: child["elements"] for child in blocks["modules"]} == {"attention.qkv": 48, "mlp.0": 80}
    lines = {name: line for line in _shown(inspect(run)).splitlines() for name in re.findall(r"── (\S+) .*%", line)}
    assert "× 3" in lines["blocks.0-2"] and "384" in lines["blocks.0-2"]
    assert "144" in lines["attention.qkv"].split("weight")[0]  # three of them
    assert "weight 16 × 4, bias 16" in lines["mlp.0"]


def test_different_blocks_are_not_merged(tmp_path):
    tensors = {f"blocks.{i}.weight": np.ones((4, 9 if i == 5 else 4), np.float32) for i in range(12)}
    save_file(tensors, tmp_path / "some.safetensors")
    report = inspect(tmp_path / "some.safetensors")
    assert report["what"] == "tensors" and "no some.json" in report["remarks"][0]
    names = [(module["name"], module["repeat"]) for module in report["weights"]["modules"][0]["modules"]]
    assert names == [("0-4", 5), ("5", 1), ("6-11", 6)]
    assert "numbers" in _shown(report)


def test_counts_match_torch(tmp_path):
    """Against the model itself: the elements of every module, by name."""
    from safetensors.torch import save_file as save_torch

    from flowkit.models import create_model

    model = create_model("bezier_sketch_dit", num_classes=5, embed_dim=32, num_layers=3, num_heads=4)
    save_torch(model.state_dict(), tmp_path / "model.safetensors")
    weights = inspect(tmp_path / "model.safetensors")["weights"]
    assert weights["elements"] == sum(tensor.numel() for tensor in model.state_dict().values())

    def check(modules, prefix, factor):
        for found in modules:
            first = found["name"].split("-")[0]
            expected = sum(t.numel() for t in model.get_submodule(f"{prefix}{first}").state_dict().values())
            assert found["elements"] == expected * found["repeat"], first
            check(found["modules"], f"{prefix}{first}.", factor * found["repeat"])

    check(weights["modules"], "", 1)


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "model.json", ""])
def test_a_checkpoint_by_any_of_its_names(run, name):
    report = inspect(run / "checkpoints" / "best" / name)
    assert report["what"] == "checkpoint" and report["model"]["step"] == 200
    expected = "ema.safetensors" if name == "ema.safetensors" else "model.safetensors"
    assert Path(report["weights"]["path"]).name == expected
    assert "bezier_sketch_dit" in _shown(report)


def test_the_optimizer(run):
    report = inspect(run / "checkpoints" / "latest" / "optimizer.safetensors")
    assert report["holds"] == "optimizer state" and report["state"]["step"] == 300
    assert report["weights"]["elements"] == PARAMETERS + 1
    assert "exp_avg" in _shown(report)


def test_run_without_checkpoints(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "recipe.toml").write_text('[run]\nname = "young"\n[model]\narch = "bezier_sketch_dit"\n')
    report = inspect(tmp_path)
    assert report["what"] == "run" and report["run"]["checkpoints"] == [] and report["run"]["metrics"] is None
    text = _shown(report)
    assert "no checkpoint has been saved yet" in text and "bezier_sketch_dit" in text


def test_ema_that_does_not_fit_is_remarked(run):
    save_file(_weights(blocks=2), run / "checkpoints/step-00000300/ema.safetensors")
    assert "ema.safetensors and model.safetensors hold different tensors" in inspect(run)["remarks"][0]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.9, 0.9, (5000, 4, 8)).astype(np.float32)
    labels = np.repeat([0, 1, 2], [1000, 1500, 2500])
    x[labels == 2] *= 0.5
    split = (np.arange(5000) % 10 == 0).astype(np.uint8)
    names = ("water", "[tree]", "hand")
    info = {"source": "[kanji].zip", "fit_error": {"median": 0.0, "max": 0.01}}
    return write_dataset(tmp_path / "kanji", Dataset("sketch", x, labels, None, split, names, info))


def test_data(data):
    report = inspect(data)
    assert (report["what"], report["kind"], report["rows"], report["shape"]) == ("data", "sketch", 5000, [4, 8])
    assert report["class_counts"] == {"water": 1000, "[tree]": 1500, "hand": 2500}
    assert report["split"] == {"train": 4500, "validation": 500, "test": 0}
    assert report["info"]["source"] == "[kanji].zip"
    statistics = report["statistics"]["x"]
    assert report["statistics_rows"] == 4096
    # half of two uniform distributions each: the rows looked at come from all over the file
    assert statistics["std"] == pytest.approx(np.sqrt((0.9**2 + 0.45**2) / 2 / 3), rel=0.01)
    assert statistics["mean"] == pytest.approx(0, abs=0.01) and statistics["bad_rows"] == 0
    assert inspect(data.with_suffix(""))["rows"] == inspect(data.with_suffix(".json"))["rows"] == 5000
    text = _shown(report)
    for fact in (
        "5,000 of 4 × 8",
        "4,500 train",
        "[kanji].zip",
        "of 4,096 rows",
        "[tree]",
        "2,500 ████████████",
        "median 0",
    ):
        assert fact in text, fact
    bars = {name: len(bar) for name, bar in re.findall(r"(\w+)\]? +[\d,]+ ([█▏▎▍▌▋▊▉]+)", text)}
    assert bars == {"water": 5, "tree": 8, "hand": 12}  # of 12 cells: 4.8, 7.2, 12
    assert any(0x2800 < ord(char) < 0x2900 for char in text)  # something was drawn


@pytest.mark.parametrize(
    ("setting", "shown"),
    [({"name": "ot", "block": 1024}, "ot (block 1024)"), ({"name": "ot"}, "ot"), ({"a": 1, "b": {}}, "a 1, b none"),
     ([0.9, 0.999], "[0.9, 0.999]"), ((), "none"), ([0.0] * 1024, "1,024 values"), ([[1.0], [2.0]], "2 values"),
     (True, "yes"), (None, "none"), (1e-8, "1e-08"), ("x", "x")],
)  # fmt: skip
def test_settings_in_words(setting, shown):
    assert plain(setting) == shown


def test_a_folder_of_samples(tmp_path, data):
    for suffix in (".safetensors", ".json"):
        shutil.copy(data.with_suffix(suffix), tmp_path / f"samples{suffix}")
    assert inspect(tmp_path)["what"] == "data"


def test_unknown_kind_or_nan_is_reported_and_not_drawn(tmp_path):
    x = np.ones((10, 16), np.float32)
    x[3, 2] = np.nan
    path = write_dataset(tmp_path / "odd", Dataset("hologram", x))
    report = inspect(path)
    assert report["statistics"]["x"]["bad_rows"] == 1 and report["statistics"]["x"]["mean"] == 1
    text = _shown(report, 200)
    assert "1 of the 10 rows looked at have NaN" in text
    assert "no pictures: unknown kind of data 'hologram'" in text


def test_empty_data(tmp_path):
    path = write_dataset(tmp_path / "empty", Dataset("sketch", np.zeros((0, 4, 8), np.float32)))
    report = inspect(path)
    assert report["rows"] == 0
    assert "0 of 4 × 8" in _shown(report)


def test_a_recipe(tmp_path):
    path = tmp_path / "quick.toml"
    path.write_text('[run]\nname = "quick"\n[data]\nnum_samples = 1000\nval_fraction = 0.1\n'
                    '[model]\narch = "bezier_sketch_dit"\n[train]\nepochs = 3\nbatch_size = 64\n')  # fmt: skip
    report = inspect(path)
    assert report["facts"]["train_rows"] == 900
    assert report["facts"]["steps"] == 43  # ceil(3 x 900 / 64)
    assert report["recipe"]["optim"]["lr"] > 0 and report["given"]["train"] == ["batch_size", "epochs"]
    text = _shown(report)
    assert "43 updates of 64 rows" in text and "bezier_sketch_dit on doodles" in text
    path.write_text(path.read_text() + '[dato]\nsource = "x"\n')
    with pytest.raises(UserError, match="dato"):
        inspect(path)


def test_recipe_with_missing_data(tmp_path):
    path = tmp_path / "later.toml"
    path.write_text('[run]\nname = "later"\n[data]\nsource = "nowhere/kanji"\n'
                    '[model]\narch = "bezier_sketch_dit"\n[train]\nsteps = 10\n')  # fmt: skip
    report = inspect(path)
    assert "does not exist yet" in report["remarks"][0]
    assert "bezier_sketch_dit on nowhere/kanji" in _shown(report)


@pytest.mark.parametrize(
    ("spoil", "path", "message"),
    [
        (lambda c: os.truncate(c / "model.safetensors", 900), "", r"model\.safetensors: not a valid safetensors file"),
        (lambda c: os.truncate(c / "ema.safetensors", 3), "", r"ema\.safetensors: not a valid safetensors file"),
        (lambda c: (c / "model.safetensors").unlink(), "", "has no model.safetensors"),
        (lambda c: (c / "model.json").unlink(), "", r"model\.json: no such file"),
        (lambda c: os.truncate(c / "model.json", 40), "", r"model\.json: is not valid JSON .* truncated"),
        (lambda c: (c / "model.json").write_text('{"format": 1}'), "", "'architecture' is missing"),
        (lambda c: (c / "model.json").write_text('{"format": 99}'), "", "upgrade flowkit"),
        (lambda c: os.truncate(c / "optimizer.safetensors", 500), "optimizer.safetensors", "not a valid safetensors"),
        (lambda c: None, "modell.safetensors", r"no such file or folder; did you mean 'model\.safetensors'"),
        (lambda c: None, "nowhere/model.safetensors", "nowhere does not exist either"),
        (lambda c: (c / "notes.txt").touch(), "notes.txt", "not a file that flowkit writes. Expected a run"),
    ],
)
def test_corrupt_files_are_named(run, spoil, path, message):
    checkpoint = run / "checkpoints" / "step-00000300"
    spoil(checkpoint)
    with pytest.raises(UserError, match=message):
        inspect(checkpoint / path)


def test_folder_of_runs_lists_them(run):
    with pytest.raises(UserError, match=r"not a run .* It contains: kanji"):
        inspect(run.parent)


def test_metrics_as_curves(run):
    report = inspect(run / "metrics.jsonl")
    assert report["what"] == "metrics" and report["metrics"] == inspect(run)["run"]["metrics"]
    text = _shown(report, 60)
    assert "step 300" in text and "25.0% of predicting zero" in text
    assert len([line for line in text.splitlines() if any(0x2800 < ord(mark) < 0x2900 for mark in line)]) >= 5
    (run / "metrics.jsonl").write_text('{"step": 1, "count": 4}\n')
    assert inspect(run / "metrics.jsonl")["metrics"] is None
    assert "no losses" in _shown(inspect(run / "metrics.jsonl"))


def _png(path: Path, width: int = 12, height: int = 7) -> Path:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("sheet.png", "contact sheet"),
        ("scatter.png", "scatter plot"),
        ("trajectories.png", "trajectories"),
        ("nearest.png", "training row"),
        ("holiday.png", "not a name that flowkit gives"),
    ],
)
def test_a_picture_says_what_it_is(run, name, says):
    (run / "samples.safetensors").touch()
    report = inspect(_png(run / "samples" / "last" / name))
    text = _shown(report, 300)
    assert report["what"] == "file" and says in text and "12 x 7" in text
    assert f"flowkit inspect {run / 'samples.safetensors'}" in text
    json.loads(as_json(report))


def test_other_files_of_a_run_say_what_they_are(run, data):
    write_json(run / "end.json", {"step": 300, "reason": "done"})
    write_json(run / "evaluation.json", {"protocol": "sketch-1", "figures": [1, 2]})
    for name, says in (
        ("end.json", ["why it ended", "done", "300"]),
        ("evaluation.json", ["flowkit evaluate", "sketch-1"]),
    ):
        assert all(part in _shown(inspect(run / name)) for part in says)
    (run / "003-water.svg").write_text("<svg/>")
    assert "one sketch" in _shown(inspect(run / "003-water.svg"))
    (run / "sheet.png").write_text("not a picture")
    with pytest.raises(UserError, match=r"sheet\.png: not a PNG"):
        inspect(run / "sheet.png")
    data.with_suffix(".jsonl").write_text("")
    assert inspect(data.with_suffix(".jsonl"))["what"] == "data"


def test_the_command(run):
    runner = CliRunner()
    answer = runner.invoke(app, ["inspect", str(run), "--json"])
    assert answer.exit_code == 0 and json.loads(answer.stdout)["what"] == "run"
    answer = runner.invoke(app, ["inspect", str(run)])
    assert answer.exit_code == 0 and "bezier_sketch_dit" in answer.stdout
    done = subprocess.run([sys.executable, "-m", "flowkit", "inspect", str(run / "no")], capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr


CODE = """
import sys
from rich.console import Console
from flowkit.inspect import inspect
from flowkit.cli.look import as_json
from flowkit.ui.facts import plain
from flowkit.ui.inspect_view import show
report = inspect({path!r})
as_json(report)
show(report, Console())
loaded = set(sys.modules) & {heavy!r}
assert not loaded, loaded
"""


def test_torch_is_imported_for_recipes_only(run, data, tmp_path):
    """Of checkpoints not even numpy or pydantic: that is what makes it fast."""
    recipe = tmp_path / "a.toml"
    recipe.write_text('[run]\nname = "a"\n[model]\narch = "bezier_sketch_dit"\n[train]\nsteps = 10\n')
    light = {"torch", "numpy", "scipy", "pydantic", "safetensors", "PIL"}
    for path, heavy in ((run, light), (data, {"torch", "accelerate"}), (recipe, {"accelerate"})):
        code = CODE.format(path=str(path), heavy=heavy)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_only_headers_are_read(run):
    """Tensors that are all holes on the disk: 64 gigabytes that a reader of tensors would never get through."""
    size = 1 << 36
    header = json.dumps({"blocks.0.weight": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    for name in ("model.safetensors", "ema.safetensors"):
        path = run / "checkpoints" / "step-00000300" / name
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        os.truncate(path, 8 + len(header) + size)
    assert inspect(run)["weights"]["elements"] == size // 4
