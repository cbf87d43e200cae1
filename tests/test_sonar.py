"""SONAR through its real loading path: tiny models of sonar-space's own classes, saved as fairseq2 checkpoints with cards."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from flowkit.errors import UserError
from flowkit.text import pipelines, sonar_packages
from flowkit.text.codec import Decoding, open_codec, why_unavailable
from flowkit.text.languages import nearest_languages
from flowkit.text.mini.grammar import generate
from flowkit.text.pipelines import KeyedNucleus
from flowkit.text.sonar_cards import find_card
from tests.conftest import needs_sonar

needs_sonar()

LANGUAGES = ["eng_Latn", "fra_Latn"]
DIMENSION = 32
TEXTS = ["a cat.", "", *generate(20, seed=3), "The old queen, who was tired, sang. " * 4, "Ünïcödé — 漢字."]
SHORT = Decoding(max_seq_len=20)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The files, and the very models that were saved: no loader has touched those."""
    sonar_packages.import_sonar()
    import sentencepiece
    from fairseq2.models.nllb.tokenizer import NllbTokenizerConfig, load_nllb_tokenizer
    from sonar.models.sonar_text import (
        SonarTextDecoderConfig,
        SonarTextDecoderFactory,
        SonarTextEncoderConfig,
        SonarTextEncoderFactory,
    )

    folder = tmp_path_factory.mktemp("sonar")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(generate(400, seed=1)), model_prefix=str(folder / "pieces"), vocab_size=120,
        model_type="bpe", minloglevel=2,
    )  # fmt: skip
    tokenizer = load_nllb_tokenizer(
        folder / "pieces.model", NllbTokenizerConfig(langs=LANGUAGES, default_lang="eng_Latn")
    )
    shared: dict[str, Any] = {
        "model_dim": DIMENSION, "vocab_info": tokenizer.vocab_info, "num_encoder_layers": 1, "num_decoder_layers": 1,
        "num_encoder_attn_heads": 4, "num_decoder_attn_heads": 4, "ffn_inner_dim": 64, "max_seq_len": 64,
    }  # fmt: skip
    configs = {
        "encoder": SonarTextEncoderConfig(**shared, pooling="mean", _from_fairseq=True),
        "decoder": SonarTextDecoderConfig(
            **shared, activation_fn="ReLU", no_scale_embedding=False, no_token_positional_embeddings=False,
            learned_pos=False, emb_dropout_p=0.1, attention_dropout_p=0.1, activation_dropout_p=0.1, normalize_before=True,
        ),
    }  # fmt: skip
    written = {role: dataclasses.asdict(config) for role, config in configs.items()}
    torch.manual_seed(0)
    models = {
        "encoder": SonarTextEncoderFactory(configs["encoder"]).create_model().eval(),
        "decoder": SonarTextDecoderFactory(configs["decoder"]).create_model().eval(),
    }
    cards: dict[str, dict[str, Any]] = {}
    for role, model in models.items():
        with torch.no_grad():  # fresh weights say the same of every sentence; larger ones do not
            for parameter in model.parameters():
                parameter.mul_(4 if parameter.ndim > 1 else 1)
        torch.save({"model": model.state_dict()}, folder / f"{role}.pt")
        cards[role] = {
            "name": f"tiny_{role}",
            "model_family": f"transformer_{role}",
            "model_arch": "basic",
            "model_config": written[role],
            "checkpoint": (folder / f"{role}.pt").as_uri(),
            "tokenizer": "../pieces.model",
            "tokenizer_family": "nllb",
            "tokenizer_config": {"_set_": {"default_lang": "eng_Latn", "langs": LANGUAGES}},
        }
    (folder / "cards").mkdir()
    (folder / "cards" / "tiny.yaml").write_text(yaml.safe_dump_all(cards.values()))
    return SimpleNamespace(folder=folder, cards=cards, models=models, tokenizer=tokenizer, configs=written)


@pytest.fixture
def by_name(made: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("FAIRSEQ2_USER_ASSET_DIR", str(made.folder / "cards"))
    return {"name": "sonar", "encoder": "tiny_encoder", "decoder": "tiny_decoder"}


@pytest.fixture
def codec(by_name: dict[str, Any]) -> pipelines.PipelineCodec:
    opened = open_codec(by_name, device="cpu")
    assert isinstance(opened, pipelines.PipelineCodec)
    return opened


@pytest.fixture
def vectors(codec: pipelines.PipelineCodec) -> np.ndarray:
    return 3 * codec.encode(generate(12, seed=5))


def encoded_by_hand(made: Any, texts: list[str], **options: Any) -> np.ndarray:
    from sonar.inference_pipelines.text import TextToEmbeddingModelPipeline

    pipeline = TextToEmbeddingModelPipeline(made.models["encoder"], made.tokenizer)
    return pipeline.predict(texts, source_lang="eng_Latn", **options).clone().numpy()


def decoded_by_hand(made: Any, vectors: np.ndarray, lang: str, **options: Any) -> list[str]:
    from sonar.inference_pipelines.text import EmbeddingToTextModelPipeline

    pipeline = EmbeddingToTextModelPipeline(made.models["decoder"], made.tokenizer)
    return pipeline.predict(torch.from_numpy(vectors), target_lang=lang, **options)


def with_card(made: Any, folder: Path, role: str, **changed: Any) -> str:
    """A card file of its own, with these fields changed; None removes one."""
    fields = {**made.cards[role], "tokenizer": str(made.folder / "pieces.model"), **changed}
    path = folder / f"{role}.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in fields.items() if value is not None}))
    return str(path)


def test_a_card_by_name_a_card_file_and_local_files_open_the_same_codec(made: Any, by_name: dict[str, Any]) -> None:
    folder = made.folder
    described = [
        by_name,
        {"name": "sonar", "encoder": str(folder / "cards"), "decoder": str(folder / "cards" / "tiny.yaml")},
        {
            "name": "sonar", "encoder": str(folder / "encoder.pt"), "decoder": str(folder / "decoder.pt"),
            "tokenizer": str(folder / "pieces.model"), "languages": LANGUAGES,
            "encoder_config": made.configs["encoder"], "decoder_config": made.configs["decoder"],
        },
    ]  # fmt: skip
    expected = encoded_by_hand(made, TEXTS)
    for each in described:
        codec = open_codec(each, device="cpu")
        assert (codec.name, codec.dimension, codec.languages) == ("sonar", DIMENSION, tuple(LANGUAGES))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            np.testing.assert_allclose(codec.encode(TEXTS), expected, atol=1e-4)
        identity = json.loads(json.dumps(codec.identity()))
        assert identity["name"] == "sonar" and identity["dimension"] == DIMENSION
        assert why_unavailable(identity) is None
        again = open_codec(identity, device="cpu")
        assert again.identity() == identity
        assert again.decode(3 * expected[2:4], SHORT) == codec.decode(3 * expected[2:4], SHORT)


def test_only_what_is_used_is_loaded(made: Any, by_name: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from flowkit.text import sonar_load

    loaded: list[str] = []
    real = sonar_load.load_model
    monkeypatch.setattr(sonar_load, "load_model", lambda role, card: (loaded.append(role), real(role, card))[1])
    codec = open_codec(by_name, device="cpu")
    assert loaded == []
    codec.encode(["a cat."])
    codec.encode(["a dog."])
    assert loaded == ["encoder"]


def test_encoding_is_that_of_the_pipeline_called_by_hand(made: Any, codec: pipelines.PipelineCodec) -> None:
    texts = TEXTS[:-2] + TEXTS[-1:]
    encoded = codec.encode(texts)
    assert encoded.dtype == np.float32 and encoded.shape == (len(texts), DIMENSION)
    np.testing.assert_allclose(encoded, encoded_by_hand(made, texts), atol=1e-4)
    assert torch.from_numpy(encoded).requires_grad_().mul(2).sum().backward() is None  # no inference tensor
    assert codec.encode([]).shape == (0, DIMENSION)


def test_vectors_are_independent_of_the_batch(codec: pipelines.PipelineCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = TEXTS[:-2]
    together = codec.encode(texts)
    np.testing.assert_allclose(np.concatenate([codec.encode([text]) for text in texts]), together, atol=1e-4)
    shuffled = np.random.default_rng(0).permutation(len(texts))
    told: list[int] = []
    monkeypatch.setattr(pipelines, "ENCODE_TOKENS", {"cpu": 90, "cuda": 90})
    monkeypatch.setattr(pipelines, "WINDOW", 7)
    np.testing.assert_allclose(
        codec.encode([texts[i] for i in shuffled], tell=lambda what, done, total: told.append(done)),
        together[shuffled],
        atol=1e-4,
    )
    assert told == sorted(told) and told[-1] == len(texts) and len(told) > 5


def test_batches_hold_sentences_of_like_length_within_the_budget() -> None:
    lengths = [5, 200, 6, 40, 5, 41, 900]
    batches = list(pipelines.batches_of_tokens(lengths, 100))
    assert batches == [[6], [1], [5, 3], [2, 0, 4]]
    assert list(pipelines.batches_of_tokens([], 100)) == []


def test_long_sentences_are_truncated_and_counted(made: Any, codec: pipelines.PipelineCodec) -> None:
    long = "The old queen, who was tired, sang. " * 9
    with pytest.warns(UserWarning, match=r"1 of 3 sentences .* 65 tokens .*rows 1\)"):
        encoded = codec.encode(["a cat.", long, "a dog."])
    assert codec.truncated == 1
    np.testing.assert_allclose(encoded[1:2], encoded_by_hand(made, [long]), atol=1e-4)


@pytest.mark.parametrize(("lang", "beam_size"), [("eng_Latn", 5), ("fra_Latn", 5), ("eng_Latn", 1)])
def test_decoding_is_that_of_the_pipeline_called_by_hand(
    made: Any, codec: pipelines.PipelineCodec, vectors: np.ndarray, lang: str, beam_size: int
) -> None:
    expected = decoded_by_hand(made, vectors, lang, beam_size=beam_size, max_seq_len=20)
    assert len(set(expected)) > 4
    assert codec.decode(vectors, Decoding(lang=lang, beam_size=beam_size, max_seq_len=20)) == expected


def test_decoded_texts_keep_their_order_whatever_the_batches(
    codec: pipelines.PipelineCodec, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    for how in (SHORT, Decoding(max_seq_len=20, top_p=0.9, seed=4)):
        together = codec.decode(vectors, how)
        told: list[int] = []
        with monkeypatch.context() as patch:
            patch.setattr(pipelines, "DECODE_ROWS", {"cpu": 5, "cuda": 5})
            assert codec.decode(vectors, how, tell=lambda *event, told=told: told.append(event[1])) == together
        assert told == [5, 10, 12]
    assert codec.decode(vectors[:0]) == []


def test_top_p_follows_its_seed(codec: pipelines.PipelineCodec, vectors: np.ndarray) -> None:
    def drawn(seed: int) -> list[str]:
        return codec.decode(vectors, Decoding(max_seq_len=20, top_p=0.95, seed=seed))

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    same = np.repeat(vectors[:1], 12, axis=0)
    assert len(set(codec.decode(same, Decoding(max_seq_len=20, top_p=0.999)))) > 1  # a draw for each row


def test_top_p_draws_from_the_decoders_own_distribution(
    made: Any, codec: pipelines.PipelineCodec, vectors: np.ndarray
) -> None:
    from fairseq2.nn import BatchLayout

    rows, say = 1500, made.tokenizer.create_decoder()
    prompt = made.tokenizer.create_encoder(lang="eng_Latn", mode="target").prefix_indices.unsqueeze(0)
    source = torch.from_numpy(vectors[:1]).unsqueeze(1)
    with torch.no_grad():
        decoder, layout = made.models["decoder"], BatchLayout.of(prompt)
        logits = decoder.project(decoder.decode(prompt, layout, source, BatchLayout.of(source)))[0, -1]
    logits[
        [made.tokenizer.vocab_info.pad_idx, made.tokenizer.vocab_info.eos_idx]
    ] = -torch.inf  # neither may come first
    expected: dict[str, float] = {}
    for token, probability in enumerate(logits.softmax(0).tolist()):
        text = say(torch.tensor([token]))
        expected[text] = expected.get(text, 0) + probability
    # four tokens: the prompt is two, the end one, and one is drawn
    drawn = codec.decode(np.repeat(vectors[:1], rows, axis=0), Decoding(max_seq_len=4, top_p=1.0))
    for text, probability in expected.items():
        assert drawn.count(text) / rows == pytest.approx(probability, abs=4 * (probability / rows) ** 0.5 + 2 / rows)


def test_max_seq_len_and_blocked_ngrams_hold(made: Any, codec: pipelines.PipelineCodec, vectors: np.ndarray) -> None:
    tokenize = made.tokenizer.create_raw_encoder()

    def repeats(texts: list[str], n: int = 3) -> int:
        tokens = [tokenize(text).tolist() for text in texts]
        grams = [[tuple(row[i : i + n]) for i in range(len(row) - n + 1)] for row in tokens]
        return sum(len(row) - len(set(row)) for row in grams)

    free = codec.decode(vectors, Decoding(max_seq_len=30))
    assert repeats(free) > 10
    # a decoded word may be tokenized differently, hence "next to none"
    assert repeats(codec.decode(vectors, Decoding(max_seq_len=30, block_ngrams=3))) < 5
    longest = max(len(tokenize(text)) for text in free)
    assert 20 < longest <= 28
    assert max(len(tokenize(text)) for text in codec.decode(vectors, Decoding(max_seq_len=10))) <= 8


@pytest.mark.parametrize("how", [SHORT, Decoding(max_seq_len=20, top_p=0.9)])
def test_decoding_in_a_thread_leaves_global_state_alone(
    codec: pipelines.PipelineCodec, vectors: np.ndarray, how: Decoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = codec.decode(vectors, how)
    set_while_decoding: list[str] = []
    for name in ("set_float32_matmul_precision", "set_default_dtype", "set_default_device", "manual_seed"):
        monkeypatch.setattr(torch, name, lambda *_, name=name: set_while_decoding.append(name))
    torch.random.default_generator.manual_seed(7)
    before = torch.get_rng_state()
    texts: list[str] = []
    thread = threading.Thread(target=lambda: texts.extend(codec.decode(vectors, how)))
    thread.start()
    thread.join()
    assert texts == expected
    assert set_while_decoding == []
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(("dtype", "tolerance"), [("bf16", 0.05), ("fp16", 0.01)])
def test_half_precision_is_close_and_returns_float32(
    codec: pipelines.PipelineCodec, by_name: dict[str, Any], dtype: str, tolerance: float
) -> None:
    half = open_codec(by_name, device="cpu", dtype=dtype)
    texts = TEXTS[2:10]
    encoded, expected = half.encode(texts), codec.encode(texts)
    assert encoded.dtype == np.float32 and 0 < np.abs(encoded - expected).max() / np.abs(expected).max() < tolerance
    assert len(half.decode(expected[:2], SHORT)) == 2


def test_a_batch_that_does_not_fit_is_halved(
    codec: pipelines.PipelineCodec, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, texts = codec.decode(vectors, SHORT), TEXTS[2:16]
    encoded = codec.encode(texts)
    tried: list[int] = []

    def full(work: Any, most: int) -> Any:
        def limited(rows: Any, *others: Any) -> Any:
            tried.append(len(rows))
            if len(rows) > most:
                raise torch.OutOfMemoryError("full")
            return work(rows, *others)

        return limited

    monkeypatch.setattr(codec, "_decode_batch", full(codec._decode_batch, 3))
    told: list[int] = []
    assert codec.decode(vectors, SHORT, tell=lambda what, done, total: told.append(done)) == expected
    assert told == [3, 6, 9, 12] and tried == [12, 6, 3, 3, 3, 3]
    tried.clear()
    assert codec.decode(vectors, SHORT) == expected
    assert tried[0] < 12  # it remembers
    monkeypatch.setattr(codec, "_embed", full(codec._embed, 2))
    np.testing.assert_allclose(codec.encode(texts), encoded, atol=1e-4)
    monkeypatch.setattr(codec, "_decode_batch", full(codec._decode_batch, 0))
    with pytest.raises(UserError, match="out of memory on cpu even for one sentence"):
        codec.decode(vectors, SHORT)


def test_the_nucleus_is_drawn_from_as_its_probabilities_say(monkeypatch: pytest.MonkeyPatch) -> None:
    probs = torch.tensor([0.05, 0.4, 0.3, 0.15, 0.1])
    draws = 20_000
    uniforms = torch.rand(draws, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = KeyedNucleus(0.8, uniforms, eos_idx=99).sample(2 * probs.expand(draws, -1))
    found = torch.bincount(drawn, minlength=5) / draws
    expected = torch.tensor([0, 0.4, 0.3, 0.15, 0]) / 0.85  # 0.4 + 0.3 is below 0.8: the third is in, the fourth is not
    assert torch.allclose(found, expected, atol=0.015)
    assert found[0] == found[4] == 0
    many = torch.rand(50, 300, generator=torch.Generator().manual_seed(1))
    whole = KeyedNucleus(0.9, uniforms[:50], eos_idx=999).sample(many)
    monkeypatch.setattr("flowkit.text.pipelines.FIRST_LOOK", 4)
    assert torch.equal(KeyedNucleus(0.9, uniforms[:50], eos_idx=999).sample(many), whole)


def test_the_nucleus_follows_the_rows_that_are_left() -> None:
    eos, uniforms = 2, torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
    nucleus = KeyedNucleus(1.0, uniforms, eos_idx=eos)
    probs = torch.tensor([[0.5, 0.1, 0.4], [0.5, 0.1, 0.4]])
    assert nucleus.sample(probs).tolist() == [1, 0]  # by likelihood: 0, 2, 1
    nucleus = KeyedNucleus(1.0, torch.tensor([[0.6, 0.0], [0.1, 0.95]], dtype=torch.float64), eos_idx=eos)
    assert nucleus.sample(probs).tolist() == [eos, 0]
    assert nucleus.sample(probs[:1]).tolist() == [1]  # the second row's draw


def test_bad_vectors_and_languages_are_named(codec: pipelines.PipelineCodec, vectors: np.ndarray) -> None:
    with pytest.raises(UserError, match="have 1024 dimensions; the codec 'sonar' decodes vectors of 32"):
        codec.decode(np.zeros((2, 1024), np.float32))
    with pytest.raises(UserError, match=r"the shape \(32,\)"):
        codec.decode(vectors[0])
    broken = vectors.copy()
    broken[3, 5], broken[7, 0] = np.nan, np.inf
    with pytest.raises(UserError, match=r"NaN or infinity in 2 of 12 rows \(3, 7\)"):
        codec.decode(broken)
    with pytest.raises(UserError, match=r"'english' is not a language of the codec 'sonar'.*did you mean 'eng_Latn'"):
        codec.encode(["a"], lang="english")
    with pytest.raises(UserError, match="did you mean 'fra_Latn'"):
        codec.decode(vectors, Decoding(lang="fr"))
    with pytest.raises(UserError, match="row 1 is not valid Unicode"):
        codec.encode(["a", "\ud800"])
    with pytest.raises(UserError, match=r"gave NaN; the largest absolute value of these vectors is 1e\+38 \(row 2\)"):
        codec.decode(np.concatenate((vectors[:2], np.full((1, DIMENSION), 1e38, np.float32))), SHORT)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("en", "eng_Latn"), ("English", "eng_Latn"), ("eng", "eng_Latn"), ("en-GB", "eng_Latn"), ("ENG_LATN", "eng_Latn"),
     ("french", "fra_Latn"), ("frnech", "fra_Latn"), ("de", "deu_Latn"), ("es", "spa_Latn"), ("ja", "jpn_Jpan"),
     ("chinese", "zho_Hans"), ("zho_Hans", "zho_Hans"), ("eng_Lat", "eng_Latn"), ("klingon", None)],
)  # fmt: skip
def test_intended_language_is_suggested(asked: str, expected: str | None) -> None:
    known = find_card("tokenizer", "text_sonar_basic_encoder").languages()
    assert len(known) == 202
    found = nearest_languages(asked, known)
    assert found[0] == expected if expected else found == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"beam_size": 0}, "beam_size: 0; expected 1"), ({"top_p": 1.2}, "top_p: 1.2"), ({"block_ngrams": 1}, "block_ngrams: 1"),
     ({"max_seq_len": 2}, "max_seq_len: 2; expected 4")],
)  # fmt: skip
def test_invalid_decoding_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Decoding(**wrong)


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"encoder": "tiny_encodr"}, "unknown card 'tiny_encodr'; expected .*; did you mean 'tiny_encoder'. For your own file"),
     ({"encoder": "tiny_decoder"}, "has model_family 'transformer_decoder'; expected a SONAR encoder"),
     ({"encoder": "missing/encoder.pt"}, "encoder: .*missing/encoder.pt: no such file"),
     ({"decoder": "missing/decoder.yaml"}, "decoder: .*missing/decoder.yaml: no such file"),
     ({"encoder": "text_sonar_basic_encoder", "tokenizer": "tiny_encoder"},
      "returns vectors of 1024 dimensions, but decoder 'tiny_decoder' expects 32")],
)  # fmt: skip
def test_parts_that_are_missing_or_do_not_fit_are_named(
    by_name: dict[str, Any], changed: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        open_codec(by_name | changed, device="cpu")


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"restrict": False}, "sets restrict: False, which allows its checkpoint to run code"),
     ({"checkpoint": None}, "names no checkpoint"),
     ({"model_arch": "huge"}, "supported model architecture"),
     ({"model_family": "llama"}, "expected one card of a SONAR encoder, found none"),
     ({"base": "nobody"}, "card 'tiny_encoder' has an unknown base 'nobody'"),
     ({"checkpoint": "text.pt"}, r"text.pt: cannot be loaded \(.*\); expected a SONAR encoder"),
     ({"checkpoint": "evil.pt"}, "evil.pt: cannot be loaded .it holds objects other than plain tensors, which are not unpickled"),
     ({"checkpoint": "other.pt"}, "other.pt: cannot be loaded"),
     ({"checkpoint": "http://127.0.0.1:9/encoder.pt"},
      "could not be downloaded .*3 GB each, license CC BY-NC 4.0.* name local files")],
)  # fmt: skip
def test_a_card_that_does_not_load_says_why(
    made: Any,
    by_name: dict[str, Any],
    tmp_path: Path,
    changed: dict[str, Any],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "text.pt").write_bytes(b"no weights" * 30)
    torch.save({"model": _RunsCode()}, tmp_path / "evil.pt")
    torch.save({"model": {"weight": torch.zeros(3)}}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=message):
        open_codec(by_name | {"encoder": with_card(made, tmp_path, "encoder", **changed)}, device="cpu").encode(["a"])
    assert "code of the file ran" not in capfd.readouterr().out


class _RunsCode:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code of the file ran",)


def test_a_tokenizer_of_another_model_is_refused(made: Any, by_name: dict[str, Any], tmp_path: Path) -> None:
    pieces = made.folder / "pieces.model"
    with pytest.raises(UserError, match=r"has 326 tokens .* but the encoder has 126; use the tokenizer"):
        open_codec(by_name | {"tokenizer": str(pieces)}, device="cpu")  # with SONAR's own 202 languages
    (tmp_path / "junk.model").write_bytes(b"junk" * 50)
    with pytest.raises(UserError, match=r"junk.model: cannot be loaded"):
        open_codec(by_name | {"tokenizer": str(tmp_path / "junk.model")}, device="cpu")


def test_a_card_may_stand_on_another_and_refer_to_a_tokenizer(
    made: Any, by_name: dict[str, Any], tmp_path: Path
) -> None:
    below = {**made.cards["encoder"], "name": "below", "checkpoint": "nowhere.pt"}
    above = {
        "name": "above",
        "base": "below",
        "checkpoint": str(made.folder / "encoder.pt"),
        "tokenizer_ref": "tiny_decoder",
    }
    (tmp_path / "derived.yaml").write_text(yaml.safe_dump_all([below, above]))
    with pytest.raises(UserError, match=r"found several \(below, above\)"):
        find_card("encoder", str(tmp_path / "derived.yaml"))
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "all.yaml").write_text(
        (tmp_path / "derived.yaml").read_text() + "---\n" + (made.folder / "cards" / "tiny.yaml").read_text()
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRSEQ2_USER_ASSET_DIR", str(tmp_path / "cards"))
        decoder = str(made.folder / "cards" / "tiny.yaml")
        codec = open_codec(
            {"name": "sonar", "encoder": "above", "decoder": decoder, "tokenizer": decoder}, device="cpu"
        )
        np.testing.assert_allclose(codec.encode(["a cat."]), encoded_by_hand(made, ["a cat."]), atol=1e-4)


def test_availability_is_known_without_torch(made: Any, tmp_path: Path) -> None:
    program = """
import json, sys
from flowkit.text.codec import why_unavailable
print(json.dumps([why_unavailable(json.loads(line)) for line in sys.stdin]))
assert not {"torch", "sonar", "fairseq2", "fairseq2n"} & set(sys.modules), "imported"
"""
    here = {"name": "sonar", "encoder": "tiny_encoder", "decoder": "tiny_decoder"}
    asked = [here, {"name": "sonar"}, here | {"decoder": str(tmp_path / "gone.pt")}, here | {"decoder": "other"}]
    result = subprocess.run(
        [sys.executable, "-c", program], input="\n".join(map(json.dumps, asked)), capture_output=True, text=True, check=True,
        env={"PATH": "/usr/bin", "FAIRSEQ2_USER_ASSET_DIR": str(made.folder / "cards"), "FAIRSEQ2_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    at_hand, released, gone, unknown = json.loads(result.stdout)
    assert at_hand is None
    assert "encoder, decoder, tokenizer (about 3 GB each, license CC BY-NC 4.0) must be downloaded first" in released
    assert str(tmp_path) in released
    assert gone == f"its decoder {tmp_path / 'gone.pt'} does not exist"
    assert "unknown card 'other'" in unknown


def test_weights_in_the_cache_of_fairseq2_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRSEQ2_CACHE_DIR", str(tmp_path))
    assert "SONAR's encoder, decoder, tokenizer (about 3 GB" in str(why_unavailable("sonar"))
    # as other people's caches have it: sha1 of the addresses in sonar-space's cards
    for file in (
        "43e937cce6a6a5cd5730cf66/sonar_text_encoder.pt",
        "538cc2c5593d2eec13df5a8f/sentencepiece.source.256000.model",
    ):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).touch()
    assert "SONAR's decoder (about 3 GB" in str(why_unavailable("sonar"))


def test_a_missing_package_and_a_torch_that_does_not_fit_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"fairseq2n": "0.8.1", "torch": "2.8.0+cpu"}
    monkeypatch.setattr(sonar_packages.metadata, "version", versions.__getitem__)
    monkeypatch.setattr(sonar_packages, "_built_for", lambda: "2.9.1")
    expected = (
        "fairseq2n 0.8.1 is built for torch 2.9.1 and does not run with torch 2.8.0: pip install torch==2.9.1, "
        "or keep torch 2.8.0 and pip install fairseq2==0.6"
    )
    assert why_unavailable("sonar") == expected
    with pytest.raises(UserError, match=r"pip install torch==2\.9\.1"):
        open_codec("sonar")
    monkeypatch.setattr(sonar_packages, "_folder", lambda module: None)
    with pytest.raises(UserError, match=r"sonar-space and fairseq2 are not installed: pip install 'flowkit\[sonar\]'"):
        open_codec("sonar")


def test_the_installed_fairseq2n_says_for_which_torch_it_was_built() -> None:
    import fairseq2n

    assert sonar_packages._built_for() == fairseq2n.torch_version().split("+")[0]
    assert sonar_packages.why_not_importable() is None


def test_libsndfile_is_taken_from_its_wheel_only_where_the_system_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def load(name: str, mode: int = 0) -> None:
        asked.append((name, mode))
        if not Path(name).is_file() and not has_it:
            raise OSError(name)

    monkeypatch.setattr(sonar_packages.ctypes, "CDLL", load)
    monkeypatch.setattr(sonar_packages.sys, "platform", "linux")
    has_it = True
    sonar_packages.provide_libsndfile()
    assert [name for name, _ in asked] == ["libsndfile.so.1"]
    has_it = False
    sonar_packages.provide_libsndfile()
    name, mode = asked[-1]
    assert Path(name).parent.name == "_soundfile_data" and mode & sonar_packages.ctypes.RTLD_GLOBAL


def test_sonar_is_imported_on_a_system_without_libsndfile(tmp_path: Path) -> None:
    """The loader finds an empty file of that name first, so that the system's own library, if any, is hidden."""
    (tmp_path / "libsndfile.so.1").touch()
    code = """
import ctypes
from flowkit.text.sonar_packages import import_sonar
try:
    ctypes.CDLL("libsndfile.so.1")
except OSError:
    import_sonar()
    import fairseq2
    print("imported")
"""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "imported\n", done.stderr
