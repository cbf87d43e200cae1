"""Files as people have them: split folders, compressed, misnamed, from other systems. Nothing vanishes without a line."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flowkit.cli import app
from flowkit.data.dataset import Dataset, read_dataset
from flowkit.errors import NothingLeft, Unreadable, UserError
from flowkit.sketch.prepare import PrepareReport, prepare
from flowkit.sources.files import open_files
from flowkit.sources.kinds import kind_of
from flowkit.sources.splits import split_of
from flowkit.text.vectors import read_vectors
from tests.test_sketch_import import LINES, SVG, check_stroke3, names_of, objects, stroke3, write, zipped

Contents = dict[str, "str | bytes"]


def run(source: Path, **options: object) -> tuple[PrepareReport, Dataset]:
    report = prepare(source, source.parent / "out/data", exactly=4, overwrite=True, **options)  # type: ignore[reportArgumentType]
    return report, read_dataset(report.paths[0])


def said(report: PrepareReport) -> str:
    return "\n".join(report.notes)


def drawn(*names: str) -> Contents:
    """Different drawings under these names."""
    return {name: SVG.format(number) for number, name in enumerate(names)}


# ---- splits ----


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(
            ("Train", "train"),
            ("TRAINING", "train"),
            ("train_set", "train"),
            ("train2017", "train"),
            ("dev", "validation"),
        ),
        *(("Valid", "validation"), ("eval", "validation"), ("val-split", "validation"), ("test images", "test")),
        *(("Testing", "test"), ("trains", ""), ("contest", ""), ("latest", ""), ("value", ""), ("test1", "")),
        *(("train-00000-of-00012", "train"), ("validation-00003-of-00004", "validation"), ("X_test", "test")),
    ],
)
def test_names_of_splits(name: str, split: str) -> None:
    assert split_of(name) == split


LAYOUTS = {
    "above classes": ["train/cat/1.svg", "train/dog/2.svg", "val/cat/3.svg", "test/dog/4.svg"],
    "in other words": ["Training/cat/1.svg", "Training/dog/2.svg", "Dev/cat/3.svg", "EVAL/cat/5.svg", "Test/dog/4.svg"],
    "below classes": ["cat/train/1.svg", "dog/Train/2.svg", "cat/Validation/3.svg", "dog/test/4.svg"],
    "with folders between": ["train/svg/cat/1.svg", "train/svg/dog/2.svg", "valid/svg/cat/3.svg", "test/svg/dog/4.svg"],
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("wrapped", ["", "my drawings/"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_folders_named_like_splits(tmp_path: Path, layout: str, wrapped: str, packed: bool) -> None:
    files = drawn(*(wrapped + name for name in LAYOUTS[layout]))
    source = zipped(tmp_path / "a.zip", files) if packed else write(tmp_path / "a", files)
    report, data = run(source)
    assert report.splits == {"train": 2, "validation": len(files) - 3, "test": 1}
    assert data.class_names == ("cat", "dog") and "splits, not classes" in said(report)


def test_a_class_called_train_stays_one_and_that_is_said(tmp_path: Path) -> None:
    report, data = run(write(tmp_path / "toys", drawn("car/1.svg", "train/2.svg", "ship/3.svg")))
    assert data.class_names == ("car", "ship", "train") and data.split is None
    assert "train: read as a class, because other folders are not splits (car, ship)" in said(report)


def test_one_class_with_splits_and_files_outside_of_them(tmp_path: Path) -> None:
    report, data = run(write(tmp_path / "cats", drawn("train/1.svg", "test/2.svg", "3.svg")))
    assert report.splits == {"train": 2, "validation": 0, "test": 1} and data.class_names == ("cats",)
    assert "1 file is not in the folder of a split: read as train" in said(report)


def test_loose_files_in_a_split_that_become_a_class(tmp_path: Path) -> None:
    for number, loose in enumerate(("train/1.svg", "train/../1.svg", "val/1.svg")):
        report, data = run(write(tmp_path / f"s{number}", drawn("train/cat/2.svg", "val/cat/3.svg", loose)))
        assert data.class_names in (("cat", f"s{number}"), (f"s{number}", "cat"))
        assert f"1 file outside class folders: read as the class 's{number}'" in report.notes
    report, _ = run(write(tmp_path / "flat", drawn("train/2.svg", "val/3.svg")))
    assert "class of" not in said(report)


def test_drawings_without_a_word(tmp_path: Path) -> None:
    words = ("owl", None, "", 5)
    lines = [json.dumps({"word": word, "drawing": [[[0, n], [1, 8]]]}) for n, word in enumerate(words, 3)]
    report, data = run(write(tmp_path, {"bird.ndjson": "\n".join(lines)}) / "bird.ndjson")
    assert sorted(names_of(data)) == ["bird"] * 3 + ["owl"]
    assert "3 drawings have no 'word': their class is the file's name" in report.notes


def test_splits_of_drawings_by_the_line(tmp_path: Path) -> None:
    line = lambda n: json.dumps({"word": "cat", "drawing": [[[0, 9, n], [1, 2, 8]]]}) + "\n"  # noqa: E731
    by_folder = {"train/cat.ndjson": line(1) + line(2), "Test/cat.ndjson": line(3)}
    by_name = {"train.ndjson": line(1) + line(2), "test.ndjson": line(3)}
    for number, files in enumerate((by_folder, by_name)):
        report, data = run(write(tmp_path / f"q{number}", dict(files)))
        assert report.splits == {"train": 2, "validation": 0, "test": 1} and data.class_names == ("cat",)
        assert "splits" in said(report)


@pytest.mark.parametrize(
    "layout", [("test/a/1.svg", "val/b/2.svg"), ("a/Test/1.svg", "b/test/2.svg"), ("holdout/1.svg",)]
)
def test_no_training_row_is_exit_status_1(tmp_path: Path, layout: tuple[str, ...]) -> None:
    source = write(tmp_path / "s", drawn(*layout))
    found = CliRunner().invoke(app, ["prepare", str(source), "--out", str(tmp_path / "set")])
    assert found.exit_code == 1 and "no rows left to train on" in found.output
    from flowkit.data_source import with_split

    with pytest.raises(UserError, match=r"set: has no training rows \(.* test\), by the splits"):
        with_split(read_dataset(tmp_path / "set"), 0.1, None, 0, "set")


def test_nothing_left_if_all_is_dropped(tmp_path: Path) -> None:
    with pytest.raises(NothingLeft, match="no sketch of 2 could be kept"):
        run(write(tmp_path / "s", {"a/1.svg": "", "b/2.svg": "<svg/>"}))
    assert NothingLeft.exit_status == 1 and UserError.exit_status == 2


# ---- what is passed over ----


def test_what_is_not_read_is_counted(tmp_path: Path) -> None:
    files = drawn("cat/1.svg", "dog/2.svg", "loose.svg")
    files |= {f"cat/{i}.png": b"\x89PNG\r\n\x1a\n" for i in range(3)}
    files |= {"readme.md": "# hello", "LICENSE": "free", ".hidden/3.svg": SVG, ".DS_Store": "x"}
    source = write(tmp_path / "s", files)
    (source / "linked").symlink_to(source / "cat")
    (source / "gone.svg").symlink_to(source / "nowhere")
    report, data = run(source)
    assert names_of(data) == ["cat", "dog", "s"]
    for line in ("3 .png files were not read", "1 .md file was not read", "1 file without suffix was not read",
                 "2 hidden files or folders were not read", "1 link to a folder that was already read was skipped",
                 "1 link points to nothing", "1 file outside class folders: read as the class 's'"):  # fmt: skip
        assert line in report.notes, said(report)
    assert data.info["prepared"]["notes"] == list(report.notes)


def test_followed_links_and_copies_are_reported(tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere", drawn("1.svg"))
    source = write(tmp_path / "s", {"train/a/1.svg": SVG.format(5), "train/a/1 (copy).svg": SVG.format(5),
                                    "test/a/9.svg": SVG.format(5)})  # fmt: skip
    (source / "train/b").symlink_to(elsewhere)
    report, data = run(source)
    assert data.class_names == ("a", "b") and "1 link was followed" in report.notes
    assert "2 drawings are exact copies of others and kept; 1 is in more than one split" in report.notes


def test_classes_that_differ_in_case_only(tmp_path: Path) -> None:
    report, _ = run(zipped(tmp_path / "a.zip", drawn("Cat/1.svg", "cat/2.svg", "dog/3.svg")))
    assert "classes whose names differ in case only: Cat and cat" in report.notes


def test_unrecognized_drawings(tmp_path: Path) -> None:
    lines = [json.dumps({"word": "cat", "recognized": known, "drawing": [[[0, n], [1, 8]]]})
             for n, known in enumerate((True, False, True, False), 3)]  # fmt: skip
    source = write(tmp_path, {"cat.ndjson": "\n".join(lines)}) / "cat.ndjson"
    report, data = run(source)
    assert len(data) == 4 and "2 drawings were not recognized by the game, but kept" in said(report)
    report, data = run(source, recognized_only=True)
    assert len(data) == 2 and report.total.left_out == {"was not recognized by the game": 2}
    tabled = [json.dumps({**record, "drawing": json.dumps(record["drawing"]), "recognized": str(record["recognized"])})
              for record in map(json.loads, lines)]  # fmt: skip
    write(tmp_path, {"cat.ndjson": "\n".join(tabled)})
    assert len(run(source, recognized_only=True)[1]) == 2
    source.write_bytes("\n".join(lines).encode("utf-16"))
    with pytest.raises(NothingLeft, match=r"no sketch of 1 could be kept \(1: is UTF-16; convert it to UTF-8 \(iconv "):
        run(source)
    with pytest.raises(UserError, match=r"--recognized-only: .* holds svg"):
        run(write(tmp_path / "s", drawn("1.svg")), recognized_only=True)


# ---- zips ----


def raw_zip(path: Path, names: list[bytes], extra: bytes = b"") -> Path:
    """As other programs write them: names as bytes, without the flag that says UTF-8."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, _ in enumerate(names):
            info = zipfile.ZipInfo(chr(97 + number) * len(names[number]))
            info.extra = extra
            archive.writestr(info, SVG.format(number))
    content = path.read_bytes()
    for number, name in enumerate(names):
        content = content.replace(chr(97 + number).encode() * len(name), name)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("word", ["猫", "café", "Ёж", "über-Größe"])
def test_names_in_utf8_without_the_flag(tmp_path: Path, word: str) -> None:
    report, data = run(raw_zip(tmp_path / "a.zip", [f"{word}/1.svg".encode(), b"other/2.svg"]))
    assert set(data.class_names) == {word, "other"} and not report.notes


def test_names_of_a_mac_and_names_of_no_known_encoding(tmp_path: Path) -> None:
    decomposed = "cafe\u0301"  # as macOS writes it
    names = [f"{decomposed}/1.svg".encode(), f"__MACOSX/{decomposed}/._1.svg".encode(), "café/2.svg".encode()]
    report, data = run(raw_zip(tmp_path / "mac.zip", names))
    assert data.class_names == ("café",) and "1 hidden file or folder was not read" in report.notes
    report, data = run(raw_zip(tmp_path / "old.zip", ["日本/1.svg".encode("shift-jis"), b"b/2.svg"]))
    assert len(data) == 2 and "unknown encoding" in said(report)


def test_a_name_in_the_extra_field(tmp_path: Path) -> None:
    raw = b"\x8f\x8e/1.svg"
    field = b"\x01" + zlib.crc32(raw).to_bytes(4, "little") + "猫/1.svg".encode()
    report, data = run(raw_zip(tmp_path / "a.zip", [raw], extra=struct.pack("<HH", 0x7075, len(field)) + field))
    assert "猫" in (*data.class_names, *report.classes[0].name)


# ---- content decides ----


def packed(content: str | bytes) -> bytes:
    return gzip.compress(content.encode() if isinstance(content, str) else content)


def test_compressed_drawings_under_any_name(tmp_path: Path) -> None:
    files: Contents = {
        "a/1.svgz": packed(SVG.format(1)), "a/2.svg": packed(SVG.format(2)), "b/3.svg.gz": packed(SVG.format(3)),
        "b/4.SVG": SVG.format(4), "b/5": SVG.format(5), "c/6.xml": SVG.format(6), "c/7.svgz": SVG.format(7),
        "c/8.svg": SVG.format(8).encode("utf-16"), "c/9.txt": '<?xml version="1.0"?>\n<!-- <html> -->\n' + SVG.format(9),
    }  # fmt: skip
    for source in (write(tmp_path / "s", files), zipped(tmp_path / "s.zip", files)):
        report, data = run(source)
        assert len(data) == 9 and data.class_names == ("a", "b", "c"), (said(report), report.examples)


def test_single_files_under_wrong_names(tmp_path: Path) -> None:
    line = json.dumps({"word": "cat", "drawing": [[[0, 9, 5], [1, 2, 8]]]})
    stream = io.BytesIO()
    np.savez(stream, train=objects([stroke3(LINES)]))
    inner = zipped(tmp_path / "inner", dict(drawn("cat/1.svg")))
    for name, content in {"drawing": SVG.format(1), "a.json": line, "cat.ndjson.gz": packed(line + "\n" + line),
                          "cat.data": stream.getvalue(), "cat.npz.gz": packed(stream.getvalue()), "cat.GZ": packed(line),
                          "bundle.bin": inner.read_bytes(), "all.json": f" [\n {line},\n {line}]"}.items():  # fmt: skip
        report, data = run(write(tmp_path, {name: content}) / name)
        assert len(data) >= 1, name
        assert report.format in ("svg", "quickdraw", "stroke3")
        assert "one JSON array" in said(report) or name != "all.json"


@pytest.mark.parametrize(
    ("content", "suffix", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(9), ".svg", "png"),
        (b"\xff\xd8\xff\xe0", ".txt", "jpeg"),
        (b"%PDF-1.4", ".svg", "pdf"),
        (b"PAR1" + bytes(9), ".csv", "parquet"),
        (bytes(257) + b"ustar\0", ".gz", "tar"),
        (b"BZh91AY&SY", ".ndjson", "bzip2"),
        (b"\x80\x04\x95" + bytes(9), ".pkl", "pickle"),
        (b"\x80\x02\x8a\x0al", ".pt", "torch"),
        (b"SQLite format 3\0", ".db", "sqlite"),
        (b"ARROW1\0\0", ".arrow", "arrow"),
        (b"<!DOCTYPE html><html><svg/>", ".html", "html"),
        (b"[Applause] Hello.\n", ".txt", "txt"),
        (b'{"text": "a"}\n{"text": "b"}\n', ".txt", "jsonl"),
        (b'["a", "b"]', "", "json"),
        (b"A cat.\n", ".md", "text"),
        (b"\0\1\2", ".xyz", "unknown"),
    ],
)
def test_kinds(content: bytes, suffix: str, kind: str) -> None:
    assert kind_of(content, suffix) == kind


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tar", bytes(257) + b"ustar\0" + bytes(300), r"tar archive; unpack .*tar xf .*a\.tar"),
        ("a.svg", b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG image; trace it to SVG: vtracer"),
        (
            "a.pkl",
            b"\x80\x04\x95" + bytes(50),
            "pickle, which is not read because unpickling can run code; .*python -c",
        ),
        ("a.xlsx", b"PK\3\4" + bytes(22) + b"\x13\0\0\0[Content_Types].xml xl/", r"Excel workbook; .*read_excel\('"),
        ("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5 file; .*h5py"),
        (
            "a.csv",
            b"countrycode,drawing,key_id,recognized,timestamp,word\n",
            "table of Quick, Draw! drawings.*read_csv",
        ),
        ("a.csv", b'"key_id","word","drawing"\r\n', r"to_json\('drawings.ndjson'"),
        ("a.bin", b"\0\1\2\3" * 20, "cannot be read: unknown file type"),
    ],
)
def test_what_is_refused_is_named_with_a_command(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    found = CliRunner().invoke(app, ["prepare", str(tmp_path / name), "--out", str(tmp_path / "o")])
    assert isinstance(found.exception, UserError)
    assert re.search(message, str(found.exception)), found.exception


def test_archives_in_archives_and_pictures_in_folders_are_named_by_their_place(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("b/c.zip", b"PK\3\4" + bytes(40))
    found = CliRunner().invoke(app, ["prepare", str(tmp_path / "a.zip"), "--out", str(tmp_path / "o")])
    message = r"a\.zip: cannot be read \(b/c\.zip, its only file; run unzip \S*/a\.zip first\): .*unzip b/c\.zip -d"
    assert re.search(message, str(found.exception)), found.exception
    source = write(tmp_path / "p", {"1.png": b"\x89PNG\r\n\x1a\n", "2.png": b"\x89PNG\r\n\x1a\n"})
    with pytest.raises(UserError, match=rf"vtracer --input {re.escape(str(source))}/1\.png"):
        run(source)


def test_a_drawing_that_is_something_else_has_its_reason(tmp_path: Path) -> None:
    strange = {"is a PNG image by its content": b"\x89PNG\r\n\x1a\n", "text is not read": '<svg><text x="1">hi</text></svg>',
               "images are not read": '<svg><image href="x.png" width="9" height="9"/></svg>'}  # fmt: skip
    for number, (reason, content) in enumerate(strange.items()):
        report, _ = run(write(tmp_path / f"s{number}", drawn("a/1.svg") | {"a/2.svg": content}))
        assert report.total.left_out.total() == 1
        assert reason in " | ".join(report.total.left_out) + str(report.examples)


def test_gzip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowkit.sources.files.MAX_INFLATED", 1_000_000)
    source = write(tmp_path / "s", drawn("1.svg") | {"2.svg": packed(b"<svg>" + b" " * 8_000_000)})
    report, data = run(source)
    assert len(data) == 1 and "expands to more than" in str(report.examples)


@pytest.mark.parametrize("limit", [1_000_000_000, 3_000_000])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_reading_reserves_memory_for_the_file_not_for_the_limit(
    tmp_path: Path, pack: Callable[[bytes], bytes], limit: int
) -> None:
    for content in (b"[]", np.random.default_rng(0).bytes(3_000_000)):
        (tmp_path / "a.json").write_bytes(pack(content))
        with open_files(tmp_path / "a.json") as files:
            tracemalloc.start()
            assert files.read(files.entries[0], limit) == content
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 3 * len(content) + 8_000_000
        with open_files(tmp_path / "a.json") as files, pytest.raises(Unreadable, match="is larger than"):
            files.read(files.entries[0], len(content) - 1)


# ---- arrays ----


def stroke5(rows: np.ndarray, length: int) -> np.ndarray:
    """As sketch-rnn pads it: dx, dy, pen down, pen up, end."""
    out = np.zeros((length, 5), np.float32)
    out[: len(rows), :2] = rows[:, :2]
    out[: len(rows), 3] = rows[:, 2]
    out[: len(rows), 2] = 1 - out[: len(rows), 3]
    out[len(rows) :, 4] = 1
    return out


ARRAYS = {
    "stroke-3 of equal lengths": lambda rows: np.stack([rows] * 2),
    "stroke-3 with rows of zeros after it": lambda rows: np.stack([np.pad(rows, ((0, 4), (0, 0)))] * 2),
    "stroke-5 of equal lengths": lambda rows: np.stack([stroke5(rows, len(rows) + 3)] * 2),
    "stroke-5 without an end": lambda rows: np.stack([stroke5(rows, len(rows))] * 2),
    "stroke-5 as objects": lambda rows: objects([stroke5(rows, 9), stroke5(rows, 12)]),
    "stroke-3 as objects": lambda rows: objects([rows, rows.astype(np.float64)]),
}


@pytest.mark.parametrize("container", ["npz", "npy"])
@pytest.mark.parametrize("name", ARRAYS)
def test_strokes_in_arrays(tmp_path: Path, name: str, container: str) -> None:
    array = ARRAYS[name](stroke3(LINES))
    source = tmp_path / f"cat.{container}"
    np.savez(source, train=array, valid=array[:1]) if container == "npz" else np.save(source, array)
    report = prepare(source, tmp_path / "out", exactly=3)
    data = read_dataset(tmp_path / "out")
    assert report.splits == ({"train": 2, "validation": 1, "test": 0} if container == "npz" else {})
    assert names_of(data) == ["cat"] * len(data)
    check_stroke3(data)


def test_arrays_beside_those_of_drawings(tmp_path: Path) -> None:
    rows = stroke3(LINES)
    two = np.stack([rows] * 2)
    np.savez(tmp_path / "cat.npz", x_train=two, x_test=two[:1], y_train=np.arange(2), std=np.float32(3))
    report = prepare(tmp_path / "cat.npz", tmp_path / "out", exactly=3)
    assert report.splits == {"train": 2, "validation": 0, "test": 1} and report.total.read == 3
    assert "cat.npz: not read, because they hold no drawings: y_train, std" in report.notes
    np.savez(tmp_path / "animals.npz", cat=two, dog=objects([rows]))
    report = prepare(tmp_path / "animals.npz", tmp_path / "out2", exactly=3)
    assert report.total.kept == 3 and "animals.npz: cat, dog are read as one class, 'animals'" in said(report)


def test_vectors_by_content(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    np.save(tmp_path / "v.npy", rows)
    for name in ("V.NPY", "vectors.dat"):
        shutil.copy(tmp_path / "v.npy", tmp_path / name)
    np.savez_compressed(tmp_path / "e.npz", embeddings=rows, ids=np.arange(4))
    np.save(tmp_path / "o.npy", objects(list(rows)))
    (tmp_path / "v.npy.gz").write_bytes(packed((tmp_path / "vectors.dat").read_bytes()))
    (tmp_path / "packed.npy").write_bytes((tmp_path / "v.npy.gz").read_bytes())
    for name in ("V.NPY", "vectors.dat", "e.npz", "o.npy", "v.npy.gz", "packed.npy"):
        np.testing.assert_array_equal(read_vectors(tmp_path / name), rows)
    np.savez(tmp_path / "two.npz", a=rows, b=rows)
    with pytest.raises(UserError, match=r"holds 2 matrices and none is called 'x' \(a \(4, 8\), b"):
        read_vectors(tmp_path / "two.npz")
    np.save(tmp_path / "uneven.npy", objects([rows[0], rows[0, :5]]))
    with pytest.raises(UserError, match=r"arrays of different lengths.*np\.stack"):
        read_vectors(tmp_path / "uneven.npy")


@pytest.mark.parametrize("shape", [(5, 784), (5, 28, 28)])
def test_bitmaps_are_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "cat.npy", np.zeros(shape, np.uint8))
    found = CliRunner().invoke(app, ["prepare", str(tmp_path / "cat.npy"), "--out", str(tmp_path / "o")])
    assert "pictures of 28 x 28 pixels (such as the bitmaps of Quick, Draw!)" in str(found.exception)


def test_a_folder_is_sniffed_once_for_each_file(tmp_path: Path) -> None:
    with open_files(write(tmp_path / "s", drawn("1.svg", "2.svg"))) as files:
        assert [files.kind(entry) for entry in files.entries] == ["svg", "svg"]
        files.open = None  # type: ignore[reportAttributeAccessIssue]
        assert len(files.of_kind("svg")) == 2


def test_a_folder_of_vectors_is_not_called_sketches(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / "v" / name, np.ones((3, 8), np.float32))
    (tmp_path / "v/t.txt").write_text("A cat.\n")
    found = CliRunner().invoke(app, ["prepare", str(tmp_path / "v"), "--codec", "sonar", "--out", str(tmp_path / "o")])
    assert re.search(r"v: a folder or zip with vectors \(a\.npy\); .*--texts.*np\.concatenate", str(found.exception))
