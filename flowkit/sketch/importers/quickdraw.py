"""Quick, Draw! ndjson, simplified or raw: one JSON object a line with `word` and `drawing` = strokes [[x...], [y...]]."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from flowkit.sketch.bezier import from_lines
from flowkit.sketch.importers.files import BROKEN_ZIP, Entry, Files
from flowkit.sketch.importers.items import Item, Unreadable, fit_canvas

MAX_LINE = 10_000_000  # bytes


def read(files: Files) -> Iterator[Item]:
    """One sketch a line; its `word` is its class. Each drawing is centred, a margin left around it.

    Drawings are published aligned to the top left corner with a longer side of 255, so one scale fits all of them;
    raw ones, in the pixels of somebody's screen, come out at the same size.
    """
    for entry in files.only(".ndjson"):
        yield from _read_lines(files, entry)


def _read_lines(files: Files, entry: Entry) -> Iterator[Item]:
    try:
        with files.open(entry) as stream:
            number = 0
            while line := stream.readline(MAX_LINE + 1):
                number += 1
                where = f"{entry.name} line {number}"
                if len(line) > MAX_LINE:
                    raise Unreadable(f"has a line longer than {MAX_LINE // 1_000_000} MB", f"line {number}")
                files.consumed += len(line)
                if not line.strip():
                    continue
                word, strokes, problem = entry.stem, None, None
                try:
                    record = _record(line)
                    if isinstance(record.get("word"), str):
                        word = (
                            record["word"].encode("utf-8", "replace").decode("utf-8")
                        )  # JSON may escape half characters
                    strokes = [from_lines(polyline) for polyline in fit_canvas(_polylines(record))]
                except Unreadable as error:
                    problem = error
                yield Item(word or entry.stem, where, strokes, problem)
    except Unreadable as problem:
        yield Item(entry.stem, entry.name, None, problem)
    except BROKEN_ZIP as error:
        yield Item(entry.stem, entry.name, None, Unreadable("cannot be read", str(error)))


def _record(line: bytes) -> dict:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Unreadable("is no JSON", str(error)) from None
    if not isinstance(record, dict) or not isinstance(record.get("drawing"), list):
        raise Unreadable("has no 'drawing', a list of strokes")
    return record


def _polylines(record: dict) -> list[np.ndarray]:
    out = []
    for stroke in record["drawing"]:
        try:
            xs, ys = (np.asarray(axis, np.float64) for axis in stroke[:2])  # raw drawings carry times as well
        except (TypeError, ValueError, KeyError, OverflowError):
            raise Unreadable("has a stroke that is not [[x...], [y...]]") from None
        if xs.ndim != 1 or xs.shape != ys.shape:
            raise Unreadable("has a stroke that is not [[x...], [y...]]")
        if len(xs):
            out.append(np.stack([xs, ys], axis=1))
    return out
