"""ControlSketch (arXiv 2502.08642): `{split}/{class}/{class}_{seed}.npz`, each with its sketch as SVG text.

Its parquet edition (ControlSketch-Part) has `data/{split}-*.parquet` with the columns category, short_caption and path_data.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit.errors import Unreadable, UserError, listing
from flowkit.sketch.importers.items import Item
from flowkit.sketch.svg_read import MAX_BYTES, read_svg
from flowkit.sources.arrays import CONTROLSKETCH, Arrays, open_arrays
from flowkit.sources.files import BROKEN_ZIP, Entry, Files
from flowkit.sources.splits import places, split_of

if TYPE_CHECKING:
    from PIL.Image import Image

CANVAS = 512  # pixels
COLUMN = "path_data"  # of the parquet edition: [strokes][8], in pixels, with zeros for strokes that do not exist
FOOTER = 1 << 20  # bytes at the end of a parquet file that are searched for the names of its columns
MAX_PARQUET = 1_000_000_000  # bytes of a file that is read whole, because it is compressed or in a zip


def read(files: Files) -> Iterator[Item]:
    """Yield one sketch per file, in its split. A point p of the 512 px canvas becomes p / 512 * 2 - 1.

    The order of the strokes is kept: contour first, then by attention.
    """
    entries = files.of_kind("npz", "npy")
    files.note_unread(entries)
    found = places(entries, files.name)
    files.notes += found.notes
    for entry, (split, class_name) in zip(entries, found.of, strict=True):
        try:
            with open_arrays(files, entry) as arrays:
                # Not cut at the canvas: each stroke is one cubic and must remain one.
                strokes = read_svg(_svg_text(arrays).encode("utf-8", "replace"), cut=False)
                caption = _caption(arrays)
                picture = partial(_picture, files, entry) if "image" in arrays.keys else None
            yield Item(class_name, entry.name, strokes, split=split, caption=caption, picture=picture)
        except Unreadable as problem:
            yield Item(class_name, entry.name, None, problem, split)
        files.consumed += entry.size


def _picture(files: Files, entry: Entry) -> Image:
    """Return the photo of a sketch, on white outside its object, as SwiftSketch's encoder sees it. Raises Unreadable."""
    from PIL import Image

    from flowkit.encoders.pictures import read_image

    with open_arrays(files, entry) as arrays:
        photo = arrays.array("image")
        image = read_image(bytes(photo.item()) if photo.ndim == 0 else np.asarray(photo))
        if "mask" not in arrays.keys:
            return image
        mask = np.asarray(arrays.array("mask"))
    if mask.ndim != 2:
        raise Unreadable("has a mask that is not a picture", f"shape {mask.shape}")
    shown = Image.fromarray(np.where(mask > 0, 255, 0).astype(np.uint8)).resize(image.size)
    return Image.composite(image, Image.new("RGB", image.size, "white"), shown)


def _svg_text(arrays: Arrays) -> str:
    key = next((key for key in arrays.keys if key.startswith(CONTROLSKETCH)), None)
    if key is None:
        raise Unreadable("has no key 'svg_32s'", "it has " + ", ".join(arrays.keys[:8]))
    text = arrays.array(key, limit=4 * MAX_BYTES)  # numpy stores four bytes per character
    if text.ndim or text.dtype.kind not in "US":
        raise Unreadable("has no text in key 'svg_32s'", f"{text.dtype} of shape {text.shape}")
    found = text.item()
    return found if isinstance(found, str) else found.decode("utf-8", "replace")


def _caption(arrays: Arrays) -> str:
    """Return the caption; "" if there is none that can be read, since the sketch is worth keeping."""
    try:
        return _plain(str(arrays.array("caption"))) if "caption" in arrays.keys else ""
    except Unreadable:
        return ""


def _plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8").strip()  # there may be lone surrogates


# ---- the parquet edition ----


def tables(files: Files) -> list[Entry]:
    """Return the parquet files with drawings, by the names of their columns. Needs no pyarrow."""
    return [entry for entry in files.of_kind("parquet") if _has_drawings(files, entry)]


def _has_drawings(files: Files, entry: Entry) -> bool:
    tail = b""
    try:
        with files.open(entry) as stream:
            if stream.seekable() and isinstance(entry.key, Path):
                stream.seek(max(0, entry.size - FOOTER))
            while part := stream.read(FOOTER):
                tail = (tail + part)[-FOOTER:]
    except (Unreadable, *BROKEN_ZIP):
        return False
    footer = tail[-8 - int.from_bytes(tail[-8:-4], "little") :]
    return COLUMN.encode() in footer


def read_tables(files: Files) -> Iterator[Item]:
    """Yield one sketch per row of the parquet files. Splits come from the names of files or folders.

    Raises UserError if pyarrow is not installed.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(
            f"{files.entries[0].name}: reading parquet requires pyarrow: pip install 'flowkit[parquet]'"
        ) from None

    entries = tables(files)
    files.note_unread(entries)
    splits = [split for split, _ in places(entries, files.name).of]
    if not any(splits) and all(split_of(entry.stem) for entry in entries):
        splits = [split_of(entry.stem) for entry in entries]
        files.notes.append(f"files {listing((one.name for one in entries), 8)}: read as splits, because of their names")
    for entry, split in zip(entries, splits, strict=True):
        number, begun = 0, files.consumed
        try:
            with files.open(entry) as stream:
                whole = not (isinstance(entry.key, Path) and stream.seekable())
                table = parquet.ParquetFile(io.BytesIO(files.read(entry, MAX_PARQUET)) if whole else stream)
                wanted = [name for name in ("category", "short_caption", COLUMN) if name in table.schema_arrow.names]
                for batch in table.iter_batches(1024, columns=wanted):
                    for row in batch.to_pylist():
                        number += 1
                        yield _row(row, entry, split, number)
                    files.consumed = begun + entry.size * number // max(number, table.metadata.num_rows)
        except Unreadable as problem:
            yield Item(entry.stem, entry.name, None, problem, split)
        except (arrow.ArrowException, ValueError, OSError, KeyError, RuntimeError, MemoryError) as error:
            why = next(iter(str(error).splitlines()), type(error).__name__)
            yield Item(entry.stem, entry.name, None, Unreadable("is a truncated or corrupt parquet file", why), split)
        files.consumed = begun + entry.size


def _row(row: dict[str, Any], entry: Entry, split: str, number: int) -> Item:
    name, where = str(row.get("category") or entry.stem), f"{entry.name} row {number}"
    try:
        paths = np.asarray(row[COLUMN], np.float64)
        if paths.ndim != 2 or paths.shape[1] != 8 or not np.isfinite(paths).all():
            raise ValueError
    except (TypeError, ValueError):
        problem = Unreadable(f"has no '{COLUMN}' of strokes with 8 numbers each")
        return Item(_plain(name), where, None, problem, split)
    strokes = list((paths[paths.any(axis=1)] / CANVAS * 2 - 1)[:, None])
    caption = row.get("short_caption")
    return Item(_plain(name), where, strokes, split=split, caption=_plain(caption) if isinstance(caption, str) else "")
