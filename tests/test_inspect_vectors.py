"""What `flowkit inspect` says of sentence vectors."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from flowkit import cli
from flowkit.data.dataset import Dataset, write_dataset
from flowkit.domain import get_domain
from flowkit.inspect.dataset import data_report

CODEC = {"name": "mini-sonar", "dimension": 16}


def vectors(count: int = 60) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((count, 16)).astype(np.float32) * 0.1 + 0.05
    x[:, 3] = 0.02
    x[:, 11] *= 0.05
    return x


def test_vector_statistics_match_their_definitions():
    x = vectors()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = [unit[i] @ unit[j] for i in range(len(x)) for j in range(len(x)) if i != j]
    found = get_domain("text").statistics(x)
    assert found is not None
    assert found["mean_cosine"] == pytest.approx(np.mean(pairs), abs=1e-6)
    assert found["norm_mean"] == pytest.approx(np.linalg.norm(x, axis=1).mean())
    assert found["norm_std"] == pytest.approx(np.linalg.norm(x, axis=1).std())
    assert found["near_constant"] == [3, 11]


def test_rows_that_are_not_finite_do_not_count():
    x = vectors()
    holed = np.concatenate([x, np.full((2, 16), np.nan, np.float32)])
    assert get_domain("text").statistics(holed) == get_domain("text").statistics(x)
    assert (
        get_domain("text").statistics(x[:1]) is None and get_domain("text").statistics(np.full((4, 3), np.nan)) is None
    )
    one = get_domain("text").statistics(np.ones((4, 3)))
    assert one is not None and one["near_constant"] == [0, 1, 2] and one["mean_cosine"] == pytest.approx(1.0)


def inspect(path: Path, *options: str, monkeypatch, capsys) -> str:
    monkeypatch.setattr(sys, "argv", ["flowkit", "inspect", str(path), *options])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert not exit_.value.code
    return capsys.readouterr().out


def test_what_is_shown_of_prepared_sentences(tmp_path, monkeypatch, capsys):
    texts = [f"Sentence number {i}, which is long enough to go on in a second line of a terminal." for i in range(60)]
    write_dataset(
        tmp_path / "some", Dataset("embedding", vectors(), texts=texts, info={"codec": CODEC, "lang": "eng_Latn"})
    )
    out = inspect(tmp_path / "some.safetensors", monkeypatch=monkeypatch, capsys=capsys)
    for fact in ("text data", "60 of 16", "near-constant 2 of 16 dimensions (3, 11)", "mean pair cosine 0.", "mini-sonar",
                 "eng_Latn", "some.jsonl", "Sentence number 52, which", "norm 0."):  # fmt: skip
        assert fact in out, fact
    report = json.loads(inspect(tmp_path / "some", "--json", monkeypatch=monkeypatch, capsys=capsys))
    assert report["vectors"]["near_constant"] == [3, 11] and report["info"]["codec"] == CODEC


def test_samples_are_known_from_a_checkpoint(tmp_path, monkeypatch, capsys):
    """A samples file says which architecture drew it, and is data all the same."""
    info = {"source": "samples", "architecture": "mlp", "codec": CODEC}
    write_dataset(tmp_path / "samples", Dataset("embedding", vectors(4), info=info))
    out = inspect(tmp_path / "samples.safetensors", monkeypatch=monkeypatch, capsys=capsys)
    assert "text data" in out and "4 of 16" in out


def test_sketches_have_no_vector_statistics(tmp_path):
    write_dataset(tmp_path / "s", Dataset("sketch", np.zeros((3, 4, 8), np.float32)))
    assert data_report(tmp_path / "s")["vectors"] is None
