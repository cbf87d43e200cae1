"""Read rows from lines, JSON, CSV, TSV and parquet."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

from flowkit.errors import UserError, listing, nearest
from flowkit.sources.kinds import refusal
from flowkit.text.columns import USUAL, Reading, Row, choose_column, is_prose
from flowkit.text.lines import MAX_LINE, text_lines

MAX_JSON = 1_000_000_000  # bytes of a file that is one JSON value
_SEPARATOR = re.compile(r"sep=(.)\s*$")  # a first line for Excel
SAMPLE = 64  # rows that decide about a table


def read_rows(reading: Reading) -> Iterator[Row]:
    """Yield the rows of a file of a kind in `kinds.SENTENCES`, or of plain text. Raises UserError."""
    kind = reading.files.kind(reading.entry)
    if why := refusal(kind, reading.where):
        raise reading.error(None, f"is not read: {why}")
    readers = {"txt": _lines, "jsonl": _json_lines, "json": _json, "csv": _csv, "tsv": _csv, "parquet": _parquet}
    if kind == "txt" or kind not in readers:  # as plain text, of unknown suffix, or empty
        kind = "tsv" if _has_columns(reading) else "txt"
    if reading.column is not None and kind == "txt":
        raise reading.error(
            None, f"--column {reading.column}: the file has no columns (one sentence per line); leave it out"
        )
    yield from readers[kind](reading)


# ---- lines ----


@contextmanager
def _opened(reading: Reading) -> Iterator[Iterator[tuple[int, str]]]:
    """Yields (number, text with its line end) for each line."""
    with reading.files.open(reading.entry) as stream:
        yield text_lines(stream, reading.where, reading.tell_bytes)


def _lines(reading: Reading) -> Iterator[Row]:
    with _opened(reading) as lines:
        for number, line in lines:
            yield Row(number, number, line)


def _has_columns(reading: Reading) -> bool:
    """Return whether the first lines all have the same number of tabs. Such a file is a table, whatever its suffix."""
    with _opened(reading) as lines:
        tabs = [line.count("\t") for _, line in islice(lines, SAMPLE) if line.strip()]
    return len(tabs) > 1 and min(tabs) == max(tabs) > 0


# ---- JSON ----


def _json_lines(reading: Reading) -> Iterator[Row]:
    column = reading.column
    with _opened(reading) as lines:
        for number, line in lines:
            if not line.strip():
                yield Row(number, number, None)
                continue
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise reading.error(
                    number, f'is not valid JSON ({error}); expected {{"text": "..."}} or "..."'
                ) from None
            column = column or _json_column(reading, [found])
            yield Row(number, number, _json_text(reading, found, column, number))


def _json(reading: Reading) -> Iterator[Row]:
    """Read one JSON value: an array of strings or objects, an object with such an array, or an object of columns."""
    try:
        found = json.loads(_decoded(reading.files.read(reading.entry, MAX_JSON)))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        if isinstance(error, UnicodeDecodeError):
            fix = f"convert the file, for instance: iconv -f latin1 -t utf-8 {reading.where} > utf8.json"
            raise reading.error(None, f"byte {error.start + 1:,}: is not UTF-8; {fix}") from None
        raise reading.error(
            None, f"is not valid JSON ({error}); expected an array of sentences or of objects"
        ) from None
    if isinstance(found, dict):
        found = _json_table(reading, found)
    if not isinstance(found, list):
        raise reading.error(None, f"holds {_json_name(found)}; expected an array of sentences or of objects")
    column = reading.column or _json_column(reading, found[:SAMPLE])
    for number, one in enumerate(found, 1):
        yield Row(number, number, None if one is None else _json_text(reading, one, column, number))


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-16") if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else raw.decode("utf-8-sig")


def _json_table(reading: Reading, found: dict[str, Any]) -> Any:
    """Return the array inside an object: rows under one key, or one column per key."""
    lists = {key: value for key, value in found.items() if isinstance(value, list) and value}
    if len(lists) == len(found) and len({len(value) for value in lists.values()}) == 1 and len(lists) > 1:
        return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
    if len(lists) == 1:
        key, rows = next(iter(lists.items()))
        reading.notes.append(f"sentences: the array {key!r} of the file's object")
        return rows
    if any(isinstance(value, str) for value in found.values()):
        return [found]
    command = (
        "python -c \"import pandas; pandas.read_json('FILE').to_json('table.jsonl', orient='records', lines=True)\""
    )
    raise reading.error(None, f"holds a JSON object without rows (its keys: {listing(map(repr, found), 8) or 'none'}); "
                        f"convert it: {command.replace('FILE', reading.where)}")  # fmt: skip


def _json_column(reading: Reading, sample: Sequence[Any]) -> str:
    """Return the key of the sentences, chosen from the first objects."""
    objects = [_flattened(one) for one in sample if isinstance(one, dict)]
    if not objects:
        return "text"
    columns = {key: [one.get(key) for one in objects] for key in objects[0]}
    strings = {key: values for key, values in columns.items() if any(isinstance(value, str) for value in values)}
    if not strings and "text" in columns:
        return "text"  # null, or another type, which is refused later by name
    return choose_column(reading, columns, strings)


def _flattened(record: dict[str, Any]) -> dict[str, Any]:
    """Flatten nested objects: `translation.en`."""
    out: dict[str, Any] = {}
    for key, value in record.items():
        out.update({f"{key}.{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {key: value})
    return out


def _json_text(reading: Reading, found: Any, column: str, number: int) -> str | None:
    if isinstance(found, str) and reading.column is None:
        return _whole(reading, found, column, number)
    expected = f'expected {{"{column}": "..."}}'
    if not isinstance(found, dict):
        raise reading.error(number, f"is {_json_name(found)}, not a JSON object; {expected}")
    if column not in found:
        found = _flattened(found)
    if column not in found:
        keys = listing(map(repr, found), 8) or "none"
        raise reading.error(
            number,
            f"has no {column!r} (its keys: {keys}){nearest(column, found) or '.'} Name the key of the sentences with --column",
        )
    text = found[column]
    if text is not None and not isinstance(text, str):
        raise reading.error(number, f"{column!r} is {_json_name(text)}; {expected}")
    return None if text is None else _whole(reading, text, column, number)


def _whole(reading: Reading, text: str, column: str, number: int) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # JSON may escape half of a surrogate pair
        raise reading.error(number, f"{column!r} holds half of a surrogate pair, which is not a character") from None
    return text


def _json_name(value: Any) -> str:
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "an array",
        dict: "an object",
    }
    return names.get(type(value), "null")


# ---- CSV and TSV ----


def _csv(reading: Reading) -> Iterator[Row]:
    delimiter, quoting = _dialect(reading)
    before = csv.field_size_limit(MAX_LINE)
    try:
        records = _records(reading, delimiter, quoting)
        sample = list(islice(records, SAMPLE))
        if not sample:
            return
        width = len(sample[0][1])
        header = _is_header([cells for _, cells in sample], reading.column)
        first = [cell.strip() for cell in sample[0][1]] if header else [""] * width
        names: list[str] = []
        for number, name in enumerate(first, 1):
            name = name or str(number)
            while name in names:  # the second "text" is "text.2"
                name += f".{number}"
            names.append(name)
        columns = {name: [cells[i] for _, cells in sample[header:] if i < len(cells)] for i, name in enumerate(names)}
        at = names.index(choose_column(reading, columns, columns))
        if first.count(names[at]) > 1 and not str(reading.column).isdecimal():
            numbers = listing(str(number) for number, name in enumerate(first, 1) if name == names[at])
            raise reading.error(
                sample[0][0],
                f"several columns are named {names[at]!r}; use a column number ({numbers}) with --column",
            )
        reading.notes.append("its first row is a header" if header else "it has no header; columns are counted from 1")
        for number, (line, cells) in enumerate(chain(sample[header:], records), 1):
            if len(cells) != width:
                known = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a bar"}.get(
                    delimiter, repr(delimiter)
                )
                raise reading.error(
                    line,
                    f"has {len(cells)} {'column' if len(cells) == 1 else 'columns'}, and the first row {width}; {known} inside "
                    "text requires quotes around the text. If every line is a sentence, rename the file to .txt",
                )
            yield Row(number, line, cells[at])
    finally:
        csv.field_size_limit(before)


def _records(reading: Reading, delimiter: str, quoting: int) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of each record."""
    with _opened(reading) as lines:
        text = (line for number, line in lines if number > 1 or not _SEPARATOR.match(line))
        reader = csv.reader(text, delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[reportArgumentType]
        try:
            for cells in reader:
                if cells:  # skip blank lines
                    yield reader.line_num, cells
        except csv.Error as error:
            why = {
                "unexpected end of data": "a quote is opened and never closed",
                f"field larger than field limit ({MAX_LINE})": "a text is longer than 10 MB, or a quote is never closed",
            }.get(str(error), str(error))
            raise reading.error(reader.line_num or 1, f"is not valid CSV: {why}") from None


def _dialect(reading: Reading) -> tuple[str, int]:
    """Return the delimiter that gives the first rows the most columns, equally many each, and whether quotes count.

    Some tables with tabs use quotes and some do not: quotes count there if the whole file is consistent with them.
    """
    tabs_first = reading.files.kind(reading.entry) != "csv"
    with _opened(reading) as lines:
        sample = [line for _, line in islice(lines, 4 * SAMPLE)]
    if sample and (named := _SEPARATOR.match(sample[0])):
        return named[1], csv.QUOTE_MINIMAL
    best, most = "\t" if tabs_first else ",", 1
    for delimiter in "\t,;|" if tabs_first else ",;\t|":
        width = _width(sample, delimiter)
        if width > most:
            best, most = delimiter, width
    if best == "\t" and not _quotes_hold(reading):
        return best, csv.QUOTE_NONE
    return best, csv.QUOTE_MINIMAL


def _width(sample: list[str], delimiter: str) -> int:
    """Return the number of columns of all sample rows, or 0 if they differ. The last row may be truncated."""
    widths: list[int] = []
    try:
        for cells in csv.reader(sample, delimiter=delimiter):
            if cells:
                widths.append(len(cells))
    except csv.Error:
        return 0
    body = widths if len(widths) < 3 else widths[:-1]
    return body[0] if body and len(set(body)) == 1 else 0


def _quotes_hold(reading: Reading) -> bool:
    try:
        widths = {len(cells) for _, cells in _records(reading, "\t", csv.QUOTE_MINIMAL)}
    except UserError:
        return False
    return len(widths) == 1


def _is_header(rows: Sequence[Sequence[str]], asked: str | None) -> bool:
    """Return whether the first row is a header: its cells are short, distinct, and unlike those below."""
    first = [cell.strip() for cell in rows[0]]  # an empty name is an index column, as pandas writes it
    if asked is not None and asked in first:
        return True
    if not any(first) or any(len(cell) > 40 or _is_number(cell) for cell in first):
        return False
    if any(cell.lower() in USUAL for cell in first):
        return True
    if any(cell.endswith((".", "!", "?", "。")) or len(cell.split()) > 3 for cell in first):
        return False
    for i, cell in enumerate(first):
        below = [row[i] for row in rows[1:] if i < len(row) and row[i].strip()]
        if below and (all(map(_is_number, below)) or (cell and " " not in cell and is_prose(below))):
            return True
    return False


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


# ---- parquet ----

_CONVERT = (
    "If pandas can read it, convert it: "
    "python -c \"import pandas; pandas.read_parquet('{}').to_json('table.jsonl', orient='records', lines=True)\""
)


def _parquet(reading: Reading) -> Iterator[Row]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
        import pyarrow.types as types
    except ImportError:
        raise reading.error(
            None, f"reading parquet requires pyarrow: pip install 'flowkit[parquet]'. {_CONVERT.format(reading.where)}"
        ) from None

    def is_text(kind: Any) -> bool:
        if types.is_dictionary(kind):
            return is_text(kind.value_type)
        return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)

    def is_texts(kind: Any) -> bool:
        return (types.is_list(kind) or types.is_large_list(kind)) and is_text(kind.value_type)

    try:
        with reading.files.open(reading.entry) as stream:
            source = stream if isinstance(reading.entry.key, Path) and stream.seekable() else None
            table = parquet.ParquetFile(source or io.BytesIO(reading.files.read(reading.entry, MAX_JSON)))
            schema = arrow.Table.from_batches([], table.schema_arrow).flatten().schema  # "translation.en"
            if len(set(schema.names)) < len(schema):
                raise reading.error(
                    None, f"two columns have the same name ({listing(schema.names, 8)}); rename one of them"
                )
            texts = [one.name for one in schema if is_text(one.type) or is_texts(one.type)]
            columns = {one.name: [str(one.type)] for one in schema}
            first = next(table.iter_batches(SAMPLE, columns=texts), None) if texts else None
            shown = None if first is None else arrow.Table.from_batches([first]).flatten()
            values = {name: shown[name].to_pylist() if shown is not None else [] for name in texts}
            column = choose_column(reading, columns | values, values)
            number = 0
            for batch in table.iter_batches(1 << 14, columns=[column]):
                for value in arrow.Table.from_batches([batch]).flatten()[column].to_pylist():
                    for text in value if isinstance(value, list) else [value]:
                        number += 1
                        yield Row(number, number, text)
            if is_texts(schema.field(column).type):
                reading.notes.append(f"{table.metadata.num_rows:,} rows, each a list of sentences")
    except (arrow.ArrowException, ValueError, OSError, KeyError, RuntimeError, MemoryError) as error:
        if isinstance(error, UserError):
            raise
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise reading.error(
            None, f"truncated or corrupt parquet file ({why}); write it again. {_CONVERT.format(reading.where)}"
        ) from None
