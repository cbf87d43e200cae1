"""Measure whether a model's samples show what images and texts ask for, by guidance scale: see `flowkit.sketch.likeness`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flowkit.conditions import Conditions, scale_words
from flowkit.data.dataset import Dataset
from flowkit.domain import Tell
from flowkit.errors import UserError
from flowkit.metrics.distances import euclidean
from flowkit.metrics.neighbors import prdc
from flowkit.rng import key
from flowkit.sketch.features import blurred_grid
from flowkit.sketch.likeness import Likeness, likeness
from flowkit.sketch.raster import asked_sheet, picture
from flowkit.sketch.rendering import clean

if TYPE_CHECKING:
    from flowkit.recipe.sample import SampleSettings
    from flowkit.sampling.model import SamplingModel

ROWS = 200  # held-out drawings of each group that are asked for
MOST_TRAINING = 20_000  # training rows among which the one with the nearest condition is looked for
PICTURED = 8  # drawings of each group in the picture
BESIDE = 4  # samples beside each of them
OFFLINE = "efficientnet-lite0"  # encoder that ranks too, if the model has none for images


@dataclass(frozen=True)
class Shown:
    """Likeness and precision of samples by what they were drawn from ("image", "text", "image and text") and scale."""

    found: dict[str, dict[str, Likeness]]  # by scale, the evaluation's own first
    precision: dict[str, dict[str, float]]  # of the samples, by ink: the fraction within a ball of a held-out drawing
    rows: dict[str, int]  # asked for, by group
    beside: str  # what else ranked: the encoder, and whether it conditioned
    pictures: dict[str, tuple[np.ndarray, np.ndarray]]  # true drawings (n, S, .), and samples (BESIDE n, S, .)

    @property
    def facts(self) -> dict[str, str]:
        """One fact for each kind, in words."""
        said = {}
        for kind, scales in self.found.items():
            first, *others = scales.items()
            lines = [first[1].words, *([self.beside] if self.beside else [])]
            lines += [self._line(kind, scale, one) for scale, one in scales.items()] if others else []
            said[f"shows its {kind}"] = "\n".join(lines)
        return said

    def _line(self, kind: str, scale: str, one: Likeness) -> str:
        parts = []
        for name, group in one.groups.items():
            if name == "all" and len(one.groups) > 1:
                continue
            ink, apart = group.retrieval["ink"]["samples"], group.distances["samples"]
            parts.append(f"{name} first {100 * ink['top1'].value:.0f}%, five {100 * ink['top5'].value:.0f}%, Chamfer "
                         f"{apart['chamfer'].value:.3f}")  # fmt: skip
        return f"guidance {scale}: {'; '.join(parts)}; precision {100 * self.precision[kind][scale]:.0f}%"

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "by": {
            kind: {scale: {**one.to_json(), "precision": self.precision[kind][scale]} for scale, one in scales.items()}
            for kind, scales in self.found.items()
        }}  # fmt: skip

    def write(self, folder: Path) -> list[Path]:
        """Write `shows-image.png`: true drawings, each beside samples that were asked to show it. Returns the paths."""
        from PIL import Image

        paths = []
        for kind, (truth, samples) in self.pictures.items():
            paths.append(folder / f"shows-{kind.replace(' ', '-')}.png")
            asked_sheet(
                samples, [Image.fromarray(picture(one, 176, np.ones(len(one), bool))) for one in truth], paths[-1]
            )
        return paths


def measure_shown(
    model: SamplingModel, data: Dataset, *, scales: Sequence[float] = (), settings: SampleSettings, seed: int = 0,
    batch_size: int | None = None, device: str = "auto", tell: Tell | None = None,
) -> Shown:  # fmt: skip
    """Ask for held-out drawings by their images and texts, each kind alone and together, without their class.

    "seen" drawings have a class with training rows, "unseen" ones have not. Of each, ROWS are spread over the held-out rows; the
    candidates come from all of these. scales: guidance scales besides that of `settings`. Raises UserError if no rows are held
    out.
    """
    tell = tell or (lambda *_: None)
    train = data.rows("train")
    pool_rows, groups = _held_out(data, train)
    truth, kinds = np.asarray(data.x[pool_rows]), tuple(model.info["encoded"])
    several = {kind: (kind,) for kind in kinds} | ({" and ".join(kinds): kinds} if len(kinds) > 1 else {})
    labels = None if data.class_label is None else (data.class_label[pool_rows], data.class_label[train])
    ranker, beside = _ranker(model, device)
    places, real = np.arange(len(pool_rows)), np.asarray(data.x[train])
    theirs = None if ranker is None else _features(ranker, truth, "encoding the held-out drawings", tell)
    grid = blurred_grid(truth)
    apart = euclidean(grid, grid)
    found, precision, pictures = {}, {}, {}
    for name, asked in several.items():
        told = Conditions.of_arrays(**data.encoded_of(asked, pool_rows))
        nearest = _nearest(data, pool_rows, train, asked)
        found[name], precision[name] = {}, {}
        for scale in dict.fromkeys(
            (settings.guidance_scale if not isinstance(settings.guidance_scale, dict) else None, *scales)
        ):
            used = settings if scale is None else model.settings(settings, guidance_scale=scale)
            words = scale_words(used.guidance_scale)
            made = model.sample(
                len(pool_rows), conditions=told, seed=seed, settings=used, batch_size=batch_size,
                progress=lambda done, total, at=f"{name} at w {words}": tell(f"sketching by {at}", done, total),
            ).x  # fmt: skip
            features = None
            if ranker is not None and theirs is not None:
                features = {"encoder": (_features(ranker, made, "encoding the samples", tell), theirs)}
            found[name][words] = likeness(made, truth, places, real, nearest=nearest, labels=labels, groups=groups,
                                          features=features, seed=seed, tell=tell)  # fmt: skip
            ours = blurred_grid(made)
            precision[name][words] = prdc(apart, euclidean(grid, ours), euclidean(ours, ours))[0]
        few = np.concatenate([np.flatnonzero(some)[:PICTURED] for some in groups.values()])
        more = model.sample(BESIDE * len(few), conditions=told.take(torch.from_numpy(np.repeat(few, BESIDE))), seed=seed + 1,
                            settings=settings, batch_size=batch_size)  # fmt: skip
        pictures[name] = truth[few], more.x
    return Shown(found, precision, {name: int(some.sum()) for name, some in groups.items()}, beside, pictures)


def _held_out(data: Dataset, train: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the held-out rows to ask for, and which of them are of seen and of unseen classes. Raises UserError."""
    held = np.concatenate([data.rows("validation"), data.rows("test")])
    if len(held) < 2:
        raise UserError("evaluate: no rows are held out, so there is nothing to ask for; prepare the data with --hold-out, or "
                        "set data.val_fraction")  # fmt: skip
    known = np.ones(len(held), bool)
    if data.class_label is not None:
        known = np.isin(data.class_label[held], np.unique(data.class_label[train]))
    picked = [_spread(held[some]) for some in (known, ~known)]
    rows = np.concatenate(picked)
    seen = np.arange(len(rows)) < len(picked[0])
    return rows, {name: some for name, some in {"seen": seen, "unseen": ~seen}.items() if some.any()}


def _spread(rows: np.ndarray) -> np.ndarray:
    count = min(ROWS, len(rows))
    return rows[np.arange(count) * len(rows) // max(count, 1)]


def _nearest(data: Dataset, rows: np.ndarray, train: np.ndarray, kinds: Sequence[str]) -> np.ndarray:
    """Return the place in `train` of the row whose conditions are nearest, by the mean cosine over the kinds: (M,).

    The tokens of images are compared place by place, those of texts by their mean.
    """
    if len(train) > MOST_TRAINING:
        few = np.random.Generator(np.random.Philox(key(0, "nearest"))).choice(len(train), MOST_TRAINING, replace=False)
    else:
        few = np.arange(len(train))

    def vectors(some: np.ndarray) -> list[np.ndarray]:
        found = []
        for kind in kinds:
            tokens, mask = data.encoded[kind].of(some)
            tokens = tokens.astype(np.float32)
            if kind == "text":
                there = np.ones(tokens.shape[:2], bool) if mask is None else mask
                tokens = (tokens * there[..., None]).sum(1) / np.maximum(there.sum(1, keepdims=True), 1)
            flat = tokens.reshape(len(tokens), -1)
            found.append(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12))
        return found

    ours, best, place = vectors(rows), np.full(len(rows), -np.inf), np.zeros(len(rows), np.int64)
    for first in range(0, len(few), 512):
        part = few[first : first + 512]
        like = sum(a @ b.T for a, b in zip(ours, vectors(train[part]), strict=True))
        closest = np.asarray(like).argmax(axis=1)
        value = np.asarray(like)[np.arange(len(rows)), closest]
        better = value > best
        best[better], place[better] = value[better], part[closest[better]]
    return place


def _ranker(model: SamplingModel, device: str) -> tuple[Any, str]:
    """Return the image encoder that ranks besides ink, and what to say of it; (None, "") if there is none here."""
    from flowkit.encoders import open_encoder

    try:
        if "image" in model.info["encoded"]:
            encoder = model.encoder("image")
            return encoder, f"the encoder that ranks is {encoder.name}, which also conditioned the model"
        encoder = open_encoder(OFFLINE, "image", device=device)
        return encoder, f"the encoder that ranks is {encoder.name}, which the model does not know"
    except UserError:
        return None, ""


def _features(encoder: Any, x: np.ndarray, what: str, tell: Tell) -> np.ndarray:
    """Return the encoder's features of clean pictures of sketches x (N, S, .): (N, P C)."""
    found = []
    for first in range(0, len(x), 32):
        tell(what, first, len(x))
        tokens, _ = encoder.encode([clean(one).convert("RGB") for one in x[first : first + 32]])
        found.append(tokens.reshape(len(tokens), -1).astype(np.float32))
    return np.concatenate(found)
