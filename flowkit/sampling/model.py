"""A network with all it needs to sample, from a checkpoint or a running session."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from flowkit.conditions import Conditions, scale_words
from flowkit.data.base import NORMAL, Base
from flowkit.data.dataset import NULL, Dataset, null_name
from flowkit.data_source import open_base
from flowkit.domain import Domain, Given, get_domain
from flowkit.errors import NotCompiled, UserError, listing
from flowkit.flow.guidance import Autoguidance
from flowkit.flow.paths import GaussianPath
from flowkit.progress import Progress
from flowkit.recipe.flow import Flow, seen_without
from flowkit.recipe.sample import SampleSettings
from flowkit.sampling import derive
from flowkit.sampling.compiled import Compiled
from flowkit.sampling.conditioning import (
    ClassLabel,
    asked_for,
    encode,
    resolve_condition,
    resolve_labels,
    resolve_row_labels,
)
from flowkit.sampling.draw import Guide, Start, draw_samples
from flowkit.sampling.likelihood import of_rows
from flowkit.settings import toml_value

if TYPE_CHECKING:
    from flowkit.data.normalizers import Normalizer
    from flowkit.encoders import Encoder

KEPT_STATES = 64  # samples whose trajectories can be kept


class SamplingModel:
    """A network with all it needs to sample. Made from a checkpoint (`load`) or by a running session."""

    def __init__(
        self,
        model: nn.Module,
        info: dict[str, Any],
        flow: Flow,
        sampling: SampleSettings,
        normalizer: Normalizer,
        folders: Sequence[Path] = (),
        base: Base | None = None,
    ):
        self.model = model
        self.info = info  # as in a checkpoint's sidecar
        self.flow, self.sampling = flow, sampling
        self.domain: Domain = get_domain(info["kind"])
        self.class_names: tuple[str, ...] = tuple(info.get("class_names") or ())
        self.shape: tuple[int, ...] = tuple(info["shape"])
        self.normalizer = normalizer
        self.latent_shape = normalizer.shape(self.shape)
        self.numerics: int = info.get("numerics", 1)  # version of the numerics to sample with
        self.objective = flow.scored
        self.folders = folders  # searched first for relative paths of its recipe
        self.encoder_weights: dict[str, Path] = {}  # files with the weights of the encoders, by "image" and "text"
        self._encoders: dict[str, Encoder] = {}
        self._base, self._weak = base, dict[tuple[str, torch.device], SamplingModel]()
        self._compiled: dict[bool, Compiled] = {}

    @property
    def base(self) -> Base:
        """The distribution that samples start from. Raises UserError if it is a data set that is not found."""
        if self._base is None:
            described = self.info.get("base") or {"source": NORMAL}
            self._base = open_base(described, self.shape, self.normalizer, self.folders, self.numerics)
        return self._base

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def straight(self) -> bool:
        """Whether solver steps use the predictions directly. In version 1, data and noise predictions are clipped."""
        return self.numerics > 1 and self.objective.prediction != "velocity"

    @property
    def tf32(self) -> bool:
        """Whether samples use TF32 on CUDA, as training did. In versions 1 and 2 they use float32."""
        run = (self.info.get("recipe") or {}).get("run") or {}
        return self.numerics > 2 and not run.get("deterministic")

    @property
    def made_by(self) -> dict[str, Any]:
        """Where samples come from, for their `.info`."""
        return {"step": self.info.get("step")}

    def settings(self, settings: SampleSettings | None = None, **changes: Any) -> SampleSettings:
        """Return `settings`, or the recipe's [sample], with the changes that are not None. Raises UserError."""
        return SampleSettings.of(dict(settings or self.sampling), **changes)

    def sample(
        self,
        num_samples: int,
        *,
        class_label: ClassLabel = None,
        condition: np.ndarray | Tensor | None = None,
        condition_mask: np.ndarray | Tensor | None = None,
        image: Any = None,
        text: str | Sequence[str] | None = None,
        conditions: Conditions | None = None,
        seed: int = 0,
        settings: SampleSettings | None = None,
        guide: Guide | None = None,
        guide_scale: float = 1.0,
        given: Given | None = None,
        resample: int | None = None,
        start: Start | None = None,
        batch_size: int | None = None,
        pairs: bool = False,
        on_states: Callable[[np.ndarray], object] | None = None,
        progress: Progress | None = None,
        **changes: Any,
    ) -> Dataset:
        """Draw `num_samples` samples in the domain's units, with labels, and how they were made in `.info`.

        class_label: a name or number for all, a sequence or array to go through, "all" for every class in turn, "null" for
        the model without classes ("<null>" if a class has that name). None is every class in turn, or the null class if a
        condition is given. Samples of only the null class have no labels; with others theirs is an extra class "null", which
        guidance does not affect. condition: (C,) or (P, C) for all, or one per sample (N, ...); condition_mask: (P,) or (N, P)
        bool, True for tokens that exist. image: a file, a PIL image or an array (H, W, 3), or a list of them; text: a sentence or
        a list of them, for models trained on images or texts. Each is encoded once; several are spread evenly, as classes are.
        conditions: use these, one per sample, instead of all of the above.
        settings: replace the recipe's sampling settings. changes: override single settings by
        the names of `SampleSettings`, the keys of a recipe's [sample], such as solver or guidance_scale; None is ignored.

        guide: a differentiable f(x (B, ...)) -> (B,) in the domain's units; the samples then approximate
        p(x) exp(guide_scale f(x)) (see `flowkit.flow.guidance.GradientGuidance`). pairs: also return `.noise`, the noise that
        each sample came from as the model saw it (float32, (N, *latent_shape)), and `.normalizer`, for reflow (arXiv 2209.03003).
        given: rows to complete, and which of their tokens are given (see `Given`); these come back unchanged. resample:
        complete without what was learned of it, repeating each step this often; the only way for models trained without
        `flow.given`, by default 8 times. start: rows to vary, or noise to
        start from, instead of noise from the seed (see `Start`).
        on_states: called with 64 evenly spread samples after each step, from the noise on: float32 (T, 64, ...) in the
        domain's units.

        Raises UserError for what the model cannot do.
        """
        settings = self.settings(settings, **changes)
        if num_samples < 1:
            raise UserError(f"num_samples: {num_samples}; expected at least 1")
        told = conditions
        if told is None:
            told = self.conditions(num_samples, class_label, condition, condition_mask, image=image, text=text)
        self._check(settings, conditioned=bool(told.kinds))
        completion = None if given is None else derive.completion(self, given, num_samples, settings, resample)
        if pairs and settings.solver.stochastic:
            raise UserError(
                f'pairs: samples of the stochastic solver "{settings.solver.tag()}" are not a function of their noise; use '
                'an ODE solver such as "heun"'
            )
        if guide is not None:
            self._check_guide(settings)
            if settings.compile:
                why = "the guide differentiates through it"
                warnings.warn(f"sample.compile: the network runs eagerly, since {why}", NotCompiled, stacklevel=2)
                settings = self.settings(settings, compile=False)
        drawn = draw_samples(
            self, num_samples, settings, told, seed=seed, guide=guide, guide_scale=guide_scale, completion=completion,
            start=start, batch_size=batch_size, keep_states=0 if on_states is None else KEPT_STATES, progress=progress,
        )  # fmt: skip
        if settings.compile and self.compiled(settings).failed:
            settings = self.settings(settings, compile=False)
        if on_states is not None:
            assert drawn.states is not None
            on_states(drawn.states)
        made = {
            "source": "samples", **self.made_by, "seed": seed, **settings.to_info(), **drawn.cost(),
            **({} if guide is None else {"guide_scale": guide_scale}), **({} if completion is None else completion.to_info()),
            **({} if start is None else start.to_info()), **asked_for(image, text), **(self.info.get("inherited") or {}),
        }  # fmt: skip
        kept, names = self._labels(told.class_label)
        tokens, mask = (None if one is None else one.float().numpy() if one.is_floating_point() else one.numpy()
                        for one in (told.tokens, told.mask))  # fmt: skip
        return Dataset(
            self.info["kind"], drawn.x, kept, tokens, None, names, made, condition_mask=mask,
            noise=drawn.noise if pairs else None, normalizer=self.normalizer if pairs else None,
        )  # fmt: skip

    complete, vary, between, invert = derive.complete, derive.vary, derive.between, derive.invert
    log_likelihood = of_rows

    def conditions(
        self,
        count: int,
        class_label: ClassLabel,
        condition: np.ndarray | Tensor | None,
        condition_mask: np.ndarray | Tensor | None = None,
        *,
        image: Any = None,
        text: str | Sequence[str] | None = None,
        of_rows: bool = False,
    ) -> Conditions:
        """Return the conditions that `sample` gives to N rows. Labels of the null class are NULL.

        of_rows: the rows exist already, as in `log_likelihood`.
        """
        resolve = resolve_row_labels if of_rows else resolve_labels
        asked = {"image": image, "text": text}
        conditioned = condition is not None or any(one is not None for one in asked.values())
        labels = resolve(class_label, count, self.class_names, conditioned=conditioned)
        told = Conditions(
            labels, *resolve_condition(condition, condition_mask, count, self.info.get("condition_shape"))
        )
        for kind, one in asked.items():
            if one is not None:
                tokens, mask = encode(self.encoder(kind), one, count)
                told = replace(told, **{kind: tokens, f"{kind}_mask": mask})
        null = labels is not None and bool((labels == NULL).any())
        missing = [kind for kind in self.condition_kinds if kind not in told.kinds or (kind == "class" and null)]
        if why := self.why_not_without(missing):
            if null:
                raise UserError(f'class_label: "{null_name(self.class_names)}", but {why} a row without its class; '
                                "choose a class")  # fmt: skip
            if isinstance(self.flow.cond_drop, dict):
                name = {"class": "class_label"}.get(missing[0], missing[0])
                raise UserError(f"{name}: missing; {why} a row without it")
        return told

    def why_not_without(self, missing: Sequence[str]) -> str:
        """Return why the model knows no rows without these conditions; "" if training had such rows."""
        cond_drop = self.flow.cond_drop
        if not missing or seen_without(missing, cond_drop, self.condition_kinds):
            return ""
        return (
            f"this model was trained with flow.cond_drop = {toml_value(cond_drop) if cond_drop else 0}, so it never saw"
        )

    @property
    def condition_kinds(self) -> tuple[str, ...]:
        """The kinds of conditions that the data has, by their names in a recipe."""
        told = (("class", self.class_names), ("condition", self.info.get("condition_shape")))
        return (*(kind for kind, there in told if there), *(self.info.get("encoded") or {}))

    def encoder(self, kind: str) -> Encoder:
        """Return the encoder of "image" or "text", loaded once. Raises UserError if it is not the one that the model knows."""
        from flowkit.encoders import open_encoder

        if kind not in self._encoders:
            known = (self.info.get("encoded") or {}).get(kind)
            if known is None:
                raise UserError(f"{kind}: this model was trained without {kind}s; it has "
                                f"{listing(self.condition_kinds) or 'no conditions'}")  # fmt: skip
            if not known.get("encoder") or not known.get("fingerprint"):
                raise UserError(f"{kind}: the data of this model does not say which encoder made its tokens")
            found = open_encoder(
                known["encoder"], kind, weights=self.encoder_weights.get(kind), device=str(self.device)
            )
            if found.fingerprint != known["fingerprint"]:
                raise UserError(
                    f"{kind}: the encoder {found.name} has other weights than the one that the model was trained with "
                    f"({found.fingerprint[:8]} and {known['fingerprint'][:8]}); give the same weights with --encoder-weights"
                )
            self._encoders[kind] = found
        return self._encoders[kind]

    def given_with(self, data: Dataset, rows: np.ndarray, what: str = "the rows") -> Conditions:
        """Return the rows' labels, matched by class name, and conditions, if the model and the data have them.

        Raises UserError for unknown classes. what: the rows' name in that message.
        """
        labels = None
        if self.class_names and data.class_label is not None:
            known = {name: number for number, name in enumerate(self.class_names)}
            names = [data.class_names[label] for label in data.class_label[rows]]
            if missing := sorted(set(names) - known.keys()):
                raise UserError(f"{what} have classes that the model does not know: {listing(missing)}; it knows "
                                f"{listing(self.class_names)}. Use another split or other data")  # fmt: skip
            labels = np.array([known[name] for name in names])
        tokens, mask = data.tokens(rows) if self.info.get("condition_shape") else (None, None)
        found = {"class_label": labels, "tokens": tokens, "mask": mask}
        kinds = tuple(self.info.get("encoded") or ())
        if missing := [f"{kind}s" for kind in kinds if kind not in data.encoded]:
            raise UserError(f"{what} have no {listing(missing)}, which the model was trained with; prepare them with "
                            f"{listing(f'--{kind}' for kind in missing)}")  # fmt: skip
        found |= data.encoded_of(kinds, rows)
        return Conditions.of_arrays(**found)

    def _labels(self, labels: Tensor | None) -> tuple[np.ndarray | None, tuple[str, ...]]:
        """Return the labels and class names of samples: none for only the null class, an extra class if mixed with others."""
        if labels is None or (labels == NULL).all():
            return None, ()
        kept, names = labels.numpy(), self.class_names
        if (kept == NULL).any():
            kept, names = np.where(kept == NULL, len(names), kept), (*names, null_name(names))
        return kept, names

    def _check_guide(self, settings: SampleSettings) -> None:
        """Raise UserError if samples cannot be guided by a function."""
        if not isinstance(self.objective.path, GaussianPath):
            raise UserError(
                f'guide: not supported on the path "{self.objective.path.tag()}"; only models of a Gaussian path (linear, '
                "cosine, vp) can be guided by a function"
            )
        if settings.solver.averages:
            raise UserError(
                f'guide: cannot be used with solver "{settings.solver.tag()}"; use an ODE solver such as "heun"'
            )

    def _check(self, settings: SampleSettings, *, conditioned: bool) -> None:
        """Raise UserError for settings that this model cannot sample with."""
        solver = settings.solver.tag()
        if why := self.flow.why_not(settings.solver):
            raise UserError(f'solver: {why}; use an ODE solver such as "midpoint"')
        if settings.solver.averages and settings.guidance.another:
            raise UserError(
                f'guidance: "{settings.guidance.tag()}" cannot be used with solver "{solver}"; use an ODE solver, such '
                'as "midpoint"'
            )
        if self.flow.objective.guidance_max > 1 and (why := self.flow.why_not_guided(settings)):
            raise UserError(f"guidance_scale: {why}")
        if settings.guidance_scale == 1.0 or settings.guidance.another:
            return
        kinds = [kind for kind in self.condition_kinds if kind != "class"]
        if not conditioned and kinds:
            options = listing(f"--{kind}" for kind in kinds)
            raise UserError(
                f"guidance_scale: {scale_words(settings.guidance_scale)} needs a condition, but none is given; give one "
                f"({options}), or disable guidance with a scale of 1 (-w 1)"
            )
        if isinstance(settings.guidance_scale, dict):
            if settings.guidance.tag() != "cfg" or settings.solver.averages:
                raise UserError("guidance_scale: a scale for each kind of condition needs plain guidance (cfg) of velocities; "
                                "give one number")  # fmt: skip
            for kind in settings.guidance_scale:
                if kind not in self.condition_kinds:
                    raise UserError(f"guidance_scale: {kind}: this model was trained without it; it has "
                                    f"{listing(self.condition_kinds) or 'no conditions'}")  # fmt: skip
        if not conditioned:
            raise UserError(
                "guidance_scale: this model has neither classes nor conditions to guide by; use a scale of 1, or autoguidance "
                "with a weaker model"
            )
        if why := self.why_not_without(self.condition_kinds):
            raise UserError(f"guidance_scale: {why} dropped conditions to guide away from; use a scale of 1")

    def compiled(self, settings: SampleSettings) -> Compiled:
        """Return the network in its compiled form, made once."""
        # An adaptive solver calls it with ever fewer rows, and would record a graph for each number.
        graphs = self.device.type == "cuda" and not settings.solver.adaptive
        found = self._compiled.get(graphs)
        if found is None or found.model is not self.model:
            found = self._compiled[graphs] = Compiled(self.model, graphs=graphs)
        return found

    def weak(self, settings: SampleSettings) -> SamplingModel | None:
        """Return the weaker model of autoguidance, loaded once, on this model's device; None for other guidance.

        Raises UserError unless both have the same shape, classes, conditions, path and normalizer.
        """
        if not isinstance(settings.guidance, Autoguidance):
            return None
        ckpt = settings.guidance.ckpt
        if (known := (ckpt, self.device)) not in self._weak:
            from flowkit.sampling.load import check_alike, load_beside

            weak = load_beside(ckpt, self.folders, self.device, "guidance.ckpt")
            check_alike(weak, self, "guidance.ckpt", "autoguidance needs a weaker model of the same data")
            self._weak[known] = weak
        return self._weak[known]
