"""Vectors from other people's files: read as they are, or refused with what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.numpy import save_file

from flowkit.errors import UserError
from flowkit.text.vectors import read_vectors

ROWS = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)


def write(path: Path, rows: np.ndarray = ROWS) -> Path:
    if path.suffix == ".npy":
        np.save(path, rows)
    elif path.suffix == ".safetensors":
        save_file({"embeddings": rows, "ids": np.arange(len(rows))}, path)
    else:
        torch.save(torch.from_numpy(rows), path)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_rows_come_back_in_order(tmp_path, suffix, dtype):
    read = read_vectors(write(tmp_path / f"vectors{suffix}", ROWS.astype(dtype)))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, ROWS.astype(dtype).astype(np.float32))


def test_bfloat16_which_numpy_does_not_have(tmp_path):
    rows = torch.from_numpy(ROWS).bfloat16()
    torch.save({"vectors": rows, "made": 2024}, tmp_path / "a.pt")
    safetensors.torch.save_file({"vectors": rows}, tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        np.testing.assert_array_equal(read_vectors(tmp_path / name), rows.float().numpy())


def test_matrix_named_x_is_read(tmp_path):
    save_file({"mean": ROWS[:1], "x": ROWS, "basis": ROWS.T.copy()}, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(read_vectors(tmp_path / "a.safetensors"), ROWS)


def test_large_files_stay_on_the_disk(tmp_path):
    for suffix in (".npy", ".safetensors"):
        assert isinstance(read_vectors(write(tmp_path / f"a{suffix}")), np.memmap)


class Payload:
    """What unpickles to a call of its author's choice."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_pickle_runs_no_code(tmp_path):
    torch.save(Payload(tmp_path / "it ran"), tmp_path / "a.pt")
    with pytest.raises(UserError, match="Python objects other than tensors"):
        read_vectors(tmp_path / "a.pt")
    assert not (tmp_path / "it ran").exists()


def holed() -> np.ndarray:
    rows = ROWS.copy()
    rows[[2, 5], 1] = np.nan, np.inf
    return rows


@pytest.mark.parametrize(
    ("name", "rows", "says"),
    [
        ("a.npy", holed(), "2 of 7 rows of 'vectors' contain NaN or infinity: 2, 5"),
        ("a.pt", holed(), "2, 5"),
        ("a.safetensors", holed(), "2, 5"),
        ("a.npy", np.full((3, 2), 1e300), "3 of 3 rows"),  # infinite as float32
        ("a.npy", ROWS[0], r"has shape \(5,\); expected \(N, D\)"),
        ("a.pt", ROWS[None], r"has shape \(1, 7, 5\)"),
        ("a.npy", ROWS[:0], r"has shape \(0, 5\)"),
        ("a.npy", np.ones((2, 2), np.int64), "holds int64"),
        ("a.npy", np.array([["a", "b"]]), "expected floating-point numbers"),
        ("a.safetensors", np.ones((2, 2), np.int64), "tensor 'embeddings' is I64"),
        ("a.safetensors", ROWS[0], "holds no matrix"),
    ],
)
def test_not_vectors(tmp_path, name, rows, says):
    with pytest.raises(UserError, match=says):
        read_vectors(write(tmp_path / name, rows))


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".pt"])
@pytest.mark.parametrize("keep", [0, 40, -40])
def test_truncated_files(tmp_path, suffix, keep):
    path = write(tmp_path / f"a{suffix}")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=f"a{suffix}: .*(truncated or corrupt|not a whole|not a valid|Python objects)"):
        read_vectors(path)


def test_other_tensors_and_other_files(tmp_path):
    save_file({"a": ROWS, "b": ROWS}, tmp_path / "two.safetensors")
    torch.save(torch.from_numpy(ROWS).to_sparse(), tmp_path / "sparse.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("no tensors at all")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    for name, says in (
        ("two.safetensors", r"2 matrices and none is called 'x' \(a \(7, 5\), b \(7, 5\)\)"),
        ("sparse.pt", "holds a sparse or quantized tensor"),
        ("list.pt", "holds a list"),
        ("text.pt", "text.pt: "),
        ("objects.npy", "holds pickled Python objects, which are not read because unpickling can run code"),
        ("none.npy", "no such file"),
        ("rows.csv", "no such file"),
        (".", "expected a file of vectors"),
    ):
        with pytest.raises(UserError, match=says):
            read_vectors(tmp_path / name)
