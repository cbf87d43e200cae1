"""`prepare` on sentences and vectors: all losses are reported, splits do not leak, and interrupted calls resume."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from flowkit.cli import app
from flowkit.data.dataset import Dataset, read_dataset
from flowkit.data_source import with_split
from flowkit.errors import UserError
from flowkit.text import deduplicate, encoding
from flowkit.text.deduplicate import exact_duplicates, near_duplicates, row_keys
from flowkit.text.prepare import Settings, prepare, split_sizes
from flowkit.text.reading import read_sentences

D = 24


class BagOfWords:
    """A codec that adds up a random vector for each word: sentences with the same words are near, and none are equal."""

    name, dimension, languages = "bag", D, ("eng_Latn", "fra_Latn")

    def __init__(self, seconds: float = 0.0, revision: int = 1) -> None:
        self.seconds, self.revision, self.encoded, self.truncated = seconds, revision, [], 0

    def identity(self) -> dict:
        return {"name": self.name, "dimension": D, "revision": self.revision}

    def encode(self, texts, *, lang="eng_Latn", tell=None) -> np.ndarray:
        time.sleep(self.seconds)
        self.encoded += texts
        self.truncated += sum(len(text) > 200 for text in texts)
        if tell:
            tell("encoding", len(texts), len(texts))
        return np.stack([self.vector(text) for text in texts])

    def vector(self, text: str) -> np.ndarray:
        draw = lambda part: np.random.default_rng(zlib.crc32(part.encode())).standard_normal(D)  # noqa: E731
        words = sum((draw(word) for word in text.lower().split()), np.zeros(D))
        return (self.revision * (words + 1e-3 * draw("whole " + text))).astype(np.float32)


WORDS = """cat dog bird house tree river bridge teacher baker old new red blue sees finds likes
    near under on the""".split()  # noqa: SIM905


def sentences(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [f"number {i}: " + " ".join(rng.choice(WORDS, rng.integers(3, 9))) for i in range(count)]


def write(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


def cosines(x: np.ndarray) -> np.ndarray:
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
    return unit @ unit.T


# What comes out


def test_sentences_become_vectors_with_texts_and_a_report(tmp_path):
    lines = sentences(60)
    lines[7] = "  cafe\u0301\u00a0 by the   river "  # NFC and single spaces: "café by the river"
    lines[20] = "caf\u00e9 by the river"
    lines[30] = lines[7].upper()  # near: a bag of words knows no capitals
    codec = BagOfWords()
    report = prepare(write(tmp_path / "mine.txt", lines), tmp_path / "data/set", codec=codec)
    data = read_dataset(tmp_path / "data/set")
    assert (report.read, report.exact.count, report.near.count, len(data)) == (60, 1, 1, 58)
    assert report.exact.pair.numbers == (8, 21) and report.exact.pair.texts == ("café by the river",) * 2
    assert report.near.pair.numbers == (8, 31) and report.near.pair.texts[1] == "CAFÉ BY THE RIVER"
    assert report.near.pair.cosine == pytest.approx(1, abs=1e-4)
    assert data.kind == "embedding" and data.x.shape == (58, D) and data.x.dtype == np.float32
    np.testing.assert_array_equal(data.x, codec.encode(list(data.texts)))
    assert sorted(data.texts) == sorted({*lines[:7], "café by the river", *lines[8:20], *lines[21:30], *lines[31:]})
    assert data.info["codec"] == codec.identity() and data.info["lang"] == "eng_Latn"
    assert data.info["source"] == {"name": "mine.txt", "format": "txt"}
    assert data.info["prepared"]["left_out"] == {"empty": 0, "exact_duplicates": 1, "near_duplicates": 1}
    assert data.info["prepared"]["near_duplicates_above"] == 0.95
    assert report.splits == {"train": 46, "validation": 6, "test": 6}
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["set.json", "set.jsonl", "set.safetensors"]
    train = data.x[data.rows("train")].astype(np.float64)
    norms = np.linalg.norm(train, axis=1)
    found = report.statistics
    assert (found.norm, found.norm_std, found.element_std) == pytest.approx((norms.mean(), norms.std(), train.std()))


def test_order_depends_on_the_seed_with_training_rows_first(tmp_path):
    source = write(tmp_path / "mine.txt", sentences(100))
    texts = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare(source, tmp_path / name, codec=BagOfWords(), settings=Settings(seed=seed))
        texts[name] = list(read_dataset(tmp_path / name).texts)
    assert texts["a"] == texts["b"] != texts["c"] and sorted(texts["a"]) == sorted(texts["c"])
    data = read_dataset(tmp_path / "a")
    assert data.split.tolist() == [0] * 80 + [1] * 10 + [2] * 10
    places = [int(re.search(r"\d+", text).group()) for text in texts["a"]]
    # The first 20 training rows are a fair sample of the file: a run in file order would have a mean of 9.5.
    assert 35 < np.mean(places[:20]) < 65 and max(places[:20]) > 80


def test_subsets_are_nested_and_one_that_is_too_large_is_refused(tmp_path):
    prepare(write(tmp_path / "mine.txt", sentences(100)), tmp_path / "set", codec=BagOfWords(), settings=Settings(
        near_duplicates=0))  # fmt: skip
    data = read_dataset(tmp_path / "set")
    data.info["codec"]["dimension"] = D
    taken = [with_split(data, 0.1, k, 0, "set").rows("train").tolist() for k in (10, 40, 80)]
    assert [len(rows) for rows in taken] == [10, 40, 80]
    assert taken[0] == taken[1][:10] and taken[1] == taken[2][:40]
    with pytest.raises(UserError, match=r"data\.subset: 81 rows .* has 80 training rows; ask for at most 80"):
        with_split(data, 0.1, 81, 0, "set")


def test_no_two_rows_across_splits_are_nearer_than_the_threshold(tmp_path):
    lines = sentences(150)
    lines += [line.title() for line in lines[::3]] + [line + " the" for line in lines[::5]]
    source = write(tmp_path / "mine.txt", lines)
    nearest = {}
    for near in (0.95, 0.0):
        report = prepare(source, tmp_path / f"set{near}", codec=BagOfWords(), settings=Settings(near_duplicates=near))
        data = read_dataset(tmp_path / f"set{near}")
        across = data.split[:, None] != data.split[None]
        nearest[near] = cosines(data.x)[across].max()
        assert (len(data) == len(lines)) == (near == 0) == any("near-duplicates were kept" in r for r in report.remarks)
    assert nearest[0.0] > 0.99 and nearest[0.95] <= 0.95


@pytest.mark.parametrize(
    ("count", "fractions", "sizes"),
    [
        (1000, (0.8, 0.1, 0.1), (800, 100, 100)),
        (3, (0.8, 0.1, 0.1), (1, 1, 1)),
        (2, (0.8, 0.1, 0.1), (2, 0, 0)),
        (5, (1.0, 0.0, 0.0), (5, 0, 0)),
        (7, (0.5, 0.5, 0.0), (3, 4, 0)),
    ],
)
def test_split_sizes(count, fractions, sizes):
    assert split_sizes(count, fractions) == sizes


def test_paragraphs_are_split(tmp_path):
    pytest.importorskip("sentencex")
    lines = ["Dr. Smith came. He sat down!  Why?", "Am 3. Mai kam er.", "Dr. Smith came."]
    codec = BagOfWords()
    report = prepare(
        write(tmp_path / "p.txt", lines), tmp_path / "set", codec=codec, settings=Settings(split_sentences=True)
    )
    assert codec.encoded[:3] == ["Dr. Smith came.", "He sat down!", "Why?"]
    assert report.exact.pair.numbers == (1, 3) and report.read == 3 and report.sentences == len(codec.encoded) + 1


def test_sentences_that_are_too_long_are_counted_over_a_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "SHARD", 10)
    lines = sentences(30)
    lines[2] += " and" * 80
    lines[25] += " or" * 80
    source = write(tmp_path / "mine.txt", lines)
    with pytest.raises(RuntimeError):
        prepare(source, tmp_path / "set", codec=Fails(after=2))
    assert prepare(source, tmp_path / "set", codec=BagOfWords()).truncated == 2


# Duplicates


def greedy(x: np.ndarray, threshold: float) -> list[int]:
    table, kept = cosines(x.astype(np.float64)), []
    for row in range(len(x)):
        if not kept or table[row, kept].max() <= threshold:
            kept.append(row)
    return kept


@pytest.mark.parametrize("dimension", [5, 40, 300])
@pytest.mark.parametrize("threshold", [0.8, 0.95])
def test_near_duplicates_are_those_of_the_plain_definition(monkeypatch, dimension, threshold):
    for name, value in {"BLOCK": 32, "TILE": 48, "BASIS": 8, "BASIS_ROWS": 64}.items():
        monkeypatch.setattr(deduplicate, name, value)
    rng, scale = np.random.default_rng(dimension), np.arange(1, dimension + 1) ** -0.5
    x = (rng.standard_normal((409, dimension)) + 0.5) * scale
    again = x[rng.integers(0, 400, 120)] * rng.uniform(0.5, 2, (120, 1))
    x[rng.permutation(400)[:120]] = again + rng.normal(0, 0.15, (120, dimension)) * scale
    x[17], x[400:] = 0, np.nan  # zeros resemble nothing; the last rows are not looked at
    x = x.astype(np.float32)
    found = near_duplicates(x, np.arange(400), threshold, device="cpu")
    assert found.kept.tolist() == greedy(x[:400], threshold) and 17 in found.kept
    assert 50 < len(found.removed) < 399
    table = cosines(x[:400])
    for row in found.removed:
        assert found.partner[row] in found.kept and found.partner[row] < row
        assert (
            found.cosine[row] == pytest.approx(table[row, found.partner[row]], abs=1e-5)
            and found.cosine[row] > threshold
        )


def test_only_rows_near_a_kept_row_are_removed():
    angles = np.deg2rad([0, 15, 30, 45, 60])  # cos 15° = .966, cos 30° = .866
    x = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    found = near_duplicates(x, np.arange(5), 0.95, device="cpu")
    assert found.kept.tolist() == [0, 2, 4] and found.partner.tolist() == [-1, 0, -1, 2, -1]


def test_comparing_needs_no_table_of_all_pairs():
    code = (
        "import numpy as np, resource, torch\n"
        "from flowkit.text.deduplicate import near_duplicates\n"
        "x = np.random.default_rng(0).standard_normal((10000, 16)).astype(np.float32)\n"
        "near_duplicates(x[:2000], np.arange(2000), .95, device='cpu')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "near_duplicates(x, np.arange(10000), .95, device='cpu')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60_000  # kB; the table would take 400 MB, and a bool of each pair 100 MB


def test_exact_duplicates_of_texts_and_of_vectors():
    assert exact_duplicates(["a", "b", "a", "c", "b"]).partner.tolist() == [-1, -1, 0, -1, 1]
    x = np.array([[1, 2], [1, 2.0000002], [1, 2]], np.float32)
    assert exact_duplicates(row_keys(x)).kept.tolist() == [0, 1]


# Bad input


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"one\nna\xefve two\n", r"a\.txt: line 2, byte 3 \(0xef\): is not UTF-8; .*iconv -f latin1"),
        ("a.txt", "one\ntwo\n".encode("utf-16-le"), r"a\.txt: line 1: is not UTF-8 \(it looks like UTF-16"),
        ("a.txt", b"\xff\xfeo\x00\n\x00\x00\xd8", r"a\.txt: line 2, byte 1 \(0x00\): is not valid UTF-16"),
        ("a.txt", b"one\n\ntwo\n  \t\n\xe2\x80\x8b\nthree\n", r"lines 2, 4, 5 are empty; .* the 6 lines.*--skip-empty"),
        ("a.txt", b"one\ntwo\n\n", r"line 3 is empty"),
        ("a.txt", b"\n" * 30, r"lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, \.\.\. \(20 more\) are empty"),
        ("a.txt", b"", r"holds no sentences"),
        ("a.jsonl", b'{"text": "one"}\n{"text": two}\n', r"line 2: is not valid JSON .*Expecting value.*expected \{\"text\""),
        ("a.jsonl", b'{"text": "one"}\n{"txt": "two"}\n', r"line 2: has no 'text' \(its keys: 'txt'\); did you mean 'txt'\?"),
        ("a.jsonl", b'{"text": 3}\n', r"line 1: 'text' is a number"),
        ("a.jsonl", b'"one"\n3\n', r"line 2: is a number, not a JSON object"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"line 1: 'text' holds half of a surrogate pair"),
        ("a.jsonl", b'{"text": "one"}\n{"text": " "}\n', r"line 2 is empty"),
        ("a.csv", b"PK\x03\x04" + b"x" * 60, r"a\.csv: truncated or corrupt zip file"),
        ("a.npy", b"nonsense", r"a\.npy: truncated or corrupt \.npy"),
    ],
)  # fmt: skip
def test_a_bad_source_is_named_with_its_line_and_leaves_nothing(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        prepare(tmp_path / name, tmp_path / "data/set", codec=BagOfWords())
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_sentences(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\nthree")
    assert read_sentences(tmp_path / "a.txt").texts == ["one", "two", "three"]


def test_empty_lines_are_left_out_when_that_is_asked_for(tmp_path):
    source = write(tmp_path / "a.txt", ["one", "", "two", "one"])
    report = prepare(source, tmp_path / "set", codec=BagOfWords(), settings=Settings(skip_empty=True))
    assert (report.read, report.empty, report.exact.count, report.shape[0]) == (4, 1, 1, 2)
    assert report.exact.pair.numbers == (1, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"near_duplicates": 1.0}, r"--near-duplicates 1: expected a cosine from 0"),
        ({"split": (0.8, 0.1)}, r"--split 0\.8,0\.1: expected three fractions that sum to 1"),
        ({"split": (0.8, 0.3, -0.1)}, r"--split 0\.8,0\.3,-0\.1: expected"),
        ({"split": (0.0, 0.5, 0.5)}, r"--split 0,0\.5,0\.5: expected"),
        ({"lang": "English"}, r"'English' is not a language of the codec 'bag'.*did you mean 'eng_Latn'"),
    ],
)
def test_invalid_settings(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        prepare(write(tmp_path / "a.txt", ["one"]), tmp_path / "set", codec=BagOfWords(), settings=Settings(**settings))


def test_user_files_are_not_overwritten(tmp_path):
    lines = [json.dumps({"text": text}) for text in sentences(10)]
    source = write(tmp_path / "mine.jsonl", lines)
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"mine\.jsonl: would be overwritten by mine\.jsonl"):
            prepare(source, tmp_path / "mine", codec=BagOfWords(), overwrite=overwrite)
    other = write(tmp_path / "other.jsonl", lines)
    with pytest.raises(UserError, match=r"mine\.jsonl: exists already"):
        prepare(other, tmp_path / "mine", codec=BagOfWords())
    with pytest.raises(UserError, match=r"mine\.jsonl: does not belong to a data set, so it is not replaced"):
        prepare(other, tmp_path / "mine", codec=BagOfWords(), overwrite=True)
    assert source.read_text() == other.read_text()
    prepare(other, tmp_path / "set", codec=BagOfWords())
    with pytest.raises(UserError, match=r"set\.safetensors: exists already.*--overwrite"):
        prepare(other, tmp_path / "set", codec=BagOfWords())
    write(other, lines[:5])
    assert prepare(other, tmp_path / "set", codec=BagOfWords(), overwrite=True).shape[0] == 5
    with pytest.raises(UserError, match=r"set\.jsonl: would be overwritten"):
        np.save(tmp_path / "v.npy", np.eye(5, dtype=np.float32))
        prepare(tmp_path / "v.npy", tmp_path / "set", texts=tmp_path / "set.jsonl", overwrite=True)


# Vectors


def save_vectors(path: Path, x: np.ndarray) -> Path:
    import torch

    if path.suffix == ".npy":
        np.save(path, x)
    elif path.suffix == ".pt":
        torch.save(torch.from_numpy(x), path)
    else:
        save_file({"x": x}, path)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".pt"])
def test_vectors_are_imported_with_their_texts(tmp_path, suffix):
    codec, texts = BagOfWords(), sentences(40)
    texts[9] = texts[4]
    x = codec.encode(texts)
    source = save_vectors(tmp_path / f"v{suffix}", x)
    report = prepare(source, tmp_path / "set", codec=codec, texts=write(tmp_path / "t.txt", texts))
    data = read_dataset(tmp_path / "set")
    assert report.shape == (39, D) and report.exact.pair.numbers == (5, 10) and report.unit == "lines"
    np.testing.assert_array_equal(data.x, codec.encode(list(data.texts)))
    assert sorted(data.texts) == sorted(set(texts)) and data.info["codec"] == codec.identity()


def test_vectors_without_texts_or_codec(tmp_path):
    x = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    x[31], x[40] = x[3], 2 * x[5]
    report = prepare(save_vectors(tmp_path / "v.npy", x), tmp_path / "set")
    data = read_dataset(tmp_path / "set")
    assert (report.exact.count, report.near.count, len(data)) == (1, 1, 48) and report.unit == "vectors"
    assert report.exact.pair.numbers == (4, 32) and report.near.pair.numbers == (6, 41)
    assert data.texts is None and "codec" not in data.info and any("without --codec" in r for r in report.remarks)
    assert sorted(map(tuple, data.x.tolist())) == sorted(set(map(tuple, np.delete(x, [31, 40], 0).tolist())))


def test_vectors_of_empty_lines_are_dropped(tmp_path):
    x = np.eye(4, dtype=np.float32)
    texts = write(tmp_path / "t.txt", ["one", "", "three", "four"])
    source = save_vectors(tmp_path / "v.npy", x)
    with pytest.raises(UserError, match=r"t\.txt: line 2 is empty"):
        prepare(source, tmp_path / "set", texts=texts)
    prepare(source, tmp_path / "set", texts=texts, settings=Settings(skip_empty=True))
    data = read_dataset(tmp_path / "set")
    found = {text: int(row.argmax()) for text, row in zip(data.texts, data.x, strict=True)}
    assert found == {"one": 0, "three": 2, "four": 3}


def test_mismatched_imports(tmp_path, monkeypatch):
    x = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    source = save_vectors(tmp_path / "v.npy", x)
    with pytest.raises(UserError, match=r"t\.txt: has 5 lines, but .*v\.npy has 6 vectors"):
        prepare(source, tmp_path / "set", texts=write(tmp_path / "t.txt", sentences(5)))
    with pytest.raises(UserError, match=r"vectors have 8 dimensions, but the codec 'bag' has 24"):
        prepare(source, tmp_path / "set", codec=BagOfWords())
    monkeypatch.setattr("flowkit.text.prepare.why_unavailable", lambda described: "its weights are not here")
    with pytest.raises(UserError, match=r"vectors have 8 dimensions, but the codec 'sonar' has 1024"):
        prepare(source, tmp_path / "set", codec="sonar")
    with pytest.raises(UserError, match=r"--split-sentences: .*holds vectors"):
        prepare(source, tmp_path / "set", settings=Settings(split_sentences=True))
    with pytest.raises(UserError, match=r"--texts: requires a file of vectors, and .* holds sentences"):
        prepare(tmp_path / "t.txt", tmp_path / "set", codec="sonar", texts=tmp_path / "t.txt")
    with pytest.raises(UserError, match=r"--codec is required to encode .*: sonar or mini-sonar"):
        prepare(tmp_path / "t.txt", tmp_path / "set")
    x[2, 3] = x[4, 0] = np.nan
    with pytest.raises(UserError, match=r"2 of 6 rows of 'vectors' contain NaN or infinity: 2, 4"):
        prepare(save_vectors(tmp_path / "v.npy", x), tmp_path / "set")


def test_vectors_far_from_sonars_scale_get_a_remark(tmp_path, monkeypatch):
    monkeypatch.setattr("flowkit.text.prepare.why_unavailable", lambda described: "its weights are not here")
    x = np.random.default_rng(0).standard_normal((8, 1024)).astype(np.float32)
    told: list[str] = []
    report = prepare(save_vectors(tmp_path / "v.npy", x), tmp_path / "set", codec="sonar", notice=told.append)
    assert (
        re.search(r"the mean norm of these vectors is 3[12]\.\d, and SONAR vectors have about 0\.2", report.remarks[0])
        and "not here" in told[0]
    )
    assert read_dataset(tmp_path / "set").info["codec"] == {"name": "sonar", "dimension": 1024}
    assert not prepare(save_vectors(tmp_path / "v.npy", x / 160), tmp_path / "small", codec="sonar").remarks


# Stopped and started again


class Fails(BagOfWords):
    """Stops at the shard after `after` others."""

    def __init__(self, after: int, error: type[BaseException] = RuntimeError) -> None:
        super().__init__()
        self.after, self.error = after, error

    def encode(self, texts, **options) -> np.ndarray:
        if not self.after:
            raise self.error
        self.after -= 1
        return super().encode(texts, **options)


def test_interrupted_prepare_resumes_bit_equal(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "SHARD", 10)
    lines = sentences(45)
    source = write(tmp_path / "mine.txt", lines)
    prepare(source, tmp_path / "whole", codec=BagOfWords())
    told: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "set", codec=Fails(3, KeyboardInterrupt), notice=told.append)
    assert re.search(r"interrupted: 30 encoded sentences are kept in .*\.set\.partial; rerun the same command", told[0])
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("set")] == []
    with (tmp_path / ".set.partial/vectors.f32").open("ab") as file:
        file.write(b"half a row of a shard that was cut short")
    rest = BagOfWords()
    prepare(source, tmp_path / "set", codec=rest, notice=told.append)
    assert rest.encoded == lines[30:] and "30 of 45 sentences are already encoded" in told[1]
    assert (tmp_path / "set.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert (tmp_path / "set.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"codec": BagOfWords(revision=2)}, "codec changed"),
        ({"lines": sentences(45, seed=1)}, "sentences changed"),
        ({"settings": Settings(lang="fra_Latn")}, "language changed"),
        ({"settings": Settings(dtype="bf16")}, "dtype changed"),
    ],
)
def test_vectors_of_other_settings_are_not_reused(tmp_path, monkeypatch, change, what):
    monkeypatch.setattr(encoding, "SHARD", 10)
    source = write(tmp_path / "mine.txt", sentences(45))
    with pytest.raises(RuntimeError):
        prepare(source, tmp_path / "set", codec=Fails(3))
    codec, told = change.get("codec") or BagOfWords(), []
    write(source, change.get("lines") or sentences(45))
    prepare(source, tmp_path / "set", codec=codec, settings=change.get("settings"), notice=told.append)
    data = read_dataset(tmp_path / "set")
    assert len(codec.encoded) == 45 and f"{what}" in told[0]
    np.testing.assert_array_equal(data.x, codec.encode(list(data.texts)))


def test_corrupt_scratch_file_restarts_encoding(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "SHARD", 10)
    source = write(tmp_path / "mine.txt", sentences(45))
    with pytest.raises(RuntimeError):
        prepare(source, tmp_path / "set", codec=Fails(3))
    (tmp_path / ".set.partial/encoding.json").write_text("{")
    codec, told = BagOfWords(), []
    prepare(source, tmp_path / "set", codec=codec, notice=told.append)
    assert len(codec.encoded) == 45 and "cannot be read" in told[0]


def test_vectors_of_another_source_are_not_reused(tmp_path, monkeypatch):
    """Killed between the first vectors of new sentences and the note about them, the old note must not speak for these."""
    monkeypatch.setattr(encoding, "SHARD", 10)
    old, new = sentences(45), sentences(45, seed=1)
    source = write(tmp_path / "mine.txt", old)
    with pytest.raises(RuntimeError):
        prepare(source, tmp_path / "set", codec=Fails(3))
    write(source, new)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(encoding, "write_json", lambda *_: (_ for _ in ()).throw(RuntimeError))
        prepare(source, tmp_path / "set", codec=BagOfWords())
    write(source, old)
    prepare(source, tmp_path / "set", codec=BagOfWords())
    data = read_dataset(tmp_path / "set")
    np.testing.assert_array_equal(data.x, BagOfWords().encode(list(data.texts)))


def test_a_full_disk_says_what_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "SHARD", 10)
    append, calls = encoding.Scratch.append, []

    def full(self, *args):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, *args)

    monkeypatch.setattr(encoding.Scratch, "append", full)
    with pytest.raises(
        UserError, match=r"No space left on device\); 20 of 45 encoded sentences are kept. Free some space"
    ):
        prepare(write(tmp_path / "mine.txt", sentences(45)), tmp_path / "set", codec=BagOfWords())


def test_half_written_files_of_a_killed_process_are_cleared_away(tmp_path):
    for name in (".set.safetensors.ab12.partial", ".set.v2.safetensors.cd34.partial"):
        (tmp_path / name).write_bytes(b"half")
    prepare(write(tmp_path / "mine.txt", sentences(20)), tmp_path / "set", codec=BagOfWords())
    assert [p.name for p in tmp_path.glob(".*")] == [".set.v2.safetensors.cd34.partial"]  # another data set's


def test_a_data_set_that_cannot_be_replaced_whole_stays_as_it_was(tmp_path, monkeypatch):
    source = write(tmp_path / "mine.txt", sentences(20))
    prepare(source, tmp_path / "set", codec=BagOfWords())
    before = {path.name: path.read_bytes() for path in tmp_path.glob("set*")}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("flowkit.data.dataset.write_tensors", full)
    write(source, sentences(20, seed=1))
    with pytest.raises(UserError, match=r"set\.safetensors: cannot be written \(No space left on device\)"):
        prepare(source, tmp_path / "set", codec=BagOfWords(), overwrite=True)
    assert len(before) == 3 and before == {path.name: path.read_bytes() for path in tmp_path.glob("set*")}


SLOW = """
import flowkit.text.prepare, flowkit.text.encoding as encoding
from flowkit.cli import main
from tests.test_text_prepare import BagOfWords
encoding.SHARD = 20
flowkit.text.prepare.open_codec = lambda *_, **__: BagOfWords(seconds=0.05)
flowkit.text.prepare.CODECS = ("bag",)
flowkit.text.prepare.languages_of = lambda _: BagOfWords.languages
main()
"""


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW, "prepare", "mine.txt", "--out", "set", "--codec", "bag", *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    # A shell's background jobs ignore SIGINT, and hand that on: tests that run in one would wait for a deaf process.
    hear = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear
    )


def wait_for(folder: Path, rows: int, process: subprocess.Popen[str]) -> int:
    note = folder / ".set.partial/encoding.json"
    while process.poll() is None:
        if note.exists() and (done := json.loads(note.read_text())["done"]) >= rows:
            return done
        time.sleep(0.01)
    raise AssertionError(process.communicate())


def test_killed_process_loses_at_most_a_shard_and_holds_a_lock(tmp_path):
    lines = sentences(1000)
    source = write(tmp_path / "mine.txt", lines)
    process = start(tmp_path)
    wait_for(tmp_path, 60, process)
    with pytest.raises(UserError, match=r"another process is preparing this data set"):
        prepare(source, tmp_path / "set", codec=BagOfWords())
    seen = wait_for(tmp_path, 100, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["mine.txt"]
    rest = BagOfWords()
    prepare(source, tmp_path / "set", codec=rest)
    assert len(rest.encoded) <= 1000 - seen and rest.encoded == lines[1000 - len(rest.encoded) :]
    prepare(source, tmp_path / "whole", codec=BagOfWords())
    assert (tmp_path / "set.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_interrupt_says_how_to_resume(tmp_path):
    write(tmp_path / "mine.txt", sentences(1000))
    process = start(tmp_path)
    wait_for(tmp_path, 40, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130 and out == "" and "Traceback" not in err
    assert re.fullmatch(
        r"interrupted: \d+ encoded sentences are kept in \.set\.partial; rerun the same command to resume\n", err
    )


# The command line


def invoke(*arguments: object) -> tuple[int, str, object]:
    result = CliRunner().invoke(app, ["prepare", *map(str, arguments)])
    return result.exit_code, " ".join(result.output.split()), result.exception


def test_the_command_and_its_summary(tmp_path, monkeypatch):
    monkeypatch.setattr("flowkit.text.prepare.open_codec", lambda *_, **__: BagOfWords())
    monkeypatch.setenv("COLUMNS", "140")
    lines = [json.dumps({"body": text}) for text in [*sentences(60), "Once more.", "Once more.", "ONCE more.", ""]]
    source = write(tmp_path / "articles.jsonl", lines)
    code, said, error = invoke(source, "--out", tmp_path / "set", "--codec", "sonar", "--text-key", "body", "--skip-empty",
                               "--near-duplicates", ".9", "--split", ".5,.25,.25", "--seed", 3)  # fmt: skip
    assert code == 0, error
    for part in ("lines read 64", "empty -1", "exact duplicates -1 lines 61 and 62: Once more.",
                 "near-duplicates (cosine above 0.9)", "31 train, 15 validation, 15 test", "norm ", "by bag",
                 "next: flowkit train mlp_text --set data.source="):  # fmt: skip
        assert part in said, said
    info = json.loads((tmp_path / "set.json").read_text())
    assert info["prepared"]["seed"] == 3 and info["prepared"]["split"] == [0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.txt", "--codec", "sonar", "--exactly", "8", "--over", "fit"), r"--exactly, --over: only for sketches, but a\.txt"),
        (("a.svg", "--codec", "sonar"), r"--codec: only for sentences, but a\.svg holds sketches. Leave out --codec"),
        (("a.png",), r"a\.png: cannot be read: it is a PNG image; trace it.* sentences from \.txt, \.jsonl"),
        (("a.txt",), r"--codec is required to encode the sentences in a\.txt"),
        (("a.txt", "--codec", "mini-sonar", "--encoder", "x.pt"), r"--encoder: replaces a part of SONAR; requires"),
        (("a.txt", "--codec", "sonor"), r"codec: unknown codec 'sonor'.*did you mean 'sonar'"),
        (("a.txt", "--codec", "sonar", "--split", "a,b"), r"--split a,b: expected three fractions"),
        (("missing.txt", "--codec", "sonar"), r"missing\.txt: no such file"),
    ],
)  # fmt: skip
def test_what_the_command_refuses(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "a.svg"):
        write(tmp_path / name, ["one"])
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    code, _, error = invoke(*arguments, "--out", "set")
    assert code == 1 and isinstance(error, UserError) and re.search(message, str(error)), error
    assert not list(tmp_path.glob("*set*"))


def test_the_view_needs_no_torch():
    code = "import sys, flowkit.text.prepare, flowkit.ui.prepare_text_view; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# Real sentences


def test_two_thousand_sentences_of_the_web(tmp_path, shared_data):
    report = prepare(shared_data / "text/ewt-dev.txt", tmp_path / "set", codec=BagOfWords())
    data = read_dataset(tmp_path / "set")
    assert (report.read, report.empty, report.exact.count) == (2001, 0, 88)  # 1,913 are distinct
    assert report.shape[0] + report.near.count == 1913 and len(data.texts) == len(data) == report.shape[0]
    assert cosines(data.x).max(initial=0, where=~np.eye(len(data), dtype=bool)) <= 0.95


def test_a_dataset_is_read_again_as_it_was_written(tmp_path):
    prepare(write(tmp_path / "a.txt", sentences(30)), tmp_path / "set", codec=BagOfWords())
    data = read_dataset(tmp_path / "set")
    assert isinstance(data, Dataset) and isinstance(data.x, np.memmap)
