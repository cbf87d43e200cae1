"""`flowkit report`: one or more runs as one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flowkit.data.files import replacing
from flowkit.errors import UserError
from flowkit.report.page import GENERATOR, page
from flowkit.runs import RunSummary

LARGEST = 5_000_000  # bytes of a page
FRAMES = (24, 12, 6, 3, 1)  # steps whose samples are shown: as many as fit


@dataclass(frozen=True)
class Written:
    path: Path
    bytes: int
    frames: int  # steps whose samples are shown, at most


def write_report(runs: Sequence[RunSummary], out: Path) -> Written:
    """Write the page, in place of an earlier one. Raises UserError if `out` cannot be written or is not a report."""
    if out.is_dir():
        raise UserError(f"{out}: is a folder. Name the page: --out {out / 'report.html'}")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{out}: expected a name that ends in .html, such as {out.with_suffix('.html')}")
    if out.exists() and not _is_report(out):
        raise UserError(f"{out}: is not a report of flowkit, so it is not replaced. Choose another name with --out")
    made = datetime.now().astimezone()
    text = ""
    for frames in FRAMES:
        text = page(runs, made, frames=frames, pictures=True)
        if len(text.encode()) <= LARGEST:
            break
    else:
        frames, text = 0, page(runs, made, frames=0, pictures=False)
    with replacing(out) as partial:
        partial.write_text(text, "utf-8")
    return Written(out, len(text.encode()), frames)


def _is_report(path: Path) -> bool:
    with path.open("rb") as file:
        return GENERATOR.encode() in file.read(1000)
