"""Samples that start from something: a drawing to complete, a row to vary, two rows to interpolate between."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flowkit.data.dataset import Dataset, data_files, read_dataset
from flowkit.domain import Example, Given
from flowkit.errors import UserError
from flowkit.flow.given import RESAMPLE
from flowkit.flow.solvers import integrate
from flowkit.sampling.draw import Completion, Start, slerp, velocity_of

if TYPE_CHECKING:
    from flowkit.recipe.sample import SampleSettings
    from flowkit.sampling.model import SamplingModel

ASKED = ("class_label", "condition", "condition_mask", "image", "text")  # what a model may be asked for
Source = str | Path | np.ndarray  # a file, "DATA.safetensors#ROW", a sentence, or a row in the domain's units


def complete(
    model: SamplingModel, begun: Source, num_samples: int = 8, *, tokens: np.ndarray | None = None, **how: Any
) -> Dataset:
    """Complete a begun drawing `num_samples` times. Its strokes come back exactly as they are, in the same order.

    begun: an SVG file, or "DATA.safetensors#12" for row 12 of a data set, or a row (S, ...). tokens: (S,) bool, which tokens of
    the row are given; by default all that exist. how: as in `sample`; class_label is "null" by default if the model knows rows
    without a label. Raises UserError for a drawing that is empty, outside its canvas, or too long for this model.
    """
    _check_parts(model)
    example = _example(model, begun, part=True)
    tokens = example.tokens if tokens is None else np.asarray(tokens, bool)
    if tokens is None or not tokens.any():
        raise UserError(f"{_named(begun)}: nothing is given; expected at least one stroke to begin with")
    made = model.sample(num_samples, given=Given(example.row, tokens), **_labeled(model, how))
    made.info.update(example.info)
    return made


def vary(model: SamplingModel, source: Source, num_samples: int = 8, *, strength: float = 0.5, **how: Any) -> Dataset:
    """Draw variations of a row: noise moves it to time t = 1 - strength, and the flow leads back.

    source: a file or sentence, "DATA.safetensors#12", or a row. strength: 0 keeps it, 1 forgets it. how: as in `sample`; see
    `complete` for class_label. Raises UserError for a strength outside [0, 1], and for models of average velocities.
    """
    if not 0 <= strength <= 1:
        raise UserError(f"strength: {strength}; expected a number from 0 (the same) to 1 (unrelated)")
    example = _example(model, source)
    rows = np.broadcast_to(example.row, (num_samples, *model.shape))
    made = model.sample(num_samples, start=Start(rows=rows, strength=strength), **_labeled(model, how))
    made.info.update(example.info)
    return made


def between(model: SamplingModel, a: Source, b: Source, frames: int = 9, **how: Any) -> Dataset:
    """Interpolate from a to b in `frames` rows: both are carried back to noise, and the flow starts from points between these.

    Noises are interpolated on a sphere. Guidance is off unless asked for, so that the first and last row are a and b, up to the
    solver's error. how: as in `sample`; see `complete` for class_label. Raises UserError for fewer than 2 frames.
    """
    if frames < 2:
        raise UserError(f"frames: {frames}; expected at least 2, the two ends")
    ends = [_example(model, source) for source in (a, b)]
    how = {"guidance_scale": 1.0, **_labeled(model, how)}
    changes = {name: value for name, value in how.items() if name in type(model.sampling).model_fields}
    settings = model.settings(how.get("settings"), **changes)
    told = {name: how.get(name) for name in ASKED}
    noises = torch.from_numpy(invert(model, np.stack([end.row for end in ends]), settings, **told))
    ways = slerp(noises[0].double(), noises[1].double(), torch.linspace(0, 1, frames, dtype=torch.float64))
    made = model.sample(frames, start=Start(noise=ways.float().numpy()), **how)
    made.info.update({**ends[0].info, "between": [_named(a), _named(b)]})
    return made


def invert(
    model: SamplingModel, rows: np.ndarray, settings: SampleSettings | None = None, **conditions: Any
) -> np.ndarray:
    """Return the noise (N, *latent_shape) float32 that rows (N, ...), in the domain's units, come from; without guidance.

    conditions: class_label, condition, condition_mask, image and text, as in `sample`. Raises UserError for models of average
    velocities.
    """
    if model.flow.objective.averages:
        raise UserError("this model learned average velocities, which do not lead back to noise")
    asked: dict[str, Any] = {"class_label": None, "condition": None, **conditions}
    told = model.conditions(len(rows), **asked)
    with torch.inference_mode():
        x1 = model.normalizer.normalize(torch.from_numpy(np.array(rows, np.float32)).to(model.device))
        how = model.settings(settings).of_ode
        return integrate(velocity_of(model, told), x1, t0=1.0, t1=0.0, **how).x.float().cpu().numpy()


def completion(
    model: SamplingModel, given: Given, count: int, settings: SampleSettings, resample: int | None
) -> Completion:
    """Return how to complete `count` rows. Raises UserError if the model cannot, or for rows that do not fit."""
    _check_parts(model)
    shape = model.shape
    rows, tokens = np.asarray(given.rows, np.float32), np.asarray(given.tokens, bool)
    if rows.shape not in (shape, (count, *shape)) or tokens.shape not in (shape[:1], (count, *shape[:1])):
        raise UserError(f"given: rows have shape {rows.shape} and tokens {tokens.shape}; expected {shape} and {shape[:1]}, "
                        f"or {(count, *shape)} and {(count, *shape[:1])}")  # fmt: skip
    rows, tokens = np.broadcast_to(rows, (count, *shape)), np.broadcast_to(tokens, (count, *shape[:1]))
    if model.flow.completes and resample is None:
        return Completion(rows, tokens, None)
    untrained = "completion by a model that was not trained for it (flow.given) requires"
    if why := model.flow.why_no_score():
        raise UserError(f"given: {untrained} a Gaussian path from independent noise, but {why}")
    if settings.solver.averages or settings.solver.adaptive:
        raise UserError(f'given: {untrained} a solver with fixed steps, not "{settings.solver.tag()}"; use "midpoint"')
    if resample is not None and resample < 1:
        raise UserError(f"resample: {resample}; expected at least 1")
    return Completion(rows, tokens, RESAMPLE if resample is None else resample)


def _check_parts(model: SamplingModel) -> None:
    if not model.domain.has_parts:
        raise UserError(f"complete: {model.domain.noun} cannot be completed, because their rows have no parts")


def _example(model: SamplingModel, source: Source, *, part: bool = False) -> Example:
    """Return the row that `source` names. part: it may be the beginning of a row."""
    if isinstance(source, np.ndarray):
        return Example(_fitting(model, source, "the row"), _existing(model, source))
    text = str(source)
    path, _, number = text.rpartition("#")
    if path and number.isdecimal() and data_files(path)[0].is_file():
        data = read_dataset(path)
        if data.kind != model.info["kind"] or int(number) >= len(data):
            raise UserError(f"{text}: {path} has {len(data):,} rows of {data.kind!r}; expected row {number} of "
                            f"{model.info['kind']!r} (rows count from 0)")  # fmt: skip
        row = np.array(data.x[int(number)])
        return Example(_fitting(model, row, text), _existing(model, row))
    return model.domain.example(text, model.shape, model.info.get("inherited") or {}, part=part)


def _fitting(model: SamplingModel, row: np.ndarray, name: str) -> np.ndarray:
    if row.shape != model.shape:
        raise UserError(f"{name}: has shape {row.shape}; this model makes rows of shape {model.shape}")
    return np.asarray(row, np.float32)


def _existing(model: SamplingModel, row: np.ndarray) -> np.ndarray | None:
    if not model.domain.has_parts:
        return None
    return (model.domain.parts(torch.from_numpy(np.array(row, np.float32))[None])[0] >= 0).numpy()


def _labeled(model: SamplingModel, how: dict[str, Any]) -> dict[str, Any]:
    """Without a label, use the null class if the model knows rows without a label."""
    if any(how.get(name) is not None for name in ASKED) or not model.class_names or model.why_not_without(["class"]):
        return how
    return {**how, "class_label": "null"}


def _named(source: Source) -> str:
    return "the row" if isinstance(source, np.ndarray) else str(source)
