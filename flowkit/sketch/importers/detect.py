"""Choose the importer for a source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from flowkit.errors import Unreadable, UserError
from flowkit.sketch.importers import controlsketch, quickdraw, stroke3, svg
from flowkit.sketch.importers.items import Item
from flowkit.sources.arrays import described, hold, open_arrays
from flowkit.sources.files import Files
from flowkit.sources.kinds import ARRAYS, refusal

KNOWN = (
    "SVG (.svg, .svgz), Quick, Draw! (.ndjson), ControlSketch (.npz, .parquet) or sketch-rnn's strokes (.npz, .npy), also "
    "compressed by gzip, in a folder or a .zip"
)
_WRITTEN = {"svg": ".svg", "quickdraw": ".ndjson", "arrays": ".npz", "tables": ".parquet"}


def detect(source: Path, files: Files) -> tuple[str, Callable[[Files], Iterator[Item]]]:
    """Return the name of the format and its reader. Raises UserError if there is none, or more than one."""
    counts = {
        "svg": len(files.of_kind("svg")),
        "quickdraw": len(files.of_kind("quickdraw")),
        "arrays": len(files.of_kind(*ARRAYS)),
        "tables": len(controlsketch.tables(files)),
    }
    found = [kind for kind, count in counts.items() if count]
    where = f"{source}/{files.entries[0].name}" if source.is_dir() and files.entries else str(source)
    if len(files.entries) == 1 and (why := refusal(files.kind(files.entries[0]), where)):
        raise UserError(f"{where}: cannot be read: {why}")
    if not found:
        suffixes = Counter(entry.suffix for entry in files.entries)
        what = (
            ", ".join(f"{n:,} {suffix or 'without suffix'}" for suffix, n in suffixes.most_common(5)) or "it is empty"
        )
        root = f"{source}/" if source.is_dir() else ""
        hint = next((f"; {why}" for e in files.entries if (why := refusal(files.kind(e), root + e.name))), "")
        raise UserError(f"{source}: holds no sketches that flowkit can read ({what}{hint}); expected {KNOWN}")
    if len(found) > 1:
        what = " and ".join(
            f"{counts[kind]:,} {_WRITTEN[kind]} {'file' if counts[kind] == 1 else 'files'}" for kind in found
        )
        raise UserError(f"{source}: holds {what}; name a folder with one kind of file")
    if found == ["svg"]:
        return "svg", svg.read
    if found == ["tables"]:
        return "controlsketch", controlsketch.read_tables
    return ("quickdraw", quickdraw.read) if found == ["quickdraw"] else _arrays_kind(source, files)


def _arrays_kind(source: Path, files: Files) -> tuple[str, Callable[[Files], Iterator[Item]]]:
    """Decide by the first readable file of arrays."""
    problem = ""
    for entry in files.of_kind(*ARRAYS)[:20]:
        try:
            with open_arrays(files, entry) as arrays:
                found = hold(arrays)
                if found == "controlsketch":
                    return "controlsketch", controlsketch.read
                if found == "strokes":
                    return "stroke3", stroke3.read
                problem = problem or f"{entry.name} holds {described(arrays).replace('FILE', str(source))}"
        except Unreadable as error:
            problem = problem or f"{entry.name} {error}"
    raise UserError(
        f"{source}: {problem}; expected ControlSketch's key 'svg_32s', or sketch-rnn's 'train', 'valid', 'test' "
        f"(arrays of rows dx, dy, pen-lift, or of stroke-5)"
    )
