"""`flowkit ema`: an average of another width, after the run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def ema(
    run: Annotated[Path, typer.Argument(help="A run that was trained with ema.power.")],
    sigma_rel: Annotated[
        float, typer.Option(help="Width of the average over the length of the run so far: 0.05, 0.1, ... 0.2886.")
    ],
    step: Annotated[int | None, typer.Option(min=1, help="The snapshot to end at; default: the last.")] = None,
    out: Annotated[Path | None, typer.Option(help="A .safetensors file; default: in the run's folder ema/.")] = None,
) -> None:
    """Reconstruct the moving average of any width from a run's snapshots (EDM2, arXiv 2312.02696).

    [bold]Examples[/bold]

      flowkit ema runs/kanji --sigma-rel 0.13
      flowkit ema runs/kanji --sigma-rel 0.08 --step 40000 --out wide.safetensors
      flowkit sample --ckpt wide.safetensors

    The run needs ema.power = [0.05, 0.1], or other widths, and takes snapshots every ema.snapshot_every.
    """
    from flowkit.ema.post_hoc import reconstruct_ema

    made = reconstruct_ema(run, sigma_rel, step=step, out=out)
    print(
        f"{made.path}  sigma_rel {made.sigma_rel:g} at step {made.step:,}, of {made.snapshots} snapshots, "
        f"profile met within {made.error:.2%}"
    )
