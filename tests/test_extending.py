"""Components from outside of the package: each is one class or function in a module of the user's own, named in a recipe.

They are trained with, sampled from, resumed and inspected; a checkpoint that names them is opened only where its code is trusted.
"""

import json
import re
import subprocess
import sys
from contextvars import copy_context
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

import flowkit
from flowkit import components
from flowkit.cli import app
from flowkit.components import choose, find, names, trusting
from flowkit.data.dataset import Dataset, read_dataset, write_dataset
from flowkit.distributed.environment import with_precision
from flowkit.domain import builtin_sets, get_domain
from flowkit.errors import UserError
from flowkit.inspect import inspect
from flowkit.recipe import recipe_from_dict
from flowkit.recipe.describe import key_table

OUTSIDE = '''
import json
from itertools import pairwise
from typing import Annotated, ClassVar

import numpy as np
import torch
from accelerate.tracking import GeneralTracker
from pydantic import Field
from torch import nn

from flowkit.data.dataset import Dataset, write_dataset
from flowkit.domain import Domain, Presented, Preview
from flowkit.flow.couplings import Coupling
from flowkit.flow.paths import GaussianPath
from flowkit.flow.solvers import Integrated, Solver
from flowkit.metrics.report import Figure
from flowkit.metrics.resampling import Estimate


class Quadratic(GaussianPath):
    """x_t = s x1 + (1 - s) x0 with s = (1 - bend) t + bend t^2."""

    bend: float = Field(default=0.5, ge=0, le=1, description="how far from a constant speed")

    def alpha(self, t):
        return (1 - self.bend) * t + self.bend * t**2

    def sigma(self, t):
        return 1 - self.alpha(t)

    def d_alpha(self, t):
        return 1 - self.bend + 2 * self.bend * t

    def d_sigma(self, t):
        return -self.d_alpha(t)

    def time(self, tau):
        if not self.bend:
            return tau
        slope = 1 - self.bend
        return 2 * tau / (slope + (slope**2 + 4 * self.bend * tau).sqrt())


class AdamsBashforth(Solver):
    """A method of several steps: the last `order` slopes, the first step by Euler's."""

    order: int = Field(default=2, ge=1, le=3, description="slopes that a step looks back on")
    WEIGHTS: ClassVar[dict[int, tuple[float, ...]]] = {1: (1.0,), 2: (1.5, -0.5), 3: (23 / 12, -16 / 12, 5 / 12)}

    def solve(self, problem):
        x, slopes = problem.x, []
        for step, (a, b) in enumerate(pairwise(problem.edges)):
            t = torch.full((len(x),), a, dtype=x.dtype, device=x.device)
            slopes = [problem.velocity(x, t).to(x.dtype), *slopes][: self.order]
            x = x + (b - a) * sum(w * slope for w, slope in zip(self.WEIGHTS[len(slopes)], slopes))
            if problem.on_step is not None:
                problem.on_step(step + 1, x)
        return Integrated(x, torch.full((len(x),), len(problem.edges) - 1))


class Reversed(Coupling):
    """Every row with the noise of the row that is as far from the other end."""

    def __call__(self, x0, x1, given=None, *, seed=0):
        return torch.arange(len(x0), device=x0.device).flip(0)


def centered(x):
    """The squared mean of a row. It is 0 where a row is centered."""
    return x.flatten(1).mean(1).square()


def missed(x, target):
    """The distance of the real rows from whole numbers, and a little of the predicted ones."""
    assert x.requires_grad and not target.requires_grad and x.shape == target.shape
    return ((target - target.round()).abs() + 1e-6 * (x - target).abs()).flatten(1).mean(1)


class Wide(nn.Module):
    """A network of one hidden layer that knows nothing of flowkit."""

    def __init__(self, input_dim: int = 2, width: Annotated[int, Field(ge=1, description="hidden units")] = 16):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(input_dim + 1, width), nn.SiLU(), nn.Linear(width, input_dim))

    def forward(self, x, t):
        return self.layers(torch.cat((x, t[:, None]), 1))


class Lines(GeneralTracker):
    """Writes what it is told into lines.jsonl, here."""

    name, requires_logging_directory = "lines", False

    def __init__(self, run_name, **_):
        super().__init__()
        self.path = f"{run_name}-lines.jsonl"

    @property
    def tracker(self):
        return self.path

    def start(self):
        open(self.path, "a").close()

    def store_init_configuration(self, values):
        self.log({"parameters": values["num_parameters"]})

    def log(self, values, step=None, **_):
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": step, **values}) + "\\n")


class Waves(Domain):
    """Sine waves of 8 samples."""

    kind, noun, builtin = "my_pkg:Waves", "waves", ("sines",)

    def generate(self, name, num_samples, seed):
        phase = np.random.default_rng(seed).uniform(0, 2 * np.pi, (num_samples, 1))
        return Dataset(self.kind, np.sin(phase + np.arange(8)).astype(np.float32), info={"source": name})

    def preview(self, rows):
        return [Preview(title, (drawn(row),)) for row, title in zip(rows.x, rows.titles(), strict=True)]

    def statistics(self, x):
        norms = np.linalg.norm(x, axis=1)
        return {"norm_mean": float(norms.mean()), "norm_std": float(norms.std()), "mean_cosine": 0.0, "near_constant": []}

    def presenter(self, data, *, decode=True, device="auto"):
        return WavePresenter()

    def evaluator(self, comparison, *, decode=True, device="auto"):
        return WaveEvaluator(comparison)

    def prepares(self, source, files):
        return any(entry.suffix == ".wave" for entry in files.entries)

    def prepare(self, source, out, *, seed=0, overwrite=False, tell=None, notice=None, **options):
        rows = np.array([["_-^".index(c) - 1.0 for c in line] for line in source.read_text().split()], np.float32)
        write_dataset(out, Dataset(self.kind, rows))
        return f"{len(rows)} waves"


class WavePresenter:
    """One line of text per wave."""

    notice = ""

    def __call__(self, samples, out, *, shown=(), tell=None):
        (out / "waves.txt").write_text("".join(drawn(row) + "\\n" for row in samples.x))
        previews = Waves().preview(samples.take(np.asarray(shown, int)))
        return Presented((out / "waves.txt",), tuple(previews))


class WaveEvaluator:
    """Compares the mean amplitude."""

    protocol, legend, notes = "waves-1", "Amplitude: the mean over all samples.", ()

    def __init__(self, comparison):
        self.comparison = comparison

    def figures(self, tell):
        sides, data = self.comparison.sides, self.comparison.data
        columns = {"samples": self.comparison.samples.x, "real": data.x[sides.real], "gaussian": self.comparison.gaussian}
        found = {name: float(np.abs(x).mean()) for name, x in columns.items()}
        return [Figure("amplitude", "mean amplitude", "mean of |x|", "Amplitude", "like real",
                       **{name: Estimate(value, value, value) for name, value in found.items()})]

    def write(self, out):
        return []


def drawn(row):
    return "".join("_-^"[int(1.49 * (v + 1)) % 3] for v in row)
'''


@pytest.fixture
def outside(tmp_path, monkeypatch) -> Path:
    """A folder with the user's module in it, where the user stands; nothing of it was imported before."""
    (tmp_path / "my_pkg.py").write_text(OUTSIDE, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(components, "_imported", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_pkg", raising=False)
    return tmp_path


def recipe(**sections) -> dict:
    base = {
        "run": {"name": "a"}, "data": {"source": "8gaussians", "num_samples": 400, "val_fraction": 0.5},
        "model": {"arch": "mlp", "hidden_dim": 8},
        "train": {"steps": 4, "batch_size": 16, "log_every": 1, "save_every": 2, "val_every": 2},
        "sample": {"every": 4, "num_samples": 4, "steps": 4}, "ema": {"decay": 0.9},
        "optim": {"schedule": "constant", "warmup": 0},
    }  # fmt: skip
    return {name: {**base.get(name, {}), **sections.get(name, {})} for name in {**base, **sections}}


CASES = {
    "path": {"flow": {"path": {"name": "my_pkg:Quadratic", "bend": 0.25}}},
    "solver": {"sample": {"solver": {"name": "my_pkg:AdamsBashforth", "order": 3}}},
    "coupling": {"flow": {"coupling": "my_pkg:Reversed"}},
    "auxiliary loss": {"aux_loss": {"my_pkg:centered": 0.5}},
    "architecture": {"model": {"arch": "my_pkg:Wide", "width": 5, "hidden_dim": None}},
    "tracker": {"track": {"to": "my_pkg:Lines"}},
    "domain": {"data": {"domain": "my_pkg:Waves", "source": "sines"}},
}


def case(name: str) -> dict:
    found = recipe(**CASES[name])
    return {name: {k: v for k, v in table.items() if v is not None} for name, table in found.items()}


@pytest.mark.parametrize("name", CASES)
def test_it_is_trained_resumed_sampled_and_inspected(outside, name):
    table = case(name)
    model = flowkit.train(table)
    assert np.isfinite(model.sample(4).x).all()
    assert recipe_from_dict(model.info["recipe"]) == with_precision(recipe_from_dict(table))
    resumed = flowkit.train("runs/a", overrides=["train.steps=6"], resume=True, allow_changes=True)
    whole = flowkit.train({**table, "run": {"name": "whole"}, "train": {**table["train"], "steps": 6}})
    for key, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[key]), key
    np.testing.assert_array_equal(resumed.sample(3, seed=1).x, whole.sample(3, seed=1).x)
    assert inspect(outside / "runs" / "a")["model"]["architecture"] == table["model"]["arch"]


def test_custom_path_and_solver_are_exact(outside):
    with trusting():
        path = choose("path", {"name": "my_pkg:Quadratic", "bend": 0.25})
        solvers = [choose("solver", {"name": "my_pkg:AdamsBashforth", "order": order}) for order in (1, 2)]
    tau = torch.linspace(0, 1, 5)
    torch.testing.assert_close(path.alpha(path.time(tau)), tau)
    from flowkit.flow.solvers import integrate

    x = torch.ones(1, 1, dtype=torch.float64)
    ends = [[integrate(lambda x, t: -x, x, solver=solver, steps=n).x.item() for n in (20, 40)] for solver in solvers]
    assert ends[0][0] == pytest.approx(integrate(lambda x, t: -x, x, solver="euler", steps=20).x.item(), rel=1e-12)
    coarse, fine = (abs(end - np.exp(-1)) for end in ends[1])
    assert coarse / fine == pytest.approx(4, abs=0.5)  # of the second order


def test_a_loss_with_a_target_gets_the_real_rows_in_the_units_of_the_data(outside):
    x = np.random.default_rng(0).integers(-9, 9, (64, 2)).astype(np.float32)
    flowkit.train(recipe(aux_loss={"my_pkg:missed": 0.5}), data=x)
    lines = [json.loads(line) for line in (outside / "runs/a/metrics.jsonl").read_text().splitlines()]
    assert all(1e-7 < line["my_pkg:missed"] < 1e-4 for line in lines if "grad_norm" in line)


def test_the_loss_is_descended_and_logged(outside):
    flowkit.train(recipe(**CASES["auxiliary loss"]))
    lines = [json.loads(line) for line in (outside / "runs/a/metrics.jsonl").read_text().splitlines()]
    assert all(line["my_pkg:centered"] > 0 for line in lines if "grad_norm" in line)
    plain = flowkit.train(recipe(run={"name": "plain"}))
    weights = flowkit.load("runs/a", weights="raw").model.state_dict()
    assert any(not torch.equal(weights[key], tensor) for key, tensor in plain.model.state_dict().items())


def test_custom_tracker_receives_events(outside):
    flowkit.train(case("tracker"))
    lines = [json.loads(line) for line in (outside / "a-lines.jsonl").read_text().splitlines()]
    assert lines[0]["parameters"] > 0 and {"train/loss", "step"} <= lines[1].keys()


def test_custom_domain_draws_previews(outside):
    flowkit.train(case("domain"))
    done = CliRunner().invoke(app, ["sample", "runs/a", "-n", "2"])
    drawn = [line.split()[-1] for line in done.output.splitlines()[:2]]
    assert (
        done.exit_code == 0
        and "waves/s" in done.output
        and all(len(one) == 8 and set(one) <= set("_-^") for one in drawn)
    )
    rows = flowkit.load("runs/a").sample(2)
    assert rows.kind == "my_pkg:Waves" and rows.x.shape == (2, 8)


def command(*arguments: str) -> Result:
    """A command as in a process of its own: trust that it is given ends with it."""
    return copy_context().run(CliRunner().invoke, app, list(arguments))


def test_a_domain_from_outside_is_sampled_inspected_evaluated_and_decoded(outside, monkeypatch):
    flowkit.train(case("domain"))
    monkeypatch.setattr(components, "_imported", {})  # as in another process
    assert command("sample", "runs/a", "-n", "30", "--trust-code").exit_code == 0
    rows = read_dataset("runs/a").x
    assert len(rows) == len(Path("runs/a/samples/last/waves.txt").read_text().splitlines()) == 30

    monkeypatch.setattr(components, "_imported", {})
    report = json.loads(command("inspect", "runs/a/samples.safetensors", "--json").output)
    assert report["kind"] == "my_pkg:Waves" and report["vectors"] is None  # nothing is imported unasked
    assert "--trust-code" in command("inspect", "runs/a/samples.safetensors").output  # wrapped, not cut off
    shown = command("inspect", "runs/a/samples.safetensors", "--trust-code").output
    norms = np.linalg.norm(rows, axis=1)
    assert f"norm {norms.mean():.3g}" in " ".join(shown.split()) and re.search(r"^ *0 +[-_^]{8}$", shown, re.MULTILINE)

    evaluated = command("evaluate", "runs/a", "-n", "20", "--trust-code", "--json", "--out", "found")
    found = json.loads(evaluated.output)
    own = np.abs(read_dataset("found").x).mean()
    assert found["protocol"] == "waves-1" and found["figures"]["amplitude"]["samples"]["value"] == pytest.approx(
        own, rel=1e-6
    )
    write_dataset("real", find("domain", "my_pkg:Waves")().generate("sines", 60, 1))
    files = command(
        "evaluate", "runs/a/samples.safetensors", "--data", "real", "-n", "20", "--split", "all", "--trust-code"
    )
    assert files.exit_code == 0 and "mean amplitude" in files.output

    decoded = command("decode", "runs/a/samples.safetensors", "--limit", "5", "--out", "five", "--trust-code")
    assert decoded.exit_code == 0 and len(Path("five/waves.txt").read_text().splitlines()) == 5
    refused = command("decode", "runs/a/samples.safetensors", "--lang", "fra_Latn", "--trust-code").exception
    assert isinstance(refused, UserError) and "--lang is an option for sentence vectors" in str(refused)


def test_text_has_one_name_and_its_files_stay(outside):
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    for kind in ("text", "embedding"):
        write_dataset(kind, Dataset(kind, x))
        assert json.loads(Path(f"{kind}.json").read_text())["kind"] == "embedding"
        assert "text data" in command("inspect", f"{kind}.safetensors").output
        assert get_domain(kind).name == "text"
    from flowkit.data_source import open_rows

    write_dataset("bare", Dataset("array", x))
    assert {open_rows("bare", 1, 0, domain=name).kind for name in ("text", "embedding")} == {"embedding"}


def test_custom_architecture_has_recipe_keys(outside):
    with trusting():
        with pytest.raises(UserError, match=r"model.width: expected a whole number >= 1, found 0"):
            recipe_from_dict(recipe(model={"arch": "my_pkg:Wide", "width": 0}))
        with pytest.raises(UserError, match=r"model.widht: unknown key; did you mean 'width'"):
            recipe_from_dict(recipe(model={"arch": "my_pkg:Wide", "widht": 4}))


def test_wrong_settings_and_import_paths_are_one_message(outside):
    wrong = {
        "a setting": ({"name": "my_pkg:AdamsBashforth", "order": 4}, r"solver\.order: expected a whole number from 1 to 3"),
        "another's": ({"name": "my_pkg:AdamsBashforth", "rtol": 1.0}, r"sample\.solver\.rtol: unknown key; only 'dopri5' has it"),
        "a kind": ("my_pkg:Quadratic", r"is not a subclass of flowkit\.flow\.solvers\.problem\.Solver"),
        "a name": ("my_pkg:Adams", r"my_pkg has no 'Adams'"),
        "a module": ("my_pgk:AdamsBashforth", r"no module 'my_pgk' is installed or in this folder"),
    }  # fmt: skip
    with trusting():
        for solver, said in wrong.values():
            with pytest.raises(UserError, match=said) as told:
                recipe_from_dict(recipe(sample={"solver": solver}))
            assert "\n" not in str(told.value) and str(told.value).startswith("recipe: sample.solver")


def test_errors_in_user_code_keep_their_traceback(outside):
    (outside / "broken.py").write_text("import no_such_module_at_all\n")
    with trusting(), pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        recipe_from_dict(recipe(sample={"solver": "broken:Solver"}))


def test_keys_list_what_the_recipe_imports(outside):
    (outside / "mine.toml").write_text(
        '[run]\nname = "a"\n[model]\narch = "my_pkg:Wide"\n[train]\nsteps = 1\n[aux_loss]\n"my_pkg:centered" = 0.1\n'
        '[sample]\nsolver = {name = "my_pkg:AdamsBashforth", order = 3}\n'
    )
    done = CliRunner().invoke(app, ["train", "mine.toml", "--keys"])
    assert done.exit_code == 0 and "solver.order" in done.output and "slopes that a step" in done.output
    assert {"solver.order", "width", '"my_pkg:centered"'} <= {row.key for row in key_table()}


def test_set_takes_an_import_path_as_a_key(outside):
    with trusting():
        made = recipe_from_dict(recipe(), ['aux_loss."my_pkg:centered"=0.5', "sample.solver=my_pkg:AdamsBashforth"])
    assert made.aux_loss.used == {"my_pkg:centered": 0.5} and made.sample.solver.tag() == "my_pkg:AdamsBashforth"


def stranger(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, which has imported nothing yet."""
    return subprocess.run([sys.executable, "-m", "flowkit", *arguments], capture_output=True, text=True)


def test_checkpoint_imports_code_only_with_trust_code(outside):
    flowkit.train(recipe(sample={"solver": "my_pkg:AdamsBashforth"}))
    refused, trusted = stranger("sample", "runs/a", "-n", "2"), stranger("sample", "runs/a", "-n", "2", "--trust-code")
    assert refused.returncode == 2 and "my_pkg:AdamsBashforth" in refused.stderr and "--trust-code" in refused.stderr
    assert "Traceback" not in refused.stderr and len(refused.stderr.splitlines()) == 1
    assert trusted.returncode == 0 and "my_pkg:AdamsBashforth, 4 steps" in trusted.stdout.replace("\n", " ")
    assert stranger("inspect", "runs/a").returncode == 0  # which imports nothing
    assert stranger("evaluate", "runs/a").returncode == 2
    assert stranger("evaluate", "runs/a", "--trust-code", "-n", "20").returncode == 0


@pytest.mark.parametrize("name", ["path", "coupling", "auxiliary loss", "architecture", "domain"])
def test_loading_asks_for_trust_whatever_the_kind(outside, monkeypatch, name):
    flowkit.train(case(name))
    monkeypatch.setattr(components, "_imported", {})  # as in another process
    if name in ("coupling", "auxiliary loss"):  # of training alone
        loaded = flowkit.load("runs/a") if name == "auxiliary loss" else flowkit.load("runs/a", trust_code=True)
        assert len(loaded.sample(1)) == 1
        return
    with pytest.raises(UserError, match=r"my_pkg:\w+' is code from outside flowkit .*trust_code=True"):
        flowkit.load("runs/a")
    assert len(flowkit.load("runs/a", trust_code=True).sample(1)) == 1


@pytest.fixture
def installed(outside, monkeypatch):
    """The user's components as an installed package registers them."""
    points = [EntryPoint(f"{kind}.{name}", f"my_pkg:{found}", components.GROUP) for kind, name, found in (
        ("solver", "adams", "AdamsBashforth"), ("path", "quadratic", "Quadratic"), ("domain", "waves", "Waves"))]  # fmt: skip
    monkeypatch.setattr(components, "entry_points", lambda group: points)
    cached = components._registered, components._names, builtin_sets
    for one in cached:
        one.cache_clear()
    monkeypatch.syspath_prepend(str(outside))
    yield
    monkeypatch.undo()
    for one in cached:
        one.cache_clear()


def test_entry_points_work_like_built_in_components(installed):
    """Installed packages are trusted: their names need no import path, and no flag."""
    table = recipe(sample={"solver": {"name": "adams", "order": 3}}, flow={"path": "quadratic"})
    flowkit.train(table)
    info = flowkit.load("runs/a").info
    assert info["sampling"]["solver"] == {"name": "adams", "order": 3} and info["flow"]["path"] == "quadratic"
    assert "adams" in names("solver") and find("solver", "adams").__name__ == "AdamsBashforth"
    with pytest.raises(UserError, match="did you mean 'adams'"):
        recipe_from_dict(recipe(sample={"solver": "adam"}))


def test_a_registered_domain_prepares_its_own_files(installed):
    Path("a.wave").write_text("_-^-_-^-\n^^^^____\n")
    done = command("prepare", "a.wave", "--out", "set")
    assert done.exit_code == 0 and "2 waves" in done.output
    np.testing.assert_array_equal(read_dataset("set").x[1], [1, 1, 1, 1, -1, -1, -1, -1])
    refused = command("prepare", "a.wave", "--out", "set2", "--exactly", "8").exception
    assert isinstance(refused, UserError) and "--exactly: only for sketches, but a.wave holds waves" in str(refused)
