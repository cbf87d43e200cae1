"""`flowkit export` and `flowkit demo`: a trained model outside flowkit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowkit.cli.options import Best, Ckpt, Run, TrustCode, Weights, named_checkpoint
from flowkit.errors import UserError, listing, nearest
from flowkit.registry import BUILT_IN

if TYPE_CHECKING:
    from flowkit.sampling.load import LoadedModel

TARGETS = ("onnx", "web")


def export(
    run: Run = None,
    ckpt: Ckpt = None,
    best: Best = False,
    to: Annotated[str, typer.Option(help="onnx or web.", show_default=False)] = "",
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
      flowkit export runs/quickstart --to web --out site/

    [bold]onnx[/bold]

    Writes the network in fp32 with a dynamic batch (model.onnx), what a sampler needs (sampler.json), and a sampler that needs
    only NumPy and onnxruntime (sample.py). Requires: pip install 'flowkit\\[export]'

    [bold]web[/bold]

    Writes a page that draws sketches or 2-D points in the browser: static files with the model among them, for any web host.
    To look at it on this machine: flowkit demo
    """
    if to not in TARGETS:
        found = f"found {to!r}{nearest(to, TARGETS)}" if to else "it is missing"
        raise UserError(f"--to: expected {' or '.join(TARGETS)}; {found}")
    from flowkit.outputs import check_writable

    if out is not None:
        check_writable(out)
    place = named_checkpoint(run, ckpt, best)
    model = _load(place, weights, to)
    folder = out or model.files.home / to
    from flowkit.ui.quantities import size

    if to == "web":
        from flowkit.export.web import export_web

        page = export_web(model, folder)
        print(f"{folder}  {size(page.bytes)}")
        _print_notes("the page", page.differs, page.replaced)
        print(f"next: python -m http.server --bind 127.0.0.1 -d {folder}")
        return
    from flowkit.export.onnx import OPSET, export_onnx

    made = export_onnx(model, folder)
    print(f"{folder / 'model.onnx'}  {size((folder / 'model.onnx').stat().st_size)}, opset {OPSET}, inputs "
          f"{', '.join(made.inputs)}")  # fmt: skip
    print(f"  onnxruntime agrees with PyTorch to {made.error:.0e}")
    _print_notes("sample.py", made.differs, made.replaced)
    print(f"next: python {folder / 'sample.py'} -n 16 --out samples")


def demo(
    run: Run = None,
    ckpt: Ckpt = None,
    best: Best = False,
    weights: Weights = "ema",
    port: Annotated[int, typer.Option(help="Port to serve on. 0 is any free one.", min=0, max=65535)] = 8000,
    browser: Annotated[bool, typer.Option(help="Open the page in the default browser.")] = True,
    trust_code: TrustCode = False,
) -> None:
    """Play with a model in the browser: draw, complete, choose a class, and watch samples form from noise.

    [bold]Examples[/bold]

      flowkit demo runs/quickstart
      flowkit demo runs/points-conditional --port 8080 --no-browser

    Serves the files of `flowkit export --to web` to this machine only, until Ctrl-C. Requires a model of sketches or 2-D points.
    """
    import contextlib
    import tempfile
    import webbrowser

    model = _load(named_checkpoint(run, ckpt, best), weights, "web")
    from flowkit.export.server import Server
    from flowkit.export.web import export_web

    with tempfile.TemporaryDirectory(prefix="flowkit-demo-") as folder:
        page = export_web(model, Path(folder))
        with Server(Path(folder), port) as server:
            print(f"{server.url}  (Ctrl-C to stop)", flush=True)
            _print_notes("the page", page.differs)
            if browser:
                webbrowser.open(server.url)
            with contextlib.suppress(KeyboardInterrupt):  # the usual end
                server.serve_forever()


def _print_notes(what: str, differs: tuple[str, ...], replaced: str = "") -> None:
    for difference in differs:
        print(f"  note: {what} draws with {difference}")
    if replaced:
        print(f"  {replaced}")


def _load(place: Path, weights: str, to: str) -> LoadedModel:
    """Load a checkpoint on the CPU. Raises UserError for one whose network is not in the checkpoint, before torch is loaded."""
    from flowkit.checkpoint import find_checkpoint, read_model_json

    files = find_checkpoint(place)
    info = read_model_json(files.sidecar)
    if info.get("custom"):
        advice = {
            "onnx": "Export it where its class is defined: torch.onnx.export(module, ...)",
            "web": f"The page has the built-in networks: {listing(name for name in BUILT_IN['arch'] if name != 'custom')}",
        }
        raise UserError(
            f"{place}: was trained with your own module ({info['architecture']}). The checkpoint holds its weights, but not its "
            f"code, which --to {to} needs. {advice.get(to, '')}".rstrip()
        )
    from flowkit.sampling.load import load

    return load(place, weights=weights, device="cpu")
