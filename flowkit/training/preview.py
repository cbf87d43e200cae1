"""The samples that a run draws of itself: shown in the terminal, measured, and kept in the run directory."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from flowkit.conditions import Conditions
from flowkit.data.dataset import Dataset, write_dataset
from flowkit.errors import UserError
from flowkit.events import Notice, Sampled
from flowkit.flow.guidance import guided
from flowkit.flow.inversion import inversion_figures, reconstruct
from flowkit.sampling.draw import BATCH_SIZES, Drawn, as_network, draw_samples
from flowkit.sampling.model import open_weak
from flowkit.sampling.settings import SampleSettings
from flowkit.training.batches import read_rows
from flowkit.training.session import Session


class Sampler:
    """Draws `sample.num_samples` of the same noises every time. Made once a run: it may hold a decoder.

    On the main rank; where the model is sharded on every rank, all drawing the same, and the main one measures and writes.
    """

    def __init__(self, session: Session):
        self.session = session
        recipe, data = session.recipe, session.data
        self.presenter = None
        if session.is_main:
            self.presenter = session.domain.presenter(data, decode=recipe.sample.decode, device=str(session.device))
        self.notice = "" if self.presenter is None else self.presenter.notice
        self.conditions = _conditions(data, recipe.sample.num_samples)
        self.settings = SampleSettings.of(recipe.to_dict()["sample"])
        self.weak = open_weak(
            self.settings,
            session.sidecar(0, None),
            session.normalizer,
            session.device,
            session.folders,
        )
        self.inverted = data.rows("validation")[: session.domain.inverted_rows]

    def __call__(self, step: int) -> Sampled | Notice | None:
        """Draw, measure, and write them to `samples/step-NNNNNNNN/`; a Notice where that cannot be done. None on other ranks.

        An adaptive solver gives up on a field that is not yet smooth, a disk is full: training should not end for that.
        """
        training = self.session.sampling_model.training
        try:
            return self._sampled(step)
        except (UserError, OSError) as error:
            return Notice(f"no samples at step {step}: {error}")
        finally:
            self.session.sampling_model.train(training)

    def _sampled(self, step: int) -> Sampled | None:
        """The samples file comes last."""
        start = time.perf_counter()
        session = self.session
        model = session.sampling_model.eval()
        drawn = draw_samples(
            model, session.objective, session.normalizer, session.normalizer.shape(session.data.x.shape[1:]),
            session.recipe.sample.num_samples, self.settings,
            conditions=self.conditions,
            seed=session.recipe.run.seed, base=session.base, weak=self.weak, batch_size=BATCH_SIZES.get(session.device.type, 256),
        )  # fmt: skip
        figures = self._inversion(model)
        if self.presenter is None:
            return None
        out = session.run_dir / "samples" / f"step-{step:08d}"
        samples = self._dataset(drawn, step)
        shown = self.presenter(samples, out, shown=range(len(drawn.x)))
        samples.texts = shown.texts
        write_dataset(out / "samples.safetensors", samples)
        return Sampled(
            step, shown.previews, out, drawn.nfe, time.perf_counter() - start, _image(shown.files), shown.caption,
            {**figures, **shown.figures}, count=len(drawn.x),
        )  # fmt: skip

    def _dataset(self, drawn: Drawn, step: int) -> Dataset:
        session, data = self.session, self.session.data
        info = {"source": "samples", "step": step, "seed": session.recipe.run.seed, **self.settings.to_info(),
                **drawn.cost(), **session.domain.inherited(data)}  # fmt: skip
        label, tokens, mask = self.conditions.arrays()
        names = () if label is None else data.class_names
        return Dataset(data.kind, drawn.x, label, tokens, None, names, info, condition_mask=mask)

    @torch.no_grad()
    def _inversion(self, model: torch.nn.Module) -> dict[str, float]:
        """Validation rows carried back to noise and forth again, with their own conditions and no guidance."""
        session = self.session
        if not len(self.inverted):
            return {}
        rows = read_rows(session.data, self.inverted, session.normalizer, session.device)
        velocity = guided(as_network(model), session.objective, rows.conditions)
        x0, back = reconstruct(velocity, rows.x, **self.settings.of_ode)
        found = inversion_figures(x0, rows.x, back, session.base.variance)
        return {"reconstruction_mse": found.mse, "inverted_variance": found.variance,
                "inverted_dimensions": found.effective_dimensions}  # fmt: skip


def _conditions(data: Dataset, count: int) -> Conditions:
    """Labels (the classes take turns) and conditions (of held-out rows, where there are any) to draw the samples by.

    Where rows have both, both are those of the same rows, for a class does not go with any picture.
    """
    if data.condition is None:
        if data.class_label is None:
            return Conditions()
        labels = np.arange(count, dtype=np.int64) * max(1, len(data.class_names) // count) % len(data.class_names)
        return Conditions.of_arrays(labels)
    rows = data.rows("validation") if len(data.rows("validation")) else data.rows("train")
    rows = np.sort(np.resize(rows, count))
    labels = None if data.class_label is None else np.ascontiguousarray(data.class_label[rows])
    return Conditions.of_arrays(labels, *data.tokens(rows))


def _image(paths: tuple[Path, ...]) -> Path | None:
    return next((path for path in paths if path.suffix == ".png"), None)
