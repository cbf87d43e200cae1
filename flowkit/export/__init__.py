"""A trained model outside flowkit, such as in ONNX.

`describe` returns what every export says about a model besides its weights: how to call it, and how to draw from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowkit.data.base import NORMAL
from flowkit.data.normalizers import AffineNormalizer, WhiteningNormalizer
from flowkit.errors import UserError
from flowkit.flow.paths import GaussianPath
from flowkit.registry import BUILT_IN

if TYPE_CHECKING:
    from flowkit.sampling.load import LoadedModel

SOLVERS = ("euler", "midpoint", "heun", "rk4", "mean_flow")  # those of the samplers outside flowkit


def describe(model: LoadedModel, what: str) -> tuple[dict[str, Any], list[str]]:
    """Return what a sampler outside flowkit must know, as plain data, and what it does differently from flowkit, in words.

    what: the export's name, for messages. Raises UserError for a model that needs flowkit to sample.
    """
    flow, sampling = model.flow, model.sampling
    if flow.base != NORMAL:
        raise UserError(f"{what}: this model starts from the rows of {flow.base} (flow.base), which are not part of it")
    known_path = flow.path.tag() in BUILT_IN["path"]
    if model.objective.prediction != "velocity" and (not known_path or model.numerics == 1):
        raise UserError(
            f"{what}: only a model that predicts the velocity can be exported "
            + ("with a path from outside flowkit" if model.numerics > 1 else "from a run of an earlier flowkit")
        )
    differs: list[str] = []
    grid: dict[str, Any] = {"name": sampling.grid.tag(), **dict(sampling.grid)}
    if grid["name"] not in BUILT_IN["grid"]:
        differs.append(f'steps on the uniform grid instead of "{grid["name"]}"')
        grid = {"name": "uniform"}
    solver = sampling.solver.tag()
    if solver not in SOLVERS:
        differs.append(f'solver "midpoint" instead of "{solver}"')
        solver = "midpoint"
    if model.info.get("encoded"):
        kinds = " and ".join(f"{kind}s" for kind in model.info["encoded"])
        raise UserError(f"{what}: this model is conditioned on {kinds} by an encoder, which is not exported; use flowkit to "
                        "sample, or train without (data.conditions)")  # fmt: skip
    if isinstance(scale := sampling.guidance_scale, dict):
        raise UserError(f"{what}: guidance by a scale for each kind of condition is not exported; retrain or edit "
                        "sample.guidance_scale to one number")  # fmt: skip
    if scale != 1:
        if sampling.guidance.tag() != "cfg":
            differs.append(f'guidance "cfg" instead of "{sampling.guidance.tag()}"')
        if sampling.guidance_interval is not None or sampling.guidance_rescale:
            differs.append("guidance at all times, without rescaling")
    path = flow.path
    facts = {
        "architecture": model.info["architecture"],
        "step": model.info.get("step"),
        "weights": model.weights,
        "kind": model.info["kind"],
        "shape": list(model.shape),
        "latent_shape": list(model.latent_shape),
        "class_names": list(model.class_names),
        "condition_shape": model.info.get("condition_shape"),
        "null": not model.why_not_without(model.condition_kinds),  # whether it knows rows without label and condition
        "prediction": model.objective.prediction,
        "averages": flow.objective.averages,
        "guidance_max": flow.objective.guidance_max,
        "completes": flow.completes,
        "path": {"name": path.tag(), **(dict(path) if isinstance(path, GaussianPath) else {})},
        "score": known_path and flow.why_no_score() is None,
        "solver": solver,
        "steps": sampling.steps,
        "grid": grid,
        "guidance_scale": 1.0 if sampling.guidance.another else scale,
        "normalizer": _normalizer(model, what),
    }
    return facts, differs


def _normalizer(model: LoadedModel, what: str) -> dict[str, Any]:
    """Return shift and scale, which broadcast to a row, or the file that holds larger statistics."""
    normalizer = model.normalizer
    if isinstance(normalizer, AffineNormalizer):
        return normalizer.to_json()
    if isinstance(normalizer, WhiteningNormalizer):
        return {"name": normalizer.name, "file": "normalizer.npz"}
    raise UserError(f'{what}: the normalizer "{normalizer.name}" from outside flowkit cannot be exported')
