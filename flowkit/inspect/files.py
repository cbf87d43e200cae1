"""Reports on the other files that flowkit writes: pictures, and JSON that belongs to a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from flowkit.checkpoint import END, STARTED
from flowkit.data.files import read_json
from flowkit.errors import UserError

KNOWN = {
    "sheet.png": ("contact sheet", "samples or data, one drawing per cell"),
    "scatter.png": ("scatter plot", "2-D points"),
    "trajectories.png": ("trajectories", "the paths of samples from noise to data"),
    "nearest.png": ("nearest training rows", "samples, each next to the most similar training row"),
    "evaluation.json": ("evaluation", "the result of flowkit evaluate"),
    STARTED: ("run folder", "where a run was started"),
    END: ("end of a run", "its last step, and why it ended"),
}
DRAWING = re.compile(r"\d{3,}-.+\.svg")


def file_report(path: Path) -> dict[str, Any]:
    """Say what the file is, by its name. Raises UserError for a file that flowkit does not write."""
    holds, meaning = KNOWN.get(path.name, ("", ""))
    if DRAWING.fullmatch(path.name):
        holds, meaning = "drawing", "one sketch, as SVG"
    elif path.suffix == ".png" and not holds:
        holds, meaning = "picture", "not a name that flowkit gives to its pictures"
    if not holds:
        raise UserError(
            f"{path}: not a file that flowkit writes. Expected a run, a checkpoint, a folder of samples, a .safetensors, "
            "its .json or .jsonl, a recipe (.toml) or a metrics.jsonl"
        )
    facts = {"what": meaning, "size": f"{path.stat().st_size:,} bytes"}
    if path.suffix == ".png":
        with path.open("rb") as file:
            head = file.read(24)
        if head[:8] != b"\x89PNG\r\n\x1a\n" or len(head) < 24:
            raise UserError(f"{path}: not a PNG picture, despite its name")
        width, height = (int.from_bytes(head[at : at + 4]) for at in (16, 20))
        facts["pixels"] = f"{width} x {height}"
    samples = next((one for folder in (path.parent, *path.parents[1:3])
                    if (one := folder / "samples.safetensors").is_file()), None)  # fmt: skip
    if path.suffix in (".png", ".svg"):
        facts["look"] = "open it in an image viewer or a browser"
        if samples is not None:
            facts["samples"] = f"flowkit inspect {samples}"
    content = read_json(path) if path.suffix == ".json" else None
    return {"what": "file", "holds": holds, "path": str(path), "facts": facts, "content": content}
