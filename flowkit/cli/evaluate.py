"""`flowkit evaluate`: how good samples are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowkit.cli.options import BatchSize, Best, Device, Drawing, TrustCode, Weights, count, draws, named_checkpoint
from flowkit.errors import UserError


@draws
def evaluate(
    samples: Annotated[
        Path | None,
        typer.Argument(
            help="A run or checkpoint (the same as --ckpt), or a samples file to compare with --data.",
            show_default=False,
        ),
    ] = None,
    ckpt: Annotated[
        Path | None,
        typer.Option(help="A run, a checkpoint directory, or a .safetensors with its .json, to draw samples from."),
    ] = None,
    best: Best = False,
    data: Annotated[
        Path | None,
        typer.Option(help="Real data: a file or the name of a built-in set. Default: the training data of the model."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Real rows to compare with: validation, test or all. Default: held-out rows if there are at least 500, else all."
        ),
    ] = None,
    num_samples: Annotated[int, count("Maximum number of rows on each side.", "--num-samples", "-n")] = 1000,
    weights: Weights = "ema",
    drawing: Drawing = Drawing(),  # noqa: B008
    likelihood: Annotated[
        int | None,
        count("Also measure the likelihood of this many validation rows (or rows of --split)."),
    ] = None,
    probes: Annotated[
        int, typer.Option(min=1, help="Probes of Hutchinson's trace estimate (likelihoods above 16 dimensions).")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the samples. The choice of real rows does not depend on it.")] = 0,
    batch_size: BatchSize = None,
    device: Device = "auto",
    decode: Annotated[
        bool,
        typer.Option("--decode/--no-decode", help="Also measure the decoded sentences if their codec is installed."),
    ] = True,
    out: Annotated[Path | None, typer.Option(help="Output folder; default: evaluation/ in the run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
    trust_code: TrustCode = False,
) -> None:
    """Sample-quality metrics with confidence intervals, next to real-data and Gaussian baselines.

    [bold]Examples[/bold]

      flowkit evaluate runs/kanji
      flowkit evaluate runs/kanji --best
      flowkit evaluate --ckpt runs/kanji --guidance-scale 2 --steps 10 --json
      flowkit evaluate runs/kanji -w 2 --guidance-interval 0.2 0.8 --grid shifted
      flowkit evaluate --ckpt runs/kanji --likelihood 256
      flowkit evaluate --ckpt runs/dit-text --split test --no-decode
      flowkit evaluate water/samples.safetensors --data data/kanji.safetensors

    Rows, features and metrics are fixed and named, so that the figures of two runs compare.
    """
    if samples is not None and _is_checkpoint(samples):
        samples, ckpt = None, named_checkpoint(samples, ckpt, best)
    elif ckpt is not None and samples is None:
        ckpt = named_checkpoint(None, ckpt, best)
    elif best:
        raise UserError("--best: goes with a run; leave it out")
    if (samples is None) == (ckpt is None):
        raise UserError(
            "evaluate: name a run or checkpoint (RUN, or --ckpt) or a samples file (SAMPLES --data REAL), one of the two"
        )
    if samples is not None and data is None:
        raise UserError(f"evaluate: {samples} needs real data to be compared with: --data REAL.safetensors")
    more = {"--batch-size": batch_size, "--likelihood": likelihood}
    idle = [*drawing.given, *(name for name, value in more.items() if value is not None)]
    if samples is not None and idle:
        raise UserError(
            f"evaluate: {', '.join(idle)} would do nothing: {samples} is drawn already. Leave it out, or use --ckpt"
        )
    if ckpt is not None:
        from flowkit.checkpoint import find_checkpoint

        find_checkpoint(ckpt)  # before torch is loaded, which takes seconds
    from flowkit.evaluate import evaluate_checkpoint, evaluate_files
    from flowkit.ui.evaluate_view import evaluation_progress, print_evaluation

    with evaluation_progress() as tell:
        if ckpt is not None:
            found = evaluate_checkpoint(
                ckpt, data=data, split=split, num_samples=num_samples, weights=weights, seed=seed,
                batch_size=batch_size, device=device, decode=decode, out=out, likelihood=likelihood, probes=probes, tell=tell,
                **drawing.changes(),
            )  # fmt: skip
        else:
            assert samples is not None and data is not None
            found = evaluate_files(
                samples, data, split=split, num_samples=num_samples, device=device, decode=decode, out=out, tell=tell
            )
    if as_json:
        import json

        from flowkit.encoding import takes_unicode

        print(json.dumps(found.to_json(), indent=2, ensure_ascii=not takes_unicode()))
    else:
        print_evaluation(found)


def _is_checkpoint(path: Path) -> bool:
    """Whether it names a run or weights, and not samples."""
    from flowkit.checkpoint import BEST, CHECKPOINTS, LATEST, MODEL, RECIPE, SIDECAR
    from flowkit.data.files import read_json

    if path.suffix == ".safetensors":
        for sidecar in (path.with_suffix(".json"), path.with_name(SIDECAR)):
            if sidecar.is_file():
                return "model_args" in read_json(sidecar)
        return False
    if path.name == CHECKPOINTS or (path.name in (LATEST, BEST) and path.parent.name == CHECKPOINTS):
        return True
    run = path.parent if path.name == RECIPE else path
    return (run / CHECKPOINTS).is_dir() or (path / MODEL).is_file()
