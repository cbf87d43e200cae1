"""`flowkit decode` and `flowkit sample` of sentences, with a codec that needs no network."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from flowkit import cli
from flowkit.data.dataset import Dataset, read_dataset, write_dataset
from flowkit.text.codec import Decoding
from tests.conftest import sketch_rows
from tests.fake_codec import DIMENSION, SENTENCES, VECTORS, FakeCodec, install

ORDER = [3, 0, 5, 1, 1, 4, 2]
MADE_BY = {"codec": {"name": "mini-sonar", "dimension": DIMENSION}, "lang": "eng_Latn"}


@pytest.fixture
def codec(monkeypatch) -> FakeCodec:
    return install(monkeypatch)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Prepared vectors whose second text is not what they say, and samples, which have nothing but vectors."""
    monkeypatch.chdir(tmp_path)
    texts = [SENTENCES[row] for row in ORDER]
    texts[1] = "The young doctor read a letter."
    write_dataset("data", Dataset("embedding", VECTORS[ORDER], texts=texts, info=MADE_BY))
    write_dataset("samples", Dataset("embedding", VECTORS[ORDER], info={"source": "samples", **MADE_BY}))
    return tmp_path


@pytest.fixture
def flowkit(monkeypatch, capfd):
    """Runs a command: (status, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["flowkit", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return (int(exit_.value.code or 0), *capfd.readouterr())

    return run


def lines(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def test_a_line_for_each_row_in_order(flowkit, folder, codec):
    assert flowkit("decode", "samples", "--lang", "fra_Latn", "--lang", "eng_Latn", "--out", "new/some.jsonl")[0] == 0
    assert lines("new/some.jsonl") == [
        {"row": i, "fra_Latn": f"fra_Latn: {SENTENCES[row]}", "eng_Latn": SENTENCES[row]} for i, row in enumerate(ORDER)
    ]
    assert list(lines("new/some.jsonl")[0]) == ["row", "fra_Latn", "eng_Latn"]  # the languages in the requested order


def test_prepared_data_shows_its_text_and_optional_cycle(flowkit, folder, codec):
    status, out, _ = flowkit("decode", "data.safetensors", "--cycle", "--limit", 2, "--out", "two.jsonl")
    assert status == 0
    first, second = lines("two.jsonl")
    assert first == {"row": 0, "eng_Latn": SENTENCES[3], "text": SENTENCES[3], "cycle": 1.0}
    assert second["eng_Latn"] == SENTENCES[0] and second["text"] == "The young doctor read a letter."
    assert "1 of 2 match the original" in out and "mean 1.000" in out and "2 sentences -> two.jsonl" in out


def test_the_cycle_is_the_cosine_of_the_vector_and_its_sentences(flowkit, folder, codec):
    moved = VECTORS[ORDER] + 0.05 * np.random.default_rng(0).standard_normal((len(ORDER), DIMENSION)).astype(np.float32)
    write_dataset("moved", Dataset("embedding", moved, info=MADE_BY))
    flowkit("decode", "moved", "--cycle", "--out", "moved.jsonl")
    for line, vector in zip(lines("moved.jsonl"), moved, strict=True):
        own = VECTORS[SENTENCES.index(line["eng_Latn"])]
        assert line["cycle"] == pytest.approx(vector @ own / np.linalg.norm(vector) / np.linalg.norm(own), abs=1e-5)
        assert line["cycle"] < 0.9999


def test_classes_are_named(flowkit, folder, codec):
    labels = np.array([0, 1, 0])
    write_dataset("classes", Dataset("embedding", VECTORS[:3], labels, class_names=("news", "prose"), info=MADE_BY))
    flowkit("decode", "classes", "--out", "classes.jsonl")
    assert [line["class"] for line in lines("classes.jsonl")] == ["news", "prose", "news"]


def test_plain_text_has_one_file_per_language(flowkit, folder, codec, monkeypatch):
    monkeypatch.setattr(codec, "decode", lambda x, how, **_: [f"{how.lang} {i}\nand on" for i in range(len(x))])
    assert flowkit("decode", "samples", "--out", "one.txt", "--limit", 2)[0] == 0
    assert Path("one.txt").read_text() == "eng_Latn 0 and on\neng_Latn 1 and on\n"
    status, out, _ = flowkit("decode", "samples", "--lang", "fra_Latn", "--lang", "deu_Latn", "--out", "some.txt")
    assert status == 0 and not Path("some.txt").exists()
    for lang in ("fra_Latn", "deu_Latn"):
        assert Path(f"some.{lang}.txt").read_text().splitlines()[6] == f"{lang} 6 and on"
        assert f"some.{lang}.txt" in out


def test_without_a_file_it_is_a_table(flowkit, folder, codec):
    before = set(folder.iterdir())
    status, out, _ = flowkit("decode", "data")
    assert status == 0 and set(folder.iterdir()) == before
    rows = out.split("\n\n")[0].splitlines()
    assert rows[0].split() == ["eng_Latn", "text"]
    assert [row.split()[0] for row in rows[1:] if row[:1].isdigit()] == [str(i) for i in range(len(ORDER))]
    assert "The young doctor read a" in out and "6 of 7 match the original" in out and "mini-sonar, beam 5" in out
    _, out, _ = flowkit("decode", "samples", "--top-p", 0.9, "--seed", 3)
    assert out.splitlines()[0].split() == ["eng_Latn"] and "text" not in out and "top-p 0.9, seed 3" in out
    for row in ORDER:
        assert SENTENCES[row][:40] in out


def test_options_are_passed_to_the_codec(flowkit, folder, codec):
    flowkit("decode", "samples", "--beam-size", 3, "--block-ngrams", 2, "--max-seq-len", 40, "--batch-size", 4)
    flowkit("decode", "samples", "--top-p", 0.8, "--seed", 5, "--lang", "deu_Latn", "--lang", "deu_Latn")
    assert codec.asked == [
        (7, Decoding("eng_Latn", beam_size=3, block_ngrams=2, max_seq_len=40), 4),
        (7, Decoding("deu_Latn", top_p=0.8, seed=5, block_ngrams=3), None),  # samples may lie off the manifold
    ]


def test_the_language_is_that_of_the_data_unless_another_is_asked_for(flowkit, folder, codec):
    write_dataset("german", Dataset("embedding", VECTORS, info={**MADE_BY, "lang": "deu_Latn"}))
    _, out, _ = flowkit("decode", "german")
    assert "deu_Latn: Nobody knew." in out
    write_dataset("unsaid", Dataset("embedding", VECTORS, info={"codec": "mini-sonar"}))
    assert "eng_Latn" in flowkit("decode", "unsaid")[1]


def test_bare_tensors_of_a_codec_that_is_named(flowkit, folder, codec):
    import torch

    np.save("bare.npy", VECTORS)
    save_file({"embeddings": VECTORS}, "bare.safetensors")
    torch.save(torch.from_numpy(VECTORS), "bare.pt")
    for name in ("bare.npy", "bare.safetensors", "bare.pt"):
        assert flowkit("decode", name, "--codec", "mini-sonar", "--out", "bare.txt")[0] == 0
        assert Path("bare.txt").read_text().splitlines() == list(SENTENCES), name
    write_dataset("array", Dataset("array", VECTORS, info={"source": "samples"}))  # of a model trained on bare vectors
    assert flowkit("decode", "array", "--codec", "mini-sonar", "--out", "array.txt")[0] == 0
    assert Path("array.txt").read_text() == Path("bare.txt").read_text()


def bad_files() -> None:
    rows = sketch_rows()
    write_dataset("sketches", Dataset("sketch", rows["x"], rows["class_label"], class_names=rows["class_names"]))
    holes = VECTORS.copy()
    holes[[1, 4], 0] = np.nan
    write_dataset("nan", Dataset("embedding", holes, info=MADE_BY))
    write_dataset("wide", Dataset("embedding", np.ones((3, 9), np.float32), info={"codec": {"name": "mini-sonar"}}))
    write_dataset("unknown", Dataset("embedding", VECTORS))
    write_dataset("none", Dataset("embedding", VECTORS[:0], info=MADE_BY))
    np.save("bare.npy", VECTORS)
    np.save("flat.npy", VECTORS[0])
    Path("file").write_text("no folder")
    Path("dir.txt").mkdir(exist_ok=True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["samples", "--lang", "fr"], ["'fr'", "did you mean 'fra_Latn'"]),
        (["samples", "--lang", "eng_Latn", "--lang", "french"], ["'french'", "fra_Latn"]),
        (["wide"], ["wide.safetensors", "9 dimensions", "8"]),
        (["unknown"], ["unknown.safetensors", "--codec"]),
        (["bare.npy"], ["bare.npy", "--codec"]),
        (["bare.npy", "--codec", "sonnar"], ["'sonnar'", "did you mean 'sonar'"]),
        (["flat.npy", "--codec", "mini-sonar"], ["flat.npy", "(8,)"]),
        (["samples", "--codec", "sonar"], ["made by 'mini-sonar'", "--codec sonar"]),
        (["samples", "--decoder", "own.pt"], ["--decoder requires the codec sonar", "mini-sonar"]),
        (["samples", "--out", "sentences.json"], [".jsonl", ".txt", "did you mean '.jsonl'"]),
        (["samples", "--out", "folder"], [".jsonl", ".txt", "table"]),
        (["samples", "--out", "dir.txt"], ["is a folder"]),
        (["samples", "--out", "file/some.txt"], ["file: cannot be written to", "is a file", "--out"]),
        (["data", "--out", "data.jsonl"], ["data.jsonl", "the sentences of the data"]),
        (["nan"], ["2 of 6 rows of 'x' contain NaN or infinity: 1, 4"]),
        (["none"], ["has no rows"]),
        (["samples", "--top-p", 1.5], ["top_p", "1.5"]),
        (["samples", "--block-ngrams", 1], ["block_ngrams", "2 or more"]),
        (["samples", "--top-p", 0.9, "--beam-size", 3], ["--top-p", "--beam-size"]),
        (["samples", "--seed", 1], ["--seed has no effect"]),
        (["sketches", "--lang", "fra_Latn"], ["--lang is an option for sentence vectors", "sketches"]),
        (["sketches", "--cycle"], ["--cycle is an option for sentence vectors"]),
        (["nothing.npy", "--codec", "mini-sonar"], ["nothing.npy: no such file"]),
    ],
)  # fmt: skip
def test_bad_input_is_one_message_and_writes_nothing(flowkit, folder, codec, arguments, says):
    bad_files()
    before = set(folder.rglob("*"))
    status, out, err = flowkit("decode", *arguments)
    assert status == 2, (out, err)
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err and out == ""
    for part in says:
        assert part in err, err
    assert set(folder.rglob("*")) == before


def test_an_interrupted_decoding_leaves_the_old_file(flowkit, folder, codec, monkeypatch):
    Path("some.txt").write_text("as it was\n")

    def stops(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(codec, "decode", stops)
    flowkit("decode", "samples", "--out", "some.txt")
    assert Path("some.txt").read_text() == "as it was\n"


RECIPE = """
[run]
name = "text"
[data]
source = "rows.safetensors"
[model]
arch = "mlp"
[train]
steps = 4
batch_size = 16
val_every = "never"
save_every = "never"
[sample]
every = "never"
num_samples = 2
steps = 2
"""


@pytest.fixture
def run(folder, flowkit, codec) -> Path:
    rows = np.random.default_rng(0).integers(0, len(SENTENCES), 64)
    jitter = 0.02 * np.random.default_rng(1).standard_normal((64, DIMENSION))
    texts = [SENTENCES[row] for row in rows]
    write_dataset("rows", Dataset("embedding", VECTORS[rows] + jitter.astype(np.float32), texts=texts, info=MADE_BY))
    Path("recipe.toml").write_text(RECIPE)
    status, _, err = flowkit("train", "recipe.toml")
    assert status == 0, err
    return folder / "runs" / "text"


def test_samples_lie_in_the_run_with_their_sentences(flowkit, run, codec):
    status, out, err = flowkit("sample", "--ckpt", "runs/text", "-n", 5)
    assert status == 0, err
    samples = read_dataset(run)
    assert samples.x.shape == (5, DIMENSION) and samples.texts is not None
    assert list(samples.texts) == codec.decode(samples.x)
    assert samples.info["codec"]["name"] == "mini-sonar" and samples.info["lang"] == "eng_Latn"
    shown = [line for line in out.split("\n\n")[0].splitlines() if line[:1].isdigit()]
    assert [line.split()[0] for line in shown] == ["0", "1", "2", "3", "4"] and "cosine to the nearest training" in out
    assert "runs/text/samples.safetensors" in out and "runs/text/samples.jsonl" in out
    status, out, err = flowkit(
        "decode", "runs/text/samples.safetensors", "--lang", "fra_Latn", "--out", "samples.jsonl"
    )
    assert status == 0, err
    assert [line["fra_Latn"] for line in lines("samples.jsonl")] == [f"fra_Latn: {text}" for text in samples.texts]


def test_missing_codec_is_one_message(flowkit, run, monkeypatch):
    install(monkeypatch, "the miniature was not trained yet")
    status, out, err = flowkit("sample", "--ckpt", "runs/text", "-n", 3, "--out", "elsewhere")
    assert status == 0, err
    assert "nearest: " in out  # what can be said without it
    assert read_dataset("elsewhere").texts is None and not Path("elsewhere/samples.jsonl").exists()
    assert (
        sum("was not trained yet" in line for line in " ".join(out.split()).split(". ")) == 1
        and "flowkit decode" in out
    )
    status, _, err = flowkit("decode", "elsewhere")
    assert status == 2 and "was not trained yet" in err


def test_vectors_alone_where_no_sentences_are_wanted(flowkit, run, codec):
    codec.asked.clear()
    status, out, err = flowkit("sample", "--ckpt", "runs/text", "-n", 3, "--no-decode", "--no-preview")
    assert status == 0, err
    assert codec.asked == [] and read_dataset(run).texts is None and "samples.jsonl" not in out


def test_pictures_of_samples_go_to_a_subfolder(flowkit, folder):
    rows = sketch_rows(6)
    write_dataset("runs/s/samples", Dataset("sketch", rows["x"], rows["class_label"], class_names=rows["class_names"]))
    Path("runs/s/checkpoints").mkdir()
    assert flowkit("decode", "runs/s/samples.safetensors")[0] == 0
    assert not list(Path("runs/s").glob("*.svg")) and len(list(Path("runs/s/samples/last").glob("*.svg"))) == 6
