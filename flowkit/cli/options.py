"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Ckpt = Annotated[Path, typer.Option("--ckpt", help="A run, a checkpoint directory, or a .safetensors with its .json.")]
Weights = Annotated[str, typer.Option(help="ema, raw, or one of several averages: ema:0.999, ema:power-0.05.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
