"""`flowkit sample`: draw samples from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowkit.cli.completion import complete_class
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
    count,
    draws,
    named_checkpoint,
    weights_by_kind,
)

if TYPE_CHECKING:
    import numpy as np

    from flowkit.data.dataset import Dataset
    from flowkit.sampling.load import LoadedModel


FROM = "From a drawing or sentence"  # a panel of --help


@draws
def sample(
    run: Run = None,
    ckpt: Ckpt = None,
    best: Best = False,
    num_samples: Annotated[int, count("Number of samples.", "--num-samples", "-n")] = 16,
    class_label: Annotated[
        list[str] | None,
        typer.Option(
            help="Class name or number. May be repeated. 'all' (the default) cycles through all classes, 'null' samples "
            "without a class.",
            autocompletion=complete_class,
        ),
    ] = None,
    condition: Annotated[
        Path | None,
        typer.Option(
            help="A .safetensors file with a tensor 'condition': one row for all samples, or one row per sample. An optional "
            "tensor 'condition_mask' is false for padding tokens."
        ),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            help="Sketch this picture, -n times. May be repeated. For models trained on images.", metavar="FILE"
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="Sketch what this text says, -n times. May be repeated. For models trained on texts."),
    ] = None,
    encoder_weights: Annotated[
        list[str] | None,
        typer.Option(
            help="File with the weights of the encoder of --image or --text, if they are not downloaded.",
            metavar="FILE",
        ),
    ] = None,
    complete: Annotated[
        str | None,
        typer.Option(
            help="Complete this begun drawing. Its strokes stay exactly as they are.",
            metavar="FILE",
            rich_help_panel=FROM,
        ),
    ] = None,
    vary: Annotated[
        str | None,
        typer.Option(
            help="Draw variations of this drawing, sentence or row (DATA.safetensors#12).",
            metavar="WHAT",
            rich_help_panel=FROM,
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="How far --vary goes, from 0 (the same) to 1 (unrelated). Default: 0.5.", rich_help_panel=FROM
        ),
    ] = None,
    between: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Interpolate between two drawings, sentences or rows.", metavar="A B", rich_help_panel=FROM),
    ] = None,
    frames: Annotated[
        int | None, count("Number of rows of --between, both ends included. Default: 9.", panel=FROM)
    ] = None,
    resample: Annotated[
        int | None,
        count(
            "Complete without what flow.given taught, repeating each step. Default without flow.given: 8.", panel=FROM
        ),
    ] = None,
    weights: Weights = "ema",
    seed: Annotated[int, typer.Option(help="Random seed. Samples do not depend on the batch size.")] = 0,
    drawing: Drawing = Drawing(),  # noqa: B008
    out: Annotated[
        Path | None,
        typer.Option(
            help="Output folder. Default: samples.safetensors and samples/last/ in the run. "
            "Replaces the files of an earlier call.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    pairs: Annotated[
        bool,
        typer.Option(
            "--pairs",
            help="Also store the noise of each sample, to train with reflow.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    trajectories: Annotated[
        bool,
        typer.Option(
            "--trajectories",
            help="Plot the paths of samples in trajectories.png (2-D points only).",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    animate: Annotated[
        bool,
        typer.Option(
            "--animate",
            help="Sketches: also write SVGs that draw themselves, and flow.gif, from noise to drawing.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    preview: Annotated[bool, typer.Option(help="Show some samples in the terminal.", rich_help_panel=OUTPUT)] = True,
    decode: Annotated[
        bool,
        typer.Option(
            help="Sentences: decode the vectors if the codec is installed, and compare with the data.",
            rich_help_panel=OUTPUT,
        ),
    ] = True,
    batch_size: BatchSize = None,
    device: Device = "auto",
    trust_code: TrustCode = False,
) -> None:
    """Draw samples from a trained model, as pictures or sentences.

    Sketches: one SVG per sample, and a contact sheet.
    Points: a scatter plot.
    Sentences: samples.jsonl with the text, if the codec is installed.
    The samples themselves are always written to samples.safetensors.

    [bold]Examples[/bold]

      flowkit sample runs/quickstart
      flowkit sample runs/quickstart --class-label fish -n 64 --out fish/
      flowkit sample runs/quickstart --best --weights raw
      flowkit sample runs/quickstart --solver dopri5 --rtol 1e-4
      flowkit sample runs/quickstart -w 2 --guidance cfg_zero
      flowkit sample runs/quickstart -w 2 --guidance-interval 0.2 0.8
      flowkit sample runs/quickstart --class-label cat -n 16 --animate
      flowkit sample runs/image-sketch --image photo.jpg --image other.png -n 4 -w 2
      flowkit sample runs/text-sketch --text "a cat with an umbrella" -n 8
      flowkit sample runs/quickstart --complete begun.svg -n 8
      flowkit sample runs/quickstart --vary mine.svg --strength 0.4 -n 8
      flowkit sample runs/quickstart --between a.svg b.svg --frames 9
      flowkit sample runs/dit-text --between "a dog" "a ship"
      flowkit sample runs/points-quickstart -n 1k --trajectories
      flowkit sample runs/quickstart -n 10k --compile --precision bf16
    """
    import dataclasses
    import shlex
    import sys
    import time

    from flowkit.decode import check_writable, write_readable

    _check_origin(complete, vary, strength, between, frames, resample, pairs)
    place = named_checkpoint(run, ckpt, best)
    _check_early(place, weights, class_label, out)
    from flowkit.data.dataset import write_dataset
    from flowkit.errors import Interrupted, UserError
    from flowkit.outputs import SAMPLE_FILES, check_samples_target, clear, earlier_files, record_samples, said
    from flowkit.recipe.sample import SampleSettings
    from flowkit.sampling.conditioning import read_condition
    from flowkit.sampling.load import load
    from flowkit.ui.progress import stage_bar
    from flowkit.ui.written import print_written

    loaded = load(place, weights=weights, device=device)
    if loaded.files.notice:
        print(f"notice: {loaded.files.notice}", file=sys.stderr)
    loaded.encoder_weights = (
        weights_by_kind(encoder_weights, "image" if image else None, "text" if text else None) or {}
    )
    asked = {"image": list(image or ()), "text": list(text or ())}
    for kind, several in asked.items():
        if several:
            loaded.encoder(kind)  # fail early
    plot = loaded.domain.trajectories(loaded.shape) if trajectories else None
    states: list[np.ndarray] = []
    noun = loaded.domain.noun
    file, folder = loaded.default_out() if out is None else (out / "samples.safetensors", out)
    labels = "all" if class_label == ["all"] else class_label
    for one in (file.parent, folder):
        check_writable(one)
    one_folder = file.parent == folder  # it may hold the user's own files, and lists ours; a run's folder is ours
    if one_folder:
        check_samples_target(file)
    tokens, mask = (None, None) if condition is None else read_condition(condition)
    moving = loaded.domain.moving() if animate else None
    if between is not None:
        num_samples = frames or 9
    elif len(images_and_texts := {len(several) for several in asked.values() if several} - {1}) > 1:
        raise UserError(
            f"--image and --text: {len(asked['image'])} and {len(asked['text'])}; give as many texts as images, or one"
        )
    else:
        num_samples *= max((1, *images_and_texts))
    start = time.perf_counter()
    with stage_bar(f"sampling {noun}", num_samples) as tell:
        how: dict[str, Any] = {
            "class_label": labels, "image": asked["image"] or None, "text": asked["text"] or None,
            "seed": seed, **drawing.changes(), "condition": tokens, "condition_mask": mask,
            "batch_size": batch_size, "on_states": states.append if trajectories or animate else None,
            "progress": lambda done, total: tell(f"sampling {noun}", done, total),
        }  # fmt: skip
        how = {name: value for name, value in how.items() if value is not None}
        if complete is not None:
            samples = loaded.complete(complete, num_samples, resample=resample, **how)
        elif vary is not None:
            samples = loaded.vary(vary, num_samples, strength=0.5 if strength is None else strength, **how)
        elif between is not None:
            samples = loaded.between(*between, num_samples, **how)
        else:
            samples = loaded.sample(num_samples, pairs=pairs, **how)
        seconds = time.perf_counter() - start
        if note := samples.info.get("note"):
            print(f"notice: {note}", file=sys.stderr)
        earlier, replaced = earlier_files(folder), clear(folder, but=SAMPLE_FILES)
        write_dataset(file, samples)  # before decoding, which may take longer and can be repeated
        if one_folder:
            record_samples(file, earlier)
        try:
            data = _data_to_compare_with(loaded)
            presenter = loaded.domain.presenter(data, decode=decode, device=device) if moving is None else moving[0]

            def draw_trajectories(place: Path) -> None:
                if moving is not None:
                    moving[1](states[0], place / "flow.gif")
                if plot is not None:
                    plot(states[0], place / "trajectories.png", None if data is None else data.x)

            decoded = write_readable(
                samples, folder, tell, presenter, only_pictures=True, also=draw_trajectories
            )  # fmt: skip
            if decoded.shown.texts is not None:
                samples.texts = decoded.shown.texts
                if one_folder:
                    record_samples(file, earlier_files(folder))
                write_dataset(file, samples)
        except KeyboardInterrupt:
            raise Interrupted(
                f"all samples are in {file}. To decode them: flowkit decode {shlex.quote(str(file))}"
            ) from None
    decoded = dataclasses.replace(decoded, replaced="; ".join(filter(None, (said(replaced), decoded.replaced))))
    facts = (
        f"{samples.info['weights']} weights of step {samples.info['step']}, {SampleSettings.of(samples.info).words}, "
        f"seed {seed}, NFE {samples.info['nfe']}, "
        f"{num_samples / seconds:,.1f} {noun}/s on {loaded.device}"
    )
    also = (file,) if samples.texts is None else (file, file.with_suffix(".jsonl"))
    if animate:
        also = (folder / "flow.gif", *also)
    if trajectories:
        also = (folder / "trajectories.png", *also)
    print_written(decoded, noun, facts, preview, also)


def _check_origin(
    complete: str | None, vary: str | None, strength: float | None, between: tuple[str, str] | None, frames: int | None,
    resample: int | None, pairs: bool,
) -> None:  # fmt: skip
    """Raise UserError for options that exclude or require each other."""
    from flowkit.errors import UserError

    origins = {"--complete": complete, "--vary": vary, "--between": between, "--pairs": pairs or None}
    named = [name for name, value in origins.items() if value is not None]
    if len(named) > 1:
        raise UserError(f"{' and '.join(named)} are mutually exclusive")
    for option, value, requires in (("--strength", strength, "--vary"), ("--frames", frames, "--between"),
                                    ("--resample", resample, "--complete")):  # fmt: skip
        if value is not None and requires not in named:
            raise UserError(f"{option}: only used with {requires}; add it, or leave out {option}")


def _check_early(ckpt: Path, weights: str, class_label: list[str] | None, out: Path | None) -> None:
    """Check the checkpoint, the classes and the output folder before torch is loaded, which takes seconds."""
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


def _data_to_compare_with(loaded: LoadedModel) -> Dataset | None:
    """Return the training data, if the domain compares samples with it and it can be opened."""
    from flowkit.errors import UserError
    from flowkit.evaluate import training_data

    recipe, inherited = loaded.info.get("recipe") or {}, loaded.info.get("inherited") or {}
    if not loaded.domain.compares((recipe.get("data") or {}).get("source", ""), inherited):
        return None
    try:
        return training_data(loaded)[0]
    except UserError:
        return None
