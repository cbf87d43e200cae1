"""`flowkit evaluate` on sentence vectors: figures against closed forms and independent code, and the whole with a toy codec."""

import io
import json
import sys

import numpy as np
import pytest
from rich.console import Console

import flowkit
from flowkit.cli import main
from flowkit.data.dataset import Dataset, read_dataset, write_dataset
from flowkit.errors import UserError
from flowkit.evaluate import evaluate_checkpoint, evaluate_files
from flowkit.metrics.comparison import choose_sides
from flowkit.metrics.moments import frechet, frechet_few
from flowkit.text import cycle
from flowkit.text.codec import Decoding
from flowkit.text.cycle import cosines, decode_and_encode, nearest_rows
from flowkit.text.distribution import Reference
from flowkit.text.diversity import DistinctN, SelfBleu, count_words, tokenize
from flowkit.text.figures import FIGURES
from flowkit.ui.evaluate_view import print_evaluation

SLOTS = (["The", "A", "One", "Some"], ["cat", "dog", "owl", "fox", "hen", "cow"], ["saw", "ate", "hid", "met"],
         ["rice.", "tea.", "jam.", "corn.", "figs."], ["Today", "Here", "Now", "Then"])  # fmt: skip
WIDTH = 8


class ToyCodec:
    """Sentences of one word a slot; a vector is the words' random vectors side by side, and decoding takes the nearest."""

    name, dimension, languages = "toy", WIDTH * len(SLOTS), ("eng_Latn",)

    def __init__(self):
        rng = np.random.default_rng(5)
        self.words = [rng.standard_normal((len(words), WIDTH)).astype(np.float32) for words in SLOTS]

    def identity(self):
        return {"name": self.name, "dimension": self.dimension}

    def encode(self, texts, *, lang="eng_Latn", tell=None):
        rows = [[SLOTS[slot].index(word) for slot, word in enumerate(text.split())] for text in texts]
        return np.array([np.concatenate([self.words[slot][i] for slot, i in enumerate(row)]) for row in rows])

    def decode(self, vectors, how=None, *, tell=None):
        assert how.lang == "eng_Latn"
        parts = vectors.reshape(len(vectors), len(SLOTS), WIDTH)
        chosen = [((parts[:, slot, None] - words) ** 2).sum(-1).argmin(axis=1) for slot, words in enumerate(self.words)]
        if tell:
            tell("decoding", len(vectors), len(vectors))
        return [
            " ".join(SLOTS[slot][i] for slot, i in enumerate(row)) for row in np.stack(chosen, axis=1)
        ]  # fmt: skip


def sentences(count, seed):
    """Different sentences, the same for the same seed."""
    sizes = [len(words) for words in SLOTS]
    rows = np.random.default_rng(seed).permutation(int(np.prod(sizes)))[:count]
    return [
        " ".join(SLOTS[slot][i] for slot, i in enumerate(row))
        for row in zip(*np.unravel_index(rows, sizes), strict=True)
    ]


@pytest.fixture(autouse=True, scope="module")
def few_repeats():
    """The intervals have tests of their own; here they need not be fine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowkit.metrics.resampling.REPEATS", 10)
        yield


# ---- cosines, cycle, nearest rows ----
def test_centered_cosines():
    a, b = np.array([[1.0, 0], [2, 2], [1, 1]]), np.array([[0.0, 3], [4, 4], [5, 5]])
    np.testing.assert_allclose(cosines(a, b), [0, 1, 1], atol=1e-6)
    np.testing.assert_allclose(cosines(a, b, np.array([1.0, 1.0])), [-2 / 5**0.5, 1, 0], atol=1e-6)


def test_cycle_of_sentences_is_one_and_of_noise_is_not():
    codec = ToyCodec()
    x = codec.encode(sentences(200, 0))
    center = x.mean(0)
    np.testing.assert_allclose(cosines(x, decode_and_encode(codec, x)[1], center), 1, atol=1e-5)
    noise = center + x.std() * np.random.default_rng(0).standard_normal(x.shape)
    found = cosines(noise, decode_and_encode(codec, noise)[1], center)
    again = codec.encode(codec.decode(noise, Decoding()))
    expected = [np.corrcoef(a - center, b - center)[0, 1] for a, b in zip(noise, again, strict=True)]
    assert np.median(found) < 0.75 and abs(np.median(found) - np.median(expected)) < 0.05


def test_nearest_rows_in_small_chunks_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(cycle, "CHUNK_BYTES", 4 * 40 * 7)
    rng = np.random.default_rng(0)
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=(211, 16))
    x[:] = rng.standard_normal(x.shape) * rng.uniform(0.1, 9, (211, 1))
    x[3] = 0
    rows, queries = np.flatnonzero(rng.random(211) < 0.7), rng.standard_normal((40, 16)).astype(np.float32)
    queries[0] = 0
    told = []
    found, where = nearest_rows(queries, x, rows, tell=lambda what, done, total: told.append(done))
    with np.errstate(invalid="ignore"):
        exact = np.nan_to_num(
            (queries @ x[rows].T) / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(x[rows], axis=1)
        )
    np.testing.assert_allclose(found, exact.max(1), atol=1e-5)
    np.testing.assert_array_equal(where[1:], rows[exact.argmax(1)][1:])
    assert found[0] == 0 and told[-1] == len(rows) and len(told) > 10
    own = np.full(40, -1)
    own[5] = where[5]
    without, other = nearest_rows(queries, x, rows, own=own)
    assert other[5] != where[5] and without[5] == pytest.approx(np.sort(exact[5])[-2], abs=1e-5)
    np.testing.assert_array_equal(np.delete(other, 5), np.delete(where, 5))
    with pytest.raises(ValueError, match="no rows"):
        nearest_rows(queries, x, rows[:0])


# ---- variety ----
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The cat, Don't!", "the cat , don't !"),
        ('"Well-known" (3.5)...', '" well-known " ( 3.5 ) . . .'),
        ("¿Qué? — sí", "¿ qué ? — sí"),
        ("हिन्दी में", "हिन्दी में"),
        ("我爱你。 ok", "我 爱 你 。 ok"),
        ("", ""),
        (" - ", "-"),
    ],
)
def test_tokens(text, tokens):
    assert tokenize(text) == tuple(tokens.split())


def test_words_are_tokens_with_a_letter_or_digit():
    assert count_words(tokenize("Don't stop, at 3.5!")) == 4 and count_words(tokenize("...")) == 0


def test_distinct_n_by_hand():
    said = [tokenize(text) for text in ("a b a b", "a b c", "", "d")]
    rows = np.arange(4)
    assert DistinctN(said, 1)(rows) == 4 / 8 and DistinctN(said, 2)(rows) == 3 / 5 and DistinctN(said, 3)(rows) == 1.0
    assert DistinctN(said, 2)(np.array([0])) == 2 / 3 and DistinctN(said, 3)(np.array([2, 3])) == 0.0


def random_sentences(count, seed=0, words=12):
    rng = np.random.default_rng(seed)
    vocabulary = np.array([f"w{i}" for i in range(words)])
    return [tuple(vocabulary[rng.integers(0, words, rng.integers(1, 14))].tolist()) for _ in range(count)]


def test_self_bleu_against_sacrebleu():
    sacrebleu = pytest.importorskip("sacrebleu")
    said = [*random_sentences(60), ("w1",), ("w1", "w2", "w1", "w2", "w1")]
    rows = np.array([0, 3, 5, 8, 9, 20, 21, 22, 40, 41, 60, 61])
    found = SelfBleu(said)
    for which in (rows, np.arange(len(said))):
        expected = [
            sacrebleu.sentence_bleu(
                " ".join(said[row]), [" ".join(said[other]) for other in which if other != row],
                smooth_method="floor", smooth_value=0.1, tokenize="none", use_effective_order=True,
            ).score / 100
            for row in which
        ]  # fmt: skip
        np.testing.assert_allclose(found.scores(which), expected, rtol=1e-6)
        assert found(which) == pytest.approx(np.mean(expected))


def test_self_bleu_of_extreme_cases():
    assert SelfBleu([tokenize("the same old song again")] * 5)(np.arange(5)) == pytest.approx(1.0)
    apart = [tuple(f"{row}-{i}" for i in range(8)) for row in range(6)]
    assert SelfBleu(apart)(np.arange(6)) < 0.03
    assert SelfBleu([tokenize("one"), ()])(np.arange(2)) >= 0 and SelfBleu([tokenize("one")])(np.arange(1)) == 0


# ---- distributions ----
@pytest.mark.parametrize("rows", [(30, 50), (200, 40), (60, 60)])
def test_frechet_of_few_rows_is_the_same_distance(rows):
    rng = np.random.default_rng(0)
    a, b = (
        rng.standard_normal((n, 60)) @ rng.standard_normal((60, 60)) + shift
        for n, shift in zip(rows, (0, 2), strict=True)
    )
    assert frechet_few(a, b) == pytest.approx(frechet(a, b), rel=1e-5) and frechet_few(a, a) == pytest.approx(
        0, abs=1e-2
    )


def test_frechet_is_in_units_of_the_reference():
    x = 7 * np.random.default_rng(0).standard_normal((400, 5)) + 3
    reference = Reference(x)
    assert reference.frechet(np.repeat(x.mean(0)[None], 400, axis=0)).value == pytest.approx(1.0)
    scaled = reference.frechet(x.mean(0) + 1.5 * (x - x.mean(0)))
    assert scaled.value == pytest.approx(0.25) and Reference(100 * x).frechet(100 * x + 100).value == pytest.approx(
        Reference(x).frechet(x + 1).value
    )


# ---- the whole ----
def make_data(seed=0, count=1400):
    codec, texts = ToyCodec(), sentences(count, seed)
    split = np.repeat(np.array([0, 1, 2], np.uint8), [count - 400, 150, 250])
    info = {"codec": codec.identity(), "lang": "eng_Latn"}
    return Dataset("embedding", codec.encode(texts), None, None, split, info=info, texts=texts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sentences")
    write_dataset(folder / "real", make_data())
    return folder


@pytest.fixture
def toy(monkeypatch):
    """The toy codec replaces the one that the sidecar names."""
    opened = []
    monkeypatch.setattr("flowkit.text.evaluation.why_unavailable", lambda identity: None)
    monkeypatch.setattr(
        "flowkit.text.evaluation.open_codec", lambda identity, device: opened.append((identity, device)) or ToyCodec()
    )
    return opened


def evaluate(folder, name, x, **arguments):
    info = {"codec": ToyCodec().identity()}
    write_dataset(folder / name, Dataset("embedding", x.astype(np.float32), info=info))
    return evaluate_files(folder / name, folder / "real", split="test", **arguments)


def values(found, key):
    figure = next(figure for figure in found.figures if figure.key == key)
    return tuple(
        None if (one := getattr(figure, name)) is None else one.value
        for name in ("samples", "real", "gaussian", "noise")
    )


def unread(count):
    """Sentences that are in no split of the data."""
    return sentences(1920, 0)[1400:][:count]


def test_held_out_sentences_look_real_and_are_new(folder, toy):
    found = evaluate(folder, "fresh", ToyCodec().encode(unread(250)), device="cpu")
    assert toy == [(ToyCodec().identity(), "cpu")] and found.protocol == "embedding-1" and not found.notes
    assert [figure.key for figure in found.figures] == [key for key in FIGURES if key != "grammatical"]
    samples, real, gaussian, noise = values(found, "cycle")
    assert samples > 0.999 and real > 0.999 and noise < gaussian < 0.95
    samples, real, gaussian, noise = values(found, "frechet")
    assert abs(samples - real) < 0.03 and abs(gaussian - real) < 0.03 and noise > 2 * real
    assert values(found, "new")[:2] == (1.0, 1.0) and abs(values(found, "memorisation")[0] - 1) < 0.1
    for key in ("distinct_2", "self_bleu", "words"):
        samples, real, *_ = values(found, key)
        assert samples == pytest.approx(real, rel=0.2)
    assert values(found, "words")[1] == 5
    for figure in found.figures:
        for name in ("samples", "real", "gaussian", "noise"):
            estimate = getattr(figure, name)
            assert estimate.low <= estimate.high and np.isfinite([estimate.low, estimate.value, estimate.high]).all()


def test_the_cycle_against_its_definition(tmp_path, toy, monkeypatch):
    """On vectors that are not their sentences' exactly, and far from the origin."""

    class Far(ToyCodec):
        def __init__(self):
            super().__init__()
            self.words = [words + 3 for words in self.words]

    monkeypatch.setattr("flowkit.text.evaluation.open_codec", lambda identity, device: Far())
    codec, data, rng = Far(), make_data(), np.random.default_rng(0)
    data.x = (codec.encode(data.texts) + 0.8 * rng.standard_normal(data.x.shape)).astype(np.float32)
    x = (codec.encode(unread(250)) + 1.2 * rng.standard_normal((250, codec.dimension))).astype(np.float32)
    write_dataset(tmp_path / "real", data)
    write_dataset(tmp_path / "x", Dataset("embedding", x))
    found = evaluate_files(tmp_path / "x", tmp_path / "real", split="test")
    reference = data.x[choose_sides(data, "test").reference]
    again, real = (codec.encode(codec.decode(rows, Decoding())) for rows in (x, reference))
    total = reference.astype(np.float64).var(axis=0, ddof=1).sum()
    assert values(found, "frechet_cycle")[0] == pytest.approx(frechet(again, real) / total, rel=1e-4)
    center = data.x[:1000].mean(axis=0)
    expected = [np.median(cosines(a, b, center)) for a, b in ((x, again), (reference, real))]
    assert values(found, "cycle")[:2] == pytest.approx(expected, abs=1e-4) and expected[0] < 0.9


def test_copies_are_detected_and_baselines_unchanged(folder, toy):
    real = read_dataset(folder / "real")
    copies, fresh = (
        evaluate(folder, name, x) for name, x in (("copies", real.x[:250]), ("fresh", ToyCodec().encode(unread(250))))
    )
    assert values(copies, "memorisation")[0] < 0.01 and values(copies, "new")[0] == 0
    assert values(copies, "nearest_train")[0] > 0.999 > values(fresh, "nearest_train")[0]
    assert values(copies, "nearest_held_out")[0] < 0.99
    for name in ("real", "gaussian", "noise"):
        assert [getattr(figure, name) for figure in copies.figures] == [
            getattr(figure, name) for figure in fresh.figures
        ]


def test_one_repeated_sentence(folder, toy):
    found = evaluate(folder, "collapsed", np.repeat(ToyCodec().encode(unread(1)), 250, axis=0))
    assert values(found, "self_bleu")[0] == pytest.approx(1.0) and values(found, "distinct_2")[0] < 0.01
    assert values(found, "recall")[0] < 0.1 and values(found, "frechet")[0] > 0.9 < values(found, "frechet_cycle")[0]


def test_sampled_sentences_are_written_beside_their_nearest(folder, toy):
    found = evaluate(folder, "fresh", ToyCodec().encode(unread(250)))
    written = json.loads((folder / "fresh-evaluation-test" / "evaluation.json").read_text())
    assert written["protocol"] == "embedding-1" and set(written["figures"]["cycle"]) >= {"samples", "noise"}
    page = (folder / "fresh-evaluation-test" / "samples.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert len(rows) == 60 and str(folder / "fresh-evaluation-test" / "samples.md") in found.files
    texts, real = unread(250), make_data()
    for row, said, round_trip, twin, cosine in rows:
        number = int(row.strip("| "))
        assert said == texts[number] and round_trip == "1.000" and twin in real.texts[:1000]
        exact = cosines(ToyCodec().encode([said]), ToyCodec().encode([twin]))[0]
        assert float(cosine.strip("| ")) == pytest.approx(exact, abs=1e-3)
    nearest = [float(row[-1].strip("| ")) for row in rows[40:]]
    assert nearest == sorted(nearest, reverse=True)


def test_without_the_codec_vectors_are_still_measured(folder):
    for arguments, says in (({}, "the unknown codec"), ({"decode": False}, "turned off")):
        found = evaluate(folder, "fresh", ToyCodec().encode(unread(250)), **arguments)
        assert says in found.notes[0] and "frechet" in found.to_json()["figures"]
        assert not {"cycle", "frechet_cycle", "distinct_1", "new"} & set(found.to_json()["figures"])
    assert "(not decoded)" in (folder / "fresh-evaluation-test-no-decode" / "samples.md").read_text()


def test_data_without_sentences_and_without_held_out_rows(folder, tmp_path, toy):
    data = make_data()
    data.texts, data.split = None, None
    write_dataset(tmp_path / "real", data)
    write_dataset(tmp_path / "fresh", Dataset("embedding", ToyCodec().encode(unread(60))))
    found = evaluate_files(tmp_path / "fresh", tmp_path / "real")
    figures = found.to_json()["figures"]
    assert found.settings["split"] == "all" and "new" not in figures and "nearest_held_out" not in figures
    assert values(found, "memorisation")[1] == 1 and values(found, "words")[1] == 5  # of the decoded ones
    assert "(not known)" in (tmp_path / "fresh-evaluation" / "samples.md").read_text()


def test_real_ones_are_never_new_where_the_reference_was_trained_on(folder, toy):
    write_dataset(folder / "some", Dataset("embedding", ToyCodec().encode(unread(60))))
    found = evaluate_files(folder / "some", folder / "real", split="all")
    assert values(found, "new")[:2] == (1.0, None)


def test_vectors_of_another_codec(folder):
    write_dataset(
        folder / "other", Dataset("embedding", np.zeros((250, 40), np.float32), info={"codec": {"name": "sonar"}})
    )
    with pytest.raises(UserError, match=r"'sonar'.*'toy'"):
        evaluate_files(folder / "other", folder / "real")


def test_the_test_split_is_the_reference_where_it_has_enough_rows():
    data = make_data()
    data.split = np.repeat(np.array([0, 1, 2], np.uint8), [300, 550, 550])
    assert (
        choose_sides(data, preferred=("test", "validation")).split == "test"
        and choose_sides(data).split == "validation"
    )
    data.split[-100:] = 0
    assert choose_sides(data, preferred=("test", "validation")).split == "validation"
    data.split[300:] = np.where(np.arange(1100) % 2, 0, 1)
    assert choose_sides(data, preferred=("test", "validation")).split == "validation"
    data.split[:] = 0
    assert choose_sides(data, preferred=("test", "validation")).split == "all"


def test_table_fits_the_terminal(folder, toy):
    found = evaluate(folder, "fresh", ToyCodec().encode(unread(250)))
    for width in (80, 118, 200):
        console = Console(width=width, record=True, file=io.StringIO())
        print_evaluation(found, console)
        text = console.export_text()
        assert max(len(line.rstrip()) for line in text.splitlines() if str(folder) not in line) <= width
        assert all(word in text for word in ("noise", "cycle cosine", "self-BLEU", "Gaussian")) and "…" not in text


# ---- checkpoints and the command ----
@pytest.fixture(scope="module")
def trained(folder):
    recipe = {
        "run": {"name": "tiny", "dir": str(folder / "runs")},
        "data": {"source": str(folder / "real.safetensors")},
        "model": {"arch": "mlp", "hidden_dim": 32},
        "train": {"steps": 4, "batch_size": 16, "log_every": 4, "val_every": "never", "save_every": "never"},
        "sample": {"every": "never", "num_samples": 2, "steps": 2, "decode": False},
    }
    flowkit.train(recipe)
    return folder / "runs" / "tiny"


def test_checkpoint_is_reconstructed_too(trained, toy):
    found = evaluate_checkpoint(trained, split="test", num_samples=60)
    made = found.settings["reconstruction"]
    assert made["rows"] == 60 and made["zero_field"]["mse"] == 0
    assert made["zero_field"]["variance"] == pytest.approx(1.0, abs=0.2)  # of rows that were brought to unit variance
    assert (
        "effective dimensions" in found.facts["reconstruction"] and "Without a model" in found.facts["reconstruction"]
    )
    assert values(found, "cycle")[0] < 0.95  # four updates teach nothing


def test_command_leaves_the_codec_out(trained, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["flowkit", "evaluate", "--ckpt", str(trained), "--no-decode", "--split", "test", "-n", "50"]
    )
    with pytest.raises(SystemExit) as stop:
        main()
    out = capsys.readouterr().out
    assert not stop.value.code and "decoding is turned off" in out.replace("\n", " ") and "self-BLEU" not in out
    assert "reconstruction" in out
