"""Load a checkpoint as a model that samples: architecture, shape, classes and normalizer come from its sidecar."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowkit.checkpoint import (
    EMA,
    MODEL,
    CheckpointFiles,
    check_weights,
    find_checkpoint,
    folders_of,
    load_weights,
    read_model_json,
    read_normalizer,
    verify_weights,
)
from flowkit.checkpoint.history import History, read_history
from flowkit.components import trusting
from flowkit.device import pick_device
from flowkit.errors import CheckpointSkipped, UserError, listing
from flowkit.html import ShownAsHtml
from flowkit.recipe.flow import Flow
from flowkit.recipe.load import saved_settings
from flowkit.recipe.sample import SampleSettings
from flowkit.sampling.model import SamplingModel

MAX_SIZE = 10**7  # limit on any size in the arguments of an architecture


class LoadedModel(ShownAsHtml, SamplingModel):
    """A trained model, ready to sample. Made by `flowkit.load`."""

    def __init__(
        self,
        model: nn.Module,
        info: dict[str, Any],
        files: CheckpointFiles,
        weights: str,
        flow: Flow,
        sampling: SampleSettings,
    ):
        folders = folders_of(files.run_dir, info.get("recipe") or {})
        super().__init__(model, info, flow, sampling, read_normalizer(files, info), folders)
        self.files = files
        self.weights = weights  # "ema" | "raw": what was loaded

    def __repr__(self) -> str:
        classes = f", {len(self.class_names)} classes" if self.class_names else ""
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return (
            f"<LoadedModel {self.files.directory}: {self.info['architecture']}, {parameters:,} parameters, {self.weights} "
            f"weights of step {self.info.get('step')}, {self.info['kind']} {self.shape}{classes}, on {self.device}>"
        )

    @property
    def history(self) -> History:
        """The metrics of its run as columns, such as `history["val_loss"]`. Raises UserError for a model outside a run."""
        return read_history(self.files.run_dir)

    @property
    def made_by(self) -> dict[str, Any]:
        return {"checkpoint": str(self.files.directory), "architecture": self.info["architecture"], **super().made_by,
                "weights": self.weights}  # fmt: skip

    def default_out(self) -> tuple[Path, Path]:
        """Return the default outputs of `flowkit sample`: the samples file, and the folder of pictures or texts.

        In a run `samples.safetensors` and `samples/last/`; for a single file everything goes to `samples/` next to it, and for
        a model of the Hub to NAME/samples/.
        """
        run_dir = self.files.run_dir
        if run_dir is not None:
            return run_dir / "samples.safetensors", run_dir / "samples" / "last"
        return self.files.home / "samples" / "samples.safetensors", self.files.home / "samples"


def load(
    ckpt: Path | str,
    *,
    weights: str = "ema",
    device: str = "auto",
    model: nn.Module | None = None,
    trust_code: bool = False,
) -> LoadedModel:
    """Load a checkpoint for sampling.

    ckpt: a run, a checkpoint directory, a .safetensors with its .json next to it, or "hf://user/name[@revision]" on the Hub.

    weights: "ema" or "raw". model: the user's own module, for a run that trained one. trust_code: import the code that it names
    by import path, such as a custom solver. Raises UserError if something is missing, corrupt, or of another architecture.
    """
    with trusting(trust_code):
        return _load(ckpt, weights, device, model)


def _load(ckpt: Path | str, weights: str, device: str, model: nn.Module | None) -> LoadedModel:
    from flowkit.models import create_model

    files = find_checkpoint(ckpt, check=lambda files: verify_weights(files, weights))
    if files.notice:
        warnings.warn(files.notice, CheckpointSkipped, stacklevel=3)
    info = read_model_json(files.sidecar)
    flow, sampling = saved_settings(files.sidecar, info)
    if model is None:
        if info.get("custom"):
            raise UserError(f"{files.sidecar}: was trained with your own module ({info['architecture']}); "
                            "load it from Python with flowkit.load(ckpt, model=YourModule())")  # fmt: skip
        _check_sizes(info, files, weights)
        model = create_model(info["architecture"], **info["model_args"])
    path = files.weights(weights)
    load_weights(model, path)
    model.requires_grad_(False).eval().to(pick_device(device))
    try:
        return LoadedModel(model, info, files, {EMA: "ema", MODEL: "raw"}.get(path.name, weights), flow, sampling)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{files.sidecar}: is not valid ({error})") from None


# What a model must have in common with another one that is called on the same rows.
ALIKE: dict[str, Callable[[SamplingModel], Any]] = {
    "rows of shape": lambda model: list(model.shape),
    "classes": lambda model: list(model.class_names),
    "conditions of shape": lambda model: model.info.get("condition_shape"),
    "images and texts": lambda model: model.info.get("encoded") or {},
    "the path": lambda model: model.flow.path.plain(),
}


def load_beside(ckpt: str, folders: Sequence[Path], device: torch.device, key: str) -> LoadedModel:
    """Load another model that a recipe names at `key`, from the first of these folders that has it. Raises UserError."""
    try:
        return load(next(filter(Path.exists, (folder / ckpt for folder in folders)), ckpt), device=str(device))
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def check_alike(other: LoadedModel, model: SamplingModel, key: str, needs: str) -> None:
    """Raise UserError unless both models have the same rows, conditions, path and normalizer. key, needs: for the message."""
    ckpt = other.files.run_dir or other.files.directory
    for what, of in ALIKE.items():
        if of(model) != of(other):
            raise UserError(
                f"{key}: {ckpt} has {what} {_short(of(other))}, but this model has {_short(of(model))}; {needs}"
            )
    if not other.normalizer.same_as(model.normalizer, model.shape):
        raise UserError(
            f"{key}: {ckpt} has another normalizer than this model ({other.normalizer.name} and {model.normalizer.name}, or "
            f"other statistics); {needs}, split and data.normalizer: train it on the same rows, or start it from this one with "
            "--init-from"
        )


def _short(value: Any) -> str:
    return (
        listing(value, 6) if isinstance(value, list) and value and isinstance(value[0], str) else str(value or "none")
    )


def _check_sizes(info: dict[str, Any], files: CheckpointFiles, weights: str) -> None:
    """Build the network without memory and compare it with the weight file and the rows. Raises UserError.

    So a sidecar with absurd sizes is refused before it exhausts the machine's memory.
    """
    from flowkit.models import create_model

    args = info["model_args"]
    if any(isinstance(size, int) and size > MAX_SIZE for size in args.values()):
        raise UserError(f"{files.sidecar}: a size in model_args is above {MAX_SIZE:,}; the file is corrupt")
    names, condition = info.get("class_names") or [], info.get("condition_shape") or [0]
    if args.get("num_classes", len(names)) != len(names):
        raise UserError(f"{files.sidecar}: lists {len(names)} classes, but its network has {args['num_classes']!r}")
    if args.keys() & {"clip_dim", "condition_dim"} and condition[-1] not in (
        args.get("clip_dim", 0),
        args.get("condition_dim", 0),
    ):
        raise UserError(f"{files.sidecar}: has conditions of shape {condition}, but its network expects another shape")
    for kind, one in (info.get("encoded") or {}).items():
        if args.get(f"{kind}_dim") != one["shape"][1] or args.get(f"{kind}_tokens", one["shape"][0]) != one["shape"][0]:
            raise UserError(
                f"{files.sidecar}: has {kind}s of shape {one['shape']}, but its network expects another shape"
            )
    try:
        with torch.device("meta"):
            skeleton = create_model(info["architecture"], **args)
            check_weights(skeleton, files.weights(weights))
            latent = read_normalizer(files, info).shape(tuple(info["shape"]))
            skeleton.eval()(torch.empty(1, *latent), torch.empty(1))
    except UserError as error:
        raise error if str(error).startswith(str(files.directory)) else UserError(f"{files.sidecar}: {error}") from None
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{files.sidecar}: its architecture does not fit its rows ({why})") from None
