"""What `prepare` and `decode` are given by strangers: drawings, archives, arrays, sentences, vectors and asset cards."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from flowkit.data.dataset import read_dataset
from flowkit.errors import UserError
from flowkit.sketch.prepare import prepare
from flowkit.sketch.svg_read import read_svg
from flowkit.sources.kinds import BY_SUFFIX
from flowkit.sources.object_arrays import read_object_array
from flowkit.text.reading import read_sentences
from flowkit.text.sonar_cards import find_card
from flowkit.text.vectors import read_vectors
from tests.mutations import as_json, changed, changed_lines, changed_tensors, changed_zip, examples, mangled, read

torch.zeros(1)
SVG = (
    '<?xml version="1.0" encoding="UTF-8"?><!DOCTYPE svg><svg viewBox="0 0 100 100" width="10cm" height="50%">'
    "<!-- a --><style>.a{fill:red}@media print{*{fill:none}}svg > g .b:not(#p){--x:0;opacity:var(--x)!important}</style>"
    '<defs><clipPath id="c" clipPathUnits="objectBoundingBox"><rect width=".5" height="1" transform="rotate(9)"/></clipPath>'
    '<mask id="m"><rect width="100" height="50" fill="#fff"/><circle r="20"/></mask><linearGradient id="l" href="#l"/>'
    '<radialGradient id="r"><stop stop-color="rgb(1 2 3 / 4%)"/></radialGradient>'
    '<symbol id="s" viewBox="0 0 9 9"><path d="M0 0l1-1"/></symbol></defs>'
    '<g transform="rotate(10 5 5) skewX(3) matrix(1 0 0 1 2 2)" style="fill:none;stroke:black">'
    '<path id="p" d="M10 10C20 20,30-5 40 40s5 5 6 6Q1 2 3 4T5 6H7V8A5 3 10 0 1 20 20zm1 1.5.5"/>'
    '<rect x="1" y="2" width="30%" height="20" rx="2"/><circle cx="5" cy="5" r="4"/><ellipse cx="5" cy="5" rx="4" ry="2"/>'
    '<polyline points="1,2 3,4 5,6"/><line x1="0" y1="0" x2="9" y2="9"/><use href="#p" x="3"/>'
    '<use href="#s" width="20"/></g><g clip-path="url(#c)" mask="url(#m)" fill="url(#r) red" stroke="url(#l)">'
    '<path d="M0 0h100v100H0z" class="a b" clip-path="url(#c)"/><ellipse rx="40" ry="1e1" stroke-dasharray="3 1"/></g>'
    '<svg x="10%" width="50" height="40" viewBox="0 0 9 9" preserveAspectRatio="xMinYMax slice"><circle r="8"/></svg>'
    '<switch><g systemLanguage="de"/><path d="M1 1h9v9" style="stroke-dashoffset:1%;transform:rotate(3deg)"/></switch></svg>'
)
TOKENS = ["1e400", "-1e308", "1e-320", "9" * 500, "0", "-0", "nan", "", "1e5", "A", "M0 0", "%", " " * 300, "a" * 3000,
          "#p", "none",
          "rotate(1e400)", "scale(0)", "&#0;", "&x;", "&#xD800;", "<g>", "</g>", "<use href='#p'/>", "utf-16", "idna", "zlib",
          '<!ENTITY a "b">', "(" * 300, "*{", "}", "url(#c)", "url(#m)", "var(--x)", "{" * 300, "objectBoundingBox", "inherit",
          "/*", "'"]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sources")


def made(source: Path, out: Path) -> bool:
    """Prepared without anything but the two files; and what was prepared is finite."""

    def action() -> None:
        read_dataset(prepare(source, out / "data", exactly=16, overwrite=True).paths[0])

    done = read(action, out)
    assert not out.exists() or {path.name for path in out.iterdir()} <= {"data.safetensors", "data.json"}
    return done


@st.composite
def changed_svg(draw: st.DrawFn) -> bytes:
    text = SVG
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(TOKENS)) + text[at + draw(st.integers(0, 12)) :]
    return draw(mangled(text.encode())) if draw(st.integers(0, 4)) == 0 else text.encode()


@st.composite
def numbers_for(draw: st.DrawFn) -> bytes:
    """The same document, whole, with other numbers in it."""
    parts = SVG.split("1")
    return "".join(part + draw(st.sampled_from(["1"] * 8 + TOKENS[:9])) for part in parts).encode()


def test_drawings() -> None:
    outcomes = []

    @examples(400)
    @given(changed_svg() | numbers_for())
    def fuzz(raw):
        outcomes.append(read(lambda: [len(stroke) for stroke in read_svg(raw)]))

    fuzz()
    assert {True, False} <= set(outcomes)


def drawing(inside: str) -> bytes:
    return f'<svg viewBox="0 0 9 9">{inside}</svg>'.encode()


HANGS = {
    "digits shared out among the numbers of an arc": drawing('<path d="M0 0A' + "9" * 300 + '"/>'),
    "digits of a length": drawing('<rect height="1" width="' + "1" * 300_000 + '!"/>'),
    "a transform without an end": drawing('<path d="M0 0h1" transform="' + "a" * 300_000 + '"/>'),
    "one long style, used often": drawing('<g id="a" style="' + "a:b;" * 400_000 + '"/>' + '<use href="#a"/>' * 5000),
    "one long path, used often": drawing('<path id="a" d="' + "M0 0" * 400_000 + '"/>' + '<use href="#a"/>' * 5000),
}
BEYOND = {
    "an infinite rotation": '<path d="M0 0h1" transform="rotate(1e400)"/>',
    "an infinite slant": '<path d="M0 0h1" transform="skewX(1e400)"/>',
    "an arc turned infinitely": '<path d="M0 0A1 1 1e400 0 0 3 3"/>',
    "an arc of no length": '<path d="M0 0A1 1 0 0 0 1e-200 0"/>',
    "an arc too long to measure": '<path d="M1.79e308 1.79e308A.5 .5 0 0 0 0 0"/>',
}


@pytest.mark.parametrize("name", HANGS)
def test_pathological_svg_is_refused_quickly(name):
    read(lambda: read_svg(HANGS[name]))


@pytest.mark.parametrize("name", BEYOND)
def test_huge_numbers(name):
    assert not read(lambda: read_svg(drawing(BEYOND[name])))


def test_a_canvas_too_small_to_divide_by():
    assert not read(lambda: read_svg(b'<svg viewBox="0 0 5e-324 5e-324"><path d="M0 0h1"/></svg>'))


def stored(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


LINES = np.array([[0, 0, 0], [9, 3, 0], [5, -4, 1], [2, 2, 0], [8, 8, 1]], np.int16)
OBJECTS = np.empty(2, object)
OBJECTS[:] = [LINES, LINES[:3]]
RECORD = {"word": "cat", "key_id": "1", "drawing": [[[0, 9, 5], [1, 2, 8]], [[3, 3], [4, 9]]]}


def test_zips(place):
    files = {"cat/1.svg": SVG.encode(), "dog/2.svg": drawing('<path d="M0 0L9 9"/>'), "dog/deeper/3.svg": SVG.encode()}
    path, outcomes = place / "a.zip", []

    @examples(50)
    @given(changed_zip(files))
    def fuzz(raw):
        path.write_bytes(raw)
        outcomes.append(made(path, place / "zipped"))

    fuzz()
    assert {True, False} <= set(outcomes)


def member(header: bytes, body: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


def test_arrays(place):
    whole = [stored(train=OBJECTS), stored(a=LINES), stored(svg_32s=np.array(SVG))]
    headers = [
        "{'descr': '<i2', 'fortran_order': False, 'shape': (5, 3), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<U300', 'fortran_order': False, 'shape': (), }",
    ]
    words = [
        *("(10**9, 3)", "(1000000000, 3)", "(-1, 3)", "(2**63, 0)", "((((", "(5, 3, 1)", "()", "(500000000, 3)"),
        *("'|O'", "'<U0'", "'V9'", "'<c16'", "'<f8'", "'<m8'", "'>i2'", "[('a', '<i2')]"),
        *("True", "\n", "lambda: 1", "(18446744073709551616,)"),
    ]
    path, outcomes = place / "train.npz", []

    @examples(150)
    @given(st.data())
    def fuzz(data):
        if data.draw(st.booleans()):
            raw = data.draw(mangled(data.draw(st.sampled_from(whole))) | st.sampled_from(whole))
        else:
            header = data.draw(st.sampled_from(headers))
            at = data.draw(st.integers(0, len(header)))
            header = header[:at] + data.draw(st.sampled_from(words)) + header[at + data.draw(st.integers(0, 12)) :]
            body = data.draw(st.sampled_from([LINES.tobytes(), pickle.dumps(OBJECTS), b"", b"x" * 1200]))
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w") as archive:
                key = data.draw(st.sampled_from(["train", "svg_32s", "a", "../x", ""]))
                archive.writestr(f"{key}.npy", member(header.encode(), body))
            raw = stream.getvalue()
        path.write_bytes(raw)
        outcomes.append(made(path, place / "arrays"))

    fuzz()
    assert {True, False} <= set(outcomes)


@pytest.mark.parametrize("protocol", range(5))
def test_pickle_streams(protocol):
    raw = pickle.dumps(OBJECTS, protocol)
    whole = read_object_array(io.BytesIO(raw))
    assert [one.tolist() for one in whole] == [LINES.tolist(), LINES[:3].tolist()]

    def action(raw: bytes) -> None:
        try:
            found = read_object_array(io.BytesIO(raw))
        except ValueError as error:
            raise UserError(str(error) or "nothing said") from None
        assert all(one is None or one.dtype.kind in "iuf" for one in found)

    @examples(100)
    @given(mangled(raw))
    def fuzz(raw):
        read(lambda: action(raw))

    fuzz()
    # numpy's own unpickler takes 64 GB for this memo, the standard library's C one as well
    read(lambda: action(b"\x80\x02]r\xff\xff\xff\x7f."))


class Runs:
    def __reduce__(self) -> Any:
        return eval, ("1 / 0",)


@pytest.mark.parametrize("protocol", range(5))
def test_a_pickle_that_would_run_something_is_refused(protocol, tmp_path):
    holding = np.empty(1, object)
    holding[0] = Runs()
    with pytest.raises(ValueError, match=r"it refers to .*eval"):
        read_object_array(io.BytesIO(pickle.dumps(holding, protocol)))
    np.savez(tmp_path / "a.npz", train=holding)
    with pytest.raises(UserError, match="refused"):
        prepare(tmp_path / "a.npz", tmp_path / "out")


def test_lines_of_drawings(place):
    path, outcomes = place / "cat.ndjson", []

    @examples(150)
    @given(changed_lines([RECORD, RECORD, {**RECORD, "word": "dog"}]))
    def fuzz(raw):
        path.write_bytes(raw)
        outcomes.append(made(path, place / "lines"))

    fuzz()
    assert {True, False} <= set(outcomes)


TABLES = {
    "a.csv": b'id,text\n1,"A cat, asleep."\n2,"Two\nlines."\n3,A dog sat.\n',
    "a.tsv": "id\ttext\n1\tA cat sat.\n2\tÜnïcödé 漢字.\n".encode(),
    "a.txt": b"1\teng\tA cat sat.\n2\teng\tA dog ran.\n",
    "a.json": b'[{"text": "A cat."}, {"text": null}, {"text": "A dog."}]',
    "a.JSON": b'{"rows": ["A cat.", "A dog."]}',
    "b.csv": "id;text\n1;A cat sat.\n2;A dog ran.\n".encode("utf-16"),
    "b.jsonl": b'"A cat."\n{"text": "A dog."}\n',
}


def test_tables_of_sentences(place):
    outcomes = []

    @examples(200)
    @given(st.sampled_from(list(TABLES)), st.data(), st.sampled_from([None, "text", "1", "3", "\ud800"]), st.booleans())
    def fuzz(name, data, column, packed):
        raw = data.draw(mangled(TABLES[name]) | st.just(TABLES[name]))
        raw = data.draw(mangled(gzip.compress(raw)) | st.just(gzip.compress(raw))) if packed else raw
        (place / name).write_bytes(raw)
        outcomes.append(
            read(lambda: [t.encode() for t in read_sentences(place / name, column=column, skip_empty=True).texts])
        )

    fuzz()
    assert {True, False} <= set(outcomes)


def test_parquet(place):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    arrow.set_memory_pool(arrow.system_memory_pool())
    whole = []
    for column in (arrow.array(["A cat.", None, "A dog."]), arrow.array([["A cat."], [], ["A dog.", "b"]])):
        out = io.BytesIO()
        parquet.write_table(arrow.table({"id": [1, 2, 3], "text": column}), out, compression="zstd")
        whole.append(out.getvalue())
    path, outcomes = place / "a.parquet", []
    path.write_bytes(whole[0])
    read_sentences(path, skip_empty=True)  # its threads and tables are there before memory is counted

    @examples(150)
    @given(st.sampled_from(whole), st.data())
    def fuzz(raw, data):
        path.write_bytes(data.draw(mangled(raw) | st.just(raw)))
        outcomes.append(read(lambda: [text.encode() for text in read_sentences(path, skip_empty=True).texts]))

    fuzz()
    assert {True, False} <= set(outcomes)


@pytest.mark.parametrize("suffix", [".svgz", ".ndjson", ".npz", ".zip"])
def test_gzip_around_and_inside_of_drawings(place, suffix):
    whole = {".svgz": SVG.encode(), ".ndjson": as_json(RECORD) + b"\n", ".npz": stored(train=OBJECTS)}
    path, outcomes = place / f"packed{suffix}", []
    if suffix == ".zip":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("train/cat/1.svgz", gzip.compress(SVG.encode()))
            archive.writestr("Test/猫/2.svg", SVG)
        raw = stream.getvalue()
    else:
        raw = gzip.compress(whole[suffix])

    @examples(30)
    @given(mangled(raw, 2) | st.just(raw))
    def fuzz(content):
        path.write_bytes(content)
        outcomes.append(made(path, place / "gzip"))

    fuzz()
    assert True in outcomes


def test_any_bytes_under_any_name(place):
    """`prepare` of a file that may be anything: read as drawings or as sentences, or refused."""
    starts = [
        *(b"\x1f\x8b\x08\0", b"PK\3\4", b"PAR1", b"\x93NUMPY\1\0", b"{", b"[", b"<svg", b"\xff\xfe", b"\xef\xbb\xbf"),
        *(b"\x80\4", b"", b"\0" * 8, b"id,text\n"),
    ]

    @examples(150)
    @given(st.sampled_from(starts), st.binary(max_size=60), st.sampled_from([*BY_SUFFIX, "", ".gz", ".xyz"]))
    def fuzz(start, rest, suffix):
        path = place / f"bytes{suffix}"
        path.write_bytes(start + rest)
        made(path, place / "any")
        read(lambda: read_sentences(path, skip_empty=True))
        if suffix not in (".pt", ".pth"):
            read(lambda: read_vectors(path))

    fuzz()


def test_sentences(place):
    rows = [{"text": text} for text in ("A cat.", "Ünïcödé — 漢字.", "a\u0301\u0316\u0300 b", "x" * 50)]
    outcomes = []

    @examples(200)
    @given(st.sampled_from([".txt", ".jsonl"]), changed_lines(rows), st.booleans())
    def fuzz(suffix, raw, skip_empty):
        path = place / f"sentences{suffix}"
        path.write_bytes(raw)
        outcomes.append(read(lambda: [text.encode() for text in read_sentences(path, skip_empty=skip_empty).texts]))

    fuzz()
    assert {True, False} <= set(outcomes)


@pytest.mark.parametrize(
    "line",
    [
        b"a" * 30_000_000,
        b"\0" * 30_000_000,
        ("a" + "\u0300\u0316" * 300_000).encode(),
        ("\u0300\u0316" * 999 + " ").encode() * 1000,
    ],
)
def test_endless_lines(tmp_path, line):
    path = tmp_path / "sentences.txt"
    path.write_bytes(line)
    read(lambda: read_sentences(path))


def test_vectors(place):
    rows = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    npy, pt = io.BytesIO(), io.BytesIO()
    np.save(npy, rows)
    torch.save({"x": torch.from_numpy(rows), "y": torch.zeros(2)}, pt)
    whole = {".npy": npy.getvalue(), ".safetensors": save({"x": rows, "y": rows[0]}), ".pt": pt.getvalue()}
    odd = [torch.zeros(1).expand(10**9, 10**6), torch.zeros(2, 3, dtype=torch.float8_e4m3fn), torch.zeros(2, 3,
           dtype=torch.complex64),
           torch.eye(3).to_sparse(), torch.zeros(2, 3, device="meta"), [1], {"x": 3}, {}, torch.zeros(0, 3),
           torch.zeros(2, 3).conj()]  # fmt: skip
    outcomes = []

    @examples(250)
    @given(st.sampled_from([*whole, ".pth"]), st.data())
    def fuzz(suffix, data):
        path = place / f"vectors{suffix}"
        if suffix == ".safetensors":
            path.write_bytes(data.draw(changed_tensors(whole[suffix])))
        elif suffix == ".pth":
            torch.save(data.draw(st.sampled_from(odd)), path)
        else:
            path.write_bytes(data.draw(mangled(whole[data.draw(st.sampled_from([suffix] * 9 + list(whole)))], 2)))
        outcomes.append(read(lambda: float(read_vectors(path).sum())))

    fuzz()
    assert {True, False} <= set(outcomes)


def test_a_torch_file_that_would_run_something_is_refused(tmp_path):
    torch.save(Runs(), tmp_path / "a.pt")
    with pytest.raises(UserError, match="could run code"):
        read_vectors(tmp_path / "a.pt")


CARD = {"name": "mine", "model_family": "transformer_encoder", "model_arch": "basic", "checkpoint": "mine.pt",
        "tokenizer": "a.model",
        "tokenizer_config": {"_set_": {"langs": ["eng_Latn"]}}, "base": None}  # fmt: skip


def test_asset_cards(place):
    path = place / "card.yaml"
    words = ["<<: *a", "&a", "*a", "!!python/object/apply:os.system [true]", "2024-02-31", "? [1]: 2",
             "restrict: false", "---", "{" * 300,
             "base: mine", "!!binary x", "\t", ": :", "0x", "1e400"]  # fmt: skip

    @examples(150)
    @given(changed(CARD), st.data())
    def fuzz(content, data):
        try:
            text = yaml.safe_dump(content)
        except (yaml.YAMLError, UnicodeError, RecursionError):
            text = json.dumps(content)
        lines = text.splitlines()
        for _ in range(data.draw(st.integers(0, 2))):
            lines.insert(data.draw(st.integers(0, len(lines))), data.draw(st.sampled_from(words)))
        path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        for role in ("encoder", "tokenizer"):
            read(
                lambda role=role: [
                    find_card(role, str(path)).place("checkpoint"),
                    find_card(role, str(path)).languages(),
                ]
            )

    fuzz()


@pytest.mark.parametrize("lifted", [False, "no", 0, ""])
def test_card_without_restrict_is_refused(tmp_path, lifted):
    """Also where it is the card below that says so."""
    below = {**CARD, "name": "below", "restrict": lifted}
    path = tmp_path / "cards.yaml"
    path.write_text(yaml.safe_dump_all([{"name": "above", "base": "below"}, {**below, "model_family": "other"}]))
    with pytest.raises(UserError, match=r"to run code|expected one card"):
        find_card("encoder", str(path))
    path.write_text(yaml.safe_dump(below))
    with pytest.raises(UserError, match=r"restrict: .*, which allows its checkpoint to run code"):
        find_card("encoder", str(path))


def test_exponentially_growing_card(tmp_path):
    path = tmp_path / "card.yaml"
    levels = ["a0: &a0 {x: 1}"] + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 20)}]}}" for i in range(1, 12)]
    path.write_text("name: mine\n" + "\n".join(levels))
    assert not read(lambda: find_card("encoder", str(path)))


# ---- bombs ----


def test_a_zip_of_millions_of_members(place):
    """A directory that is one entry, over and over: 300 kilobytes of .zip that would become gigabytes of objects."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.npy", b"x")
    raw = stream.getvalue()
    start, end = raw.find(b"PK\1\2"), raw.rfind(b"PK\5\6")
    entry = raw[start:end] * 1_000_000
    tail = bytearray(raw[end:])
    tail[8:12] = b"\xff\xff\xff\xff"
    tail[12:16] = len(entry).to_bytes(4, "little")
    path = place / "many.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/1.npz", raw[:start] + entry + bytes(tail))
    assert not made(path, place / "many")


def test_an_array_that_is_larger_than_memory(place):
    """Half a megabyte of .zip; as coordinates of eight bytes it would be four gigabytes."""
    stream, path = io.BytesIO(), place / "large.zip"
    header = "{'descr': '|i1', 'fortran_order': False, 'shape': (130000000, 3), }"
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a.npy", member(header.encode(), bytes(390_000_000)))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/1.npz", stream.getvalue())
    assert not made(path, place / "large")


def test_scribble_is_refused_quickly(place):
    xs, ys = np.random.default_rng(0).integers(0, 256, (2, 20_000)).tolist()
    (place / "scribble.ndjson").write_bytes(as_json({"word": "x", "drawing": [[xs, ys]]}))
    assert not made(place / "scribble.ndjson", place / "scribble")
    (place / "scribble.ndjson").write_bytes(as_json({"word": "x", "drawing": [[xs * 30, ys * 30]]}))
    assert not made(place / "scribble.ndjson", place / "scribble")


def test_file_name_that_is_not_utf8(tmp_path):
    """Of a folder in another encoding: its class is named with question marks."""
    folder = tmp_path / "in"
    (folder / "caf\udce9").mkdir(parents=True)
    (folder / "caf\udce9" / "1.svg").write_text(SVG)
    report = prepare(folder, tmp_path / "out")
    assert read_dataset(report.paths[0]).class_names == ("caf?",)
