"""`flowkit sample`: from a checkpoint to samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowkit.cli.options import Ckpt, Device, Weights

if TYPE_CHECKING:
    from flowkit.data.dataset import Dataset
    from flowkit.sample import LoadedModel


def sample(
    ckpt: Ckpt,
    num_samples: Annotated[int, typer.Option("--num-samples", "-n", min=1, help="How many.")] = 16,
    class_label: Annotated[
        list[str] | None,
        typer.Option(help="A class by name or number; may be repeated; 'all' (the default) takes every class in turn."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write all to; by default the run's samples.safetensors, pictures in samples/last/."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same samples, whatever the batch size.")] = 0,
    solver: Annotated[str | None, typer.Option(help="euler, midpoint, heun or rk4; default: the recipe's.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Solver steps; default: the recipe's.")] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option(
            "--guidance-scale", "-w", help="w in v_null + w (v_cond - v_null), 1 is none; default: the recipe's."
        ),
    ] = None,
    condition: Annotated[
        Path | None, typer.Option(help="A .safetensors with a tensor 'condition': one row for all, or one a sample.")
    ] = None,
    weights: Weights = "ema",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Samples at a time; default: by device.")] = None,
    pairs: Annotated[
        bool,
        typer.Option("--pairs", help="Keep the noise that each sample came from, in the samples file: for reflow."),
    ] = False,
    device: Device = "auto",
    preview: Annotated[bool, typer.Option(help="Show some of them in the terminal.")] = True,
    decode: Annotated[
        bool,
        typer.Option(help="Sentences: decode the vectors, where the codec is at hand, and compare them with the data."),
    ] = True,
) -> None:
    """Draw samples from a trained model: the samples file, and their readable form (an SVG each and a contact sheet).

    Of sentences the vectors, and where the codec is at hand what they say: samples.jsonl, {"text": "..."} a row.

    [bold]Examples[/bold]

      flowkit sample --ckpt runs/dit-sketch --class-label cat
      flowkit sample --ckpt runs/kanji --class-label water -n 64 -w 2 --solver heun --steps 25 --out water/
      flowkit sample --ckpt runs/dit-text --num-samples 8 --solver euler --steps 10
      flowkit sample --ckpt runs/kanji/checkpoints/best --class-label water --class-label tree --weights raw

    The architecture, the classes and the normalizer come from the checkpoint.
    """
    import time

    from flowkit.data.dataset import write_dataset
    from flowkit.decode import check_writable, write_readable
    from flowkit.sample import load, read_condition
    from flowkit.ui.progress import stage_bar
    from flowkit.ui.written import print_written

    loaded = load(ckpt, weights=weights, device=device)
    noun = loaded.domain.noun
    file, folder = loaded.default_out() if out is None else (out / "samples.safetensors", out)
    labels = "all" if class_label == ["all"] else class_label
    for place in (file.parent, folder):
        check_writable(place)
    start = time.perf_counter()
    with stage_bar(f"sampling {noun}", num_samples) as tell:
        samples = loaded.sample(
            num_samples, class_label=labels, seed=seed, solver=solver, steps=steps,
            guidance_scale=guidance_scale, condition=None if condition is None else read_condition(condition),
            batch_size=batch_size, pairs=pairs, progress=lambda done: tell(f"sampling {noun}", done, num_samples),
        )  # fmt: skip
        seconds = time.perf_counter() - start
        write_dataset(file, samples)  # before they are decoded, which may take longer and can be done again
        presenter = loaded.domain.presenter(_data_to_compare_with(loaded), decode=decode, device=device)
        decoded = write_readable(samples, folder, tell, presenter)
        if decoded.shown.texts is not None:
            samples.texts = decoded.shown.texts
            write_dataset(file, samples)
    facts = (
        f"{samples.info['weights']} weights of step {samples.info['step']}, {samples.info['solver']}, "
        f"guidance {samples.info['guidance_scale']:g}, seed {seed}, NFE {samples.info['nfe']}, "
        f"{num_samples / seconds:,.1f} {noun}/s on {loaded.device}"
    )
    also = (file,) if samples.texts is None else (file, file.with_suffix(".jsonl"))
    print_written(decoded, noun, facts, preview, also)


def _data_to_compare_with(loaded: LoadedModel) -> Dataset | None:
    """What the model was trained on, for sentences alone, where it can be opened without training a codec first."""
    from flowkit.errors import UserError

    if loaded.domain.kind != "embedding":
        return None
    from flowkit.domain import BUILTIN
    from flowkit.evaluate import training_data
    from flowkit.text.codec import why_not_at_hand

    recipe, inherited = loaded.info.get("recipe") or {}, loaded.info.get("inherited") or {}
    built_in = (recipe.get("data") or {}).get("source") in BUILTIN
    try:
        return None if built_in and why_not_at_hand(inherited.get("codec") or {}) else training_data(loaded)[0]
    except UserError:
        return None
