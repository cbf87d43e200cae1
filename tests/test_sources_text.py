"""Sentences from files as people have them: tables, JSON, compressed, folders, old line ends; and output for any terminal."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from flowkit.cli import app, main
from flowkit.encoding import adapt
from flowkit.errors import NothingLeft, UserError
from flowkit.sketch.prepare import prepare as prepare_sketches
from flowkit.text.codec import languages_of
from flowkit.text.prepare import Settings, prepare
from flowkit.text.reading import read_sentences
from flowkit.text.sonar_packages import why_not_importable
from tests.test_sketch_import import SVG, write
from tests.test_text_prepare import BagOfWords

TEXTS = ["A cat, asleep.", 'She said "no".', "Two\nlines.", "Ünïcödé — 漢字."]
FLAT = [" ".join(text.split()) for text in TEXTS]


def table(rows: list[list[str]], **options: object) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, **options).writerows(rows)  # type: ignore[reportArgumentType]
    return out.getvalue()


NUMBERED = [[str(n), text] for n, text in enumerate(TEXTS, 1)]
SOURCES: dict[str, tuple[str, str | bytes]] = {
    "csv with a header": ("a.csv", table([["id", "text"], *NUMBERED])),
    "csv without one": ("a.csv", table(NUMBERED)),
    "csv of one column": ("a.csv", table([["sentence"], *([text] for text in TEXTS)])),
    "semicolons, as spreadsheets write them": ("a.csv", "\ufeff" + table([["Nr", "Text"], *NUMBERED], delimiter=";")),
    "with a line that names the separator": ("a.csv", "sep=;\n" + table([["Nr", "Text"], *NUMBERED], delimiter=";")),
    "utf-16, as spreadsheets write it": ("a.csv", table([["id", "text"], *NUMBERED], delimiter="\t").encode("utf-16")),
    "an index without a name, as pandas writes it": ("a.csv", table([["", "text"], *NUMBERED])),
    "an index, and a column of any name": ("a.csv", table([["", "review"], *NUMBERED])),
    "names that occur twice, and one column of text": ("a.csv", table([["x", "text", "x"], *([n, t, n] for n, t in NUMBERED)])),
    "a separator after the last column": ("a.csv", table([["id", "text", ""], *([n, t, ""] for n, t in NUMBERED)])),
    "nested JSON lines": ("a.jsonl", "".join(json.dumps({"id": 1, "of": {"n": 2, "en": text}}) + "\n" for text in TEXTS)),
    "tsv with quotes, as pandas writes it": ("a.tsv", table([["id", "text"], *NUMBERED], delimiter="\t")),
    "a table named .txt.gz": ("a.txt.gz", gzip.compress("".join(f"{n}\t{text}\n" for n, text in enumerate(FLAT)).encode())),
    "a JSON array of strings": ("a.json", json.dumps(TEXTS)),
    "a JSON array of objects": ("a.json", json.dumps([{"n": 1, "sentence": text} for text in TEXTS], indent=1)),
    "a JSON object of rows": ("a.json", json.dumps({"version": "1", "data": [{"text": text} for text in TEXTS]})),
    "a JSON object of columns": ("a.json", json.dumps({"id": [1, 2, 3, 4], "text": TEXTS})),
    "JSON lines under another name": ("a.txt", "".join(json.dumps({"content": text, "id": 3}) + "\n" for text in TEXTS)),
    "JSON lines of strings": ("a.jsonl", "".join(json.dumps(text) + "\n" for text in TEXTS)),
    "JSON lines, compressed, without a suffix": ("a", gzip.compress("".join(
        json.dumps({"id": "x", "note": "y", "text": text}) + "\n" for text in TEXTS).encode())),
    "old line ends": ("a.txt", "\r".join(FLAT)),
    "windows line ends and a mark": ("a.TXT", "\ufeff" + "\r\n".join(FLAT) + "\r\n"),
    "utf-16 lines": ("a.txt", "\n".join(FLAT).encode("utf-16-be").join([b"\xfe\xff", b""])),
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_sentences_from(tmp_path: Path, name: str) -> None:
    file, content = SOURCES[name]
    path = write(tmp_path, {file: content}) / file
    assert read_sentences(path).texts == FLAT


def parquet(path: Path, **columns: object) -> Path:
    arrow, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(arrow.table(columns), path)
    return path


def test_sentences_from_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    found = read_sentences(parquet(tmp_path / "a.parquet", id=[1, 2, 3, 4], text=TEXTS))
    assert found.texts == FLAT and found.notes[0] == "sentences: column 'text'; not read: id"
    coded = arrow.array(TEXTS).dictionary_encode()
    assert read_sentences(parquet(tmp_path / "b.data", id=[1, 2, 3, 4], words=coded)).texts == FLAT
    lists = read_sentences(parquet(tmp_path / "c.parquet", url=["u", "v"], sentences=[TEXTS[:1], TEXTS[1:]]))
    assert lists.texts == FLAT and lists.numbers.tolist() == [1, 2, 3, 4]
    two = parquet(tmp_path / "d.parquet", eng=["A cat sat.", None], fra=["Un chat.", "Un chien."], n=[1, 2])
    with pytest.raises(
        UserError,
        match=r"cannot tell which column holds the sentences; name it with --column. Its columns: 'eng' \(A cat sat.\), 'fra'",
    ):
        read_sentences(two)
    assert read_sentences(two, column="FRA").texts == ["Un chat.", "Un chien."]
    with pytest.raises(UserError, match="row 2 is empty or null"):
        read_sentences(two, column="eng")
    with pytest.raises(UserError, match="column 'n' is not text"):
        read_sentences(two, column="n")
    nested = parquet(tmp_path / "f.parquet", translation=[{"en": text, "n": 1} for text in TEXTS], id=[1, 2, 3, 4])
    assert read_sentences(nested).texts == read_sentences(nested, column="translation.en").texts == FLAT
    twice = arrow.Table.from_arrays([arrow.array(["a"])] * 2, ["text", "text"])
    pytest.importorskip("pyarrow.parquet").write_table(twice, tmp_path / "g.parquet")
    with pytest.raises(UserError, match=r"two columns have the same name \(text, text\); rename one of them"):
        read_sentences(tmp_path / "g.parquet")
    (tmp_path / "e.parquet").write_bytes(b"PAR1PAR1")
    with pytest.raises(UserError, match=r"truncated or corrupt parquet file .*to_json"):
        read_sentences(tmp_path / "e.parquet")


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(20))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'flowkit\[parquet\]'.*pandas\.read_parquet"):
        read_sentences(tmp_path / "a.parquet")


def test_which_column(tmp_path: Path) -> None:
    pairs = "".join(f"{n}\teng\tA cat number {n}.\n" for n in range(3))
    path = write(tmp_path, {"a.tsv": pairs}) / "a.tsv"
    found = read_sentences(path)
    assert found.texts[0] == "A cat number 0." and "sentences: column '3'; not read: 1, 2" in found.notes
    assert read_sentences(path, column="2").texts == ["eng"] * 3
    with pytest.raises(UserError, match=r"has no column '4'\. Its columns: '1' \(0\), '2' \(eng\), '3' \(A cat"):
        read_sentences(path, column="4")
    both = write(tmp_path, {"b.csv": "eng,fra\nA cat.,Un chat.\nA dog.,Un chien.\n"}) / "b.csv"
    with pytest.raises(UserError, match="--column"):
        read_sentences(both)
    assert read_sentences(both, column="fra").texts == ["Un chat.", "Un chien."]
    assert "its first row is a header" in read_sentences(both, column="1").notes
    lines = (
        write(tmp_path, {"c.jsonl": '{"body": "A cat.", "title": "T"}\n{"title": "U", "body": "A dog."}\n'}) / "c.jsonl"
    )
    assert read_sentences(lines).texts == ["A cat.", "A dog."]
    assert read_sentences(lines, column="title").texts == ["T", "U"]
    twice = write(tmp_path, {"e.csv": "text,n,text\nA cat.,1,A dog.\n"}) / "e.csv"
    with pytest.raises(
        UserError, match=r"several columns are named 'text'; use a column number \(1, 3\) with --column"
    ):
        read_sentences(twice)
    assert read_sentences(twice, column="3").texts == ["A dog."] and read_sentences(twice, column="1").texts == [
        "A cat."
    ]
    nested = write(tmp_path, {"f.jsonl": '{"translation": {"en": "A cat.", "fr": "Un chat."}}\n'}) / "f.jsonl"
    with pytest.raises(UserError, match=r"--column\. Its columns: 'translation\.en' \(A cat\.\), 'translation\.fr'"):
        read_sentences(nested)
    assert read_sentences(nested, column="translation.fr").texts == ["Un chat."]
    plain = write(tmp_path, {"d.txt": "A cat.\n"}) / "d.txt"
    with pytest.raises(UserError, match="the file has no columns"):
        read_sentences(plain, column="text")


def test_literal_quotes_in_a_tsv(tmp_path: Path) -> None:
    rows = ['1\teng\t"Hello", he said.', '2\teng\tIt is 5" long.', "3\teng\tA bird sang."]
    found = read_sentences(write(tmp_path, {"a.tsv": "\n".join(rows)}) / "a.tsv")
    assert found.texts == ['"Hello", he said.', 'It is 5" long.', "A bird sang."]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            b'id,text\n1,"A cat\n2,A dog\n',
            r"a\.csv: line 3: is not valid CSV: a quote is opened and never closed",
        ),
        (
            "a.csv",
            b"id,text\n1,A cat, asleep.\n",
            r"which column|line 2: has 3 columns, and the first row 2; a comma inside",
        ),
        (
            "a.csv",
            b"id,text\n" + b"1,A cat\n" * 300 + b"2,A dog, too\n",
            r"line 302: has 3 columns, and the first row 2; a comma",
        ),
        ("a.csv", b"id,text\n1,caf\xe9\n", r"line 2, byte 6 \(0xe9\): is not UTF-8; .*iconv -f latin1"),
        ("a.json", b'["A cat.", "A dog."', r"is not valid JSON .*line 1 column"),
        ("a.json", b'{"a": {"b": 1}}', r"holds a JSON object without rows \(its keys: 'a'\); convert it: python -c"),
        ("a.jsonl", b'{"text": "a"}\n{"text": null}\n', r"line 2 is empty or null; .*--skip-empty"),
        ("a.txt.gz", gzip.compress(b"A cat.\n" * 100, mtime=0)[:-20], r"cannot be read"),
        ("a.csv", b"\x89PNG\r\n\x1a\n" + bytes(20), r"is not read: it is a PNG image"),
        ("a.svg", b"", r"a\.svg: holds no sentences"),
        ("a.txt", "A cat.\n".encode("utf-16-be"), r"iconv -f utf-16be -t utf-8"),
        ("a.csv", b"id,text\n1,A cat\n2,\n", r"line 3 is empty; expected a sentence in each of the 2 rows"),
        ("a.json", b'["caf\xe9 noir"]', r"a\.json: byte 6: is not UTF-8; .*iconv -f latin1"),
        ("a.json", b'["A cat.", null]', r"row 2 is empty or null; expected a sentence in each of the 2 rows"),
        ("a.jsonl", b'{"text": "A"}\n{"txt": "B"}\n', r"did you mean 'txt'\? Name the key"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_sentences(write(tmp_path, {name: content}) / name)


def test_null_is_left_out_with_the_empty_ones(tmp_path: Path) -> None:
    path = write(tmp_path, {"a.json": '["A cat.", null, "", "A dog."]'}) / "a.json"
    found = read_sentences(path, skip_empty=True)
    assert found.texts == ["A cat.", "A dog."] and found.empty == (2, 3) and found.numbers.tolist() == [1, 4]
    with pytest.raises(NothingLeft, match="all 2 rows are empty"):
        read_sentences(write(tmp_path, {"b.json": '["", null]'}) / "b.json", skip_empty=True)


def test_replaced_characters_are_counted(tmp_path: Path) -> None:
    found = read_sentences(write(tmp_path, {"a.txt": "A\tcat.\nA dog.\nA\rbird\u2028sang.\nB\r\n"}) / "a.txt")
    assert found.texts == ["A cat.", "A dog.", "A bird sang.", "B"]
    assert found.notes == (
        "1 sentence contained tabs, which were replaced by spaces",
        "1 sentence contained line breaks or other control characters, which were replaced by spaces",
    )


def test_a_folder_and_a_zip_of_sentences(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "train.txt": "A cat.\nA dog.\n", "b/more.csv.gz": gzip.compress(b"id,text\n1,A bird.\n", mtime=0), 
        "c.jsonl": '{"text": "A fox."}\n',
        "void.txt": "", "README.md": "# read me", "picture.png": b"\x89PNG\r\n\x1a\n", ".DS_Store": b"x",
    }  # fmt: skip
    folder = write(tmp_path / "folder", files)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    for source in (folder, tmp_path / "a.zip"):
        found = read_sentences(source)
        assert found.texts == ["A bird.", "A fox.", "A cat.", "A dog."] and found.unit == "rows"
        for note in ("1 file is empty: void.txt", "1 .md file was not read", "1 .png file was not read",
                     "1 hidden file or folder was not read",
                     "train.txt: named like splits, but all files are joined and split again (--split)",
                     "its first row is a header (b/more.csv.gz)"):  # fmt: skip
            assert note in found.notes, found.notes
    report = prepare(folder, tmp_path / "set", codec=BagOfWords())
    assert report.shape[0] == 4 and any("1 .png file" in remark for remark in report.remarks)
    assert report.format == "folder"
    with pytest.raises(UserError, match=r"folder/train\.txt: line 1, byte 1"):
        (folder / "train.txt").write_bytes(b"\xe9\n")
        read_sentences(folder)


def test_vectors_with_the_sentences_of_a_table(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((5, 24)).astype(np.float32)
    np.savez(tmp_path / "v.npz", x=x, ids=np.arange(5))
    path = (
        write(tmp_path, {"t.csv": table([["id", "text"], *([str(n), f"Number {n}\nwalks."] for n in range(5))])})
        / "t.csv"
    )
    np.savez(tmp_path / "w.npz", x=x[:1])
    with pytest.raises(
        UserError, match=r"t\.csv: has 5 rows, but \S*w\.npz has 1 vector; expected one sentence per vector"
    ):
        prepare(tmp_path / "w.npz", tmp_path / "set", codec=BagOfWords(), texts=path)
    report = prepare(tmp_path / "v.npz", tmp_path / "set", codec=BagOfWords(), texts=path)
    assert report.shape == (5, 24) and report.format == "npz"
    from flowkit.data.dataset import read_dataset

    data = read_dataset(tmp_path / "set")
    for text, row in zip(data.texts, data.x, strict=True):  # type: ignore[reportArgumentType]
        np.testing.assert_array_equal(row, x[int(text.split()[1])])


# ---- cheap checks first ----


class Unused(BagOfWords):
    """A codec whose opening would take minutes."""

    def encode(self, texts, **options):
        raise AssertionError("nothing is to be encoded")


needs_sonar = pytest.mark.skipif(bool(why_not_importable()), reason="needs sonar-space")


@needs_sonar
@pytest.mark.parametrize(
    ("codec", "settings", "message"),
    [
        ("mini-sonar", {"lang": "fra_Latn"}, "'fra_Latn' is not a language of the codec 'mini-sonar'"),
        ("mini-sonar", {"lang": "english"}, "did you mean 'eng_Latn'"),
        ("sonar", {"lang": "en"}, "did you mean 'eng_Latn'"),
        ("sonar", {"lang": "zh"}, "did you mean 'zho_Han[st]'"),
        ({"name": "sonar", "encoder": "/nowhere/encoder.pt"}, {}, r"encoder: /nowhere/encoder\.pt: no such file"),
        ("sonarr", {}, "unknown codec 'sonarr'"),
        ("mini-sonar", {"dtype": "float16"}, "--dtype float16: expected fp32, fp16, bf16"),
        (Unused(), {"lang": "deu_Latn"}, "'deu_Latn' is not a language"),
    ],
)
def test_mistakes_are_reported_before_reading(tmp_path, monkeypatch, codec, settings, message) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr("flowkit.text.prepare.open_codec", never)
    monkeypatch.setattr("flowkit.text.prepare.read_sentences", never)
    (tmp_path / "a.txt").write_text("A cat.\n")
    with pytest.raises(UserError, match=message):
        prepare(tmp_path / "a.txt", tmp_path / "set", codec=codec, settings=Settings(**settings))
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("lang", ["en", "eng_latn", "English", "fra-Latn"])
@pytest.mark.parametrize("installed", [pytest.param(True, marks=needs_sonar), False])
def test_language_is_checked_without_the_codec(tmp_path, monkeypatch, lang, installed) -> None:
    monkeypatch.setattr("flowkit.text.prepare.why_unavailable", lambda described: "its weights are not here")
    if not installed:
        monkeypatch.setattr("flowkit.text.sonar_packages.why_not_importable", lambda: "sonar-space is not installed")
    np.save(tmp_path / "v.npy", np.random.default_rng(0).standard_normal((4, 1024)).astype(np.float32))
    with pytest.raises(UserError, match=f"lang: '{lang}' is (no|not a) .*(eng|fra)_Latn"):
        prepare(tmp_path / "v.npy", tmp_path / "set", codec="sonar", settings=Settings(lang=lang))
    assert [path.name for path in tmp_path.iterdir()] == ["v.npy"]
    assert prepare(tmp_path / "v.npy", tmp_path / "set", codec="sonar", settings=Settings(lang="deu_Latn")).shape == (
        4,
        1024,
    )


@needs_sonar
def test_languages_without_opening_a_codec() -> None:
    assert languages_of("mini-sonar") == ("eng_Latn",) and len(languages_of("sonar")) == 202


@pytest.mark.parametrize("seed", range(4))
def test_normalized_vectors_always_get_the_remark(tmp_path, monkeypatch, seed) -> None:
    """Whichever side of 1 rounding leaves their mean norm on; and vectors of the usual size never do."""
    monkeypatch.setattr("flowkit.text.prepare.why_unavailable", lambda described: "its weights are not here")
    x = np.random.default_rng(seed).standard_normal((12, 1024)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    for scale, remarked in ((1.0, True), (1 + 1e-6, True), (1 - 1e-6, True), (0.2, False), (0.3, False), (0.15, False)):
        np.save(tmp_path / "v.npy", x * np.float32(scale))
        report = prepare(tmp_path / "v.npy", tmp_path / "set", codec="sonar", overwrite=True)
        assert any("normalized" in remark for remark in report.remarks) == remarked, scale


def test_train_and_sample_report_mistakes_without_torch(tmp_path, monkeypatch) -> None:
    from typer.testing import CliRunner

    def never(*_: object, **__: object) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr("flowkit.training.train.train", never)
    monkeypatch.setattr("flowkit.sampling.load.load", never)
    (tmp_path / "runs/x").mkdir(parents=True)
    (tmp_path / "runs/x/recipe.toml").write_text("")
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        f'[run]\nname = "x"\ndir = "{tmp_path}/runs"\n[data]\nsource = "8gaussians"\n[model]\narch = "selu_mlp"\n'
        "[train]\nsteps = 1\nbatch_size = 8\n"
    )
    for changes, message in (
        ([], "this run already exists"),
        (
            ["--set", "run.name=y", "--set", "data.source=nowhere.safetensors"],
            "data.source: 'nowhere.safetensors' is neither",
        ),
        (
            ["--set", "run.name=y", "--set", "model={arch='bezier_sketch_dit'}"],
            "model.arch: 'bezier_sketch_dit' does not fit points",
        ),
        (["--set", "run.name=y", "--init-from", str(tmp_path / "none")], "none: no such run or checkpoint"),
    ):
        found = CliRunner().invoke(app, ["train", str(recipe), *changes])
        assert isinstance(found.exception, UserError) and message in str(found.exception), (changes, found.exception)
    found = CliRunner().invoke(app, ["sample", "--ckpt", str(tmp_path / "none")])
    assert isinstance(found.exception, UserError) and "no such run or checkpoint" in str(found.exception)


# ---- any terminal, any pipe ----


def decoded(text: str, encoding: str, errors: str = "strict") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding, errors)
    adapt(stream)
    stream.write(text)
    stream.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize(
    ("encoding", "text", "expected"),
    [
        ("ascii", "3 × 4 → 5 ± 1 …", "3 x 4 -> 5 +- 1 ..."),
        ("ascii", "café 猫", "cafe \\u732b"),
        ("ascii", "▁▄█ ⠀⠇⣿ ─│┌", "_-# :@"),
        ("latin-1", "café × ±  →", "café × ±  ->"),
        ("cp1252", "… – 猫 ≤", "… – \\u732b <="),
        ("shift-jis", "猫 ±", "猫 ±"),
        ("utf-8", "caf\udce9 猫 ▁", "caf\\xe9 猫 ▁"),
    ],
)
def test_unencodable_characters_are_replaced(encoding: str, text: str, expected: str) -> None:
    if encoding == "ascii" and "▁" in text:
        assert len(decoded(text, encoding)) == len(text) and decoded(text, encoding)[4:7].strip() != ""
    else:
        assert decoded(text, encoding) == expected


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_commands_in_any_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    source = write(tmp_path / "s", {"猫/1.svg": SVG.format(1), "Ёж/2.svg": "", "café/3.svg": SVG.format(2)})
    commands = (["prepare", str(source), "--out", str(tmp_path / "d")], ["inspect", str(tmp_path / "d.safetensors")],
                ["inspect", str(tmp_path / "d.safetensors"), "--json"],
                ["decode", str(tmp_path / "d.safetensors"), "--out", str(tmp_path / "o")], ["train", "--keys"],
                ["prepare", "--help"])  # fmt: skip
    for command in commands:
        outs = [io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2)]
        monkeypatch.setattr(sys, "stdout", outs[0])
        monkeypatch.setattr(sys, "stderr", outs[1])
        monkeypatch.setattr(sys, "argv", ["flowkit", *command])
        with pytest.raises(SystemExit) as leave:
            main()
        assert leave.value.code in (0, None), command
        for out in outs:
            out.flush()
        said = outs[0].buffer.getvalue().decode(encoding)  # type: ignore[reportAttributeAccessIssue]
        assert said.strip()
        if "--json" in command:
            assert "猫" in json.dumps(json.loads(said), ensure_ascii=False)
        if command[0] == "prepare" and "--help" not in command:
            assert ("猫" if encoding == "utf-8" else "\\u732b") in said


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120])
def test_a_summary_in_any_width(tmp_path: Path, width: int) -> None:
    from rich.console import Console

    from flowkit.ui.prepare_view import summary

    names = ("lamp", "ladder", "a-class-with-a-long-name-of-its-own")
    files = {f"{name}/{n}.svg": SVG.format(n) for name in names for n in range(2)}
    bad = [
        "",
        "hm",
        "<html/>",
        "<svg/>",
        "<svg><text>a</text></svg>",
        "<svg><path d='M'/></svg>",
        b"\x89PNG\r\n\x1a\n",
    ]
    files |= {f"lamp/bad{n}.svg": content for n, content in enumerate(bad)}
    report = prepare_sketches(write(tmp_path / "s", files), tmp_path / "out", exactly=4)
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    console.print(summary(report, width))
    said = out.getvalue()
    words = "".join(said.split())
    assert all(len(line) <= width for line in said.splitlines()) and "…" not in said
    assert len(report.total.left_out) >= 4
    for reason, count in report.total.left_out.items():
        assert "".join(f"left out {count}".split()) in words and "".join(reason.split()) in words
    first_column = "".join(line.split()[0] for line in said.splitlines() if line.strip())  # long names are folded
    for name in names:
        assert name in first_column
    numbers = next(line for line in said.splitlines() if line.strip().startswith("lamp")).split()
    assert numbers[1:3] == ["9", "2"] and numbers[-1] == "7"


@pytest.mark.parametrize("width", [40, 60, 100])
@pytest.mark.parametrize("command", [["sample", "--help"], ["prepare", "--help"], ["--help"], ["train", "--keys"]])
def test_help_in_any_width(monkeypatch: pytest.MonkeyPatch, command: list[str], width: int) -> None:
    """No name of an option is cut, whatever the terminal's width."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "dumb")
    from typer import rich_utils

    monkeypatch.setattr(rich_utils, "Table", rich_utils.Table)  # put back what a narrow terminal replaces
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "argv", ["flowkit", *command])
    with pytest.raises(SystemExit):
        main()
    out.flush()
    said = out.buffer.getvalue().decode()  # type: ignore[reportAttributeAccessIssue]
    assert "…" not in said and max(map(len, said.splitlines())) <= width and "\x1b" not in said
    wanted = {"sample": ["--guidance-interval", "--trajectories", "--no-preview"], "prepare": ["--recognized-only", "--column",
              "--near-duplicates"], "train": ["val_every", "batch_size"], "--help": ["evaluate", "prepare"]}  # fmt: skip
    assert all(name in said for name in wanted[command[0]])


def test_a_drawing_that_training_would_refuse_is_left_out(tmp_path: Path) -> None:
    """One that leaves the canvas by far would spoil the whole data set: its canvas, then, is not what its file says."""
    far = '<svg viewBox="0 0 10 10"><path d="M0 0L10 10"/><path d="M0 0L{} 9"/></svg>'
    files = {"a/1.svg": SVG.format(1), "a/2.svg": far.format(400)}
    report = prepare_sketches(write(tmp_path / "s", dict(files)), tmp_path / "out", exactly=4)
    from flowkit.data_source import open_rows, with_split

    with_split(open_rows(str(tmp_path / "out"), 1, 0), 0.0, None, 0, "out")
    assert report.total.read == 2
