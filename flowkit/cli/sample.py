"""`flowkit sample`: from a checkpoint to samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowkit.cli.options import Ckpt, Device, Weights


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
