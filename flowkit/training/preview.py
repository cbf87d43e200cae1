"""Samples drawn while training: shown in the terminal, measured, and kept in the run directory."""

from __future__ import annotations

import time

import numpy as np

from flowkit.conditions import Conditions
from flowkit.data.dataset import Dataset, write_dataset
from flowkit.errors import UserError
from flowkit.events import Notice, Sampled
from flowkit.sampling.draw import BATCH_SIZES, invert
from flowkit.sampling.model import SamplingModel
from flowkit.training.batches import conditions_of
from flowkit.training.session import Session


class Sampler:
    """Draws `sample.num_samples` samples from the same noise every time. Made once per run, since it may hold a decoder.

    Runs on the main rank. With a sharded model all ranks draw the same samples, and the main rank measures and writes them.
    """

    def __init__(self, session: Session, *, present: bool = True):
        """present: False for samples that are only drawn, so that no decoder is loaded."""
        self.session = session
        recipe, data = session.recipe, session.data
        self.presenter = None
        if session.is_main and present:
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
        # Processes would wait for each other while one compiles, or could differ in whether it fails.
        self.settings = self.model.settings(compile=False if session.sharded else None)
        self.model.weak(self.settings)  # fail early if it is missing
        self.inverted = data.rows("validation")[: session.domain.inverted_rows]

    def __call__(self, step: int) -> Sampled | Notice | None:
        """Draw and measure samples, and write them to `samples/step-NNNNNNNN/`. Return None on other ranks.

        A failure (an adaptive solver on a field that is not smooth yet, a full disk) returns a Notice and does not end training.
        """
        training = self.model.model.training
        try:
            return self._sampled(step)
        except (UserError, OSError) as error:
            return Notice(f"no samples at step {step}: {error}")
        finally:
            self.model.model.train(training)

    def _sampled(self, step: int) -> Sampled | None:
        """Draw and write the samples. The samples file is written last."""
        start = time.perf_counter()
        session = self.session
        self.model.model.eval()
        self.model.info["step"] = step
        samples, figures = self.draw()
        if self.presenter is None:
            return None
        out = session.run_dir / "samples" / f"step-{step:08d}"
        shown = self.presenter(samples, out, shown=range(len(samples)))
        samples.texts = shown.texts
        picture = next((path for path in shown.files if path.suffix == ".png"), None)
        write_dataset(out / "samples.safetensors", samples)
        return Sampled(
            step, shown.previews, out, samples.info["nfe"], time.perf_counter() - start, picture, shown.caption,
            {**figures, **shown.figures}, count=len(samples),
        )  # fmt: skip

    def draw(self) -> tuple[Dataset, dict[str, float]]:
        """Draw the samples, and measure the inversion of validation rows."""
        recipe, count = self.session.recipe, self.session.recipe.sample.num_samples
        # All ranks must use the same batches of a sharded model, also if memory runs out on one.
        size = min(count, BATCH_SIZES.get(self.session.device.type, 256)) if self.session.sharded else None
        samples = self.model.sample(
            count, conditions=self.given, seed=recipe.run.seed, settings=self.settings, batch_size=size
        )
        return samples, self._inversion()

    def _inversion(self) -> dict[str, float]:
        """Invert validation rows to noise and reconstruct them, with their own conditions and no guidance."""
        if not len(self.inverted):
            return {}
        found, _ = invert(self.model, self.session.data, self.inverted, self.settings)
        return {"reconstruction_mse": found.mse, "inverted_variance": found.variance,
                "inverted_dimensions": found.effective_dimensions}  # fmt: skip


def _conditions(data: Dataset, count: int) -> Conditions:
    """Return labels (each class in turn) and conditions (of held-out rows, if there are any) for the samples.

    If rows have several kinds, all come from the same rows.
    """
    if data.condition_kinds == ("class",):
        labels = np.arange(count, dtype=np.int64) * max(1, len(data.class_names) // count) % len(data.class_names)
        return Conditions.of_arrays(class_label=labels)
    rows = data.rows("validation") if len(data.rows("validation")) else data.rows("train")
    rows = np.sort(np.resize(rows, count))
    return conditions_of(data, rows)
