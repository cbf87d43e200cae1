"""The samples that a run draws of itself: shown in the terminal, measured, and kept in the run directory."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from flowkit.conditions import Conditions
from flowkit.data.dataset import Dataset, write_dataset
from flowkit.errors import UserError
from flowkit.events import Notice, Sampled
from flowkit.sampling.draw import carry_back
from flowkit.sampling.model import SamplingModel
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
        self.given = _conditions(data, recipe.sample.num_samples)
        self.model = SamplingModel(
            session.sampling_model,
            session.sidecar(0, None),
            session.flow,
            recipe.sample,
            session.normalizer,
            session.folders,
            session.base,
        )
        self.settings = self.model.settings()
        self.model.weak(self.settings)  # which may not be at hand
        self.inverted = data.rows("validation")[: session.domain.inverted_rows]

    def __call__(self, step: int) -> Sampled | Notice | None:
        """Draw, measure, and write them to `samples/step-NNNNNNNN/`; a Notice where that cannot be done. None on other ranks.

        An adaptive solver gives up on a field that is not yet smooth, a disk is full: training should not end for that.
        """
        training = self.model.model.training
        try:
            return self._sampled(step)
        except (UserError, OSError) as error:
            return Notice(f"no samples at step {step}: {error}")
        finally:
            self.model.model.train(training)

    def _sampled(self, step: int) -> Sampled | None:
        """The samples file comes last."""
        start = time.perf_counter()
        session = self.session
        self.model.model.eval()
        self.model.info["step"] = step
        samples = self.model.sample(
            session.recipe.sample.num_samples, **self.given.arguments(),
            seed=session.recipe.run.seed, settings=self.settings,
        )  # fmt: skip
        figures = self._inversion()
        if self.presenter is None:
            return None
        out = session.run_dir / "samples" / f"step-{step:08d}"
        shown = self.presenter(samples, out, shown=range(len(samples)))
        samples.texts = shown.texts
        write_dataset(out / "samples.safetensors", samples)
        return Sampled(
            step, shown.previews, out, samples.info["nfe"], time.perf_counter() - start, _image(shown.files), shown.caption,
            {**figures, **shown.figures}, count=len(samples),
        )  # fmt: skip

    def _inversion(self) -> dict[str, float]:
        """Validation rows carried back to noise and forth again, with their own conditions and no guidance."""
        if not len(self.inverted):
            return {}
        found, _ = carry_back(self.model, self.session.data, self.inverted, self.settings)
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
