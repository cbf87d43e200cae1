"""The kind of a file, by its first bytes. The suffix decides only if the content is ambiguous."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

HEAD = 4096  # bytes that are examined

SKETCHES = ("svg", "quickdraw")  # arrays (npz, npy) are decided by their shapes
SENTENCES = ("txt", "jsonl", "json", "csv", "tsv", "parquet")
ARRAYS = ("npz", "npy")
TENSORS = ("safetensors", "torch")
READ = (*SKETCHES, *SENTENCES, *ARRAYS, *TENSORS)

BY_SUFFIX = {
    ".svg": "svg", ".svgz": "svg", ".ndjson": "quickdraw", ".npz": "npz", ".npy": "npy", ".txt": "txt",
    ".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".parquet": "parquet",
    ".safetensors": "safetensors", ".pt": "torch", ".pth": "torch", ".zip": "zip",
}  # fmt: skip


class Foreign(NamedTuple):
    """A kind of file that flowkit does not read: its name, and the command that converts FILE."""

    name: str
    command: str


_UNPACK = "unpack it and name the folder: "
_TRACE = "trace it to SVG: vtracer --input FILE --output drawing.svg"


def _python(code: str) -> str:
    return f'convert it: python -c "{code}"'


FOREIGN = {
    "gzip": Foreign("a gzip file inside a gzip file", "unpack it: gunzip FILE"),
    "bzip2": Foreign("a bzip2 file", "unpack it: bunzip2 -k FILE"),
    "xz": Foreign("an xz file", "unpack it: unxz -k FILE"),
    "zstd": Foreign("a Zstandard file", "unpack it: unzstd FILE"),
    "lz4": Foreign("an LZ4 file", "unpack it: unlz4 FILE"),
    "7z": Foreign("a 7-Zip archive", _UNPACK + "7z x FILE -ounpacked"),
    "rar": Foreign("a RAR archive", _UNPACK + "unrar x FILE unpacked/"),
    "tar": Foreign("a tar archive", _UNPACK + "mkdir unpacked && tar xf FILE -C unpacked"),
    "zip": Foreign("a zip archive", _UNPACK + "unzip FILE -d unpacked"),
    "arrow": Foreign(
        "an Arrow file", _python("import pandas; pandas.read_feather('FILE').to_parquet('table.parquet')")
    ),
    "arrow stream": Foreign(
        "an Arrow stream of Hugging Face datasets",
        _python("import datasets; datasets.Dataset.from_file('FILE').to_parquet('table.parquet')"),
    ),
    "orc": Foreign("an ORC file", _python("import pandas; pandas.read_orc('FILE').to_parquet('table.parquet')")),
    "avro": Foreign("an Avro file", _python("import polars; polars.read_avro('FILE').write_parquet('table.parquet')")),
    "excel": Foreign(
        "an Excel workbook", _python("import pandas; pandas.read_excel('FILE').to_csv('table.csv', index=False)")
    ),
    "office": Foreign("an office document", "convert it: soffice --headless --convert-to txt:Text FILE"),
    "sqlite": Foreign(
        "an SQLite database", "export a table: sqlite3 -header -csv FILE 'SELECT * FROM name' > table.csv"
    ),
    "hdf5": Foreign(
        "an HDF5 file", _python("import h5py, numpy; numpy.save('vectors.npy', h5py.File('FILE')['name'][:])")
    ),
    "matlab": Foreign(
        "a MATLAB file", _python("import scipy.io, numpy; numpy.save('vectors.npy', scipy.io.loadmat('FILE')['name'])")
    ),
    "pickle": Foreign(
        "a pickle, which is not read because unpickling can run code",
        "if you trust it, "
        + _python(
            "import pickle, numpy; f = pickle.load(open('FILE', 'rb')); numpy.save('vectors.npy', numpy.asarray(f, 'float32'))"
        ),
    ),
    "tfrecord": Foreign("a TFRecord file", "use the .ndjson or .npz version of the data set"),
    "quickdraw table": Foreign(
        "a table of Quick, Draw! drawings from Kaggle",
        _python("import pandas; pandas.read_csv('FILE').to_json('drawings.ndjson', orient='records', lines=True)"),
    ),
    "pdf": Foreign(
        "a PDF document", "convert it: pdftocairo -svg FILE drawing.svg (drawings), or pdftotext FILE (text)"
    ),
    "postscript": Foreign("a PostScript document", "convert it: inkscape FILE --export-filename=drawing.svg"),
    "html": Foreign("an HTML page", "save the SVG in it as a separate file, or the text as a .txt"),
    **{name.lower(): Foreign(f"a {name} image", _TRACE) for name in ("PNG", "JPEG", "GIF", "WebP", "BMP", "TIFF")},
}
KNOWN = (
    "Sketches come from SVG, Quick, Draw! .ndjson, .npz and ControlSketch's .parquet; sentences from .txt, .jsonl, .json, .csv, "
    ".tsv and .parquet; vectors from .npy, .npz, .safetensors and .pt"
)

_MAGIC = (
    (b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\x04\x22\x4d\x18", "lz4"),
    (b"7z\xbc\xaf\x27\x1c", "7z"), (b"Rar!\x1a\x07", "rar"), (b"PAR1", "parquet"), (b"\x93NUMPY", "npy"), (b"ARROW1", "arrow"),
    (b"FEA1", "arrow"), (b"ORC", "orc"), (b"Obj\x01", "avro"), (b"SQLite format 3\0", "sqlite"), (b"\x89HDF\r\n", "hdf5"),
    (b"MATLAB 5.0", "matlab"), (b"%PDF-", "pdf"), (b"%!PS", "postscript"), (b"\xc5\xd0\xd3\xc6", "postscript"),
    (b"\x89PNG\r\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"), (b"II*\0", "tiff"), (b"MM\0*", "tiff"),
    (b"\xd0\xcf\x11\xe0", "office"), (b"\xff\xff\xff\xff", "arrow stream"), (b"PK\5\6", "zip"),
)  # fmt: skip
_ELEMENT = re.compile(r"<(?:[A-Za-z_][\w.-]*:)?([A-Za-z][\w.-]*)")
_JSON_TEXT = re.compile(r'\s*(?:"(?:[^"\\]|\\.)*"\s*[,\]]|null\s*[,\]]|\{\s*["}]|\]\s*$)', re.DOTALL)


def kind_of(head: bytes, suffix: str) -> str:
    """Return the kind of a file: one of READ or FOREIGN, "zip", "text", or "unknown".

    head: its first HEAD bytes. suffix: in lower case, with the dot.
    """
    named = BY_SUFFIX.get(suffix, "")
    found = _binary(head)
    if not found and (text := _as_text(head)) is not None:
        found = _textual(text, named)
    if found in ("", "text"):
        return named or found or "unknown"
    return "torch" if found == "pickle" and named == "torch" else found


def _binary(head: bytes) -> str:
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head.startswith(b"PK\3\4"):
        return _zip_kind(head)
    if head[257:262] == b"ustar":
        return "tar"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "webp"
    if head.startswith(b"BM") and head[6:10] == b"\0\0\0\0":
        return "bmp"
    if head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5" and len(head) > 2:
        return "pickle"
    if len(head) > 9 and head[8:9] == b"{" and 1 < int.from_bytes(head[:8], "little") < 1 << 32:
        return "safetensors"
    if (
        len(head) > 16
        and head[4:8] == b"\0\0\0\0"
        and 0 < int.from_bytes(head[:4], "little") < 1 << 24
        and head[12] == 0x0A
    ):
        return "tfrecord"
    return ""


def _zip_kind(head: bytes) -> str:
    """Return the kind of a zip file by the name of its first member."""
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    if name.endswith(b".npy"):
        return "npz"
    if name.endswith((b"data.pkl", b"/byteorder", b".format_version")):
        return "torch"
    if name in (b"[Content_Types].xml", b"_rels/.rels"):
        return "excel" if b"xl/" in head else "office"
    return "office" if name == b"mimetype" else "zip"


def _as_text(head: bytes) -> str | None:
    """Return the head as text, or None. UTF-16 is recognized by its byte order mark, or by a zero next to a first `<`."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return head.decode("utf-16", "replace").lstrip("\ufeff")
    if head.startswith((b"<\0", b"\0<")):
        return head.decode("utf-16-le" if head[0] else "utf-16-be", "replace")
    return None if b"\0" in head else head.decode("utf-8", "replace").lstrip("\ufeff")


def _textual(text: str, named: str) -> str:
    start = text.lstrip()
    if start.startswith("<"):
        tags = [tag.lower() for tag in _ELEMENT.findall(re.sub(r"<!--.*?-->", "", start, flags=re.DOTALL))]
        first = tags[0] if tags else ""
        if first == "svg":
            return "svg"
        return "html" if first == "html" or start[:14].lower() == "<!doctype html" else "text"
    if not start.startswith(("{", "[")):
        columns = {name.strip('" \r') for name in start.partition("\n")[0].split(",")}
        return "quickdraw table" if columns >= {"drawing", "key_id"} else "text"
    if re.search(r'[{,]\s*"drawing"\s*:', start):
        return "quickdraw"
    if start[0] == "[":
        return "json" if _JSON_TEXT.match(start, 1) or named == "json" else "text"
    if re.search(r'[{,]\s*"(?:key_id|countrycode)"\s*:', start) and named == "quickdraw":
        return "quickdraw"  # the key "drawing" is beyond the head
    line, ended, _ = start.partition("\n")
    try:
        whole = isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        whole = not ended and named in ("jsonl", "json", "quickdraw")  # a line longer than the head
    if whole:
        return "json" if named == "json" and not _second_record(text) else "jsonl"
    return "json" if named == "json" else "text"


def _second_record(text: str) -> bool:
    lines = text.lstrip().split("\n", 2)
    return len(lines) > 1 and lines[1].lstrip().startswith("{")


def refusal(kind: str, name: str) -> str:
    """Return a message such as `it is a tar archive; unpack it: tar xf a.tar`. Empty if the kind is not in FOREIGN."""
    if kind not in FOREIGN:
        return ""
    return f"it is {FOREIGN[kind].name}; {FOREIGN[kind].command.replace('FILE', name)}"
