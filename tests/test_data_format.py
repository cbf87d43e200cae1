"""Prepared data: written whole, read back exactly, and refused with the place and the fix when it is wrong."""

import errno
import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flowkit.data.dataset import Dataset, read_dataset, write_dataset
from flowkit.data.files import make_readable, replacing
from flowkit.data.header import read_header
from flowkit.errors import UserError


def make(rows: int = 7) -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset(
        "sketch", rng.standard_normal((rows, 4, 8)).astype(np.float32), np.arange(rows) % 2,
        rng.standard_normal((rows, 5)).astype(np.float32), np.zeros(rows, np.uint8), ("a", "b"), {"source": "made up"},
    )  # fmt: skip


def test_round_trip(tmp_path):
    data = make()
    path = write_dataset(tmp_path / "deep" / "set", data)
    for name in (path, tmp_path / "deep" / "set", tmp_path / "deep" / "set.json"):
        back = read_dataset(name)
        for field in ("x", "class_label", "condition", "split"):
            np.testing.assert_array_equal(getattr(back, field), getattr(data, field))
        assert (back.kind, back.class_names, back.info) == (data.kind, data.class_names, data.info)
    assert json.loads(path.with_suffix(".json").read_text())["format"] == 1
    assert isinstance(back.x, np.memmap)


def test_noise_goes_with_its_rows(tmp_path):
    data = make()
    data.noise = np.random.default_rng(1).standard_normal((7, 3)).astype(np.float32)
    back = read_dataset(write_dataset(tmp_path / "set", data, np.array([5, 0, 3])))
    assert isinstance(back.noise, np.memmap)
    np.testing.assert_array_equal(back.noise, data.noise[[5, 0, 3]])
    np.testing.assert_array_equal(back.take(np.array([2, 0])).noise, data.noise[[3, 5]])
    assert make().take(np.array([1])).noise is None
    data.noise[4, 1] = np.nan
    with pytest.raises(UserError, match="'noise' contain NaN or infinity: 4"):
        read_dataset(write_dataset(tmp_path / "set", data))


def test_safetensors_itself_reads_what_is_written_and_finds_it_aligned(tmp_path, monkeypatch):
    monkeypatch.setattr("flowkit.data.arrays.CHUNK_BYTES", 300)  # two rows of x at a time
    data, told = make(), []
    data.x = np.asfortranarray(data.x)
    path = write_dataset(tmp_path / "set", data, progress=lambda done, total: told.append((done, total)))
    found = load_file(path)
    assert found.keys() == {"x", "class_label", "condition", "split"}
    for name, array in found.items():
        np.testing.assert_array_equal(array, getattr(data, name))
        assert read_header(path)[name].start % array.itemsize == 0
    assert told == sorted(told) and told[-1] == (sum(a.nbytes for a in found.values()),) * 2


def test_rows_can_be_picked_and_put_in_order_while_writing(tmp_path):
    data, rows = make(), np.array([5, 0, 3])
    data.split, data.texts = np.array([0, 0, 0, 1, 0, 2, 0], np.uint8), [f"sentence {i}" for i in range(7)]
    back = read_dataset(write_dataset(tmp_path / "set", data, rows))
    for name in ("x", "class_label", "condition", "split"):
        np.testing.assert_array_equal(getattr(back, name), getattr(data, name)[rows])
    assert list(back.texts) == ["sentence 5", "sentence 0", "sentence 3"]
    sidecar = json.loads((tmp_path / "set.json").read_text())
    assert sidecar["shape"] == [3, 4, 8]
    assert sidecar["counts"] == {
        "rows": 3,
        "split": {"train": 1, "validation": 1, "test": 1},
        "classes": {"a": 1, "b": 2},
    }


def test_files_are_readable_by_others(tmp_path):
    path = write_dataset(tmp_path / "set", make())
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_nothing_is_left_or_lost_when_writing_fails(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(RuntimeError), replacing(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_rows_that_are_not_finite_are_named(tmp_path):
    data = make()
    data.x[2, 1, 3], data.x[5, 0, 0] = np.nan, -np.inf
    path = write_dataset(tmp_path / "set", data)
    with pytest.raises(UserError, match=r"2 of 7 rows of 'x' contain NaN or infinity: 2, 5"):
        read_dataset(path)


def test_large_finite_values_are_not_called_infinite(tmp_path):
    data = make()
    data.x[0] = 3e38  # their sum overflows
    read_dataset(write_dataset(tmp_path / "set", data))


def test_a_label_without_a_name_is_an_error(tmp_path):
    data = make()
    data.class_label[3] = 9
    path = tmp_path / "set.safetensors"
    save_file({"x": data.x, "class_label": data.class_label}, path)
    path.with_suffix(".json").write_text('{"format": 1, "kind": "sketch", "class_names": ["a", "b"]}')
    with pytest.raises(UserError, match=r"class_label of row 3 is 9; expected 0 to 1"):
        read_dataset(path)


@pytest.mark.parametrize(("name", "shape"), [("class_label", (6, 1)), ("condition", (6,))])
def test_tensors_of_the_wrong_rank(tmp_path, name, shape):
    path = tmp_path / "set.safetensors"
    kind = np.int64 if name == "class_label" else np.float32
    save_file({"x": np.zeros((6, 2), np.float32), name: np.zeros(shape, kind)}, path)
    path.with_suffix(".json").write_text('{"format": 1, "kind": "array", "class_names": ["a", "b"]}')
    with pytest.raises(UserError, match=f"tensor '{name}' has shape"):
        read_dataset(path)


def test_full_disk_is_reported_and_leaves_no_files(tmp_path, monkeypatch):
    def full(path, *_):
        path.write_bytes(b"a beginning")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("flowkit.data.dataset.write_tensors", full)
    with pytest.raises(UserError, match=r"cannot be written .*No space left"):
        write_dataset(tmp_path / "set", make())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [0, 5, 100, -1])
def test_truncated_file_is_detected(tmp_path, cut):
    path = write_dataset(tmp_path / "set", make())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"set\.safetensors: not a valid safetensors file"):
        read_dataset(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1]},
        7,
    ],
)
def test_a_header_that_contradicts_itself(tmp_path, entry):
    header = json.dumps({"x": entry}).encode()
    path = tmp_path / "bad.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with pytest.raises(UserError, match="tensor 'x'"):
        read_header(path)


def test_headers_agree_with_the_library(tmp_path):
    from safetensors import safe_open

    path = write_dataset(tmp_path / "set", make())
    with safe_open(path, "numpy") as file:
        assert {name: entry.shape for name, entry in read_header(path).items()} == {
            name: tuple(file.get_slice(name).get_shape())
            for name in file.keys()  # noqa: SIM118
        }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no such file"),
        ("{", "is not valid JSON"),
        ("[]", "expected a JSON object"),
        ("{}", 'has no "format" number'),
        ('{"format": 99}', "has format 99, but this flowkit only reads formats up to 1"),
        ('{"format": 1}', 'has no "kind"'),
        ('{"format": 1, "kind": "sketch", "class_names": [1]}', "must be a list of strings"),
    ],
)
def test_bad_sidecars(tmp_path, text, says):
    path = write_dataset(tmp_path / "set", make())
    sidecar = path.with_suffix(".json")
    sidecar.unlink() if text is None else sidecar.write_text(text)
    with pytest.raises(UserError, match=says):
        read_dataset(path)


def test_wrong_dtype_and_wrong_length(tmp_path):
    path = tmp_path / "set.safetensors"
    path.with_suffix(".json").write_text('{"format": 1, "kind": "sketch"}')
    save_file({"x": np.zeros((3, 2, 8))}, path)
    with pytest.raises(UserError, match="'x' is F64; expected F32"):
        read_dataset(path)
    save_file({"x": np.zeros((3, 2, 8), np.float32), "split": np.zeros(2, np.uint8)}, path)
    with pytest.raises(UserError, match=r"'split' has shape \(2,\)"):
        read_dataset(path)
    save_file({"y": np.zeros(3, np.float32)}, path)
    with pytest.raises(UserError, match="has no tensor 'x'"):
        read_dataset(path)


def test_unwritable_target(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_dataset(tmp_path / "file" / "set", make())


def test_writing_does_not_change_the_umask(tmp_path, monkeypatch):
    """It belongs to all threads: a checkpoint's thread that sets it for a moment opens what others write meanwhile."""
    asked = []
    monkeypatch.setattr(os, "umask", lambda mask: asked.append(mask) or 0o022)
    with replacing(tmp_path / "one") as partial:
        partial.write_text("x")
    os.chmod(tmp_path / "one", 0o600)
    make_readable(tmp_path / "one")
    (tmp_path / "plain").write_text("x")
    assert not asked
    assert (tmp_path / "one").stat().st_mode == (tmp_path / "plain").stat().st_mode
