"""From a checkpoint to samples: the architecture, shape, classes and normalizer all come from its sidecar."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

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
from flowkit.conditions import Conditions
from flowkit.data.base import NORMAL, Base
from flowkit.data.dataset import NULL, Dataset, null_name
from flowkit.data_source import open_base
from flowkit.domain import Domain, get_domain
from flowkit.errors import PassedOver, UserError, listing
from flowkit.flow.choices import Choice
from flowkit.flow.mean_flow import get_mean_flow
from flowkit.flow.objective import get_objective
from flowkit.flow.paths import GaussianPath
from flowkit.recipe.describe import toml_value
from flowkit.recipe.flow import seen_without
from flowkit.recipe.load import check_settings
from flowkit.sampling.asked import ClassLabel, asked_condition, asked_labels, labels_of_rows
from flowkit.sampling.draw import BATCH_SIZES, Guide, Weak, as_network, draw_samples
from flowkit.sampling.settings import SampleSettings

if TYPE_CHECKING:
    from flowkit.data.normalizers import Normalizer
    from flowkit.sampling.likelihood import RowLikelihoods

MAX_SIZE = 10**7  # of anything in the arguments of an architecture
KEPT_STATES = 64  # samples whose way is kept where it is asked for


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
        self.numerics: int = info.get("numerics", 1)  # the version that its samples keep to
        self.objective = get_objective(info["flow"])

    @cached_property
    def base(self) -> Base:
        """What samples start from. Raises UserError where it is a data set that is not at hand."""
        described = self.info.get("base") or {"source": NORMAL}
        return open_base(described, self.shape, self.normalizer, self.folders, self.numerics)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where relative paths in its recipe are looked for first: where its run lies, and where that was started."""
        return folders_of(self.files.run_dir, self.info.get("recipe") or {})

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def sample(
        self,
        num_samples: int,
        *,
        class_label: ClassLabel = None,
        condition: np.ndarray | Tensor | None = None,
        condition_mask: np.ndarray | Tensor | None = None,
        seed: int = 0,
        solver: Choice | None = None,
        steps: int | None = None,
        grid: Choice | None = None,
        state: str | None = None,
        guidance: Choice | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float | None = None,
        guide: Guide | None = None,
        guide_scale: float = 1.0,
        batch_size: int | None = None,
        pairs: bool = False,
        on_states: Callable[[np.ndarray], object] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Dataset:
        """`num_samples` samples in the domain's units, with labels and how they were made in `.info`.

        class_label: a name or number for all, a sequence or array of them in turn, "all" for every class in turn, "null" for
        the model without classes (where a class has that name, "<null>"); None for every class in turn, or the null one
        beside a condition. Samples of the null class alone carry no labels; beside others theirs is an added class "null",
        and guidance leaves them as they are. condition: (C,) or (P, C) for all, or one a sample (N, ...);
        condition_mask: (P,) or (N, P) bool, True for the tokens that are there. solver to
        guidance_rescale: the keys of a recipe's [sample]; what is None is as the recipe had it.

        guide: a differentiable f(x (B, ...)) -> (B,) in the domain's units; samples are then of p(x) exp(guide_scale f(x)), as
        nearly as `flowkit.flow.guidance.Pushed` says. pairs: `.noise` is then what each sample came from, as the model saw it
        (float32, (N, *latent_shape)), and `.normalizer` what brings it and x together, for reflow (arXiv 2209.03003).
        on_states: is given where 64 of the samples, evenly spread, were after each step, from the noise on: float32
        (T, 64, ...) in the domain's units.

        Raises UserError for what the model cannot do.
        """
        settings = self.settings(
            solver=solver, steps=steps, grid=grid, state=state, guidance=guidance, guidance_scale=guidance_scale,
            guidance_interval=guidance_interval, guidance_rescale=guidance_rescale,
        )  # fmt: skip
        if num_samples < 1:
            raise UserError(f"num_samples: {num_samples} samples are asked for; expected at least 1")
        conditions = self.conditions(num_samples, class_label, condition, condition_mask)
        self._check(settings, conditioned=bool(conditions.kinds))
        if pairs and settings.solver_name == "sde":
            raise UserError(
                'pairs: samples of the solver "sde" do not follow from the noise that they start from; use an ODE solver such '
                'as "heun"'
            )
        if guide is not None:
            self._check_guide(settings)
        drawn = draw_samples(
            self.model, self.objective, self.normalizer, self.latent_shape, num_samples, settings,
            conditions=conditions, seed=seed, base=self.base,
            weak=open_weak(settings, self.info, self.normalizer, self.device, self.folders),
            guide=guide, guide_scale=guide_scale, batch_size=batch_size or BATCH_SIZES.get(self.device.type, 256),
            keep_states=0 if on_states is None else KEPT_STATES, numerics=self.numerics, progress=progress,
        )  # fmt: skip
        if on_states is not None:
            assert drawn.states is not None
            on_states(drawn.states)
        made = {
            "source": "samples", "checkpoint": str(self.files.directory), "architecture": self.info["architecture"],
            "step": self.info.get("step"), "weights": self.weights, "seed": seed, **settings.to_info(), **drawn.cost(),
            **({} if guide is None else {"guide_scale": guide_scale}), **(self.info.get("inherited") or {}),
        }  # fmt: skip
        kept, names = self._labels(conditions.class_label)
        _, tokens, mask = conditions.arrays()
        return Dataset(
            self.info["kind"], drawn.x, kept, tokens, None, names, made, condition_mask=mask,
            noise=drawn.noise if pairs else None, normalizer=self.normalizer if pairs else None,
        )  # fmt: skip

    def settings(self, **given: Any) -> SampleSettings:
        """The recipe's [sample], with what is given and not None in its place. Raises UserError."""
        default = {"solver": "heun"} if self.numerics == 1 else {}  # where a sidecar names none
        return SampleSettings.of({**default, **(self.info.get("sampling") or {})}, **given)

    def log_likelihood(
        self,
        x: np.ndarray | Tensor,
        *,
        class_label: ClassLabel = None,
        condition: np.ndarray | Tensor | None = None,
        condition_mask: np.ndarray | Tensor | None = None,
        divergence: str = "auto",
        probes: int = 1,
        solver: Choice = "dopri5",
        steps: int = 25,
        seed: int = 0,
        batch_size: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> RowLikelihoods:
        """log p(x) of rows x (N, ...) in the domain's units, a density in those units: `flowkit.sampling.likelihood.of_rows`.

        class_label, condition, condition_mask: one for all rows, or row i's own at place i. A model with classes asks for a
        label ("null" for the density without a class) or a condition. Raises UserError as `sample`, and where there is no
        density.
        """
        from flowkit.sampling.likelihood import of_rows

        return of_rows(
            self, x, class_label=class_label, condition=condition, condition_mask=condition_mask, divergence=divergence,
            probes=probes, solver=solver, steps=steps, seed=seed, batch_size=batch_size, progress=progress,
        )  # fmt: skip

    def conditions(
        self,
        count: int,
        class_label: ClassLabel,
        condition: np.ndarray | Tensor | None,
        mask: np.ndarray | Tensor | None = None,
        *,
        of_rows: bool = False,
    ) -> Conditions:
        """What `sample` makes of its arguments, of N rows; a label of the null class is NULL.

        of_rows: they are of rows that are there, as in `log_likelihood`.
        """
        asked = labels_of_rows if of_rows else asked_labels
        labels = asked(class_label, count, self.class_names, conditioned=condition is not None)
        told = Conditions(labels, *asked_condition(condition, mask, count, self.info.get("condition_shape")))
        null = labels is not None and bool((labels == NULL).any())
        missing = [kind for kind in self.condition_kinds if kind not in told.kinds or (kind == "label" and null)]
        if why := self._never_without(missing):
            if null:
                raise UserError(f'class_label: "{null_name(self.class_names)}" is asked for, and {why} a row without its class; '
                                "ask for a class")  # fmt: skip
            if isinstance(self.info["flow"]["cond_drop"], dict):
                name = {"label": "class_label"}.get(missing[0], missing[0])
                raise UserError(f"{name}: none is given, and {why} a row without it; give one")
        return told

    def _never_without(self, missing: Sequence[str]) -> str:
        """Words for why nothing is known of rows without those kinds of conditions; none where training met such rows."""
        cond_drop = self.info["flow"].get("cond_drop")
        if not missing or cond_drop is None or seen_without(missing, cond_drop, self.condition_kinds):
            return ""
        return (
            f"this model was trained with flow.cond_drop = {toml_value(cond_drop) if cond_drop else 0}, so it never saw"
        )

    @property
    def condition_kinds(self) -> tuple[str, ...]:
        """What the data's rows were conditioned on, by the names that a recipe has for it."""
        told = (("label", self.class_names), ("condition", self.info.get("condition_shape")))
        return tuple(kind for kind, there in told if there)

    def _labels(self, labels: Tensor | None) -> tuple[np.ndarray | None, tuple[str, ...]]:
        """Labels and class names as samples carry them: none of the null class alone, a class more of it beside others."""
        if labels is None or (labels == NULL).all():
            return None, ()
        kept, names = labels.numpy(), self.class_names
        if (kept == NULL).any():
            kept, names = np.where(kept == NULL, len(names), kept), (*names, null_name(names))
        return kept, names

    def _check_guide(self, settings: SampleSettings) -> None:
        """Raise UserError where samples cannot be led by a function."""
        if not isinstance(self.objective.path, GaussianPath):
            raise UserError(
                f"guide: on the path {type(self.objective.path).__name__} the velocity does not say what a function of the "
                "samples would change; a model of a Gaussian path (linear, cosine, vp) can be guided by one"
            )
        if settings.solver_name == "mean_flow":
            raise UserError('guide: does not go with solver "mean_flow"; use an ODE solver such as "heun"')

    def _check(self, settings: SampleSettings, *, conditioned: bool) -> None:
        """Raise UserError for settings that this model cannot sample with."""
        flow = self.info["flow"]
        if settings.solver_name == "mean_flow" and get_mean_flow(flow) is None:
            raise UserError(
                'solver: "mean_flow" needs a model of average velocities (flow.objective = "mean_flow"); this one was trained '
                'by flow matching: use an ODE solver such as "midpoint"'
            )
        if settings.solver_name == "mean_flow" and settings.guidance_name == "autoguidance":
            raise UserError(
                'guidance: "autoguidance" does not go with solver "mean_flow"; use an ODE solver such as "midpoint"'
            )
        if settings.solver_name == "sde":
            from flowkit.recipe.checks import why_no_score

            if why := why_no_score(flow):
                raise UserError(f'solver: "sde" needs the score, and {why}; use an ODE solver such as "midpoint"')
        if settings.guidance_scale == 1.0 or settings.guidance_name == "autoguidance":
            return
        if not conditioned and self.info.get("condition_shape"):
            raise UserError(
                f"guidance_scale: {settings.guidance_scale:g} guides by a condition, and none was given; give one (--condition), "
                "or ask for 1, which is no guidance (-w 1)"
            )
        if not conditioned:
            raise UserError(
                "guidance_scale: this model has neither classes nor conditions, so there is nothing to guide by; "
                "autoguidance by a weaker model would do"
            )
        if why := self._never_without(self.condition_kinds):
            raise UserError(
                f"guidance_scale: {why} a dropped condition to guide away from; only 1.0 can be asked of it"
            )

    def default_out(self) -> tuple[Path, Path]:
        """Where `flowkit sample` writes when nothing is said: the samples file, and the folder of what people look at.

        In a run `samples.safetensors` and `samples/last/`; beside a lone file all of it goes to `samples/`.
        """
        run_dir = self.files.run_dir
        if run_dir is not None:
            return run_dir / "samples.safetensors", run_dir / "samples" / "last"
        return self.files.directory / "samples" / "samples.safetensors", self.files.directory / "samples"


def load(
    ckpt: Path | str, *, weights: str = "ema", device: str = "auto", model: nn.Module | None = None
) -> LoadedModel:
    """Open a checkpoint for sampling. `ckpt`: a run, a checkpoint directory, or a .safetensors with its .json beside it.

    weights: "ema" or "raw". `model`: the user's own module, for a run that trained one. Raises UserError when something is
    missing, broken, or of another architecture.
    """
    from flowkit.models import create_model

    files = find_checkpoint(ckpt, check=lambda files: verify_weights(files, weights))
    if files.notice:
        warnings.warn(files.notice, PassedOver, stacklevel=2)
    info = read_model_json(files.sidecar)
    check_settings(files.sidecar, info)
    if model is None:
        if info.get("custom"):
            raise UserError(f"{files.sidecar}: was trained from a module of one's own ({info['architecture']}); "
                            "load it from Python with flowkit.load(ckpt, model=YourModule())")  # fmt: skip
        _check_sizes(info, files, weights)
        model = create_model(info["architecture"], **info["model_args"])
    path = files.weights(weights)
    load_weights(model, path)
    model.requires_grad_(False).eval().to(pick_device(device))
    try:
        loaded = LoadedModel(model, info, files, {EMA: "ema", MODEL: "raw"}.get(path.name, weights))
        loaded.settings()
        return loaded
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{files.sidecar}: cannot be understood ({error})") from None


def _check_sizes(info: dict[str, Any], files: CheckpointFiles, weights: str) -> None:
    """Build the network without its memory, and hold it against the weight file and the rows: a sidecar that asks for more
    than is there has to be noticed before the machine's memory is gone. Raises UserError.
    """
    from flowkit.models import create_model

    args = info["model_args"]
    if any(isinstance(size, int) and size > MAX_SIZE for size in args.values()):
        raise UserError(f"{files.sidecar}: a size in its model_args is above {MAX_SIZE:,}; it is damaged")
    names, condition = info.get("class_names") or [], info.get("condition_shape") or [0]
    if args.get("num_classes", len(names)) != len(names):
        raise UserError(f"{files.sidecar}: names {len(names)} classes, and its network has {args['num_classes']!r}")
    if condition[-1] not in (args.get("clip_dim", 0), args.get("condition_dim", 0)):
        raise UserError(f"{files.sidecar}: has conditions of shape {condition}, and its network takes others")
    try:
        with torch.device("meta"):
            skeleton = create_model(info["architecture"], **args)
            check_weights(skeleton, files.weights(weights))
            latent = read_normalizer(files, info).shape(tuple(info["shape"]))
            skeleton.eval()(torch.empty(1, *latent), torch.empty(1))
    except UserError as error:
        raise error if str(error).startswith(str(files.directory)) else UserError(f"{files.sidecar}: {error}") from None
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{files.sidecar}: its architecture does not go with its rows ({why})") from None


def open_weak(
    settings: SampleSettings,
    info: dict[str, Any],
    normalizer: Normalizer,
    device: torch.device,
    folders: Sequence[Path] = (),
) -> Weak | None:
    """The weaker model of autoguidance, on `device`; None where another guidance is asked for.

    info: of the model to guide, as in a checkpoint's sidecar. folders: where a relative path is looked for first. Raises
    UserError where the two do not speak of the same x: shape, classes, conditions, path and normalizer must be alike.
    """
    if settings.guidance_name != "autoguidance":
        return None
    assert settings.guide_ckpt is not None
    places = [folder / settings.guide_ckpt for folder in folders]
    try:
        weak = load(next(filter(Path.exists, places), Path(settings.guide_ckpt)), device=str(device))
    except UserError as error:
        raise UserError(f"guidance.ckpt: {error}") from None
    alike = {
        "rows of shape": (list(info["shape"]), list(weak.shape)),
        "classes": (list(info.get("class_names") or ()), list(weak.class_names)),
        "conditions of shape": (info.get("condition_shape"), weak.info.get("condition_shape")),
        "the path": (info["flow"]["path"], weak.info["flow"]["path"]),
    }
    for what, (ours, theirs) in alike.items():
        if ours != theirs:
            raise UserError(f"guidance.ckpt: {settings.guide_ckpt} has {what} {_short(theirs)}, and the model to guide "
                            f"{_short(ours)}; autoguidance takes a weaker model of the same data")  # fmt: skip
    if not weak.normalizer.same_as(normalizer, tuple(info["shape"])):
        raise UserError(
            f"guidance.ckpt: {settings.guide_ckpt} normalises its data otherwise than the model to guide "
            f"({weak.normalizer.name} and {normalizer.name}, or other statistics); autoguidance takes a weaker model of the "
            "same data, split and data.normalizer: train it on the same rows, or start it from this one with --init-from"
        )
    return as_network(weak.model), weak.objective


def _short(value: Any) -> str:
    return (
        listing(value, 6) if isinstance(value, list) and value and isinstance(value[0], str) else str(value or "none")
    )


def pick_device(name: str) -> torch.device:
    """ "auto" takes the GPU where there is one. Raises UserError for a device that is not there."""
    if name == "auto":
        return (torch.accelerator.is_available() and torch.accelerator.current_accelerator()) or torch.device("cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError):
        raise UserError(f"device: {name!r} is not available here; use 'auto' or 'cpu'") from None
