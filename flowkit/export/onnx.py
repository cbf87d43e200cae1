"""A model as ONNX, with all that a sampler needs, and a sampler that needs only NumPy and onnxruntime."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from flowkit.conditions import Conditions
from flowkit.data.files import write_json
from flowkit.errors import UserError
from flowkit.export import describe
from flowkit.models.calls import call_model
from flowkit.outputs import one_call

if TYPE_CHECKING:
    from flowkit.sampling.load import LoadedModel

OPSET = 18
TOLERANCE = 1e-4  # between onnxruntime and PyTorch, relative to outputs of unit size
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
BATCH = 3  # rows of the example that is traced: neither 1 nor 2, so that no dimension looks like the batch
ONNX = "onnx"  # part of the output folder


@dataclass(frozen=True)
class Exported:
    """What was written to the folder `out`."""

    out: Path
    files: tuple[Path, ...]
    error: float  # largest difference between onnxruntime and PyTorch, relative to outputs of unit size
    inputs: tuple[str, ...]
    differs: tuple[str, ...]  # what the reference sampler does differently from flowkit
    replaced: str = ""


def export_onnx(model: LoadedModel, out: Path) -> Exported:
    """Write model.onnx (fp32, dynamic batch), sampler.json and sample.py to the folder `out`.

    Raises UserError if a package is missing, for a model that needs flowkit, and if onnxruntime disagrees with PyTorch.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(f"--to onnx: requires {', '.join(missing)}: pip install 'flowkit[export]'")
    facts, differs = describe(model, "--to onnx")
    network = _Named(model.model.float().cpu())
    example = example_inputs(model)
    batch = torch.export.Dim(
        "batch", min=2
    )  # for the tracer, which treats 1 as a size that broadcasts; the file takes 1 too
    with one_call(out, ONNX) as call:
        with _quiet():
            torch.onnx.export(
                network, (), call.partial / "model.onnx", kwargs=example, input_names=[*example], output_names=["output"],
                dynamic_shapes={name: {0: batch} for name in example}, opset_version=OPSET,
                dynamo=True, external_data=False, verbose=False,
            )  # fmt: skip
        error = _difference(network, example, call.partial / "model.onnx")
        if not error <= TOLERANCE:
            raise UserError(f"--to onnx: onnxruntime differs from PyTorch by {error:.1e}, above {TOLERANCE:g}; the network "
                            "has an operation that ONNX computes differently")  # fmt: skip
        inputs = {name: [str(value.dtype).removeprefix("torch."), *value.shape[1:]] for name, value in example.items()}
        write_json(call.partial / "sampler.json", {"opset": OPSET, "inputs": inputs, **facts})
        if "file" in facts["normalizer"]:
            np.savez(call.partial / facts["normalizer"]["file"], **model.normalizer.tensors())  # pyright: ignore[reportArgumentType]
        shutil.copyfile(Path(__file__).with_name("onnx_sampler.py"), call.partial / "sample.py")
        names = sorted(path.name for path in call.partial.iterdir())
    files = tuple(out / name for name in names)
    return Exported(out, files, error, tuple(example), tuple(differs), call.said)


def example_inputs(model: LoadedModel, count: int = BATCH) -> dict[str, Tensor]:
    """Return the inputs that the network takes, random, by name: those of `call_model`, with cfg_mask (B, 2)."""
    draw = torch.Generator().manual_seed(0)
    inputs = {
        "x": torch.randn((count, *model.latent_shape), generator=draw),
        "t": torch.rand(count, generator=draw),
    }
    shape = model.info.get("condition_shape")
    if model.class_names:
        inputs["class_label"] = torch.randint(len(model.class_names), (count,), generator=draw)
    if shape:
        inputs["condition"] = torch.randn((count, *shape), generator=draw)
    if model.class_names or shape:
        inputs["cfg_mask"] = torch.arange(2 * count).view(count, 2) % 4 == 3
    if model.flow.objective.averages:
        inputs["span"] = torch.rand(count, generator=draw)
    if model.flow.objective.guidance_max > 1:
        inputs["guidance"] = 1 + torch.rand(count, generator=draw)
    if shape and len(shape) == 2:
        inputs["condition_mask"] = torch.arange(shape[0])[None] <= torch.arange(count)[:, None]
    if model.flow.completes:
        inputs["given"] = torch.arange(model.latent_shape[0])[None] < torch.arange(count)[:, None]
    return inputs


class _Named(nn.Module):
    """A network whose inputs have names, in the order of `call_model`."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model.eval()

    def forward(
        self, x: Tensor, t: Tensor, class_label: Tensor | None = None, condition: Tensor | None = None,
        cfg_mask: Tensor | None = None, span: Tensor | None = None, condition_mask: Tensor | None = None,
        given: Tensor | None = None, guidance: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        told = Conditions(class_label, condition, condition_mask, cfg_mask, given, guidance=guidance)
        return call_model(self.model, x, t, told, span)


def _difference(network: nn.Module, example: dict[str, Tensor], path: Path) -> float:
    """Return the largest difference between both, on other numbers and other batch sizes than the network was traced with."""
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    differences = []
    for rows in (torch.arange(2 * BATCH - 1) % BATCH, torch.tensor([BATCH - 1])):
        inputs = {name: value[rows] for name, value in example.items()}
        inputs["x"] = inputs["x"].flip(0) * 1.1
        with torch.inference_mode():
            expected = network(**inputs).numpy()
        (found,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        differences.append(float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max()))))
    return max(differences)


@contextlib.contextmanager
def _quiet() -> Any:
    """Silence the exporter's log and its warnings about its own deprecations."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
