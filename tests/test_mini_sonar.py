"""The miniature SONAR: what it reconstructs, how it is cached, and what happens if the cache is corrupt."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from flowkit.errors import UserError
from flowkit.text.codec import Decoding, open_codec, why_unavailable
from flowkit.text.domain import generate_sentences
from flowkit.text.mini import cache, codec, grammar, recipe
from flowkit.text.mini.recipe import RECIPES, MiniRecipe
from tests.conftest import needs_sonar

if TYPE_CHECKING:
    from flowkit.text.codec import Codec

needs_sonar()

HELD_OUT = grammar.generate(200, 11)


def cycle(codec: Codec, vectors: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(N,) the centered cosine between z and encode(decode(z))."""
    again = codec.encode(codec.decode(vectors, Decoding(beam_size=1))) - mean
    return np.sum(again * (vectors - mean), 1) / np.linalg.norm(again, axis=1) / np.linalg.norm(vectors - mean, axis=1)


def cycles(codec: Codec, held_out: list[str], rows: int) -> dict[str, float]:
    """Medians for real vectors, for the best diagonal and full Gaussians of them, and for white noise of their size."""
    x = codec.encode(grammar.generate(3000, 0)).astype(np.float64)
    mean, rng = x.mean(0), np.random.default_rng(0)
    drawn = {
        "real": codec.encode(held_out[:rows]),
        "full": rng.multivariate_normal(mean, np.cov(x.T), rows),
        "diagonal": mean + x.std(0) * rng.standard_normal((rows, x.shape[1])),
        "noise": x.std() * rng.standard_normal((rows, x.shape[1])),
    }
    return {name: float(np.median(cycle(codec, z.astype(np.float32), mean))) for name, z in drawn.items()}


# What it says


def test_held_out_sentences_are_reconstructed(mini_codec: Codec) -> None:
    told = mini_codec.decode(mini_codec.encode(HELD_OUT))
    words = [
        np.mean([a == b for a, b in zip(s.split(), t.split(), strict=False)])
        for s, t in zip(HELD_OUT, told, strict=True)
    ]
    assert np.mean(words) > 0.6
    assert np.mean([s == t for s, t in zip(HELD_OUT, told, strict=True)]) > 0.25
    shuffled = mini_codec.decode(mini_codec.encode(HELD_OUT)[::-1])
    assert shuffled == told[::-1], "a sentence belongs to its vector, not to its place"


def test_cycle_distinguishes_real_vectors(mini_codec: Codec) -> None:
    medians = cycles(mini_codec, HELD_OUT, 100)
    assert medians["real"] > 0.8 and medians["real"] > medians["full"] + 0.15
    assert medians["full"] > medians["noise"] + 0.1


def test_vectors_are_centered_and_of_unit_variance(mini_codec: Codec) -> None:
    x = mini_codec.encode(grammar.generate(3000, 2))
    assert x.dtype == np.float32 and x.shape == (3000, mini_codec.dimension) and mini_codec.dimension == 96
    assert np.abs(x.mean(0)).max() < 0.15 and 0.95 < x.var(0).mean() < 1.05
    cosines = np.corrcoef(x[:400])
    assert abs(cosines[~np.eye(400, dtype=bool)].mean()) < 0.02, "unlike sentences are not alike by a common offset"


def test_any_text_can_be_encoded(mini_codec: Codec) -> None:
    strange = [
        "苹果很好吃",
        "🎻🎺",
        "naïve façade — “quoted”",
        "x" * 3000,
        "7 + 3 = 10",
        "\t",
        "a\u0000b",
        "",
        "Ünïcödé 𝔘",
    ]
    x = mini_codec.encode(strange)
    assert np.isfinite(x).all()
    assert len({row.tobytes() for row in x}) >= len(strange) - 1, "unknown words are spelled, not all the same"


def test_real_lines_can_be_encoded(mini_codec: Codec, shared_data: Path) -> None:
    lines = (shared_data / "text" / "ewt-dev.txt").read_text("utf-8").splitlines()
    x = mini_codec.encode(lines)
    assert len(x) == len(lines) == 2001 and np.isfinite(x).all()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert np.median(np.sort(unit @ unit.T, axis=1)[:, -2]) < 0.95, "most lines are no near-duplicates of another"


def test_only_english_is_supported(mini_codec: Codec) -> None:
    assert mini_codec.languages == ("eng_Latn",) and mini_codec.name == "mini-sonar"
    with pytest.raises(UserError, match="fra_Latn"):
        mini_codec.encode(["A fox slept."], lang="fra_Latn")


@pytest.mark.slow
def test_full_miniature_reaches_its_quality(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLOWKIT_CACHE", str(tmp_path))
    full = open_codec({"name": "mini-sonar", "size": "full"}, device="cpu")
    read = set(grammar.generate(RECIPES["full"].num_sentences, -1))
    held_out = [sentence for sentence in grammar.generate(1000, 0) if sentence not in read][:500]
    told = full.decode(full.encode(held_out))
    assert len(held_out) == 500 and np.mean([s == t for s, t in zip(held_out, told, strict=True)]) >= 0.99
    medians = cycles(full, held_out, 300)
    assert medians["real"] > 0.99 and medians["full"] < 0.7 and medians["noise"] < 0.4
    x = full.encode(grammar.generate(5000, 0)).astype(np.float64)
    spectrum = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    assert np.searchsorted(np.cumsum(spectrum) / spectrum.sum(), 0.9) < 100


# How it is trained and kept


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MiniRecipe:
    """A miniature that takes no second and knows nothing, in a cache of its own."""
    short = replace(
        RECIPES["tiny"], dimension=16, layers=1, heads=2, inner_dimension=16, num_sentences=400, steps=4, batch_size=8
    )
    monkeypatch.setitem(RECIPES, "tiny", short)
    monkeypatch.setenv("FLOWKIT_CACHE", str(tmp_path / "cache"))
    return short


def open_tiny(**described: object) -> Codec:
    return open_codec({"name": "mini-sonar", "size": "tiny", **described}, device="cpu")


def test_it_is_trained_once(
    brief: MiniRecipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "has not been trained" in str(why_unavailable("mini-sonar"))
    first = open_tiny()
    lines = capsys.readouterr().err.splitlines()
    assert (
        "Training the miniature SONAR, once: 4 updates." in lines[0] and "starts again from the beginning" in lines[0]
    )
    for done, line in enumerate(lines[1:4], start=1):
        assert re.fullmatch(rf"  miniature SONAR, loss \d+\.\d+: {done} of 4 updates, about \d+ s left", line), line
    assert "\x1b" not in str(lines)
    assert why_unavailable("mini-sonar") is None and why_unavailable(first.identity()) is None
    monkeypatch.setattr(codec, "_train", None)
    second = open_codec(first.identity(), device="cpu")
    assert second.identity() == first.identity() and json.loads(json.dumps(first.identity())) == first.identity()
    assert np.array_equal(second.encode(HELD_OUT), first.encode(HELD_OUT))
    assert capsys.readouterr().err == ""


def test_training_is_reproducible_and_keeps_global_state(
    brief: MiniRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch

    def fingerprint(place: str, **changes: int) -> str:
        monkeypatch.setenv("FLOWKIT_CACHE", str(tmp_path / place))
        monkeypatch.setitem(RECIPES, "tiny", replace(brief, **changes))
        return open_tiny().identity()["fingerprint"]

    torch.manual_seed(1)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    first = fingerprint("first")
    assert torch.equal(before, torch.get_rng_state()) and torch.get_num_threads() == threads
    torch.manual_seed(2)
    assert fingerprint("second") == first
    assert fingerprint("third", seed=1) != first
    assert fingerprint("fourth", steps=5) != first


def test_processes_wait_for_the_one_that_trains(brief: MiniRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread opens its own lock file, as processes do."""
    trained: list[float] = []
    train = codec._train

    def slowly(*arguments: object) -> cache.Kept:
        trained.append(time.monotonic())
        time.sleep(0.3)
        return train(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(codec, "_train", slowly)
    opened: list[str] = []
    threads = [threading.Thread(target=lambda: opened.append(open_tiny().identity()["fingerprint"])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(trained) == 1 and len(opened) == 3 and len(set(opened)) == 1


def test_interrupted_training_leaves_nothing(brief: MiniRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowkit.text.mini import training

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            open_tiny()
    assert cache.find(brief) is None and "has not been trained" in str(why_unavailable("mini-sonar"))
    assert open_tiny().dimension == 16, "the lock was given back"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (cache.WEIGHTS, cut),
        (cache.WEIGHTS, flip),
        (cache.TOKENIZER, Path.unlink),
        (cache.MANIFEST, cut),
        (cache.MANIFEST, Path.unlink),
    ],
)
def test_corrupt_cache_is_detected_and_repaired(
    brief: MiniRecipe, capsys: pytest.CaptureFixture[str], name: str, damage: object
) -> None:
    made = open_tiny().identity()
    capsys.readouterr()
    assert callable(damage)
    damage(cache.folder_of(brief) / name)
    assert why_unavailable("mini-sonar") is not None
    assert open_tiny().identity() == made
    told = capsys.readouterr().err
    assert "Trained" in told and ("Training it again" in told) == (damage is not Path.unlink or name != cache.MANIFEST)
    assert why_unavailable(made) is None


def test_data_of_another_miniature_is_refused(brief: MiniRecipe) -> None:
    made = open_tiny().identity()
    other = {**made, "fingerprint": "0123456789abcdef"}
    with pytest.raises(UserError, match=f"0123456789abcdef.*{made['fingerprint']}.*Prepare the data again"):
        open_codec(other)
    assert "0123456789abcdef" in str(why_unavailable(other))


def test_changed_recipe_has_its_own_folder(brief: MiniRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {cache.folder_of(brief), cache.folder_of(replace(brief, lr=0.1))}
    with monkeypatch.context() as patched:
        patched.setattr(recipe, "VERSION", recipe.VERSION + 1)
        places.add(cache.folder_of(brief))
    with monkeypatch.context() as patched:
        patched.setitem(grammar.WORDS, "FOOD", "apple cake")
        places.add(cache.folder_of(brief))
    assert len(places) == 4 and cache.folder_of(brief) in places


def test_invalid_cache_folders_and_sizes(brief: MiniRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown size 'tinny'.*did you mean 'tiny'"):
        open_codec({"name": "mini-sonar", "size": "tinny"})
    assert "tinny" in str(why_unavailable({"name": "mini-sonar", "size": "tinny"}))
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FLOWKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be written.*FLOWKIT_CACHE"):
        open_tiny()


def test_without_sentencepiece_it_says_what_to_install(brief: MiniRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UserError, match="pip install sentencepiece"):
        open_tiny()


def test_standardizing_changes_vectors_but_not_texts(brief: MiniRecipe, tmp_path: Path) -> None:
    """With random weights: vectors become (v - mean) / scale exactly, logits from them stay what they were."""
    import torch
    from fairseq2.nn import BatchLayout

    from flowkit.text.mini import networks

    tokenizer = tmp_path / "t.model"
    tokenizer.write_bytes(networks.train_tokenizer(brief, HELD_OUT))
    vocabulary = networks.load_tokenizer(tokenizer).vocab_info
    torch.manual_seed(0)
    encoder, decoder = networks.make_encoder(brief, vocabulary).eval(), networks.make_decoder(brief, vocabulary).eval()
    for layer in decoder.decoder.layers:
        torch.nn.init.normal_(layer.encoder_decoder_attn.k_proj.bias)
    tokens = torch.randint(4, 300, (32, 7))
    layout = BatchLayout.of(tokens)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            vectors = encoder(tokens, layout).sentence_embeddings
            return vectors, decoder(vectors[:, None], BatchLayout.of(vectors[:, None]), tokens, layout)

    vectors, logits = run()
    networks.standardize(encoder, decoder, vectors)
    folded, same = run()
    assert torch.allclose(folded, (vectors - vectors.mean(0)) / vectors.var(0, unbiased=False).mean().sqrt(), atol=1e-4)
    assert torch.allclose(same, logits, atol=1e-3) and not torch.allclose(folded, vectors, atol=1e-2)


def test_checking_availability_is_fast(mini_codec: Codec) -> None:
    command = (
        "import sys; from flowkit.text.codec import why_unavailable; assert why_unavailable('mini-sonar') is None; "
        "import flowkit.text.domain; "
        "sys.exit(', '.join({'torch', 'scipy', 'fairseq2', 'sonar', 'sentencepiece'} & set(sys.modules)) or None)"
    )
    asked = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr


# The built-in data set


def test_sentences_come_with_their_vectors(mini_codec: Codec) -> None:
    data = generate_sentences(500, 3)
    assert data.kind == "embedding" and data.texts is not None and list(data.texts) == grammar.generate(500, 3)
    rows = [7, 250, 499]
    assert np.allclose(data.x[rows], mini_codec.encode([data.texts[row] for row in rows]), atol=1e-4)
    assert data.info["codec"] == mini_codec.identity() and data.info["lang"] == "eng_Latn"
    assert [len(data.rows(part)) for part in ("train", "validation", "test")] == [400, 50, 50]
    assert np.abs(np.diff(data.rows("test"))).max() > 1, "the parts are drawn, not cut"


def test_sentences_are_kept(mini_codec: Codec, monkeypatch: pytest.MonkeyPatch, cache_of_the_tests: Path) -> None:
    first = generate_sentences(300, 4)
    with monkeypatch.context() as patched:
        patched.setattr(type(mini_codec), "encode", None)
        again = generate_sentences(300, 4)
    assert np.array_equal(again.x, first.x) and np.array_equal(again.split, first.split)
    assert again.info == first.info and list(again.texts or ()) == list(first.texts or ())
    assert not np.array_equal(generate_sentences(300, 5).split, first.split)
    (kept,) = cache_of_the_tests.glob("mini-sonar/*/sentences-300-4.safetensors")
    cut(kept)
    assert np.array_equal(generate_sentences(300, 4).x, first.x)


@pytest.mark.parametrize("number", [0, -1, 10**12])
def test_invalid_numbers_of_sentences(mini_codec: Codec, number: int) -> None:
    with pytest.raises(UserError, match=r"expected 1 to .* sentences"):
        generate_sentences(number, 0)
