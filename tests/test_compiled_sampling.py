"""`sample.compile`: samples of a compiled network are those of the eager one, and one program serves all batches.

Most tests trace the network as torch does, but run what was traced without generating code, which takes seconds per program.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import flowkit
from flowkit import cli
from flowkit.data.dataset import read_dataset
from flowkit.domain import Given
from flowkit.errors import NotCompiled
from flowkit.sampling.compiled import Compiled
from tests.conftest import sketch_rows

COMPILE = torch.compile


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def programs(monkeypatch):
    """The programs that were traced."""
    found = []

    def backend(graph, inputs):
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda model, mode=None: COMPILE(model, backend=backend))
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Networks with random weights: "given" (sketches, to complete), "both" (class and condition), "mean" (spans), "weak"."""
    folder, rng = tmp_path_factory.mktemp("compiled"), np.random.default_rng(0)
    sketches, labels = sketch_rows(), np.arange(96) % 3
    vectors = {"x": rng.standard_normal((96, 8)).astype(np.float32), "class_label": labels, "class_names": ("a", "b", "c"),
               "condition": rng.standard_normal((96, 4)).astype(np.float32)}  # fmt: skip
    dit = {"arch": "bezier_sketch_dit", "embed_dim": 32, "num_layers": 1, "num_heads": 4}
    cases = {
        "given": (sketches, dit, {"given": 0.5}),
        "weak": (sketches, dit, {"given": 0.5}),
        "both": (vectors, {"arch": "mlp", "hidden_dim": 32}, {"cond_drop": {"class": 0.1, "condition": 0.1}}),
        "mean": (sketches, dit, {"objective": "mean_flow"}),
    }
    found = {}
    for name, (data, network, flow) in cases.items():
        found[name] = model = flowkit.train({
            "run": {"name": name, "dir": str(folder), "device": "cpu"}, "data": {"val_fraction": 0.1}, "model": network,
            "flow": {"cond_drop": 0.2, **flow}, "train": {"steps": 1, "batch_size": 8, "val_every": "never"},
            "sample": {"every": "never", "solver": "heun", "steps": 3},
        }, data=data)  # fmt: skip
        for parameter in model.model.parameters():  # its output would be near 0
            parameter.copy_(
                0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            )
    found["mean"].sampling = found["mean"].settings(solver="mean_flow")
    return folder, found


def fresh(models, name):
    """Return the model as if it had not been compiled yet."""
    model = models[1][name]
    model._compiled.clear()
    return model


GUIDED = {"guidance_scale": 2.0}
TOKENS = np.array([1, 1, 0, 0, 0, 0], bool)


@pytest.mark.parametrize(
    ("name", "how", "most"),
    [
        ("given", GUIDED, 1),  # batches of 4, 4 and 1
        ("given", {}, 1),  # of one row
        ("given", {**GUIDED, "guidance_interval": (0.3, 0.7)}, 1),  # of 8 and of 4 rows
        (
            "given",
            {**GUIDED, "solver": {"name": "dopri5", "rtol": 1e-2, "atol": 1e-2}, "state": "fp64"},
            1,
        ),  # fewer and fewer
        ("given", {**GUIDED, "precision": "bf16"}, 1),
        ("given", {**GUIDED, "given": Given(sketch_rows()["x"][0], TOKENS)}, 1),
        ("given", {**GUIDED, "guidance": {"name": "autoguidance", "ckpt": "weak"}}, 1),  # of equal size, so one program
        ("both", {"guidance_scale": {"class": 2.0, "condition": 1.5}, "guidance_interval": (0.3, 0.7)}, 1),
        ("mean", GUIDED, 1),
        ("mean", {}, 1),
    ],
    ids=["guided", "alone", "interval", "dopri5", "bf16", "given", "autoguidance", "kinds", "spans", "a span"],
)
def test_samples_are_the_eager_ones_by_one_program(models, programs, monkeypatch, name, how, most):
    monkeypatch.chdir(models[0])
    model, _ = fresh(models, name), fresh(models, "weak")
    if name == "both":
        how = {**how, "condition": np.ones((9, 4), np.float32)}
    eager = model.sample(9, seed=1, batch_size=4, **how)
    assert not programs
    compiled = model.sample(9, seed=1, batch_size=4, compile=True, **how)
    assert 0 < len(programs) <= most and compiled.info["compile"] is True and "compile" not in eager.info
    spread = eager.x.std()
    tolerance = 0.01 if "precision" in how else 1e-5
    np.testing.assert_allclose(compiled.x / spread, eager.x / spread, rtol=0, atol=tolerance)
    assert compiled.info["nfe"] == eager.info["nfe"]
    model.sample(6, compile=True, **{**how, **({"condition": np.ones(4, np.float32)} if name == "both" else {})})
    assert len(programs) <= most  # kept for later calls


def test_generated_code_computes_the_network(models, compiler):
    """By torch's compiler, for two sizes of batches."""
    model = fresh(models, "both")
    how = {
        "condition": np.ones(4, np.float32),
        "guidance_scale": {"class": 2.0, "condition": 1.5},
        "batch_size": 6,
        "seed": 2,
    }
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    compiled, eager = model.sample(9, compile=True, **how), model.sample(9, **how)
    np.testing.assert_allclose(compiled.x, eager.x, rtol=0, atol=1e-5 * eager.x.std())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 1


def test_a_network_that_cannot_be_compiled_runs_eagerly_and_says_so_once(models, monkeypatch, recwarn):
    tried = []

    def backend(graph, inputs):
        tried.append(graph)
        raise RuntimeError("no compiler\nsecond line")

    monkeypatch.setattr(torch, "compile", lambda model, mode=None: COMPILE(model, backend=backend))
    model = flowkit.load(models[0] / "given", device="cpu")
    for _ in range(2):
        compiled = model.sample(9, seed=1, batch_size=4, compile=True)
        np.testing.assert_array_equal(compiled.x, model.sample(9, seed=1, batch_size=4).x)
    assert len(tried) == 1
    (told,) = [str(one.message) for one in recwarn if one.category is NotCompiled]
    assert (
        told.startswith("sample.compile: the network runs eagerly, since torch cannot compile it (")
        and "\n" not in told
    )
    assert "no compiler second line" in told


def test_a_guide_differentiates_through_the_eager_network(models, programs):
    def guide(x):
        return -x.square().flatten(1).sum(1)

    model = fresh(models, "given")
    with pytest.warns(NotCompiled, match="since the guide differentiates through it"):
        compiled = model.sample(2, guide=guide, compile=True)
    np.testing.assert_array_equal(compiled.x, model.sample(2, guide=guide).x)
    assert not programs and "compile" not in compiled.info


def test_mistakes_of_the_network_itself_are_raised(monkeypatch):
    class Wrong(torch.nn.Module):
        def forward(self, x, t):
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        Compiled(Wrong())(torch.zeros(2, 2), torch.zeros(2))


@pytest.mark.parametrize("rows", [1, 3])
def test_results_of_a_graph_are_copied_before_it_is_replayed(monkeypatch, rows):
    """A recorded graph writes every result to the same memory."""
    asked, memory = [], torch.empty(3, 2)

    def replays(x, t):
        return torch.mul(x, t[:, None], out=memory[: len(x)])

    monkeypatch.setattr(torch, "compile", lambda model, mode=None: asked.append(mode) or replays)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: asked.append("begin"))
    network, x = Compiled(torch.nn.Identity(), graphs=True), torch.arange(6.0).view(3, 2)[:rows]
    with torch.inference_mode():
        memory = torch.empty(3, 2)
        first, second = network(x, torch.ones(rows)), network(x, torch.full((rows,), 2.0))
    assert asked == ["reduce-overhead", "begin", "begin"]
    torch.testing.assert_close(first, x)
    torch.testing.assert_close(second, 2 * x)


@pytest.mark.parametrize("works", [True, False])
def test_the_option_compiles(models, monkeypatch, capsys, recwarn, tmp_path, works):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # `main` sets it
    found = []

    def backend(graph, inputs):
        found.append(graph)
        if not works:
            raise RuntimeError("no compiler")
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda model, mode=None: COMPILE(model, backend=backend))
    for option in ("--compile", "--no-compile"):
        monkeypatch.setattr("sys.argv", ["flowkit", "sample", str(models[0] / "given"), "-n", "5", "--out",
                                         str(tmp_path / option), "--no-preview", option, "--device", "cpu"])  # fmt: skip
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert not left.value.code
    assert found and ("compiled, guidance 1" in " ".join(capsys.readouterr().out.split())) == works
    told = [one for one in recwarn if one.category is NotCompiled]
    assert len(told) == (not works)
    for one in told:
        line = warnings.formatwarning(one.message, one.category, one.filename, one.lineno)
        assert line.startswith("notice: sample.compile: the network runs eagerly") and line.count("\n") == 1
    made = [read_dataset(tmp_path / option / "samples.safetensors") for option in ("--compile", "--no-compile")]
    np.testing.assert_allclose(made[0].x, made[1].x, rtol=0, atol=1e-5)
    assert made[0].info.get("compile", False) is works and "compile" not in made[1].info
