"""`flowkit export` and `flowkit demo`: a trained model outside flowkit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowkit.cli.options import Best, Ckpt, Run, TrustCode, Weights, named_checkpoint
from flowkit.errors import UserError, nearest

if TYPE_CHECKING:
    from flowkit.sampling.load import LoadedModel

TARGETS = ("onnx",)


def export(
    run: Run = None,
    ckpt: Ckpt = None,
    best: Best = False,
    to: Annotated[str, typer.Option(help="onnx.", show_default=False)] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Output folder. Default: a folder of that name in the run. Replaces the files of an earlier call."
        ),
    ] = None,
    weights: Weights = "ema",
    trust_code: TrustCode = False,
) -> None:
    """Export a trained model, to use it without flowkit.

    [bold]Examples[/bold]

      flowkit export runs/quickstart --to onnx
      flowkit export --ckpt runs/quickstart --best --to onnx --out cats/

    [bold]onnx[/bold]

    Writes the network in fp32 with a dynamic batch (model.onnx), what a sampler needs (sampler.json), and a sampler that needs
    only NumPy and onnxruntime (sample.py). Requires: pip install 'flowkit\\[export]'
    """
    if to not in TARGETS:
        found = f"found {to!r}{nearest(to, TARGETS)}" if to else "it is missing"
        raise UserError(f"--to: expected {' or '.join(TARGETS)}; {found}")
    from flowkit.outputs import check_writable

    if out is not None:
        check_writable(out)
    place = named_checkpoint(run, ckpt, best)
    model = _load(place, weights, to)
    folder = out or (model.files.run_dir or model.files.directory) / to
    from flowkit.export.onnx import OPSET, export_onnx
    from flowkit.ui.quantities import size

    made = export_onnx(model, folder)
    print(f"{folder / 'model.onnx'}  {size((folder / 'model.onnx').stat().st_size)}, opset {OPSET}, inputs "
          f"{', '.join(made.inputs)}")  # fmt: skip
    print(f"  onnxruntime agrees with PyTorch to {made.error:.0e}")
    for difference in made.differs:
        print(f"  note: sample.py draws with {difference}")
    if made.replaced:
        print(f"  {made.replaced}")
    print(f"next: python {folder / 'sample.py'} -n 16 --out samples")


def _load(place: Path, weights: str, to: str) -> LoadedModel:
    """Load a checkpoint on the CPU. Raises UserError for one whose network is not in the checkpoint, before torch is loaded."""
    from flowkit.checkpoint import find_checkpoint, read_model_json

    files = find_checkpoint(place)
    info = read_model_json(files.sidecar)
    if info.get("custom"):
        advice = {"onnx": "Export it where its class is defined: torch.onnx.export(module, ...)"}
        raise UserError(
            f"{place}: was trained with your own module ({info['architecture']}). The checkpoint holds its weights, but not its "
            f"code, which --to {to} needs. {advice.get(to, '')}".rstrip()
        )
    from flowkit.sampling.load import load

    return load(place, weights=weights, device="cpu")
