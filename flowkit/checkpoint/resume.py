"""Start a run from its own checkpoint, or from another run's weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flowkit.checkpoint import (
    MODEL,
    OPTIMIZER,
    CheckpointFiles,
    read_model_json,
    read_normalizer,
    read_weights,
)
from flowkit.checkpoint.saving import load_optimizer
from flowkit.checkpoint.state import read_resume_state
from flowkit.data.dataset import Dataset
from flowkit.data.normalizers import Normalizer
from flowkit.distributed.sharding import load_full_tensors
from flowkit.errors import UserError
from flowkit.rng import NUMERICS

if TYPE_CHECKING:
    from flowkit.recipe import Recipe
    from flowkit.training.session import Session

# What a resumed run may change: its length, logging and sampling, and what does not affect the numbers.
FREE_SECTIONS = ("run.name", "run.dir", "run.device", "sample.", "track.", "ema.snapshot_")
FREE_KEYS = (
    "steps",
    "epochs",
    "micro_batch_size",
    "compile",
    "capture",
    "log_every",
    "val_every",
    "val_rows",
    "val_batch_size",
    "save_every",
    "keep_last",
    "keep_every",
    "max_skipped",
    "max_hours",
    "timeout_hours",
)


SAME_IN_TRAINING, SAME_IN_BF16 = 2, 3  # the earliest versions of the numerics that train the same numbers


def check_numerics(run_dir: Path, files: CheckpointFiles) -> None:
    """Raise UserError for a run that began with another version of the numerics, if it cannot be continued exactly."""
    info = read_model_json(files.sidecar)
    began, precision = info.get("numerics", 1), ((info.get("recipe") or {}).get("train") or {}).get("precision")
    same = SAME_IN_BF16 if precision == "bf16" else SAME_IN_TRAINING
    if not same <= began <= NUMERICS:
        raise UserError(
            f"{run_dir}: this run was started by another version of flowkit, with different random draws and averages, so it "
            f"cannot be resumed exactly. Start a new run from its weights (--init-from {run_dir} --set run.name=NEW), or "
            "resume anyway with --allow-changes"
        )


def recipe_changes(recipe: Recipe, files: CheckpointFiles) -> list[str]:
    """Return `optim.lr: 0.0001 -> 0.0003` for every change to the checkpoint's recipe that would change the numbers."""
    from flowkit.recipe import diff, recipe_from_dict

    earlier = read_model_json(files.sidecar).get("recipe")
    if not isinstance(earlier, dict):
        return []
    free = (*FREE_SECTIONS, *(f"train.{key}:" for key in FREE_KEYS))
    return [line for line in diff(recipe_from_dict(earlier), recipe) if not line.startswith(free)]


def checkpoint_normalizer(files: CheckpointFiles, data: Dataset) -> Normalizer:
    """Return the checkpoint's normalizer, the only one its weights work with. Raises UserError if the data does not fit."""
    info = read_model_json(files.sidecar)
    if list(info["shape"]) != list(data.x.shape[1:]):
        raise UserError(
            f"{files.directory}: was trained on rows of shape {info['shape']}, but the data has rows of shape {data.x.shape[1:]}"
        )
    return read_normalizer(files, info)


def restore(session: Session, files: CheckpointFiles, *, resume: bool) -> None:
    """Restore a run (weights, EMA, moments, step), or with resume=False only the weights (the EMA's if there is one)."""
    if not resume:
        load_full_tensors(session.model, read_weights(session.model, files.weights("ema")))
        if session.ema is not None:
            session.ema.start_from(session.model)
        return
    state = read_resume_state(files.directory)
    load_full_tensors(session.model, read_weights(session.model, files.directory / MODEL))
    load_optimizer(session.model, session.optimizer, files.directory / OPTIMIZER)
    if session.ema is not None:
        session.ema.restore(files)
    scaler = session.environment.accelerator.scaler
    if scaler is not None and state.scaler is not None:
        scaler.load_state_dict(state.scaler.model_dump(by_alias=True))
    session.start_step, session.best = state.step, state.best
    session.meters, session.skipped = state.meters, state.skipped
