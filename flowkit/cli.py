"""The commands. Every heavy import stands inside its command, so that `flowkit --help` answers at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from flowkit.errors import UserError


def _print_keys(asked: bool) -> None:
    if asked:
        from flowkit.ui.keys_view import print_keys

        print_keys()
        raise typer.Exit()


app = typer.Typer(
    help="Train flow-matching generative models from a TOML recipe, and turn samples back into things to look at.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _help_without_what_it_never_shows() -> None:
    """Keep `--help` from loading a Markdown parser and a traceback printer, two fifths of its time, which it never calls.

    Typer's help imports both at its top for markup and pretty exceptions that this app has turned off. Only a process that
    is about to print help and leave gets the stand-ins.
    """
    if len(sys.argv) > 1 and not {"-h", "--help"} & set(sys.argv):
        return
    for name, unused in (("rich.markdown", "Markdown"), ("rich.traceback", "Traceback")):
        stand_in = ModuleType(name)
        setattr(stand_in, unused, type(unused, (), {}))
        sys.modules.setdefault(name, stand_in)


def main() -> None:
    """Run the command line; bad input is one message on stderr and exit status 2."""
    _help_without_what_it_never_shows()
    try:
        app()
    except UserError as error:
        # Under a launcher every process meets the same bad input; one on each machine says so, for what is bad may be its own.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # `flowkit inspect runs/x | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


Ckpt = Annotated[Path, typer.Option("--ckpt", help="A run, a checkpoint directory, or a .safetensors with its .json.")]
Weights = Annotated[str, typer.Option(help="ema or raw.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]


# ---- train ----
@app.command(rich_help_panel="Make a model")
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe: one TOML file that describes the whole run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe; may be repeated."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run from its latest checkpoint.")] = False,
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Resume although the recipe is not the one the run began with.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run of the same name.")] = False,
    init_from: Annotated[
        Path | None, typer.Option(help="Start from another checkpoint's weights (fine-tuning).", metavar="CKPT")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing; metrics.jsonl is written anyway.")] = False,
    keys: Annotated[
        bool, typer.Option("--keys", is_eager=True, callback=_print_keys, help="List every key of a recipe, and exit.")
    ] = False,
) -> None:
    """Train a flow-matching model from a recipe.

    [bold]Examples[/bold]

      flowkit train recipes/quickstart.toml
      flowkit train recipes/dit_sketch.toml --set optim.lr=3e-4 --set train.epochs=200
      flowkit train recipes/dit_sketch.toml --set data.source=data/kanji.safetensors --set run.name=kanji
      flowkit train recipes/dit_sketch.toml --resume
      accelerate launch --config_file accelerate_configs/multi_gpu.yaml -m flowkit train recipes/dit_sketch.toml

    Every key of a recipe: flowkit train --keys
    """
    from flowkit.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    from flowkit.training.train import train as run_training
    from flowkit.ui import listener

    outcome = run_training(
        loaded,
        resume=resume,
        allow_changes=allow_changes,
        overwrite=overwrite,
        init_from=init_from,
        listeners=lambda: [] if quiet else [listener()],
    )
    if outcome.reason == "interrupted" and outcome.signal is not None:
        raise typer.Exit(128 + outcome.signal)


# ---- sample ----
@app.command(rich_help_panel="Use a model")
def sample(
    ckpt: Ckpt,
    num_samples: Annotated[int, typer.Option("--num-samples", "-n", min=1, help="How many.")] = 16,
    class_label: Annotated[
        list[str] | None,
        typer.Option(help="A class by name or number; may be repeated; 'all' (the default) takes every class in turn."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; by default samples/last/ in the run.")] = None,
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
    device: Device = "auto",
    preview: Annotated[bool, typer.Option(help="Draw some of them in the terminal.")] = True,
) -> None:
    """Draw samples from a trained model: their readable form (SVG and a contact sheet), and the samples file.

    [bold]Examples[/bold]

      flowkit sample --ckpt runs/dit-sketch --class-label cat
      flowkit sample --ckpt runs/kanji --class-label water -n 64 -w 2 --solver heun --steps 25 --out water/
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
    out = out or loaded.default_out()
    labels = "all" if class_label == ["all"] else class_label
    check_writable(out)
    start = time.perf_counter()
    with stage_bar(f"sampling {loaded.domain.noun}", num_samples) as tell:
        samples = loaded.sample(
            num_samples, class_label=labels, seed=seed, solver=solver, steps=steps,
            guidance_scale=guidance_scale, condition=None if condition is None else read_condition(condition),
            batch_size=batch_size, progress=lambda done: tell(f"sampling {loaded.domain.noun}", done, num_samples),
        )  # fmt: skip
        seconds = time.perf_counter() - start
        file = write_dataset(out / "samples.safetensors", samples)
        decoded = write_readable(samples, out, tell)
    facts = (
        f"{samples.info['weights']} weights of step {samples.info['step']}, {samples.info['solver']}, "
        f"guidance {samples.info['guidance_scale']:g}, seed {seed}, NFE {samples.info['nfe']}, "
        f"{num_samples / seconds:,.1f} {loaded.domain.noun}/s on {loaded.device}"
    )
    print_written(decoded, loaded.domain.noun, facts, preview, also=file)


# ---- decode ----
@app.command(rich_help_panel="Use a model")
def decode(
    samples: Annotated[Path, typer.Argument(help="Samples or prepared data: a .safetensors with its .json.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write to; by default beside the samples.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")] = None,
    preview: Annotated[bool, typer.Option(help="Draw some of them in the terminal.")] = True,
) -> None:
    """Turn samples (or prepared data) back into what people can look at: an SVG each, and a contact sheet.

    [bold]Examples[/bold]

      flowkit decode water/samples.safetensors
      flowkit decode data/kanji.safetensors --limit 100 --out kanji-sheet/

    The kind of data says how it is decoded.
    """
    from flowkit.decode import decode as run_decode
    from flowkit.ui.progress import stage_bar
    from flowkit.ui.written import print_written

    with stage_bar("reading") as tell:
        decoded = run_decode(samples, out=out, limit=limit, tell=tell)
    print_written(decoded, "samples", "", preview)


# ---- prepare ----
@app.command(rich_help_panel="Make a model")
def prepare(
    source: Annotated[
        Path,
        typer.Argument(help="A folder, a .zip or a file: SVG, ControlSketch or stroke-3 .npz, Quick, Draw! .ndjson."),
    ],
    out: Annotated[Path, typer.Option(help="The data set to write: OUT.safetensors and OUT.json.")],
    size: Annotated[int, typer.Option(min=1, help="Cubic strokes a sketch.")] = 32,
    over: Annotated[str, typer.Option(help="Sketches of more cubics than that: fit, or leave-out.")] = "fit",
    max_per_class: Annotated[int | None, typer.Option(min=1, help="Only the first so many of each class.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of the rows.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a data set of the same name.")] = False,
) -> None:
    """Turn files of drawings into a data set that `train` reads, with a table of what became of every one.

    Folders are classes: SOURCE/cat/12.svg is a cat. The kind of file is found out.

    A sketch of fewer cubics than --size has its longest ones split, without loss.
    One of more is fitted, and the fit error reported.

    [bold]Examples[/bold]

      flowkit prepare drawings/ --out data/drawings
      flowkit prepare kanji.zip --out data/kanji --over leave-out
      flowkit prepare quickdraw/ --out data/quickdraw --max-per-class 1000
      flowkit prepare ControlSketch/ --out data/controlsketch
    """
    from rich.console import Console

    from flowkit.sketch.prepare import prepare as run_prepare
    from flowkit.ui.prepare_view import reading_bar, summary

    with reading_bar() as progress:
        report = run_prepare(
            source, out, size=size, over=over, max_per_class=max_per_class, seed=seed, overwrite=overwrite, progress=progress
        )  # fmt: skip
    Console(highlight=False).print(summary(report))


# ---- evaluate ----
@app.command(rich_help_panel="Use a model")
def evaluate(
    samples: Annotated[Path | None, typer.Argument(help="A samples file; it is compared with --data.")] = None,
    ckpt: Annotated[
        Path | None,
        typer.Option(help="A run, a checkpoint directory, or a .safetensors with its .json: samples are drawn."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The real data; by default what the model was trained on.")] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="validation, test or all: the real rows to compare with. Default: validation if it has 500, else all."
        ),
    ] = None,
    num_samples: Annotated[int, typer.Option("--num-samples", "-n", min=1, help="Rows on each side, at most.")] = 1000,
    weights: Weights = "ema",
    guidance_scale: Annotated[
        float | None, typer.Option("--guidance-scale", "-w", help="Default: the recipe's.")
    ] = None,
    solver: Annotated[str | None, typer.Option(help="euler, midpoint, heun or rk4; default: the recipe's.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Solver steps; default: the recipe's.")] = None,
    seed: Annotated[int, typer.Option(help="Of the samples. The rows compared with never depend on it.")] = 0,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Samples at a time; default: by device.")] = None,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="Folder to write to; by default evaluation/ in the run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of the table.")] = False,
) -> None:
    """Measure samples beside real rows and beside a Gaussian, with intervals; draw each beside its nearest training row.

    [bold]Examples[/bold]

      flowkit evaluate --ckpt runs/kanji
      flowkit evaluate --ckpt runs/kanji --guidance-scale 2 --steps 10 --json
      flowkit evaluate water/samples.safetensors --data data/kanji.safetensors

    Rows, features and metrics are fixed and named, so that the figures of two runs compare.
    """
    if (samples is None) == (ckpt is None):
        raise UserError(
            "evaluate: name a checkpoint (--ckpt RUN) or a samples file (SAMPLES --data REAL), one of the two"
        )
    if samples is not None and data is None:
        raise UserError(f"evaluate: {samples} needs real data to be compared with: --data REAL.safetensors")
    drawing = {"--guidance-scale": guidance_scale, "--solver": solver, "--steps": steps, "--batch-size": batch_size}
    idle = [name for name, value in drawing.items() if value is not None]
    if samples is not None and idle:
        raise UserError(
            f"evaluate: {', '.join(idle)} would do nothing: {samples} is drawn already. Leave it out, or use --ckpt"
        )
    from flowkit.evaluate import evaluate_checkpoint, evaluate_files
    from flowkit.ui.evaluate_view import evaluation_progress, print_evaluation

    with evaluation_progress() as tell:
        if ckpt is not None:
            found = evaluate_checkpoint(
                ckpt, data=data, split=split, num_samples=num_samples, weights=weights, seed=seed, solver=solver,
                steps=steps, guidance_scale=guidance_scale, batch_size=batch_size, device=device, out=out, tell=tell,
            )  # fmt: skip
        else:
            assert samples is not None and data is not None
            found = evaluate_files(samples, data, split=split, num_samples=num_samples, out=out, tell=tell)
    if as_json:
        import json

        print(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        print_evaluation(found)


# ---- inspect ----
@app.command(rich_help_panel="Look")
def inspect(
    path: Annotated[
        Path, typer.Argument(help="A run, a checkpoint, a .safetensors file, a recipe, or a folder of samples.")
    ],
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead.")] = False,
) -> None:
    """Say what is in a run, a checkpoint, a weight file, a data set or a recipe, without loading any of it.

    [bold]Examples[/bold]

      flowkit inspect runs/kanji
      flowkit inspect runs/kanji/checkpoints/best/ema.safetensors --json
      flowkit inspect data/kanji.safetensors
      flowkit inspect recipes/quickstart.toml

    Of checkpoints it reads the headers only.
    """
    from flowkit.inspect import inspect as run_inspect

    report = run_inspect(path)
    if json:
        from flowkit.inspect.as_json import as_json

        print(as_json(report))
        return
    from rich.console import Console

    from flowkit.ui.inspect_view import show

    show(report, Console(highlight=False))
