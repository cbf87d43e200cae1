"""Quick, Draw! ndjson, simplified or raw: one JSON object per line, or one JSON array of them.

Each object has `word`, and `drawing`: a list of strokes [[x...], [y...]].
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from flowkit.errors import Unreadable, listing
from flowkit.sketch.bezier import from_lines
from flowkit.sketch.importers.items import Item, fit_canvas
from flowkit.sources.files import BROKEN_ZIP, Entry, Files
from flowkit.sources.kinds import HEAD
from flowkit.sources.splits import places, split_of

MAX_LINE = 10_000_000  # bytes
MAX_ARRAY = 1_000_000_000  # bytes of a file that is one JSON array


def read(files: Files, *, recognized_only: bool = False) -> Iterator[Item]:
    """Yield one sketch per line, or per element of a JSON array. Its class is its `word`. Drawings are centered with a margin.

    All drawings are scaled to the same size, whether simplified (longer side 255) or raw (pixels of some screen). Splits
    come from folders (train/cat.ndjson), or from file names if all files are named like splits.
    """
    entries = files.of_kind("quickdraw")
    files.note_unread(entries)
    found = places(entries, files.name)
    splits = [split for split, _ in found.of]
    if any(splits):
        files.notes += found.notes[:1]  # the notes on classes do not apply: the word is the class
    elif len(entries) > 1 and all(split_of(entry.stem) for entry in entries):
        splits = [split_of(entry.stem) for entry in entries]
        files.notes.append(f"files {listing(entry.name for entry in entries)}: read as splits, because of their names")
    unrecognized = nameless = 0
    for entry, split in zip(entries, splits, strict=True):
        for where, line in _records(files, entry):
            word, strokes, problem = entry.stem, None, None
            try:
                if isinstance(line, Unreadable):
                    raise line
                record = _record(line)
                nameless += not (isinstance(record.get("word"), str) and record["word"])
                if isinstance(record.get("word"), str):
                    word = record["word"].encode("utf-8", "replace").decode("utf-8")  # JSON may contain lone surrogates
                passed = str(record.get("recognized")).lower() != "false"
                unrecognized += not passed
                if recognized_only and not passed:
                    raise Unreadable("was not recognized by the game")
                strokes = [from_lines(polyline) for polyline in fit_canvas(_polylines(record))]
            except Unreadable as error:
                problem = error
            yield Item(word or entry.stem, where, strokes, problem, split)
    if nameless:
        name = "drawing has no 'word': its" if nameless == 1 else "drawings have no 'word': their"
        files.notes.append(f"{nameless:,} {name} class is the file's name")
    if unrecognized and not recognized_only:
        are = "drawing was" if unrecognized == 1 else "drawings were"
        files.notes.append(
            f"{unrecognized:,} {are} not recognized by the game, but kept; --recognized-only leaves them out"
        )


def _records(files: Files, entry: Entry) -> Iterator[tuple[str, Any]]:
    """Yield (location, the bytes of a line or an element of the array), with an Unreadable for what cannot be read."""
    try:
        if problem := files.foreign(entry):
            raise problem
        with files.open(entry) as stream:
            head = stream.read(HEAD)
            if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise Unreadable("is UTF-16; convert it to UTF-8 (iconv -f utf-16 -t utf-8 FILE > utf8.ndjson)")
            if re.match(rb"\s*\[\s*\{", head.removeprefix(codecs.BOM_UTF8)):
                yield from _elements(files, entry)
                return
        with files.open(entry) as stream:
            number = 0
            while line := stream.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise Unreadable(f"has a line longer than {MAX_LINE // 1_000_000} MB", f"line {number}")
                files.consumed += len(line)
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    yield f"{entry.name} line {number}", line
    except Unreadable as problem:
        yield entry.name, problem
    except BROKEN_ZIP as error:
        yield entry.name, Unreadable("cannot be read", str(error))


def _elements(files: Files, entry: Entry) -> Iterator[tuple[str, Any]]:
    try:
        found = json.loads(files.read(entry, MAX_ARRAY))
    except (ValueError, RecursionError) as error:
        raise Unreadable("is not valid JSON", str(error)) from None
    for number, record in enumerate(found, 1):
        yield f"{entry.name} element {number}", record
    files.notes.append(f"{entry.name}: one JSON array instead of one object per line; its elements were read")
    files.consumed += entry.size


def _record(line: Any) -> dict:
    try:
        record = json.loads(line) if isinstance(line, bytes) else line
        if isinstance(record, dict) and isinstance(record.get("drawing"), str):  # as in tables
            record["drawing"] = json.loads(record["drawing"])
    except (ValueError, RecursionError) as error:
        raise Unreadable("is not valid JSON", str(error)) from None
    if not isinstance(record, dict) or not isinstance(record.get("drawing"), list):
        raise Unreadable("has no 'drawing', a list of strokes")
    return record


def _polylines(record: dict) -> list[np.ndarray]:
    out = []
    for stroke in record["drawing"]:
        try:
            xs, ys = (np.asarray(axis, np.float64) for axis in stroke[:2])  # raw drawings also have times
        except (TypeError, ValueError, KeyError, OverflowError):
            raise Unreadable("has a stroke that is not [[x...], [y...]]") from None
        if xs.ndim != 1 or xs.shape != ys.shape:
            raise Unreadable("has a stroke that is not [[x...], [y...]]")
        if len(xs):
            out.append(np.stack([xs, ys], axis=1))
    return out
