"""Training on sentence vectors through the loop: what it measures, what it shows, what its checkpoints hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flowkit
from flowkit.data.dataset import Dataset, read_dataset
from flowkit.errors import UserError
from flowkit.events import Sampled, Validated
from flowkit.rng import Draws
from tests.conftest import Recorder
from tests.fake_codec import DIMENSION, install

NAMES = ("nearest_train", "nearest_held_out", "cycle", "cycle_held_out", "cycle_gaussian", "cycle_noise",
         "reconstruction_mse", "inverted_variance", "inverted_dimensions")  # fmt: skip


def vectors(count: int = 96, seed: int = 0, **info: Any) -> Dataset:
    """Rows with a mean, correlated dimensions and two constant ones, split 64 / 16 / 16."""
    rng = np.random.default_rng(seed)
    x = 0.2 + rng.standard_normal((count, DIMENSION)) @ rng.standard_normal((DIMENSION, DIMENSION)) / DIMENSION**0.5
    x[:, -2:] = (0.5, -0.5)
    split = np.repeat(np.array([0, 1, 2], np.uint8), [count - count // 3, count // 6, count // 6])
    texts = [f"Sentence number {row}." for row in range(count)]
    return Dataset("embedding", x.astype(np.float32), split=split, texts=texts, info={"lang": "eng_Latn", **info})


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    return {
        "run": {"name": "text", "dir": str(tmp_path / "runs")},
        "model": {"arch": "mlp", "hidden_dim": 32},
        "optim": {"lr": 1e-3},
        "train": {"steps": 6, "batch_size": 16, "log_every": 3, "val_every": 3, "save_every": 3},
        "sample": {"every": 3, "num_samples": 5, "steps": 3},
    }


def trained(recipe: dict[str, Any], data: Dataset, *overrides: str, **how: Any) -> tuple[Any, Recorder]:
    recorder = Recorder()
    return flowkit.train(recipe, data=data, overrides=overrides, listeners=lambda: [recorder], **how), recorder


@pytest.mark.parametrize("normalizer", ["zscore", "robust", "none", '{name = "whitening", components = 5}'])
@pytest.mark.parametrize("arch", ["mlp", "dit"])
def test_every_normalizer_trains_and_its_statistics_travel_with_the_checkpoint(recipe, arch, normalizer):
    recipe["model"] = {"arch": arch, "hidden_dim": 24} | ({"num_heads": 4} if arch == "dit" else {})
    data = vectors()
    model, _ = trained(recipe, data, f"data.normalizer={normalizer}")
    loaded = flowkit.load(Path(recipe["run"]["dir"]) / "text")
    assert loaded.latent_shape == ((5,) if "whitening" in normalizer else (DIMENSION,))
    samples, again = model.sample(4, seed=3).x, loaded.sample(4, seed=3).x
    assert samples.shape == (4, DIMENSION) and np.isfinite(samples).all()
    assert np.array_equal(samples, again)
    if normalizer != "none":  # a constant dimension is returned unchanged, whatever the network predicts
        spread = np.abs(samples[:, -2:] - data.x[0, -2:]).max()
        assert spread < 0.1, spread


def test_a_checkpoint_without_its_normalizer_says_so(recipe):
    trained(recipe, vectors(), "data.normalizer=whitening")
    run = Path(recipe["run"]["dir"]) / "text"
    newest = (run / "checkpoints/latest").resolve()
    (newest / "normalizer.safetensors").unlink()
    with pytest.raises(UserError, match=r"normalizer\.safetensors: no such file"):
        flowkit.load(newest)
    assert "normalizer.safetensors: no such file" in flowkit.load(run).files.notice  # of the one before


def test_a_run_resumes_under_its_own_whitening(recipe):
    def last(run: Path) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        return load_file(run / "checkpoints/latest/ema.safetensors")

    runs = Path(recipe["run"]["dir"])
    trained(recipe, vectors(), "data.normalizer=whitening", "train.steps=3", "optim.schedule=constant", "run.name=a")
    trained(recipe, vectors(), "data.normalizer=whitening", "optim.schedule=constant", "run.name=a", resume=True)
    trained(recipe, vectors(), "data.normalizer=whitening", "optim.schedule=constant", "run.name=b")
    assert all(torch.equal(tensor, last(runs / "b")[name]) for name, tensor in last(runs / "a").items())


def test_the_default_prediction_is_the_velocity_and_the_checkpoint_names_it(recipe):
    model, _ = trained(recipe, vectors())
    assert model.info["recipe"]["flow"]["prediction"] == "auto"
    assert model.info["flow"]["prediction"] == "velocity" == model.objective.prediction
    other, _ = trained(recipe, vectors(), "run.name=other", "flow.prediction=velocity")
    assert other.objective.prediction == "velocity"


def test_validation_shows_baselines_on_the_same_draws(recipe):
    """Against the formulas of a Gaussian's field, on the draws that a validation is made of."""
    data = vectors(600)
    _, recorder = trained(recipe, data, "data.normalizer=none", "train.val_rows=80")
    found = recorder.of(Validated)[0]
    train, rows = data.x[data.rows("train")].astype(np.float64), data.rows("validation")[:80]
    count = len(rows) * -(-1024 // len(rows))
    draws = Draws(0, torch.device("cpu"))
    noise = draws.normal("validation noise", 0, (count, DIMENSION)).double().numpy()
    strata = draws.uniform("validation strata", 0, (count,)).argsort()
    t = (strata + draws.uniform("validation times", 0, (count,))) / count
    t = (0.02 + 0.96 * t).double().numpy()[:, None]
    x1 = data.x[rows[np.arange(count) % len(rows)]].astype(np.float64)
    mean, variance = train.mean(0), train.var(0)
    x_t = (1 - t) * noise + t * x1
    floor = np.maximum(variance, 1e-4 * variance.mean())
    field = mean + (t * floor - (1 - t)) / ((1 - t) ** 2 + t**2 * floor) * (x_t - t * mean)
    assert found.zero_loss == pytest.approx(((x1 - noise) ** 2).mean(), rel=1e-5)
    assert found.gaussian_losses["diagonal"] == pytest.approx(((field - (x1 - noise)) ** 2).mean(), rel=1e-3)
    assert found.gaussian_losses["full"] < found.gaussian_losses["diagonal"] < found.zero_loss
    metrics = [json.loads(line) for line in (Path(recipe["run"]["dir"]) / "text/metrics.jsonl").open()]
    assert {row["val_full_gaussian_loss"] for row in metrics if "val_loss" in row} == {found.gaussian_losses["full"]}


def test_samples_are_decoded_measured_and_kept_with_their_sentences(recipe, monkeypatch):
    install(monkeypatch)
    made_by = {"name": "mini-sonar", "dimension": DIMENSION}
    model, recorder = trained(recipe, vectors(codec=made_by))
    sampled = recorder.of(Sampled)[-1]
    assert set(sampled.figures) == set(NAMES) and all(np.isfinite(list(sampled.figures.values())))
    run = Path(recipe["run"]["dir"]) / "text"
    kept = read_dataset(run / "samples/step-00000006")
    assert kept.texts is not None and list(kept.texts) == [preview.lines[0] for preview in sampled.previews]
    assert kept.info["codec"] == made_by == model.sample(1).info["codec"]
    logged = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    assert [row["step"] for row in logged if "cycle" in row] == [3, 6]


def test_without_a_codec_samples_show_the_nearest_training_sentence(recipe):
    data = vectors()
    _, recorder = trained(recipe, data, "sample.decode=false")
    sampled = recorder.of(Sampled)[-1]
    assert "cycle" not in sampled.figures and -1 <= sampled.figures["nearest_train"] <= 1
    x = read_dataset(sampled.path).x
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    near = (unit(x) @ unit(data.x[data.rows("train")]).T).argmax(axis=1)
    for preview, row in zip(sampled.previews, near, strict=True):
        assert preview.lines[0].endswith(f"nearest: Sentence number {row}.")


def test_unknown_codec_is_a_notice(recipe):
    from flowkit.events import Notice

    _, recorder = trained(recipe, vectors(codec={"name": "laser", "dimension": DIMENSION}))
    assert any("laser" in notice.text and "flowkit decode" in notice.text for notice in recorder.of(Notice))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"codec": {"name": "sonar", "dimension": 1024}}, f"{DIMENSION} dimensions"),
        ({}, None),
    ],
)
def test_vectors_of_another_dimension_than_their_codecs_are_refused(recipe, change, says):
    data = vectors(**change)
    if says is None:
        data.x = data.x[:, None]
        says = "one vector per sentence"
    with pytest.raises(UserError, match=says):
        trained(recipe, data)


def test_class_labels_and_conditions_guide_vectors(recipe):
    data = vectors()
    data.class_label, data.class_names = np.arange(len(data)) % 2, ("question", "statement")
    data.condition = data.x[:, :4].copy()
    model, _ = trained(recipe, data, "sample.guidance_scale=2.0")
    plain = model.sample(2, class_label="question", condition=data.condition[0], guidance_scale=1.0).x
    guided = model.sample(2, class_label="question", condition=data.condition[0], guidance_scale=3.0).x
    assert not np.allclose(plain, guided)
