"""`flowkit sample`: from a checkpoint to samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowkit.cli.options import (
    OUTPUT,
    BatchSize,
    Best,
    Ckpt,
    Device,
    Drawing,
    Run,
    TrustCode,
    Weights,
    draws,
    named_checkpoint,
)

if TYPE_CHECKING:
    import numpy as np

    from flowkit.data.dataset import Dataset
    from flowkit.sampling.load import LoadedModel


@draws
def sample(
    run: Run = None,
    ckpt: Ckpt = None,
    best: Best = False,
    num_samples: Annotated[int, typer.Option("--num-samples", "-n", min=1, help="Number of samples.")] = 16,
    class_label: Annotated[
        list[str] | None,
        typer.Option(
            help="Class name or number; may be repeated. 'all' (the default) takes every class in turn, 'null' samples "
            "without a class."
        ),
    ] = None,
    condition: Annotated[
        Path | None,
        typer.Option(
            help="A .safetensors file with a tensor 'condition': one row for all samples, or one row per sample. A tensor "
            "'condition_mask' says which of its tokens are there."
        ),
    ] = None,
    weights: Weights = "ema",
    seed: Annotated[int, typer.Option(help="The same seed gives the same samples, whatever the batch size.")] = 0,
    drawing: Drawing = Drawing(),  # noqa: B008
    out: Annotated[
        Path | None,
        typer.Option(
            help="Output folder; by default samples.safetensors and samples/last/ in the run. "
            "Files of an earlier call are replaced.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    pairs: Annotated[
        bool,
        typer.Option(
            "--pairs",
            help="Store the noise that each sample started from in the samples file (for reflow).",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    trajectories: Annotated[
        bool,
        typer.Option(
            "--trajectories",
            help="Plot sample trajectories to trajectories.png (2-D points only).",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    preview: Annotated[bool, typer.Option(help="Show some samples in the terminal.", rich_help_panel=OUTPUT)] = True,
    decode: Annotated[
        bool,
        typer.Option(
            help="Sentences: decode the vectors if the codec is installed, and compare them with the data.",
            rich_help_panel=OUTPUT,
        ),
    ] = True,
    batch_size: BatchSize = None,
    device: Device = "auto",
    trust_code: TrustCode = False,
) -> None:
    """Draw samples from a trained model, and write them in a readable form.

    Sketches: one SVG per sample and a contact sheet. Points: a scatter plot.
    Sentences: the vectors, and samples.jsonl with their text if the codec is installed.

    [bold]Examples[/bold]

      flowkit sample runs/dit-sketch --class-label cat
      flowkit sample runs/dit-sketch --best
      flowkit sample --ckpt runs/kanji --class-label water -n 64 -w 2 --out water/
      flowkit sample --ckpt runs/kanji --solver dopri5 --rtol 1e-4
      flowkit sample --ckpt runs/kanji --guidance cfg_zero -w 2
      flowkit sample --ckpt runs/kanji -w 2 --guidance-interval 0.2 0.8
      flowkit sample --ckpt runs/kanji/checkpoints/best --weights raw
      flowkit sample --ckpt runs/dit-text -n 8 --solver euler --steps 10
      flowkit sample --ckpt runs/points-conditional -n 64 --trajectories

    The architecture, the classes and the normalizer come from the checkpoint.
    """
    import dataclasses
    import shlex
    import sys
    import time

    from flowkit.decode import check_writable, write_readable

    place = named_checkpoint(run, ckpt, best)
    _check_early(place, weights, class_label, out)
    from flowkit.data.dataset import write_dataset
    from flowkit.errors import Interrupted
    from flowkit.outputs import SAMPLE_FILES, check_samples_target, clear, earlier_files, record_samples, said
    from flowkit.recipe.sample import SampleSettings
    from flowkit.sampling.conditioning import read_condition
    from flowkit.sampling.load import load
    from flowkit.ui.progress import stage_bar
    from flowkit.ui.written import print_written

    loaded = load(place, weights=weights, device=device)
    if loaded.files.notice:
        print(f"notice: {loaded.files.notice}", file=sys.stderr)
    if trajectories:
        _check_trajectories(loaded)
    states: list[np.ndarray] = []
    noun = loaded.domain.noun
    file, folder = loaded.default_out() if out is None else (out / "samples.safetensors", out)
    labels = "all" if class_label == ["all"] else class_label
    for one in (file.parent, folder):
        check_writable(one)
    one_folder = file.parent == folder  # which may hold the user's own files, and lists ours; a run's folder is our own
    if one_folder:
        check_samples_target(file)
    tokens, mask = (None, None) if condition is None else read_condition(condition)
    start = time.perf_counter()
    with stage_bar(f"sampling {noun}", num_samples) as tell:
        samples = loaded.sample(
            num_samples, class_label=labels, seed=seed, **drawing.changes(),
            condition=tokens, condition_mask=mask,
            batch_size=batch_size, pairs=pairs, on_states=states.append if trajectories else None,
            progress=lambda done, total: tell(f"sampling {noun}", done, total),
        )  # fmt: skip
        seconds = time.perf_counter() - start
        earlier, replaced = earlier_files(folder), clear(folder, but=SAMPLE_FILES)
        write_dataset(file, samples)  # before they are decoded, which may take longer and can be done again
        if one_folder:
            record_samples(file, earlier)
        try:
            data = _data_to_compare_with(loaded)
            presenter = loaded.domain.presenter(data, decode=decode, device=device)

            def draw_trajectories(place: Path) -> None:
                from flowkit.points.scatter import write_trajectories

                write_trajectories(states[0], place / "trajectories.png", None if data is None else data.x)

            decoded = write_readable(
                samples, folder, tell, presenter, only_pictures=True,
                also=draw_trajectories if trajectories else lambda place: None,
            )  # fmt: skip
            if decoded.shown.texts is not None:
                samples.texts = decoded.shown.texts
                if one_folder:
                    record_samples(file, earlier_files(folder))
                write_dataset(file, samples)
        except KeyboardInterrupt:
            raise Interrupted(f"{file} holds all samples; flowkit decode {shlex.quote(str(file))} shows them") from None
    decoded = dataclasses.replace(decoded, replaced="; ".join(filter(None, (said(replaced), decoded.replaced))))
    facts = (
        f"{samples.info['weights']} weights of step {samples.info['step']}, {SampleSettings.of(samples.info).words}, "
        f"seed {seed}, NFE {samples.info['nfe']}, "
        f"{num_samples / seconds:,.1f} {noun}/s on {loaded.device}"
    )
    also = (file,) if samples.texts is None else (file, file.with_suffix(".jsonl"))
    if trajectories:
        also = (folder / "trajectories.png", *also)
    print_written(decoded, noun, facts, preview, also)


def _check_early(ckpt: Path, weights: str, class_label: list[str] | None, out: Path | None) -> None:
    """What can be said before torch is loaded, which takes seconds: a checkpoint, classes or a folder that are not there."""
    from flowkit.checkpoint import find_checkpoint, read_model_json
    from flowkit.checkpoint.sidecar import class_number
    from flowkit.decode import check_writable

    files = find_checkpoint(ckpt)
    files.weights(weights)
    names = tuple(read_model_json(files.sidecar).get("class_names") or ())
    for label in class_label or ():
        if names and label != "all":
            class_number(label, names)
    if out is not None:
        check_writable(out)


def _check_trajectories(loaded: LoadedModel) -> None:
    """Raise UserError where there are none to draw."""
    from flowkit.errors import UserError

    if loaded.domain.kind != "points" or loaded.shape != (2,):
        what = loaded.domain.noun + (f" of {loaded.shape[0]} dimensions" if loaded.domain.kind == "points" else "")
        raise UserError(
            f"--trajectories: only points in the plane have trajectories to draw, and this model's samples are {what}; "
            "leave it out"
        )


def _data_to_compare_with(loaded: LoadedModel) -> Dataset | None:
    """What the model was trained on, for sentences and points, where it can be opened without training a codec first."""
    from flowkit.errors import UserError

    if loaded.domain.kind not in ("embedding", "points"):
        return None
    from flowkit.domain import builtin_sets
    from flowkit.evaluate import training_data
    from flowkit.text.codec import why_not_at_hand

    recipe, inherited = loaded.info.get("recipe") or {}, loaded.info.get("inherited") or {}
    built_in = (recipe.get("data") or {}).get("source") in builtin_sets()
    built_in = built_in and loaded.domain.kind == "embedding"
    try:
        return None if built_in and why_not_at_hand(inherited.get("codec") or {}) else training_data(loaded)[0]
    except UserError:
        return None
