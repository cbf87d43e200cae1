"""Importers and `prepare`: files in each documented format, hostile files, and real ones if available."""

from __future__ import annotations

import io
import json
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from typer.testing import CliRunner

from flowkit.data.dataset import Dataset, read_dataset
from flowkit.errors import UserError
from flowkit.sketch import bezier
from flowkit.sketch.features import blurred_grid
from flowkit.sketch.importers import quickdraw
from flowkit.sketch.prepare import PrepareReport, prepare
from flowkit.sketch.strokes import continues, exists, pen_strokes
from flowkit.sources.files import open_files
from tests.conftest import SHARED

real = pytest.mark.skipif(not SHARED.exists(), reason="the real data is not at hand")
SVG = '<svg viewBox="0 0 10 10"><path d="M0 0 C 1 2 3 4 {} 10"/></svg>'


def run(source: Path, tmp_path: Path, **options) -> tuple[PrepareReport, Dataset]:
    report = prepare(source, tmp_path / "out/data", **options)
    return report, read_dataset(report.paths[0])


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def zipped(path: Path, files: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def names_of(data: Dataset) -> list[str]:
    assert data.class_label is not None
    return sorted(data.class_names[i] for i in data.class_label)


# ---- folders, zips, classes ----


def test_folders_are_classes(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {f"drawings/cat/{i}.svg": SVG.format(i) for i in range(3)}
    files |= {"drawings/dog/a.SVG": SVG.format(9), "drawings/dog/deeper/b.svg": SVG.format(8)}
    litter: dict[str, str | bytes] = {
        "__MACOSX/drawings/cat/._0.svg": "x",
        "__MACOSX/x.svg": SVG,
        "drawings/.DS_Store": "x",
        "drawings/README.md": "",
    }
    for source in (write(tmp_path / "folder", files | litter), zipped(tmp_path / "a.zip", files | litter)):
        report, data = run(source, tmp_path, exactly=4, overwrite=True)
        assert names_of(data) == ["cat"] * 3 + ["dog"] * 2
        assert report.shape == data.x.shape == (5, 4, 8) and data.split is None
        assert data.info["source"]["name"] == source.name and data.info["source"]["format"] == "svg"


def test_a_flat_folder_is_one_class(tmp_path: Path) -> None:
    flat: dict[str, str | bytes] = {f"{i}.svg": SVG.format(i) for i in range(3)}
    assert names_of(run(write(tmp_path / "birds", flat), tmp_path)[1]) == ["birds"] * 3
    assert names_of(run(zipped(tmp_path / "fish.zip", flat), tmp_path, overwrite=True)[1]) == ["fish"] * 3
    assert names_of(run(tmp_path / "birds/1.svg", tmp_path, overwrite=True)[1]) == ["1"]
    nested: dict[str, str | bytes] = {f"a/b/{i}.svg": SVG.format(i) for i in range(3)}
    assert names_of(run(zipped(tmp_path / "x.zip", nested), tmp_path, overwrite=True)[1]) == ["b"] * 3


def test_rows_are_shuffled_by_the_seed_alone(tmp_path: Path) -> None:
    source = write(tmp_path / "s", {f"{c}/{i}.svg": SVG.format(i) for c in "ab" for i in range(20)})
    first, again, other = (run(source, tmp_path, seed=seed, overwrite=True)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.x, again.x)
    assert not np.array_equal(first.x, other.x)
    np.testing.assert_array_equal(np.sort(first.x[:, -1, 6]), np.sort(other.x[:, -1, 6]))
    assert first.class_label is not None and 0 < first.class_label[:20].sum() < 20  # the first k are of both classes


def test_max_per_class(tmp_path: Path) -> None:
    source = write(tmp_path / "s", {f"{c}/{i}.svg": SVG.format(i) for c in "ab" for i in range(5)})
    report, data = run(source, tmp_path, max_per_class=2)
    assert names_of(data) == ["a", "a", "b", "b"]
    assert [one.left_out.total() for one in report.classes] == [3, 3]


def test_what_cannot_be_read_is_counted_with_an_example(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "cat/1.svg": SVG.format(1),
        "cat/2.svg": "",
        "cat/3.svg": "hello",
        "cat/4.svg": "hm",
    }
    files |= {"dog/5.svg": "<svg><text>no stroke</text></svg>", "dog/6.svg": "<!DOCTYPE svg [<!ENTITY a 'b'>]><svg/>"}
    report, data = run(write(tmp_path / "s", files), tmp_path)
    assert data.class_names == ("cat",) and len(data) == 1
    cat, dog = report.classes
    assert (cat.read, cat.kept, dog.read, dog.kept) == (4, 1, 2, 0)
    assert cat.left_out == {"is empty": 1, "is not valid XML": 2}
    assert report.examples["is not valid XML"].startswith("cat/3.svg: syntax error")
    assert data.info["prepared"]["left_out"]["is not valid XML"] == 2


# ---- formats ----


def controlsketch_svg(points: np.ndarray) -> str:
    """As diffvg's save_svg writes it."""
    paths = "".join(
        '<path d="M {} {} C {} {} {} {} {} {}" fill="none" stroke="rgb(0, 0, 0)" stroke-linecap="round" '
        'stroke-linejoin="round" stroke-opacity="1.0" stroke-width="5.0" />'.format(*map(repr, row))
        for row in points.tolist()
    )
    return f'<?xml version="1.0" ?><svg version="1.1" width="512" height="512"><defs/><g>{paths}</g></svg>'


def controlsketch_npz(svg: object, caption: object = "a cat") -> bytes:
    stream = io.BytesIO()
    attention = np.zeros((512, 512), np.float32)
    arrays = {"image": b"\xff\xd8jpeg", "attn_map": attention, "mask": attention.astype(np.uint8), "caption": caption}
    np.savez_compressed(stream, **{key: np.array(value) for key, value in arrays.items()}, svg_32s=np.array(svg))
    return stream.getvalue()


def test_controlsketch(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-50, 560, (6, 32, 8))  # points may leave the canvas
    points[:, 0, 0] = 1e-05
    points[:, 1, 1] = -3e-07
    where = ["train/cat", "train/angel", "val/cat", "val/angel", "test/bird", "test/apple"]
    files = {
        f"{place}/{place.split('/')[1]}_{i}.npz": controlsketch_npz(controlsketch_svg(p))
        for i, (place, p) in enumerate(zip(where, points, strict=True))
    }
    assert b"e-05" in controlsketch_svg(points[0]).encode()
    for split in ("val", "validation"):
        renamed = {name.replace("val/", split + "/"): content for name, content in files.items()}
        report, data = run(write(tmp_path / split, dict(renamed)), tmp_path, exactly=32, overwrite=True)
        assert report.splits == {"train": 2, "validation": 2, "test": 2} and report.total.errors == []
        assert data.class_names == ("angel", "cat", "apple", "bird")  # those trained on come first
        assert data.class_label is not None and data.split is not None
        found = {(data.class_names[c], int(s)): x for c, s, x in zip(data.class_label, data.split, data.x, strict=True)}
        expected = (points / 512 * 2 - 1).astype(np.float32)
        for place, x in zip(where, expected, strict=True):
            split_name, class_name = place.split("/")
            np.testing.assert_array_equal(found[class_name, ["train", "val", "test"].index(split_name)], x)


def test_captions_of_controlsketch_are_the_texts(tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform(0, 512, (4, 3, 8))
    captions = ["a sitting cat", "ein Bär\n", np.zeros(2), ""]
    files = {f"train/cat/cat_{i}.npz": controlsketch_npz(controlsketch_svg(p), caption)
             for i, (p, caption) in enumerate(zip(points, captions, strict=True))}  # fmt: skip
    report, data = run(write(tmp_path / "s", files), tmp_path, overwrite=True)
    expected = dict(zip((points[:, 0, 0] / 512 * 2 - 1).astype(np.float32).tolist(), captions, strict=True))
    assert data.texts is not None and report.paths[2].is_file() and report.paths[2].suffix == ".jsonl"
    for x, text in zip(data.x, data.texts, strict=True):
        caption = expected[float(x[0, 0])]
        assert text == (caption.strip() if isinstance(caption, str) else text) and text.isprintable()
    assert "<svg" in data._repr_html_()  # pictures, not a list of captions
    with pytest.raises(UserError, match=r"\.safetensors: exists already"):
        run(tmp_path / "s", tmp_path)
    bare = {"cat/a.npz": controlsketch_npz(controlsketch_svg(points[0]), "")}
    report, data = run(write(tmp_path / "bare", bare), tmp_path, overwrite=True)
    assert data.texts is None and len(report.paths) == 2 and not report.paths[0].with_suffix(".jsonl").exists()


def controlsketch_part(folder: Path, split: str, rows: list[dict[str, object]], part: str = "00000-of-00001") -> Path:
    """As the parquet edition of ControlSketch (ControlSketch-Part) is published."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder.mkdir(parents=True, exist_ok=True)
    schema = arrow.schema({
        "category": arrow.string(), "sketch_id": arrow.string(), "short_caption": arrow.string(),
        "parts": arrow.list_(arrow.string()), "path_data": arrow.list_(arrow.list_(arrow.int64())),
        "path_assignment": arrow.list_(arrow.int64()),
    })  # fmt: skip
    path = folder / f"{split}-{part}.parquet"
    parquet.write_table(arrow.Table.from_pylist(rows, schema=schema), path, compression="snappy")
    return path


def part_row(category: str, strokes: int, seed: int) -> dict[str, object]:
    paths = np.zeros((32, 8), np.int64)
    paths[:strokes] = np.random.default_rng(seed).integers(1, 512, (strokes, 8))
    return {"category": category, "sketch_id": f"{category}_{seed}", "short_caption": f"a {category} {seed}",
            "parts": ["head", "body"], "path_data": paths.tolist(), "path_assignment": [0] * 32}  # fmt: skip


def test_parquet_edition_of_controlsketch(tmp_path: Path) -> None:
    rows = [part_row(name, strokes, seed) for seed, (name, strokes) in enumerate(
        [("cat", 32), ("angel", 20), ("cat", 5), ("bird", 32), ("angel", 7)])]  # fmt: skip
    rows[1]["short_caption"] = None
    data_folder = tmp_path / "ControlSketch-Part" / "data"
    controlsketch_part(data_folder, "train", rows[:2], "00000-of-00002")
    controlsketch_part(data_folder, "train", rows[2:3], "00001-of-00002")
    controlsketch_part(data_folder, "validation", rows[4:])
    controlsketch_part(data_folder, "test", rows[3:4])
    (tmp_path / "ControlSketch-Part" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    report, data = run(tmp_path / "ControlSketch-Part", tmp_path, overwrite=True)
    assert report.format == "controlsketch" and report.splits == {"train": 3, "validation": 1, "test": 1}
    assert data.class_names == ("angel", "cat", "bird") and data.x.shape == (5, 32, 10)
    assert data.texts is not None and sorted(data.texts) == ["", "a angel 4", "a bird 3", "a cat 0", "a cat 2"]
    assert any("1 .md file was not read" in note for note in report.notes)
    of_start = {float(np.float32(row["path_data"][0][0] / 256 - 1)): row for row in rows}
    for x, label, split, text in zip(data.x, data.class_label, data.split, data.texts, strict=True):
        row = of_start[float(x[0, 0])]
        paths = np.array(row["path_data"])
        paths = paths[paths.any(axis=1)]
        np.testing.assert_array_equal(pen_strokes_of(x), (paths / 256 - 1).astype(np.float32))
        assert not continues(x).any()
        assert data.class_names[label] == row["category"] and text == (row["short_caption"] or "")
        assert split == {0: 0, 1: 0, 2: 0, 3: 2, 4: 1}[rows.index(row)]
    as_zip = tmp_path / "part.zip"
    with zipfile.ZipFile(as_zip, "w") as archive:
        for path in data_folder.iterdir():
            archive.write(path, f"data/{path.name}")
    np.testing.assert_array_equal(run(as_zip, tmp_path, overwrite=True)[1].x, data.x)


def pen_strokes_of(x: np.ndarray) -> np.ndarray:
    return np.concatenate(pen_strokes(x))


def test_broken_rows_of_the_parquet_edition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [part_row("cat", 4, 0), part_row("cat", 4, 1), part_row("cat", 0, 2), part_row("cat", 4, 3)]
    rows[1]["path_data"] = [[1, 2, 3]]
    rows[3]["path_data"] = None
    folder = tmp_path / "s"
    path = controlsketch_part(folder, "cats", rows)
    (folder / "z.parquet").write_bytes(path.read_bytes()[:4] + bytes(50) + path.read_bytes()[500:])
    report, data = run(folder, tmp_path, overwrite=True)
    assert len(data) == 1 and data.split is None
    wrong = "has no 'path_data' of strokes with 8 numbers each"
    assert report.total.left_out[wrong] == 2 and report.examples[wrong].endswith("row 2")
    assert report.total.left_out["has no strokes"] == 1
    assert report.total.left_out["is a truncated or corrupt parquet file"] == 1
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"requires pyarrow: pip install 'flowkit\[parquet\]'"):
        run(folder, tmp_path, overwrite=True)


def test_controlsketch_is_read_without_pickle(tmp_path: Path) -> None:
    good = controlsketch_svg(np.random.default_rng(0).uniform(0, 512, (32, 8)))
    touched = tmp_path / "touched"
    objects = np.array({"svg": Evil(touched)}, dtype=object)
    number = controlsketch_npz(np.zeros(3))
    files = {"cat/a.npz": controlsketch_npz(good), "cat/b.npz": controlsketch_npz(objects), "cat/c.npz": number}
    files |= {"cat/d.npz": b"no zip", "cat/e.npz": controlsketch_npz(good)[:5000]}
    report, data = run(write(tmp_path / "s", dict(files)), tmp_path)
    assert len(data) == 1 and not touched.exists()
    assert set(report.classes[0].left_out) == {
        "holds pickled Python objects, which are not read; save plain arrays",
        "has no text in key 'svg_32s'",
        "is not a readable .npz",
    }


class Evil:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


DRAWING = [[[0, 255, 255], [0, 0, 100]], [[10, 20], [90, 90], [0, 35]]]


def test_quickdraw(tmp_path: Path) -> None:
    lines = [
        json.dumps({"word": "cat", "recognized": True, "drawing": DRAWING}),
        json.dumps({"word": "the eiffel tower", "drawing": DRAWING}),
        "",
        "{broken",
        json.dumps({"word": "cat", "drawing": [[[1, 2], [3]]]}),
        json.dumps({"word": "cat", "drawing": [["ab", "cd"]]}),
        json.dumps({"word": "cat", "drawing": [[[5, 5], [6, 6]]]}),
        '{"word": "cat", "drawing": [[[NaN, 1], [2, 3]]]}',
        "[]",
        '{"drawing": [[[0, 1], [2, 3]], [], {}]}',
        "[" * 100_000,
    ]
    report, data = run(write(tmp_path / "qd", {"cat.ndjson": "\n".join(lines)}), tmp_path, exactly=3)
    assert names_of(data) == ["cat", "the eiffel tower"]
    expected = np.array([[-0.9, -0.9 / 2.55], [0.9, -0.9 / 2.55], [0.9, 0.9 / 2.55]])
    np.testing.assert_allclose(data.x[0, :2, :2], expected[:2], atol=1e-6)
    np.testing.assert_allclose(data.x[0, :2, 6:], expected[1:], atol=1e-6)
    cat = report.classes[0]
    assert (cat.read, cat.kept, cat.left_out.total()) == (9, 1, 8)
    assert cat.left_out["has a stroke that is not [[x...], [y...]]"] == 3
    assert report.examples["is not valid JSON"].startswith("cat.ndjson line 4: ")


def stroke3(lines: list[list[list[float]]]) -> np.ndarray:
    points = np.concatenate([np.array(line, float) for line in lines])
    lift = np.concatenate([[0] * (len(line) - 1) + [1] for line in lines])
    return np.concatenate([np.diff(points, axis=0, prepend=0), lift[:, None]], 1).astype(np.int16)


LINES = [[[3, 4], [103, 4], [103, 54]], [[20, 20], [40, 44]]]
CENTERED = (np.array([[3, 4], [103, 4], [103, 54]]) - [53, 29]) * 1.8 / 100


def check_stroke3(data: Dataset) -> None:
    np.testing.assert_allclose(data.x[0, :2, :2], CENTERED[:2], atol=1e-6)
    np.testing.assert_allclose(data.x[0, 1, 6:], CENTERED[2], atol=1e-6)
    np.testing.assert_allclose(data.x[0, 2, :2], (np.array([20, 20]) - [53, 29]) * 0.018, atol=1e-6)


def objects(arrays: list) -> np.ndarray:
    out = np.empty(len(arrays), object)
    out[:] = arrays
    return out


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_stroke3_as_published(tmp_path: Path, protocol: int) -> None:
    """sketch-rnn's files hold arrays of objects under the splits; they are read without being unpickled."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (2,)})
    member = header.getvalue() + pickle.dumps(objects([stroke3(LINES)] * 2), protocol)
    source = zipped(tmp_path / "sketchrnn_cat.npz", {"train.npy": member, "valid.npy": member, "test.npy": member})
    report, data = run(source, tmp_path, exactly=3)
    assert report.splits == {"train": 2, "validation": 2, "test": 2} and names_of(data) == ["cat"] * 6
    check_stroke3(data)


def test_stroke3_as_numpy_writes_it_now(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "dog.npz",
        train=objects([stroke3(LINES), stroke3(LINES).astype(">f4"), np.asfortranarray(stroke3(LINES))]),
    )
    report, data = run(tmp_path / "dog.npz", tmp_path, exactly=3)
    assert report.splits["train"] == 3 and names_of(data) == ["dog"] * 3
    np.testing.assert_allclose(data.x, np.broadcast_to(data.x[:1], data.x.shape), atol=1e-6)
    check_stroke3(data)


def test_stroke3_of_plain_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "dog.npz", a=stroke3(LINES), b=stroke3(LINES), c=np.zeros((3, 3)), d=np.zeros((4, 2)))
    report, data = run(tmp_path / "dog.npz", tmp_path, exactly=3)
    assert data.split is None and len(data) == 2
    assert report.classes[0].left_out == {"has no strokes": 1, "is not an array of rows dx, dy, pen-lift": 1}
    check_stroke3(data)


def test_stroke3_runs_no_code(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    for i, evil in enumerate([objects([Evil(touched)]), objects([stroke3(LINES), {"a": Evil(touched)}])]):
        np.savez(tmp_path / f"cat{i}.npz", train=evil)
        with pytest.raises(UserError, match="Python objects other than arrays of numbers"):
            run(tmp_path / f"cat{i}.npz", tmp_path)
    assert not touched.exists()


# ---- refusals: one clear message, nothing written ----


def refused(source: Path, tmp_path: Path, match: str, **options) -> None:
    with pytest.raises(UserError, match=match):
        prepare(source, tmp_path / "out/data", **options)
    assert not (tmp_path / "out").exists()


def test_sources_without_sketches(tmp_path: Path) -> None:
    refused(tmp_path / "nope", tmp_path, "no such file")
    refused(write(tmp_path / "a", {"x.txt": "hi"}), tmp_path, r"no sketches that flowkit can read \(1 .txt\)")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path, "it is empty")
    refused(write(tmp_path / "b", {"x.svg": "", "y.ndjson": ""}), tmp_path, "1 .svg file and 1 .ndjson file; name")
    refused(write(tmp_path / "c", {"x.svg": "", "y.svg": "hm"}), tmp_path, "no sketch of 2 could be kept .*is empty")
    refused(write(tmp_path / "d", {"x.ndjson": ""}), tmp_path, "no sketch of 0 could be kept")
    refused(write(tmp_path / "e", {"x.npz": "hm"}), tmp_path, "not a readable .npz")
    np.savez(tmp_path / "f.npz", weights=np.zeros(5))
    refused(tmp_path / "f.npz", tmp_path, r"f.npz holds weights \(5,\) float64")
    refused(tmp_path / "a", tmp_path, "expected 'fit' or 'leave-out'", over="drop")
    refused(tmp_path / "a", tmp_path, "at least 1 per sketch", exactly=0)
    refused(tmp_path / "a", tmp_path, "at least 1 per sketch", cubics=0)
    refused(tmp_path / "a", tmp_path, "mutually exclusive", cubics=8, exactly=8)
    refused(tmp_path / "a", tmp_path, "expected a distance from 0 to 0.2", simplify=-0.1)


@pytest.mark.parametrize("member", ["../x.svg", "a/../../x.svg", "/etc/x.svg", "..\\x.svg", "C:\\x.svg"])
def test_zips_that_leave_their_folder(tmp_path: Path, member: str) -> None:
    source = zipped(tmp_path / "a.zip", {"cat/1.svg": SVG.format(1), member: SVG.format(1)})
    refused(source, tmp_path, "points outside the archive")


def test_zips_that_are_broken_or_bombs(tmp_path: Path) -> None:
    whole = zipped(tmp_path / "a.zip", {"cat/1.svg": SVG.format(1)}).read_bytes()
    refused(write(tmp_path, {"b.zip": whole[:-30]}) / "b.zip", tmp_path, "truncated or corrupt zip")
    refused(write(tmp_path, {"c.zip": "hello"}) / "c.zip", tmp_path, "truncated or corrupt zip")
    damaged = bytearray(whole)
    damaged[45:60] = b"\0" * 15
    refused(write(tmp_path, {"d.zip": bytes(damaged)}) / "d.zip", tmp_path, "cannot be read")
    bomb = zipped(tmp_path / "e.zip", {"cat/1.svg": SVG.format(1), "cat/2.svg": b"<svg>" + b" " * 30_000_000})
    report, data = run(bomb, tmp_path)
    assert len(data) == 1 and report.classes[0].left_out == {"is larger than 10 MB": 1}


def test_the_output(tmp_path: Path) -> None:
    source = write(tmp_path / "s", {"a/1.svg": SVG.format(1)})
    run(source, tmp_path)
    before = (tmp_path / "out/data.safetensors").read_bytes()
    with pytest.raises(UserError, match="--overwrite"):
        prepare(source, tmp_path / "out/data")
    with pytest.raises(UserError, match="is a folder"):
        prepare(source, tmp_path / "out")
    with pytest.raises(UserError, match="cannot be written"):
        prepare(source, source / "a/1.svg/data")
    with pytest.raises(UserError, match="no sketch"):
        prepare(write(tmp_path / "t", {"a/1.svg": ""}), tmp_path / "out/data", overwrite=True)
    assert (tmp_path / "out/data.safetensors").read_bytes() == before
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["data.json", "data.safetensors"]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_npz_or_ndjson_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whole files of each kind with a few stretches overwritten."""
    name = data.draw(st.sampled_from(sorted(GOOD)))
    content = bytearray(GOOD[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    source = write(folder, {name: bytes(content)}) / name
    try:
        report = prepare(source, folder / "out", overwrite=True, exactly=8)
    except UserError:
        return
    assert np.isfinite(read_dataset(report.paths[0]).x).all()


def _stored(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


GOOD = {
    "a.npz": _stored(train=objects([stroke3(LINES)] * 2)),
    "b.npz": _stored(a=stroke3(LINES)),
    "c.npz": _stored(svg_32s=np.array(controlsketch_svg(np.ones((2, 8)) * range(8)))),
    "d.ndjson": json.dumps({"word": "cat", "drawing": DRAWING}).encode(),
}


# ---- the command ----


def test_the_command(tmp_path: Path) -> None:
    from flowkit.cli import app

    angle = np.linspace(0, 6, 60)
    long = "M" + " ".join(f"{5 + 4 * np.cos(a):.3f} {5 + 3 * np.sin(a):.3f}" for a in angle)
    files = {
        "cat/1.svg": SVG.format(1),
        "cat/2.svg": "hm",
        "[red]dog/1.svg": f'<svg viewBox="0 0 10 10"><path d="{long}"/></svg>',
    }
    source = write(tmp_path / "s", dict(files))
    result = CliRunner().invoke(app, ["prepare", str(source), "--out", str(tmp_path / "data/x"), "--exactly", "16"])
    assert result.exit_code == 0, result.output
    for piece in ("cat", "[red]dog", "total", "is not valid XML", "cat/2.svg", "2 x 16 x 8 in 2 classes"):
        assert piece in " ".join(result.output.split())
    assert "\x1b" not in result.output
    assert len(read_dataset(tmp_path / "data/x")) == 2
    result = CliRunner().invoke(app, ["prepare", str(source), "--out", str(tmp_path / "data/x")])
    assert isinstance(result.exception, UserError) and "--overwrite" in str(result.exception)
    options = ["--over", "leave-out", "--exactly", "16", "--overwrite"]
    result = CliRunner().invoke(app, ["prepare", str(source), "--out", str(tmp_path / "data/x"), *options])
    assert "has more than 16 cubics" in result.output and len(read_dataset(tmp_path / "data/x")) == 1


def test_preparing_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, flowkit.sketch.prepare, flowkit.ui.prepare_view; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- real data ----


@real
def test_real_characters_lose_nothing(tmp_path: Path) -> None:
    report, data = run(SHARED / "kanjivg-left-components.zip", tmp_path)
    assert data.x.shape == (1304, 32, 10) and len(data.class_names) == 15
    assert report.total.errors == [] and all(one.read == one.kept for one in report.classes)
    assert data.class_counts()["water"] == 223
    lengths = bezier.arc_length(np.asarray(data.x[exists(data.x)][:, :8], float))
    assert lengths.min() > 1e-4 and np.abs(data.x).max() < 1.05
    cut = run(SHARED / "kanjivg-left-components.zip", tmp_path, exactly=32, overwrite=True)[1]
    assert cut.x.shape == (1304, 32, 8)
    np.testing.assert_allclose(blurred_grid(cut.x), blurred_grid(data.x), atol=0.05)  # cells of about 1


@real
def test_real_drawings_overlay_their_originals(tmp_path: Path) -> None:
    """Judged on the points of the file itself, not on what the importer made of them."""
    from flowkit.sketch.budget import to_size

    distances = []
    with open_files(SHARED / "quickdraw") as files:
        for item in list(quickdraw.read(files))[::7]:
            assert item.strokes is not None
            name, _, line = item.where.partition(" line ")
            record = json.loads((SHARED / "quickdraw" / name).read_text().splitlines()[int(line) - 1])
            lines = [np.array(stroke, float).T for stroke in record["drawing"]]
            every = np.concatenate(lines)
            low, high = every.min(0), every.max(0)
            lines = [
                (line - (low + high) / 2) * 1.8 / (high - low).max() for line in lines if np.ptp(line, axis=0).any()
            ]
            original = bezier.points(
                np.concatenate([bezier.from_lines(line) for line in lines]), np.linspace(0, 1, 200)
            )
            found = to_size(item.strokes, 32, exactly=True)
            drawn = bezier.points(found.x.astype(float), np.linspace(0, 1, 200)).reshape(-1, 2)
            original = original.reshape(-1, 2)
            apart = max(cKDTree(drawn).query(original)[0].max(), cKDTree(original).query(drawn)[0].max())
            assert apart < (found.error if found.fitted else 0) + 0.006  # the samples' spacing
            distances.append(apart)
    assert np.median(distances) < 0.006 and max(distances) < 0.025
