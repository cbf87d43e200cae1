"""`flowkit evaluate`: measure sample quality."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowkit.cli.completion import complete_run
from flowkit.cli.options import BatchSize, Best, Device, Drawing, TrustCode, Weights, count, draws, named_checkpoint
from flowkit.errors import UserError, nearest


@draws
def evaluate(
    samples: Annotated[
        Path | None,
        typer.Argument(
            help="A run or checkpoint (same as --ckpt), or a samples file to compare with --data.",
            metavar="RUN|SAMPLES",
            show_default=False,
            autocompletion=complete_run,
        ),
    ] = None,
    ckpt: Annotated[
        Path | None,
        typer.Option(
            help="Draw samples from this run, checkpoint folder, or .safetensors with its .json.",
            autocompletion=complete_run,
        ),
    ] = None,
    best: Best = False,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Real data: a file, or the name of a built-in data set. Default: the training data of the model."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Real rows to compare with: validation, test or all. Default: held-out rows if there are at least 500, "
            "otherwise all."
        ),
    ] = None,
    num_samples: Annotated[int, count("Maximum number of rows on each side.", "--num-samples", "-n")] = 1000,
    weights: Weights = "ema",
    drawing: Drawing = Drawing(),  # noqa: B008
    likelihood: Annotated[
        int | None,
        count("Also measure the likelihood of this many validation rows, or rows of --split."),
    ] = None,
    completion: Annotated[
        int | None, count("Sketches: also begin and complete this many validation rows, or rows of --split.")
    ] = None,
    probes: Annotated[
        int,
        typer.Option(min=1, help="Number of probes of Hutchinson's trace estimator (likelihoods above 16 dimensions)."),
    ] = 1,
    scales: Annotated[
        str | None,
        typer.Option(
            help="Models of images or texts: more guidance scales at which to measure whether samples show what was asked for, "
            "such as 1,1.5,2,3. Drawings of held-out classes are measured on their own.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the samples. Does not affect which real rows are used.")] = 0,
    batch_size: BatchSize = None,
    device: Device = "auto",
    decode: Annotated[
        bool,
        typer.Option("--decode/--no-decode", help="Also measure the decoded sentences, if their codec is installed."),
    ] = True,
    out: Annotated[Path | None, typer.Option(help="Output folder. Default: evaluation/ in the run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as one JSON object.")] = False,
    trust_code: TrustCode = False,
) -> None:
    """Measure sample quality, with confidence intervals and baselines from real and Gaussian data.

    [bold]Examples[/bold]

      flowkit evaluate runs/quickstart
      flowkit evaluate runs/quickstart --best -w 2 --steps 10 --json
      flowkit evaluate runs/quickstart --completion 100
      flowkit evaluate runs/image-sketch --scales 1,1.5,2,3
      flowkit evaluate runs/points-quickstart --likelihood 256
      flowkit evaluate runs/dit-text --split test --no-decode
      flowkit evaluate fish/samples.safetensors --data pen_doodles

    Rows, features and metrics are fixed, so results of different runs are comparable.
    """
    if samples is not None and _is_checkpoint(samples):
        samples, ckpt = None, named_checkpoint(samples, ckpt, best)
    elif ckpt is not None and samples is None:
        ckpt = named_checkpoint(None, ckpt, best)
    elif best:
        raise UserError("--best: requires a run. Leave out --best")
    if (samples is None) == (ckpt is None):
        raise UserError("evaluate: name either a run or checkpoint, or a samples file with --data")
    if samples is not None and data is None:
        raise UserError(f"evaluate: {samples} is a samples file. Name the real data to compare with: --data FILE")
    more = {"--batch-size": batch_size, "--likelihood": likelihood, "--completion": completion, "--scales": scales}
    idle = [*drawing.given, *(name for name, value in more.items() if value is not None)]
    if samples is not None and idle:
        raise UserError(
            f"evaluate: {', '.join(idle)} has no effect on samples that exist already ({samples}). Leave it out, or name a run"
        )
    # Before torch is loaded, which takes seconds.
    if ckpt is not None:
        from flowkit.checkpoint import find_checkpoint

        find_checkpoint(ckpt)
    if data is not None:
        from flowkit.data.dataset import data_files
        from flowkit.domain import builtin_sets

        if not data_files(data)[0].exists() and str(data) not in builtin_sets():
            raise UserError(
                f"--data {data}: no such file, and no built-in data set of this name{nearest(str(data), builtin_sets())}"
            )
    from flowkit.evaluate import evaluate_checkpoint, evaluate_files
    from flowkit.ui.evaluate_view import evaluation_progress, print_evaluation

    with evaluation_progress() as tell:
        if ckpt is not None:
            found = evaluate_checkpoint(
                ckpt, data=data, split=split, num_samples=num_samples, weights=weights, seed=seed,
                batch_size=batch_size, device=device, decode=decode, out=out, likelihood=likelihood, probes=probes,
                completion=completion, scales=_numbers(scales), tell=tell,
                **drawing.changes(),
            )  # fmt: skip
        else:
            assert samples is not None and data is not None
            found = evaluate_files(
                samples, data, split=split, num_samples=num_samples, device=device, decode=decode, out=out, tell=tell
            )
    if as_json:
        import json

        from flowkit.encoding import stdout_is_unicode

        print(json.dumps(found.to_json(), indent=2, ensure_ascii=not stdout_is_unicode()))
    else:
        print_evaluation(found)


def _numbers(text: str | None) -> tuple[float, ...]:
    """Return `1,1.5,2` as numbers. Raises UserError."""
    try:
        return () if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--scales {text}: expected numbers with commas between them, such as 1,1.5,2,3") from None


def _is_checkpoint(path: Path) -> bool:
    """Return whether the path is a run or a checkpoint, as opposed to samples."""
    from flowkit.checkpoint import BEST, CHECKPOINTS, LATEST, MODEL, RECIPE, SIDECAR
    from flowkit.data.files import read_json
    from flowkit.hub import is_hub

    if is_hub(path):
        return True
    if path.suffix == ".safetensors":
        for sidecar in (path.with_suffix(".json"), path.with_name(SIDECAR)):
            if sidecar.is_file():
                return "model_args" in read_json(sidecar)
        return False
    if path.name == CHECKPOINTS or (path.name in (LATEST, BEST) and path.parent.name == CHECKPOINTS):
        return True
    run = path.parent if path.name == RECIPE else path
    return (run / CHECKPOINTS).is_dir() or (path / MODEL).is_file()
