"""Models outside flowkit: the network in ONNX, and the sampler that is written next to it."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from flowkit.cli import app
from flowkit.conditions import Conditions
from flowkit.errors import UserError
from flowkit.export import describe, onnx_sampler
from flowkit.models.calls import call_model
from flowkit.registry import BUILT_IN
from flowkit.sampling.draw import Start
from flowkit.sampling.load import LoadedModel
from flowkit.sketch.strokes import tidy
from tests.exported import FLOWS, SIZES, SKETCHES, trained

ARCHITECTURES = [name for name in BUILT_IN["arch"] if name != "custom"]


@pytest.fixture
def onnx_export() -> Any:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    from flowkit.export import onnx

    return onnx


def test_onnx_with_two_times_and_a_guidance_scale(tmp_path: Path, onnx_export: Any) -> None:
    told = {"objective": {"name": "mean_flow", "omega_max": 4.0}}
    model = trained(tmp_path, "bezier_sketch_dit", flow=told, sample={"solver": "mean_flow"})
    made = onnx_export.export_onnx(model, tmp_path / "out")
    assert made.error < 1e-4 and {"span", "guidance"} <= set(made.inputs)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_onnx_computes_what_the_network_does(arch: str, tmp_path: Path, onnx_export: Any) -> None:
    attends = {"attend_conditions": True} if arch in ("dit", "bezier_sketch_dit") else {}
    flow = {"given": 0.5} if arch in SKETCHES else {}
    model = trained(tmp_path, arch, condition=True, model=attends, flow=flow)
    made = onnx_export.export_onnx(model, tmp_path / "out")
    assert made.error < 1e-4
    expected = {"x", "t", "class_label", "condition", "cfg_mask", "condition_mask"}
    assert set(made.inputs) == expected | ({"given"} if arch in SKETCHES else set())

    import onnx
    import onnxruntime

    saved = onnx.load(tmp_path / "out" / "model.onnx")
    assert saved.opset_import[0].version == onnx_export.OPSET
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    for count in (1, 2, 5):  # any batch, with every kind of row
        inputs = onnx_export.example_inputs(model, count)
        told = [inputs.get(name) for name in ("class_label", "condition", "condition_mask", "cfg_mask", "given")]
        with torch.inference_mode():
            wanted = call_model(model.model, inputs["x"], inputs["t"], Conditions(*told)).numpy()
        assert np.abs(wanted).max() > 0.1
        (found,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        np.testing.assert_allclose(found, wanted, atol=1e-4)
        inputs["cfg_mask"] = ~inputs["cfg_mask"]
        (other,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        assert np.abs(other - wanted).max() > 1e-3


def test_written_files_draw_without_flowkit(tmp_path: Path, onnx_export: Any) -> None:
    model = trained(tmp_path, "bezier_sketch_dit", pens=True, flow={"given": 0.5})
    onnx_export.export_onnx(model, tmp_path / "out")
    code = (
        "import runpy, sys; sys.modules['torch'] = sys.modules['flowkit'] = None; "
        "runpy.run_path('sample.py', run_name='__main__')"
    )
    subprocess.run([sys.executable, "-c", code, "-n", "3", "--class-label", "boat"], cwd=tmp_path / "out", check=True)
    x = np.load(tmp_path / "out" / "samples" / "samples.npz")["x"]
    assert x.shape == (3, 6, 10)
    assert len(list((tmp_path / "out" / "samples").glob("*.svg"))) == 3


class Session:
    """Looks like onnxruntime's, and calls the network itself, so that the sampler is tested wherever flowkit is installed."""

    def __init__(self, model: LoadedModel):
        from flowkit.export.onnx import example_inputs

        self.model, self.names = model, list(example_inputs(model))

    def get_inputs(self) -> list[Any]:
        return [types.SimpleNamespace(name=name) for name in self.names]

    def run(self, outputs: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert feed["x"].dtype == feed["t"].dtype == np.float32
        told = {name: torch.from_numpy(value) for name, value in feed.items()}
        rest = [told.get(name) for name in ("class_label", "condition", "condition_mask", "cfg_mask", "given")]
        with torch.inference_mode():
            given = Conditions(*rest, guidance=told.get("guidance"))
            return [call_model(self.model.model, told["x"], told["t"], given, told.get("span")).numpy()]


@pytest.fixture
def sampler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    def opened(model: LoadedModel) -> onnx_sampler.Model:
        runtime = types.ModuleType("onnxruntime")
        runtime.InferenceSession = lambda *args, **settings: Session(model)  # pyright: ignore[reportAttributeAccessIssue]
        monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
        facts, _ = describe(model, "test")
        (tmp_path / "sampler.json").write_text(json.dumps(facts))
        if "file" in facts["normalizer"]:
            np.savez(tmp_path / facts["normalizer"]["file"], **model.normalizer.tensors())  # pyright: ignore[reportArgumentType]
        return onnx_sampler.Model(tmp_path)

    return opened


@pytest.mark.parametrize("name", FLOWS)
def test_sampler_draws_what_flowkit_draws(name: str, tmp_path: Path, sampler: Any) -> None:
    model = trained(tmp_path, "selu_mlp", **FLOWS[name])
    noise = np.random.default_rng(2).standard_normal((6, *model.latent_shape)).astype(np.float32)
    found = sampler(model).sample(6, noise=noise)
    wanted = model.sample(6, start=Start(noise=noise))
    np.testing.assert_allclose(found, wanted.x, atol=1e-4, rtol=1e-4)
    unguided = model.sample(6, start=Start(noise=noise), guidance_scale=1.0)
    assert np.abs(unguided.x - wanted.x).max() > 1e-2


def test_sampler_refuses_a_scale_that_the_network_did_not_learn(tmp_path: Path, sampler: Any) -> None:
    opened = sampler(trained(tmp_path, "selu_mlp", **FLOWS["scales that it is told"]))
    for scale in (0.0, 0.5, 4.5):
        with pytest.raises(SystemExit, match="this network learned scales from 1 to 4"):
            opened.sample(2, guidance_scale=scale)


def test_sampler_uses_conditions_and_whitening(tmp_path: Path, sampler: Any) -> None:
    model = trained(tmp_path, "mlp", condition=True, normalizer={"name": "whitening", "components": 4})
    assert model.latent_shape == (4,)
    noise = np.random.default_rng(2).standard_normal((4, *model.latent_shape)).astype(np.float32)
    condition = np.random.default_rng(3).standard_normal((4, 3, 5)).astype(np.float32)
    for label in (None, "b"):
        found = sampler(model).sample(4, noise=noise, condition=condition, class_label=label)
        wanted = model.sample(4, start=Start(noise=noise), condition=condition, class_label=label)
        np.testing.assert_allclose(found, wanted.x, atol=1e-4, rtol=1e-4)


def test_sampler_closes_gaps_as_flowkit_does() -> None:
    x = np.random.default_rng(0).standard_normal((40, 7, 10)).astype(np.float32)
    np.testing.assert_array_equal(onnx_sampler.tidy(x), tidy(x))


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    run = lambda *words: CliRunner().invoke(app, ["export", *map(str, words)])  # noqa: E731
    assert "expected onnx" in str(run(tmp_path, "--to", "onx").exception)
    assert "did you mean 'onnx'" in str(run(tmp_path, "--to", "onx").exception)
    assert "it is missing" in str(run(tmp_path).exception)

    import flowkit

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.layer(x) * t[:, None]

    recipe = {"run": {"name": "own", "dir": str(tmp_path)}, "model": {"arch": "custom"}, "train": {"steps": 1}}
    flowkit.train(recipe, model=Net(), data=np.random.randn(300, 2), listeners=list)
    failed = run(tmp_path / "own", "--to", "onnx")
    assert isinstance(failed.exception, UserError)
    assert "with your own module (" in str(failed.exception) and "not its code" in str(failed.exception)
    assert not (tmp_path / "own" / "onnx").exists()


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowkit.export import onnx

    monkeypatch.setattr(onnx, "PACKAGES", ("no_such_package",))
    model = trained(tmp_path, "selu_mlp")
    with pytest.raises(UserError, match=r"no_such_package: pip install 'flowkit\[export\]'"):
        onnx.export_onnx(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_differences_of_the_sampler_are_said(tmp_path: Path) -> None:
    sample = {"solver": "dopri5", "guidance": "cfg_zero", "guidance_interval": [0.2, 0.8]}
    facts, differs = describe(trained(tmp_path, "selu_mlp", sample=sample), "test")
    assert facts["solver"] == "midpoint"
    said = ['solver "midpoint"', 'guidance "cfg"', "guidance at all times, without rescaling"]
    assert [one.split(" instead")[0] for one in differs] == said


assert set(SIZES) == set(ARCHITECTURES), "a new architecture needs a size in exported.py"
