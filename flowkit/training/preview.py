"""The samples that a run draws of itself: drawn for the terminal, and kept in the run directory."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from flowkit.data.dataset import Dataset, write_dataset
from flowkit.events import Sampled
from flowkit.sample import BATCH_SIZES, draw_samples
from flowkit.training.session import Session


def draw_preview(session: Session, step: int) -> Sampled:
    """Draw `sample.num_samples` on this rank and write them to `samples/step-NNNNNNNN/`. The same noises every time."""
    start = time.perf_counter()
    settings, data = session.recipe.sample, session.data
    count = settings.num_samples
    labels, condition = _conditions(data, count)
    model = session.sampling_model
    training = model.training
    model.eval()
    x, nfe = draw_samples(
        model, session.objective, session.normalizer, tuple(data.x.shape[1:]), count,
        class_label=None if labels is None else torch.from_numpy(labels),
        condition=None if condition is None else torch.from_numpy(condition), seed=session.recipe.run.seed,
        solver=settings.solver, steps=settings.steps, guidance_scale=settings.guidance_scale,
        batch_size=BATCH_SIZES.get(session.device.type, 256),
    )  # fmt: skip
    model.train(training)
    out = session.run_dir / "samples" / f"step-{step:08d}"
    info = {"source": "samples", "step": step, "seed": session.recipe.run.seed, "nfe": nfe, "solver": settings.solver,
            "steps": settings.steps, "guidance_scale": settings.guidance_scale}  # fmt: skip
    names = data.class_names if labels is not None else ()
    samples = Dataset(data.kind, x, labels, condition, None, names, info)
    write_dataset(out / "samples.safetensors", samples)
    written = session.domain.write(x, samples.titles(), out)
    previews = tuple(session.domain.preview(x, samples.titles()))
    return Sampled(step, previews, out, nfe, time.perf_counter() - start, _image(written))


def _conditions(data: Dataset, count: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Labels (the classes take turns) and conditions (of held-out rows, where there are any) to draw the samples by.

    Where rows have both, both are those of the same rows, for a class does not go with any picture.
    """
    if data.condition is None:
        if data.class_label is None:
            return None, None
        return np.arange(count, dtype=np.int64) * max(1, len(data.class_names) // count) % len(data.class_names), None
    rows = data.rows("validation") if len(data.rows("validation")) else data.rows("train")
    rows = np.sort(np.resize(rows, count))
    labels = None if data.class_label is None else np.ascontiguousarray(data.class_label[rows])
    return labels, np.ascontiguousarray(data.condition[rows])


def _image(paths: list[Path]) -> Path | None:
    return next((path for path in paths if path.suffix == ".png"), None)
