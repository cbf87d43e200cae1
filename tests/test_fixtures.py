"""What earlier versions wrote is still read, and means what it meant: checkpoints, runs, prepared data, samples, recipes.

`tests/fixtures/` was made by the version that its `made_with.json` names, and holds what that version made of it. The
files are never made again. A change that means to give other numbers replaces those in `expected/`, and says so.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

import flowkit
from flowkit.checkpoint import read_model_json
from flowkit.checkpoint.run_dir import load_run_recipe
from flowkit.cli import app
from flowkit.data.checksums import crc32
from flowkit.data.dataset import read_dataset
from flowkit.decode import decode
from flowkit.domain import get_domain
from flowkit.ema.post_hoc import reconstruct_ema
from flowkit.errors import UserError
from flowkit.evaluate import evaluate_checkpoint, evaluate_files
from flowkit.inspect import inspect
from flowkit.recipe import Recipe, load_recipe, recipe_from_dict
from flowkit.renamed import translated
from tests.fake_codec import SENTENCES, install
from tests.fixtures.given import begun_from, drawn, losses, summary, windows_module, windows_rows

FILES = Path(__file__).parent / "fixtures"
# Other processors and kernels round otherwise; the smallest change that means something is far above this.
TOLERANCE = 1e-4


def expected(name: str) -> Any:
    return json.loads((FILES / "expected" / f"{name}.json").read_text("utf-8"))


def found_in(*patterns: str) -> list[str]:
    return sorted(str(path.relative_to(FILES)) for pattern in patterns for path in FILES.glob(pattern))


DRAWS = expected("draws")
RUNS = sorted(expected("reports"))
RESUMED = expected("resumed")
SECOND = json.loads((FILES / "second" / "expected.json").read_text("utf-8"))
RECIPES = expected("recipes")
DATA = expected("data")
SAMPLES = [path for path in DATA if path.startswith("samples/")]
EVALUATIONS = found_in("runs/*/evaluation/*/evaluation.json")
INSPECTED = found_in("runs/*/checkpoints/step-*", "runs/*/checkpoints/latest/*.safetensors", "runs/*/ema/*.safetensors",
                     "runs/*/ema/*/*.safetensors", "runs/*/recipe.toml", "runs/*/samples/*", "recipes/*.toml",
                     "data/*.safetensors", "samples/*")  # fmt: skip

OUTDATED = [path for path in RECIPES if translated(tomllib.loads((FILES / path).read_text("utf-8")))[1]]


def sums(folder: Path) -> dict[str, str]:
    inside = (path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc"))
    return {str(path.relative_to(folder)): crc32(path) for path in inside}


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy to read from, because paths in the files are relative. Neither may change."""
    copy, before = tmp_path_factory.mktemp("fixtures") / "copy", sums(FILES)
    shutil.copytree(FILES, copy, symlinks=True, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield copy
    torch.set_num_threads(threads)
    assert sums(copy) == before == sums(FILES), "a test has written to them"


@pytest.fixture(autouse=True)
def there(copied: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(copied)
    return copied


def run_recipe(run: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    return load_run_recipe(run, overrides)[0]


def run_copy(name: str, folder: Path) -> Path:
    shutil.copytree(Path("runs") / name, folder / name, symlinks=True)
    return folder / name


def assert_close(found: Tensor, wanted: Tensor, what: str = "") -> None:
    """To within TOLERANCE of the largest number."""
    assert found.shape == wanted.shape and found.dtype == wanted.dtype, what
    off = float((found - wanted).abs().max())
    assert off <= TOLERANCE * float(wanted.abs().max()), f"{what} off by {off:.2g}"


def assert_same_sums(found: dict[str, list[float]], wanted: dict[str, list[float]]) -> None:
    """`summary` of both: sums and norms to within TOLERANCE of the norms."""
    assert found.keys() == wanted.keys()
    for name, (total, norm) in wanted.items():
        assert found[name] == pytest.approx([total, norm], rel=0, abs=TOLERANCE * norm + 1e-9), name


def holds(found: Any, wanted: Any, place: str = "") -> None:
    """All that is in `wanted` is in `found`, which may have keys that came later; numbers to within TOLERANCE."""
    if isinstance(wanted, dict):
        assert isinstance(found, dict), place
        for name, value in wanted.items():
            assert name in found, f"{place}.{name} is missing"
            holds(found[name], value, f"{place}.{name}")
    elif isinstance(wanted, list):
        assert isinstance(found, list | tuple) and len(found) == len(wanted), place
        for number, value in enumerate(wanted):
            holds(found[number], value, f"{place}[{number}]")
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=TOLERANCE, abs=1e-6), place
    else:
        assert found == wanted, place


# -- checkpoints --


@pytest.fixture(scope="module")
def drawn_before() -> dict[str, Tensor]:
    return load_file(FILES / "expected" / "samples.safetensors")


@pytest.mark.parametrize("draw", DRAWS, ids=lambda draw: draw["name"])
def test_checkpoint_samples_are_unchanged(drawn_before, draw):
    samples = drawn(draw)
    assert_close(torch.from_numpy(samples.x), drawn_before[draw["name"]], draw["name"])


@pytest.mark.parametrize("name", sorted(expected("log_likelihoods")))
def test_densities_are_unchanged(drawn_before, name):
    wanted = expected("log_likelihoods")[name]
    found = flowkit.load(f"runs/{name}", device="cpu").log_likelihood(drawn_before[name], solver="rk4", steps=10)
    assert found.log_p.tolist() == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: Path(run).name)
def test_a_run_is_inspected(run):
    wanted = expected("reports")[run]
    report = json.loads(told("inspect", run, "--json"))
    assert report["what"] == "run" and report["remarks"] == []
    own = ("checkpoints", "latest", "best", "snapshots")
    holds(report["model"], {name: value for name, value in wanted.items() if name not in own})
    assert report["model"]["flow"]["loss"].keys() == {"space", "error", "weights"}
    assert [one["name"] for one in report["run"]["checkpoints"]] == wanted["checkpoints"]
    holds(report["run"], {name: wanted[name] for name in own if name != "checkpoints"})
    holds(report["recipe"], resolved_recipe(run))
    assert losses(Path(run)) and report["run"]["metrics"]
    text = told("inspect", run)
    assert Path(run).name in text and wanted["architecture"] in text and f"{wanted['num_parameters']:,}" in text


def resolved_recipe(run: str) -> dict[str, Any]:
    """What a run saved as its recipe, under the present names."""
    return translated(tomllib.loads(Path(run, "recipe.toml").read_text("utf-8")))[0]


@pytest.mark.parametrize("path", [path for path in INSPECTED if path not in OUTDATED])
def test_a_file_is_inspected(path):
    report = json.loads(told("inspect", path, "--json"))
    kind = "recipe" if path.endswith(".toml") else "data" if path in DATA or "samples" in path else "checkpoint"
    bare = "optimizer.safetensors" in path or "/ema/step-" in path
    assert report["what"] == ("tensors" if bare else kind)
    assert Path(path).parts[-1].split(".")[0] in told("inspect", path)


def told(*arguments: str) -> str:
    answer = CliRunner().invoke(app, list(arguments), catch_exceptions=False, env={"COLUMNS": "200"})
    assert answer.exit_code == 0, answer.output
    return answer.output


def test_average_from_snapshots_is_unchanged(tmp_path):
    before = Path("runs/points-power-ema/ema/sigma-rel-0.1-step-00000016.safetensors")
    made = reconstruct_ema("runs/points-power-ema", 0.1, out=tmp_path / "again.safetensors")
    for name, tensor in load_file(before).items():
        assert_close(load_file(made.path)[name], tensor, name)
    other = reconstruct_ema("runs/points-power-ema", 0.12, step=12, out=tmp_path / "other.safetensors")
    assert np.isfinite(flowkit.load(other.path).sample(2).x).all()


# -- runs that go on --


@pytest.mark.parametrize("name", [*sorted(RESUMED), "interrupted"])
def test_run_with_earlier_numerics_resumes_only_with_allow_changes(tmp_path, name):
    """Its random draws are others, so `--resume` refuses and touches nothing; with `--allow-changes` it trains on."""
    run, before = run_copy(name, tmp_path), sums(Path("runs") / name)
    steps = RESUMED[name]["steps"] if name in RESUMED else expected("interrupted")["losses"][-1]["step"]
    recipe = run_recipe(run, [f"run.dir={tmp_path}", f"train.steps={steps}"])
    own = {"model": windows_module(), "data": windows_rows()} if name == "custom" else {}
    with pytest.raises(
        UserError, match=r"another version of flowkit.*(init_from|--init-from).*(allow_changes|--allow-changes)"
    ):
        flowkit.train(recipe, resume=True, **own)
    assert {name: crc for name, crc in sums(run).items() if name != ".lock"} == before
    if name == "points-reflow":  # the first version fitted a normalizer on the pairs, under which they are none
        with pytest.raises(UserError, match="another normalizer than the model that these pairs came from"):
            flowkit.train(recipe, resume=True, allow_changes=True)
        return
    flowkit.train(recipe, resume=True, allow_changes=True, **own)
    found = losses(run)
    assert found[-1]["step"] == steps and all(np.isfinite(line["loss"]) for line in found if "loss" in line)


@pytest.mark.parametrize("name", sorted(SECOND))
def test_interrupted_run_ends_unchanged(tmp_path, name):
    """Of the present numerics: accumulation, a coupling in blocks, dropout, averages, in the middle of a log interval."""
    shutil.copytree(Path("second") / name, tmp_path / name, symlinks=True)
    flowkit.train(run_recipe(tmp_path / name, [f"run.dir={tmp_path}"]), resume=True)
    holds(losses(tmp_path / name), SECOND[name]["losses"])
    for file, wanted in SECOND[name]["tensors"].items():
        assert_same_sums(summary(load_file(tmp_path / name / "checkpoints" / "latest" / f"{file}.safetensors")), wanted)


@pytest.mark.parametrize("name", ["points-autoguided", "text-dit-whitening", "interrupted"])
def test_run_starts_from_earlier_weights(tmp_path, name):
    recipe = run_recipe(f"runs/{name}", [f"run.dir={tmp_path}", "run.name=tuned", "train.steps=1", "optim.lr=0.0001",
                                         "optim.warmup=0", "ema.decay=0", "ema.power=[]"])  # fmt: skip
    tuned = flowkit.train(recipe, init_from=f"runs/{name}")
    start = flowkit.load(f"runs/{name}", device="cpu").model.state_dict()
    apart = [float((tensor - start[key]).abs().max()) for key, tensor in tuned.model.state_dict().items()]
    assert 0 < max(apart) <= 2e-4


@pytest.mark.parametrize("name", sorted(expected("begun")))
def test_losses_from_earlier_weights_are_unchanged(tmp_path, name):
    """Of those runs whose optimizer was not kept."""
    holds(begun_from(name, tmp_path), expected("begun")[name])


# -- data, samples, recipes --


@pytest.mark.parametrize("path", sorted(DATA))
def test_data_are_read(path):
    wanted, data = DATA[path], read_dataset(path)
    holds({"kind": data.kind, "shape": data.x.shape, "class_names": data.class_names, "info": data.info},
          {name: wanted[name] for name in ("kind", "shape", "class_names", "info")})  # fmt: skip
    assert (None if data.texts is None else [data.texts[0], data.texts[len(data) - 1]]) == wanted["texts"]
    arrays = {name: getattr(data, name) for name in ("x", "class_label", "condition", "split", "noise")}
    assert_same_sums(summary({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()
                              if array is not None}), wanted["tensors"])  # fmt: skip


@pytest.mark.parametrize("name", sorted(load_file(FILES / "expected" / "generated.safetensors")))
def test_built_in_data_is_unchanged(name):
    """A run on built-in data resumes with the same rows."""
    wanted = load_file(FILES / "expected" / "generated.safetensors")[name]
    kind = "sketch" if wanted.ndim == 3 else "points"
    assert_close(torch.from_numpy(get_domain(kind).generate(name, 40, 7).x[-2:]), wanted)


@pytest.mark.parametrize("path", [*SAMPLES, "data/drawings.safetensors", "data/sentences.safetensors"])
def test_samples_and_data_are_decoded(tmp_path, monkeypatch, path):
    install(monkeypatch)
    data = read_dataset(path)
    if data.kind != "embedding":
        decode(path, out=tmp_path / "out", limit=3)
        assert len(list((tmp_path / "out").rglob("*.svg"))) == (3 if data.kind == "sketch" else 0)
        assert data.kind == "array" or list((tmp_path / "out").glob("*.png"))
        return
    decode(path, out=tmp_path / "out.jsonl", limit=3)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == 3 and all(line["eng_Latn"] in SENTENCES for line in lines)
    if data.texts is not None:
        assert [line["text"] for line in lines] == list(data.texts[:3])


@pytest.mark.parametrize("path", EVALUATIONS, ids=lambda path: Path(path).parts[1])
def test_evaluation_is_unchanged(tmp_path, path):
    """Of an earlier protocol the figures are another matter, but the file still says what they were."""
    wanted, run = json.loads(Path(path).read_text("utf-8")), str(Path(*Path(path).parts[:2]))
    likelihood = (wanted["settings"].get("likelihood") or {}).get("rows")
    found = evaluate_checkpoint(run, split="all", decode=False, device="cpu", likelihood=likelihood, out=tmp_path)
    told_again = json.loads((tmp_path / "evaluation.json").read_text("utf-8"))
    assert told_again["format"] >= wanted["format"] and found.protocol
    if found.protocol == wanted["protocol"]:
        holds(values(told_again["figures"]), values(wanted["figures"]), "figures")
        for part in ("reconstruction", "likelihood"):
            holds(told_again["settings"].get(part), wanted["settings"].get(part), part)
    samples = read_dataset(Path(path).with_name("samples"))
    assert_close(
        torch.from_numpy(np.array(read_dataset(tmp_path / "samples").x)), torch.from_numpy(np.array(samples.x))
    )


def values(figures: dict[str, Any]) -> dict[str, Any]:
    """Without the intervals, whose ends may move by a whole row where two numbers are all but equal."""
    return {name: {side: figure[side]["value"] for side in ("samples", "real", "gaussian")
                   if isinstance(figure.get(side), dict)} for name, figure in figures.items()}  # fmt: skip


def test_two_files_are_compared(tmp_path):
    (samples,) = Path("runs/text-dit-whitening/evaluation").glob("*/samples.safetensors")
    found = evaluate_files(samples, "data/vectors.safetensors", split="all", decode=False, out=tmp_path)
    assert found.figures and (tmp_path / "evaluation.json").is_file()


@pytest.mark.parametrize("path", sorted(RECIPES))
def test_recipe_is_read_unchanged(path):
    """A key that was renamed is looked for here by its new name. A recipe without a precision had fp32 then."""
    found = load_recipe(path, saved=True).to_dict()
    if found["train"]["precision"] == "auto":
        assert "precision" not in tomllib.loads(Path(path).read_text("utf-8")).get("train", {})
        found["train"]["precision"] = "fp32"
    holds(found, translated(RECIPES[path])[0])


def test_a_users_recipe_with_old_names_is_told_the_new_ones():
    said = {}
    for path in OUTDATED:
        for read in (load_recipe, run_recipe, inspect):
            with pytest.raises(UserError) as refused:
                read(path)
            said[path] = str(refused.value)
    assert "  loss.smoothness: renamed to aux_loss.smoothness\n" in said["recipes/sketches.toml"]
    assert "  flow.loss_space: renamed to flow.loss.space\n" in said["recipes/sketches.toml"]
    assert said["recipes/points.toml"] == "recipes/points.toml: flow.weights: renamed to flow.loss.weights"
    assert said["recipes/vectors.toml"].endswith("flow.error: renamed to flow.loss.error")


@pytest.mark.parametrize("run", RUNS, ids=lambda run: Path(run).name)
def test_a_runs_recipe_is_that_of_its_checkpoint(run):
    kept = read_model_json(Path(run, "checkpoints", "latest", "model.json"))["recipe"]
    assert recipe_from_dict(kept) == run_recipe(run)
    holds(run_recipe(run).to_dict(), resolved_recipe(run))


def test_the_files_stay_small_and_have_their_links():
    assert sum(path.stat().st_size for path in FILES.rglob("*") if path.is_file()) < 2_000_000
    links = [path for path in FILES.glob("runs/*/checkpoints/*") if not path.name.startswith("step-")]
    assert len(links) > len(RUNS) and all(path.is_symlink() and path.is_dir() for path in links)
