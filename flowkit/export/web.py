"""A model as a web page that draws by itself: static files, with the model among them, for any web host."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from flowkit.components import find, settings_of
from flowkit.data.files import tensor_file_errors, write_json
from flowkit.data.normalizers import AffineNormalizer
from flowkit.errors import UserError
from flowkit.export import describe
from flowkit.flow.given import RESAMPLE
from flowkit.outputs import one_call
from flowkit.registry import BUILT_IN

if TYPE_CHECKING:
    import torch

    from flowkit.sampling.load import LoadedModel

WEB = "web"  # part of the output folder
SITE = Path(__file__).with_name("site")
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Page:
    """What was written to the folder `out`."""

    out: Path
    bytes: int  # of all files
    differs: tuple[str, ...]  # what the page does differently from flowkit
    replaced: str = ""


def export_web(model: LoadedModel, out: Path) -> Page:
    """Write the page to the folder `out`. Raises UserError for a model that the page cannot draw from."""
    facts, differs = page_facts(model)
    with one_call(out, WEB) as call:
        for path in SITE.iterdir():
            shutil.copyfile(path, call.partial / path.name)
        with tensor_file_errors():
            save_file(page_tensors(model), call.partial / WEIGHTS)
        (call.partial / WEIGHTS).chmod(0o644)  # safetensors writes files that only their owner may read
        size = (call.partial / WEIGHTS).stat().st_size
        write_json(call.partial / "model.json", {**facts, "file": WEIGHTS, "bytes": size})
        total = sum(path.stat().st_size for path in call.partial.iterdir())
    return Page(out, total, tuple(differs), call.said)


def page_facts(model: LoadedModel) -> tuple[dict[str, Any], list[str]]:
    """Return the content of model.json, and what the page does differently from flowkit. Raises UserError."""
    facts, differs = describe(model, "--to web")
    kind, shape, arch = facts["kind"], model.shape, facts["architecture"]
    if not (kind == "sketch" or (kind == "points" and shape == (2,))):
        what = f"points of {shape[0]} dimensions" if kind == "points" else model.domain.noun
        raise UserError(f"--to web: the page draws sketches and 2-D points, and this model makes {what}; use --to onnx")
    if model.info.get("condition_shape"):
        raise UserError("--to web: the page has no input for this model's condition vectors; use --to onnx")
    if not isinstance(model.normalizer, AffineNormalizer):
        raise UserError(f'--to web: the page cannot undo the normalizer "{model.normalizer.name}"; use --to onnx')
    if arch not in BUILT_IN["arch"]:
        raise UserError(f"--to web: the page has no network {arch!r}, which is from outside flowkit; use --to onnx")
    if shape != model.latent_shape:
        raise UserError("--to web: the normalizer of this model drops components; use --to onnx")
    network = find("arch", arch)
    args = settings_of(arch, network, whole=True).model_validate(model.info["model_args"])
    recipe = model.info.get("recipe") or {}
    title = (recipe.get("run") or {}).get("name") or model.files.home.name
    return {"title": title, **facts, "model_args": args.model_dump(), "resample": RESAMPLE}, differs


def page_tensors(model: LoadedModel) -> dict[str, torch.Tensor]:
    """Return the weights, and the frequencies of times, which the page could not compute to the last bit."""
    buffers = {name: buffer for name, buffer in model.model.named_buffers() if name.endswith("frequencies")}
    return {name: one.detach().float().cpu().contiguous() for name, one in (model.model.state_dict() | buffers).items()}
