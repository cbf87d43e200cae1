"""Trained models to export: tiny, of any architecture, with weights that make a difference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import flowkit
from flowkit.sampling.load import LoadedModel
from tests.conftest import sketch_rows

SKETCHES = ("bezier_sketch_dit", "bezier_sketch_transformer")
SIZES: dict[str, dict[str, Any]] = {
    "bezier_sketch_dit": {"embed_dim": 16, "num_layers": 2, "num_heads": 2},
    "bezier_sketch_transformer": {"embed_dim": 16, "num_layers": 2, "num_heads": 2},
    "mlp": {"hidden_dim": 16, "num_layers": 3},
    "dit": {"hidden_dim": 16, "num_layers": 2, "num_heads": 2, "num_tokens": 2},
    "selu_mlp": {"hidden_dim": 16, "num_layers": 2},
    "residual_mlp": {"hidden_dim": 16, "num_layers": 2},
}


def trained(
    folder: Path,
    arch: str,
    *,
    classes: bool = True,
    condition: bool = False,
    pens: bool = False,
    model: dict[str, Any] | None = None,
    flow: dict[str, Any] | None = None,
    sample: dict[str, Any] | None = None,
    normalizer: Any = "auto",
    kind: str = "",
) -> LoadedModel:
    """Train for two updates, then replace all parameters by normal ones: a new network's output is 0.

    condition: with up to 3 condition tokens (3, 5) per row. pens: drawings with pen strokes (S, 10).
    """
    rng = np.random.default_rng(0)
    if arch in SKETCHES:
        data = sketch_rows(rows=48)
        if pens:
            signs = np.where(rng.random((48, 6, 2)) < 0.7, 1, -1)
            signs[:, 0] = [1, -1]
            data["x"] = np.concatenate([data["x"], signs], axis=-1).astype(np.float32)
    else:
        x = rng.standard_normal((48, 2 if kind == "points" else 6)).astype(np.float32)
        data = {"x": x, "class_label": np.arange(48) % 3, "class_names": ("a", "b", "c"), "kind": kind or "array"}
    if not classes:
        data = {"x": data["x"], "kind": data["kind"]}
    if condition:
        data["condition"] = rng.standard_normal((48, 3, 5)).astype(np.float32)
        data["condition_mask"] = np.arange(3)[None] <= rng.integers(0, 3, 48)[:, None]
    recipe = {
        "run": {"name": "exported", "dir": str(folder)},
        "data": {"val_fraction": 0.0, "normalizer": normalizer},
        "model": {"arch": arch, **SIZES[arch], **(model or {})},
        "flow": {"cond_drop": 0.2, **(flow or {})},
        "train": {"steps": 2, "batch_size": 16, "val_every": "never", "save_every": "never"},
        "sample": {"every": "never", "steps": 4, "guidance_scale": 2.0 if classes else 1.0, **(sample or {})},
    }
    flowkit.train(recipe, data=data, listeners=list, overwrite=True)
    loaded = flowkit.load(folder / "exported", device="cpu")
    draw = torch.Generator().manual_seed(1)
    for name, parameter in loaded.model.named_parameters():
        scale = 0.3 if parameter.ndim < 2 else 1.2 / parameter.shape[-1] ** 0.5
        parameter.copy_(
            scale * torch.randn(parameter.shape, generator=draw) + (1.0 if name.endswith("norm.weight") else 0.0)
        )
    return loaded


# How a flow may be sampled: what the samplers outside flowkit must do as flowkit does.
FLOWS: dict[str, dict[str, Any]] = {
    "velocity, midpoint": {},
    "velocity, euler, shifted": {"sample": {"solver": "euler", "grid": {"name": "shifted", "shift": 2.0}}},
    "velocity, rk4, power, bridge": {"flow": {"path": "icfm"}, "sample": {"solver": "rk4", "grid": "power"}},
    "data, cosine, heun": {"flow": {"prediction": "data", "path": "cosine"}, "sample": {"solver": "heun"}},
    "data, linear, midpoint": {"flow": {"prediction": "data"}},
    "noise, vp, euler": {"flow": {"prediction": "noise", "path": "vp"}, "sample": {"solver": "euler"}},
    "average velocity": {"flow": {"objective": "mean_flow"}, "sample": {"solver": "mean_flow"}},
    "scales that it is told": {
        "flow": {"objective": {"name": "mean_flow", "omega_max": 4.0}}, "sample": {"solver": "mean_flow", "guidance_scale": 3.0},
    },
}  # fmt: skip
