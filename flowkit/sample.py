"""From a checkpoint to samples: the architecture, shape, classes and normalizer all come from its sidecar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from flowkit.checkpoint import (
    EMA,
    MODEL,
    CheckpointFiles,
    find_checkpoint,
    load_weights,
    read_model_json,
    read_normalizer,
)
from flowkit.data.dataset import Dataset
from flowkit.data.keys import key
from flowkit.data.normalizers import Normalizer
from flowkit.data.tensors import load_tensors
from flowkit.domain import Domain, get_domain
from flowkit.errors import UserError, listing, nearest
from flowkit.flow.guidance import guided
from flowkit.flow.objective import FlowObjective, get_objective
from flowkit.flow.solvers import integrate
from flowkit.models.calls import call_model

BATCH_SIZES = {"cpu": 64, "cuda": 1024}
ClassLabel = str | int | Sequence[str | int] | np.ndarray | np.integer | Tensor | None


def draw_noise(seed: int, indices: range, shape: tuple[int, ...]) -> Tensor:
    """What sampling starts from, (len(indices), *shape) on the CPU: one key per sample index.

    Drawn sample by sample (a batched `randn` has no prefix property), so that sample i is the same whatever the batch
    size, the number of samples and the device.
    """
    generator = torch.Generator()
    return torch.stack([torch.randn(shape, generator=generator.manual_seed(key(seed, "sample", i))) for i in indices])


@torch.inference_mode()
def draw_samples(
    model: nn.Module,
    objective: FlowObjective,
    normalizer: Normalizer,
    shape: tuple[int, ...],
    num_samples: int,
    *,
    class_label: Tensor | None = None,
    condition: Tensor | None = None,
    seed: int = 0,
    solver: str = "heun",
    steps: int = 25,
    guidance_scale: float = 1.0,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, int]:
    """(samples (N, ...) float32 in the domain's units, NFE a sample). `shape` is that of a row as the model sees it.

    class_label (N,) and condition (N, ...) go with sample i. `progress` is told the number of samples done after each
    batch. The model is used as it stands: on its device, in its precision, and should be in eval mode.
    """
    device = next(model.parameters()).device
    done, nfe = [], 0
    for start in range(0, num_samples, batch_size):
        indices = range(start, min(start + batch_size, num_samples))
        cut = lambda tensor: None if tensor is None else tensor[start : indices.stop].to(device)  # noqa: B023, E731
        velocity = guided(partial(call_model, model), objective, cut(class_label), cut(condition), guidance_scale)
        noise = draw_noise(seed, indices, shape).to(device)
        x, nfe = integrate(velocity, noise, solver=solver, steps=steps)
        done.append(normalizer.denormalize(x).cpu().numpy())
        if progress is not None:
            progress(indices.stop)
    return np.concatenate(done), nfe


class LoadedModel:
    """A trained model and what it needs to sample. Made by `flowkit.load`."""

    def __init__(self, model: nn.Module, info: dict[str, Any], files: CheckpointFiles, weights: str):
        self.model = model
        self.info = info  # the sidecar's content
        self.files = files
        self.weights = weights  # "ema" | "raw", whichever was loaded
        self.domain: Domain = get_domain(info["kind"])
        self.class_names: tuple[str, ...] = tuple(info.get("class_names") or ())
        self.shape: tuple[int, ...] = tuple(info["shape"])
        self.normalizer = read_normalizer(files, info)
        self.latent_shape = self.normalizer.shape(self.shape)
        self.objective = get_objective(info["flow"])

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def sample(
        self,
        num_samples: int,
        *,
        class_label: ClassLabel = None,
        condition: np.ndarray | Tensor | None = None,
        seed: int = 0,
        solver: str | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        batch_size: int | None = None,
        pairs: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Dataset:
        """`num_samples` samples in the domain's units, with labels and how they were made in `.info`.

        class_label: a name or number for all, a sequence or array of them in turn, "all" for every class in turn, None
        for the unconditional model (or, where the model knows classes, every class in turn). condition: (C,) or (P, C)
        for all, or one a sample (N, ...). What is None is as the recipe had it. pairs: `.noise` is then what each sample came
        from, as the model saw it: float32 (N, *latent_shape), for reflow (arXiv 2209.03003).

        Raises UserError for what the model cannot do.
        """
        settings = {"solver": "heun", "steps": 25, "guidance_scale": 1.0, **(self.info.get("sampling") or {})}
        given = {"solver": solver, "steps": steps, "guidance_scale": guidance_scale}
        settings.update({name: value for name, value in given.items() if value is not None})
        if num_samples < 1:
            raise UserError(f"num_samples: {num_samples} samples are asked for; expected at least 1")
        labels = self._labels(num_samples, class_label, conditioned=condition is not None)
        features = self._condition(num_samples, condition)
        if labels is None and features is None and settings["guidance_scale"] != 1.0:
            raise UserError(
                "guidance_scale: this model has neither classes nor conditions, so there is nothing to guide by"
            )
        if settings["guidance_scale"] != 1.0 and self.info["flow"].get("cond_drop") == 0:
            raise UserError(
                "guidance_scale: this model was trained with flow.cond_drop = 0, so it never saw a dropped condition to "
                "guide away from; only 1.0 can be asked of it"
            )
        x, nfe = draw_samples(
            self.model, self.objective, self.normalizer, self.latent_shape, num_samples,
            class_label=None if labels is None else torch.from_numpy(labels), condition=features, seed=seed, **settings,
            batch_size=batch_size or BATCH_SIZES.get(self.device.type, 256), progress=progress,
        )  # fmt: skip
        made = {
            "source": "samples", "checkpoint": str(self.files.directory), "architecture": self.info["architecture"],
            "step": self.info.get("step"), "weights": self.weights, "seed": seed, **settings, "nfe": nfe,
            **(self.info.get("inherited") or {}),
        }  # fmt: skip
        names = self.class_names if labels is not None else ()
        noise = draw_noise(seed, range(num_samples), self.latent_shape).numpy() if pairs else None
        return Dataset(self.info["kind"], x, labels, None if features is None else features.numpy(), None, names, made,
                       noise=noise)  # fmt: skip

    def default_out(self) -> tuple[Path, Path]:
        """Where `flowkit sample` writes when nothing is said: the samples file, and the folder of what people look at.

        In a run `samples.safetensors` and `samples/last/`; beside a lone file all of it goes to `samples/`.
        """
        run_dir = self.files.run_dir
        if run_dir is not None:
            return run_dir / "samples.safetensors", run_dir / "samples" / "last"
        return self.files.directory / "samples" / "samples.safetensors", self.files.directory / "samples"

    def _labels(self, num_samples: int, class_label: ClassLabel, *, conditioned: bool) -> np.ndarray | None:
        if not self.class_names:
            if class_label is not None:
                raise UserError(f"class_label: {class_label!r} is asked for, and this model knows no classes")
            return None
        if isinstance(class_label, np.ndarray | np.generic | Tensor):
            class_label = cast("ClassLabel", class_label.tolist())
        if class_label is None and conditioned:
            return None  # the null class beside the condition
        if class_label is None or class_label == "all":
            wanted: list[int] = list(range(len(self.class_names)))
        elif isinstance(class_label, str | int):
            wanted = [self._class_number(class_label)]
        else:
            wanted = [self._class_number(one) for one in cast("Sequence[str | int]", class_label)]
            if not wanted:
                raise UserError("class_label: an empty list; name at least one class")
        # Spread evenly, classes side by side: 8 samples of 2 classes are 4 of one, then 4 of the other.
        return np.asarray(wanted, np.int64)[np.arange(num_samples) * len(wanted) // num_samples]

    def _class_number(self, label: str | int) -> int:
        if isinstance(label, str) and label in self.class_names:
            return self.class_names.index(label)
        number = int(label) if isinstance(label, int) or label.isdecimal() else -1
        if 0 <= number < len(self.class_names):
            return number
        raise UserError(
            f"class_label: there is no class {label!r}; the {len(self.class_names)} classes are {listing(self.class_names)} "
            f"(or 0 to {len(self.class_names) - 1}){nearest(str(label), self.class_names)}"
        )

    def _condition(self, num_samples: int, condition: np.ndarray | Tensor | None) -> Tensor | None:
        shape = self.info.get("condition_shape")
        if condition is None:
            return None
        if not shape:
            raise UserError("condition: this model was trained without condition vectors")
        features = torch.as_tensor(condition, dtype=torch.float32)
        if tuple(features.shape) == tuple(shape):
            features = features.expand(num_samples, *shape)
        if tuple(features.shape) != (num_samples, *shape):
            raise UserError(
                f"condition: has shape {tuple(features.shape)}; expected {tuple(shape)} or {(num_samples, *shape)}"
            )
        return features


def load(
    ckpt: Path | str, *, weights: str = "ema", device: str = "auto", model: nn.Module | None = None
) -> LoadedModel:
    """Open a checkpoint for sampling. `ckpt`: a run, a checkpoint directory, or a .safetensors with its .json beside it.

    weights: "ema" or "raw". `model`: the user's own module, for a run that trained one. Raises UserError when something is
    missing, broken, or of another architecture.
    """
    from flowkit.models import create_model

    files = find_checkpoint(ckpt)
    info = read_model_json(files.sidecar)
    if model is None:
        if info.get("custom"):
            raise UserError(f"{files.sidecar}: was trained from a module of one's own ({info['architecture']}); "
                            "load it from Python with flowkit.load(ckpt, model=YourModule())")  # fmt: skip
        try:
            model = create_model(info["architecture"], **info["model_args"])
        except UserError as error:
            raise UserError(f"{files.sidecar}: {error}") from None
    path = files.weights(weights)
    load_weights(model, path)
    model.requires_grad_(False).eval().to(pick_device(device))
    try:
        return LoadedModel(model, info, files, {EMA: "ema", MODEL: "raw"}.get(path.name, weights))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{files.sidecar}: cannot be understood ({error})") from None


def pick_device(name: str) -> torch.device:
    """ "auto" takes the GPU where there is one. Raises UserError for a device that is not there."""
    if name == "auto":
        return (torch.accelerator.is_available() and torch.accelerator.current_accelerator()) or torch.device("cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError):
        raise UserError(f"device: {name!r} is not available here; use 'auto' or 'cpu'") from None


def read_condition(path: Path) -> Tensor:
    """The tensor "condition" of a .safetensors file. Raises UserError."""
    tensors = load_tensors(path)
    if "condition" not in tensors:
        raise UserError(f"{path}: has no tensor 'condition'; it has {listing(tensors) or 'none'}")
    return tensors["condition"]
