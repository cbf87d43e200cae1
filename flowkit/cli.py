"""The commands. Every heavy import stands inside its command, so that `flowkit --help` answers at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
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


def main() -> None:
    """Run the command line; bad input is one message on stderr and exit status 2."""
    try:
        app()
    except UserError as error:
        # Under a launcher every process meets the same bad input; one of them says so.
        if os.environ.get("RANK", "0") == "0":
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
        loaded, resume=resume, overwrite=overwrite, init_from=init_from, listeners=lambda: [] if quiet else [listener()]
    )
    if outcome.signal is not None:
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
    out: Annotated[Path | None, typer.Option(help="Folder to write to; by default samples/ in the run.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same samples, whatever the batch size.")] = 0,
    solver: Annotated[str | None, typer.Option(help="euler, midpoint, heun or rk4; default: the recipe's.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Solver steps; default: the recipe's.")] = None,
    guidance_scale: Annotated[
        float | None, typer.Option("--guidance-scale", "-w", help="w in v_null + w (v_cond - v_null); 1 is none.")
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
    """
    import time

    from flowkit.data.dataset import write_dataset
    from flowkit.decode import check_writable, write_readable
    from flowkit.sample import load, read_condition
    from flowkit.ui.progress import progress_bar
    from flowkit.ui.written import print_written

    loaded = load(ckpt, weights=weights, device=device)
    out = out or loaded.default_out()
    labels = "all" if class_label in (["all"], None) else class_label
    check_writable(out)
    start = time.perf_counter()
    with progress_bar(f"sampling {loaded.domain.noun}", num_samples) as advance:
        samples = loaded.sample(
            num_samples, class_label=labels if loaded.class_names else class_label, seed=seed, solver=solver, steps=steps,
            guidance_scale=guidance_scale, condition=None if condition is None else read_condition(condition),
            batch_size=batch_size, progress=advance,
        )  # fmt: skip
    seconds = time.perf_counter() - start
    file = write_dataset(out / "samples.safetensors", samples)
    decoded = write_readable(samples, out)
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
    """
    from flowkit.decode import decode as run_decode
    from flowkit.ui.written import print_written

    print_written(run_decode(samples, out=out, limit=limit), "samples", "", preview)


# ---- prepare ----
# ---- evaluate ----
# ---- inspect ----
