"""Weight files that other libraries load: accelerate, transformers, timm, safetensors itself; and old ones that flowkit reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file
from torch import nn

import flowkit
from flowkit.data.tensors import save_file as save_tensors
from flowkit.ema.post_hoc import reconstruct_ema
from flowkit.models import create_model
from tests.conftest import sketch_rows


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    recipe = {
        "run": {"name": "run", "dir": str(tmp_path_factory.mktemp("weights"))},
        "data": {"val_fraction": 0.25, "normalizer": "whitening"},
        "model": {"arch": "bezier_sketch_dit", "embed_dim": 16, "num_layers": 1, "num_heads": 2},
        "ema": {"decay": [0.9, 0.5], "power": [0.1], "snapshot_every": 1},
        "train": {"steps": 2, "batch_size": 16},
        "sample": {"every": "never", "steps": 2},
    }
    flowkit.train(recipe, data=sketch_rows())
    return Path(recipe["run"]["dir"]) / "run"


@pytest.fixture
def checkpoint(run) -> Path:
    return run / "checkpoints" / "step-00000002"


def bare(checkpoint: Path) -> nn.Module:
    """The network with other numbers than those that were saved."""
    model = create_model("bezier_sketch_dit", **json.loads((checkpoint / "model.json").read_text())["model_args"])
    for parameter in model.parameters():
        nn.init.constant_(parameter, 7.0)
    return model


def same(model: nn.Module, path: Path) -> bool:
    stored = load_file(path)
    return all(torch.equal(tensor, stored[name]) for name, tensor in model.state_dict().items())


def test_every_weight_file_says_pt(run):
    made = reconstruct_ema(run, 0.1).path
    files = list(run.rglob("*.safetensors"))
    assert {"model.safetensors", "ema.safetensors", "ema-0.5.safetensors", "optimizer.safetensors", "power-0.1.safetensors",
            "normalizer.safetensors", made.name} <= {path.name for path in files}  # fmt: skip
    for path in files:
        with safe_open(path, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}, path


@pytest.mark.parametrize("name", ["model", "ema", "ema-0.5"])
def test_accelerate(checkpoint, tmp_path, name):
    from accelerate import init_empty_weights, load_checkpoint_and_dispatch
    from accelerate.utils import load_checkpoint_in_model

    model, file = bare(checkpoint), checkpoint / f"{name}.safetensors"
    load_checkpoint_in_model(model, str(file), strict=True)
    assert same(model, file)
    with init_empty_weights():
        model = create_model("bezier_sketch_dit", **json.loads((checkpoint / "model.json").read_text())["model_args"])
    assert same(load_checkpoint_and_dispatch(model, str(file), device_map={"": "cpu"}), file)
    if name == "model":
        model = bare(checkpoint)
        load_checkpoint_in_model(model, str(checkpoint))  # the folder: it looks for a file of this name
        assert same(model, file)


def test_transformers(checkpoint):
    """`from_pretrained` reads a file with it, and refuses one that does not say its format."""
    modeling_utils = pytest.importorskip("transformers.modeling_utils")
    file = checkpoint / "ema.safetensors"
    model = bare(checkpoint)
    model.load_state_dict(modeling_utils.load_state_dict(str(file)))
    assert same(model, file)


def test_timm_and_safetensors(checkpoint):
    from timm.models import load_checkpoint, load_state_dict

    file = checkpoint / "ema.safetensors"
    model = bare(checkpoint)
    load_checkpoint(model, str(file))
    assert same(model, file) and load_state_dict(str(file)).keys() == load_file(file).keys()
    model = bare(checkpoint)
    assert load_model(model, file) == (set(), [])
    assert same(model, file)


class Tied(nn.Module):
    """Two names for one weight, a half-precision layer, a buffer of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.back = nn.Linear(2, 2), nn.Linear(2, 2)
        self.back.weight = self.into.weight
        self.register_buffer("shift", torch.tensor([1, 2], dtype=torch.bfloat16))
        self.register_buffer("count", torch.tensor([3, 5]))

    def forward(self, x, t):
        return self.back(self.into(x).tanh()) + self.shift.float() + t[:, None]


def test_shared_and_mixed_tensors_of_a_custom_module(tmp_path):
    from accelerate.utils import load_checkpoint_in_model

    recipe = {
        "run": {"name": "tied", "dir": str(tmp_path)},
        "model": {"arch": "custom"},
        "train": {"steps": 2, "batch_size": 16},
        "sample": {"every": "never"},
        "ema": {"power": [0.1], "snapshot_every": 1},
    }
    rows = np.random.default_rng(0).standard_normal((64, 2)).astype(np.float32)
    flowkit.train(recipe, model=Tied(), data=rows)
    checkpoint = tmp_path / "tied" / "checkpoints" / "step-00000002"
    for name in ("model", "ema"):
        file = checkpoint / f"{name}.safetensors"
        with safe_open(file, "pt") as opened:
            kinds = {key: opened.get_slice(key).get_dtype() for key in opened.keys()}  # noqa: SIM118
        assert kinds == {"into.weight": "F32", "into.bias": "F32", "back.weight": "F32", "back.bias": "F32",
                         "shift": {"model": "BF16", "ema": "F32"}[name], "count": "I64"}  # fmt: skip
        model = Tied()
        load_checkpoint_in_model(model, str(file))
        assert same(model, file) and model.back.weight is model.into.weight
    assert flowkit.load(tmp_path / "tied", model=Tied()).sample(2, steps=1).x.shape == (2, 2)


def test_files_without_format_metadata_are_read(run, tmp_path):
    old = shutil.copytree(run, tmp_path / "old", symlinks=True)
    for path in old.rglob("*.safetensors"):
        save_file(load_file(path), path)
        with safe_open(path, "pt") as opened:
            assert opened.metadata() is None
    for listed in old.rglob("checksums.json"):
        listed.unlink()
    wanted = flowkit.load(run).sample(2).x
    np.testing.assert_array_equal(flowkit.load(old).sample(2).x, wanted)
    np.testing.assert_array_equal(
        flowkit.load(reconstruct_ema(old, 0.1).path).sample(2).x,
        flowkit.load(reconstruct_ema(run, 0.1).path).sample(2).x,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8])
def test_every_dtype_comes_back(tmp_path, dtype):
    tensors = {"a": torch.arange(6).reshape(2, 3).to(dtype), "scalar": torch.ones((), dtype=dtype)}
    save_tensors(tensors, tmp_path / "a.safetensors")
    found = load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(found[name], tensor) and found[name].dtype == dtype for name, tensor in tensors.items())
