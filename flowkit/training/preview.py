"""The samples that a run draws of itself: shown in the terminal, measured, and kept in the run directory."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from flowkit.data.dataset import Dataset, write_dataset
from flowkit.events import Sampled
from flowkit.flow.guidance import guided
from flowkit.flow.inversion import inversion_figures, reconstruct
from flowkit.models.calls import call_model
from flowkit.sample import BATCH_SIZES, draw_samples
from flowkit.training.batches import read_rows
from flowkit.training.session import Session


class Sampler:
    """Draws `sample.num_samples` on this rank, of the same noises every time. Made once a run: it may hold a decoder."""

    def __init__(self, session: Session):
        self.session = session
        recipe, data = session.recipe, session.data
        self.presenter = session.domain.presenter(data, decode=recipe.sample.decode, device=str(session.device))
        self.notice = self.presenter.notice
        self.labels, self.condition = _conditions(data, recipe.sample.num_samples)
        self.inverted = data.rows("validation")[: session.domain.inverted_rows]

    def __call__(self, step: int) -> Sampled:
        """Draw, measure, and write them to `samples/step-NNNNNNNN/`; the samples file comes last."""
        start = time.perf_counter()
        session, settings = self.session, self.session.recipe.sample
        model = session.sampling_model
        training = model.training
        model.eval()
        x, nfe = draw_samples(
            model, session.objective, session.normalizer, session.normalizer.shape(session.data.x.shape[1:]),
            settings.num_samples, class_label=None if self.labels is None else torch.from_numpy(self.labels),
            condition=None if self.condition is None else torch.from_numpy(self.condition),
            seed=session.recipe.run.seed, solver=settings.solver, steps=settings.steps,
            guidance_scale=settings.guidance_scale, batch_size=BATCH_SIZES.get(session.device.type, 256),
        )  # fmt: skip
        figures = self._inversion(model)
        model.train(training)
        out = session.run_dir / "samples" / f"step-{step:08d}"
        samples = self._dataset(x, step, nfe)
        shown = self.presenter(samples, out, shown=range(len(x)))
        samples.texts = shown.texts
        write_dataset(out / "samples.safetensors", samples)
        return Sampled(
            step, shown.previews, out, nfe, time.perf_counter() - start, _image(shown.files), shown.caption,
            {**figures, **shown.figures},
        )  # fmt: skip

    def _dataset(self, x: np.ndarray, step: int, nfe: int) -> Dataset:
        session, settings, data = self.session, self.session.recipe.sample, self.session.data
        info = {"source": "samples", "step": step, "seed": session.recipe.run.seed, "nfe": nfe, "solver": settings.solver,
                "steps": settings.steps, "guidance_scale": settings.guidance_scale,
                **session.domain.inherited(data)}  # fmt: skip
        names = data.class_names if self.labels is not None else ()
        return Dataset(data.kind, x, self.labels, self.condition, None, names, info)

    @torch.no_grad()
    def _inversion(self, model: torch.nn.Module) -> dict[str, float]:
        """Validation rows carried back to noise and forth again, with their own conditions and no guidance."""
        session, settings = self.session, self.session.recipe.sample
        if not len(self.inverted):
            return {}
        rows = read_rows(session.data, self.inverted, session.normalizer, session.device)
        velocity = guided(partial(call_model, model), session.objective, rows.class_label, rows.condition, 1.0)
        x0, back = reconstruct(velocity, rows.x, solver=settings.solver, steps=settings.steps)
        found = inversion_figures(x0, rows.x, back)
        return {"reconstruction_mse": found.mse, "inverted_variance": found.variance,
                "inverted_dimensions": found.effective_dimensions}  # fmt: skip


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


def _image(paths: tuple[Path, ...]) -> Path | None:
    return next((path for path in paths if path.suffix == ".png"), None)
