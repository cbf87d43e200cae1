"""Normalizers against numpy and scikit-free formulas: statistics, exact inverses, what is constant, what is refused."""

import json

import numpy as np
import pytest
import torch

from flowkit.components import choose
from flowkit.data.dataset import Dataset, write_dataset
from flowkit.data.normalizers import AffineNormalizer, normalizer_from_json, statistics
from flowkit.data.normalizers import base as normalizers_base
from flowkit.data_source import open_base
from flowkit.errors import UserError
from flowkit.training.batches import read_rows

WHITENINGS = [
    "whitening", {"name": "whitening", "components": 2}, {"name": "whitening", "components": 0.7},
    {"name": "whitening", "floor": 0.5},
]  # fmt: skip
ALL = ["none", "global", "zscore", "robust", *WHITENINGS]
each = pytest.mark.parametrize("choice", ALL, ids=str)


def correlated(rows=4000, seed=0, offset=5.0):
    """(rows, 3, 2) float32 whose six elements are mixed and of very different widths."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((rows, 6)) * [0.01, 0.1, 0.3, 1, 2, 4] @ np.linalg.qr(rng.standard_normal((6, 6)))[0]
    return (offset + mixed).reshape(rows, 3, 2).astype(np.float32)


def reloaded(fitted, tmp_path):
    """Through JSON and a tensor file, as in a checkpoint."""
    from safetensors.numpy import load_file, save_file

    save_file(fitted.tensors(), tmp_path / "n.safetensors")
    return normalizer_from_json(json.loads(json.dumps(fitted.to_json())), load_file(tmp_path / "n.safetensors"))


@pytest.mark.parametrize("name", ["none", "global", "zscore", "robust"])
def test_statistics_are_those_of_numpy(name):
    x, rows = correlated(), np.arange(0, 4000, 2)
    fitted = choose("normalizer", name).fit(x, rows)
    part = x[rows].astype(np.float64)
    quarter, median, upper = np.sort(part, axis=0)[[500, 1000, 1500]]
    shift, scale, rtol = {
        "none": (0.0, 1.0, 0), "global": (part.mean(), part.std(), 1e-9), "zscore": (part.mean(0), part.std(0), 1e-9),
        "robust": (median, 0.7413 * (upper - quarter), 1e-2),
    }[name]  # fmt: skip
    np.testing.assert_allclose(fitted.shift, shift, rtol=rtol)
    np.testing.assert_allclose(fitted.scale, scale, rtol=rtol)


def test_robust_is_median_and_scaled_iqr():
    x = np.random.default_rng(0).normal(3, [0.1, 7.0], (50_001, 2)).astype(np.float32)
    fitted = choose("normalizer", "robust").fit(x, np.arange(len(x)))
    np.testing.assert_array_equal(fitted.shift, np.sort(x, axis=0)[25_000])
    np.testing.assert_allclose(fitted.scale, [0.1, 7.0], rtol=0.02)
    x[:5000] = 1e6  # a tenth of outliers
    np.testing.assert_allclose(choose("normalizer", "robust").fit(x, np.arange(len(x))).scale, [0.1, 7.0], rtol=0.25)


@pytest.mark.parametrize(
    ("share", "jitter"), [(0.8, 0.0), (0.8, 1e-4), (0.6, 0.0), (0.6, 1e-4), (0.95, 0.0), (0.999, 0.0)]
)
def test_robust_takes_the_deviation_of_elements_that_are_mostly_one_value(share, jitter):
    """Their interquartile range is next to nothing: by it (or by its floor) normalized rows deviate by hundreds."""
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, (4000, 4)).astype(np.float32)
    quiet = rng.random((4000, 2)) < share
    x[:, 1:3] = np.where(quiet, 5 + jitter * rng.standard_normal((4000, 2)), 5 + 2 * rng.standard_normal((4000, 2)))
    fitted = choose("normalizer", "robust").fit(x, np.arange(4000))
    y = fitted.normalize(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(y[:, [0, 3]].std(0), 1, rtol=0.05)
    np.testing.assert_allclose(y[:, 1:3].std(0), 1, rtol=1e-3)
    np.testing.assert_allclose(fitted.shift[1:3], 5.0, atol=1e-4)


def test_quartiles_of_many_rows_are_those_of_a_fixed_sample(monkeypatch):
    x = np.random.default_rng(0).standard_normal((20_000, 3)).astype(np.float32)
    rows = np.arange(4000, 20_000)
    x[:4000] = 100
    exact = choose("normalizer", "robust").fit(x, rows)
    monkeypatch.setattr(statistics, "QUARTILE_ROWS", 10_000)
    sampled, again = (choose("normalizer", "robust").fit(x, rows) for _ in range(2))
    assert (sampled.shift == again.shift).all() and (sampled.shift != exact.shift).any()
    np.testing.assert_allclose(sampled.scale, exact.scale, rtol=0.03)
    np.testing.assert_allclose(sampled.shift, exact.shift, atol=0.03)


def test_whitened_rows_have_identity_covariance():
    x = correlated()
    fitted = choose("normalizer", {"name": "whitening", "floor": 1e-9}).fit(x, np.arange(len(x)))
    y = fitted.normalize(torch.from_numpy(x).double())
    assert y.shape == x.shape == (4000, *fitted.shape((3, 2)))
    y = y.flatten(1).numpy()
    np.testing.assert_allclose(np.cov(y, rowvar=False, ddof=0), np.eye(6), atol=1e-6)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-6)
    # its directions are those of the singular values, the widest first
    flat = x.reshape(4000, 6).astype(np.float64)
    left, widths, _ = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    np.testing.assert_allclose(fitted.scale, widths / np.sqrt(4000), rtol=1e-9)
    np.testing.assert_allclose(np.abs((left * y).mean(0) * np.sqrt(4000)), 1, rtol=1e-6)


def test_floor_is_relative_to_the_mean_variance():
    x = correlated()
    rows, total = np.arange(len(x)), x.reshape(len(x), 6).var(0, dtype=np.float64).sum()
    narrow, floored = (choose("normalizer", {"name": "whitening", "floor": f}).fit(x, rows).scale for f in (1e-9, 0.1))
    np.testing.assert_allclose(floored[-3:], np.sqrt(0.1 * total / 6), rtol=1e-6)
    np.testing.assert_array_equal(floored[:3], narrow[:3])
    assert (narrow[-3:] < floored[-3:]).all() and narrow[-1] == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(("share", "count"), [(0.5, 1), (0.8, 2), (0.97, 3), (0.9999, 5), (0.9999999, 6)])
def test_fraction_of_variance_keeps_the_fewest_directions(share, count):
    """The variances are about 16, 4, 1, .09, .01 and .0001."""
    x = correlated()
    fitted = choose("normalizer", {"name": "whitening", "components": share}).fit(x, np.arange(len(x)))
    values = np.linalg.svd(x.reshape(4000, 6) - x.reshape(4000, 6).mean(0), compute_uv=False) ** 2
    assert fitted.shape((3, 2)) == ((count,) if count < 6 else (3, 2)) and len(fitted.scale) == count
    assert fitted.to_json()["variance"] == pytest.approx(values[:count].sum() / values.sum(), abs=1e-5)
    assert fitted.to_json()["variance"] >= share > (values[: count - 1].sum() / values.sum() if count > 1 else 0)


def test_truncation_error_is_the_dropped_variance():
    x = correlated()
    fitted = choose("normalizer", {"name": "whitening", "components": 2}).fit(x, np.arange(len(x)))
    x64 = torch.from_numpy(x).double()
    lost = (fitted.denormalize(fitted.normalize(x64)) - x64).square().sum((1, 2)).mean()
    total = (x64 - x64.mean(0)).square().sum((1, 2)).mean()
    assert float(lost / total) == pytest.approx(1 - fitted.to_json()["variance"], rel=1e-6)


@each
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_denormalize_inverts_normalize(choice, dtype, tmp_path):
    """Of what comes from the model always; of the data where no direction is left out. Also after a reload."""
    x = correlated()
    fitted = reloaded(choose("normalizer", choice).fit(x, np.arange(len(x))), tmp_path)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    y = torch.randn(50, *fitted.shape((3, 2)), generator=torch.Generator().manual_seed(0)).to(dtype)
    back = fitted.normalize(fitted.denormalize(y))
    assert back.dtype == dtype and fitted.denormalize(y).shape == (50, 3, 2)
    # float32 in between keeps seven digits; the narrowest direction has few of them
    loose = {torch.float64: 1e-9, torch.float32: 1e-3}[dtype]
    torch.testing.assert_close(back, y, rtol=0, atol=loose)
    if len(fitted.normalize(torch.from_numpy(x[:1])).flatten()) == 6:
        x_dtype = torch.from_numpy(x).to(dtype)
        back = fitted.denormalize(fitted.normalize(x_dtype))
        torch.testing.assert_close(back, x_dtype, rtol=tolerance, atol=10 * tolerance)


@each
def test_reload_is_bit_equal(choice, tmp_path):
    x = correlated()
    fitted = choose("normalizer", choice).fit(x, np.arange(len(x)))
    back = reloaded(fitted, tmp_path)
    assert back.to_json() == fitted.to_json() and back.name == fitted.name
    assert torch.equal(back.normalize(torch.from_numpy(x)), fitted.normalize(torch.from_numpy(x)))
    assert len(json.dumps(back.to_json())) < 500


@each
def test_only_training_rows_count_in_any_number_of_chunks(choice, monkeypatch):
    x = correlated(3000, offset=1000.0)  # so large that sums of squares would cancel
    rows = np.arange(3000) % 3 > 0
    whole = choose("normalizer", choice).fit(x, np.flatnonzero(rows))
    x[~rows] = 1e9
    monkeypatch.setattr(statistics, "CHUNK_BYTES", 7 * x[:1].nbytes)
    monkeypatch.setattr(statistics, "COLUMNS", 4)
    parts = choose("normalizer", choice).fit(x, np.flatnonzero(rows))
    np.testing.assert_allclose(parts.scale, whole.scale, rtol=1e-9)
    y = torch.from_numpy(x[rows]).double()
    torch.testing.assert_close(parts.normalize(y), whole.normalize(y), rtol=1e-6, atol=1e-6)


def test_memory_mapped_rows_are_read_in_chunks(monkeypatch):
    """No request is for more rows than fit the chunk."""
    asked = []

    class Rows(np.ndarray):
        def __getitem__(self, item):
            if isinstance(item, np.ndarray):
                asked.append(len(item))
            return super().__getitem__(item)

    x = np.zeros((1000, 4), np.float32).view(Rows)
    monkeypatch.setattr(statistics, "CHUNK_BYTES", 16 * 50)
    for choice in ("global", "zscore", "whitening"):
        asked.clear()
        choose("normalizer", choice).fit(x, np.arange(900))
        assert max(asked) == 50 and sum(asked) == 900
    monkeypatch.setattr(statistics, "QUARTILE_ROWS", 64)
    asked.clear()
    choose("normalizer", "robust").fit(x, np.arange(900))
    assert asked == [64]


@each
def test_constant_elements_stay_finite(choice):
    """As with two dimensions of SONAR, one of them constant up to rounding."""
    x = np.random.default_rng(0).standard_normal((500, 6)).astype(np.float32)
    x[:, 1] = 4
    x[:, 3] = 4 + 1e-6 * x[:, 3]
    fitted = choose("normalizer", choice).fit(x, np.arange(400))
    y = fitted.normalize(torch.from_numpy(x))
    assert y.isfinite().all() and y.abs().max() < 10
    if choice in ("zscore", "robust"):
        assert y[:, [1, 3]].abs().max() < 1e-3
    everywhere = choose("normalizer", choice).fit(np.full((5, 2), 7, np.float32), np.arange(5))
    rows = torch.full((3, 2), 7.0)
    assert (everywhere.scale == 1).all() and everywhere.normalize(rows).isfinite().all()
    torch.testing.assert_close(everywhere.denormalize(everywhere.normalize(rows)), rows)


def test_fewer_rows_than_dimensions():
    x = np.random.default_rng(0).standard_normal((20, 64)).astype(np.float32)
    fitted = choose("normalizer", "whitening").fit(x, np.arange(20))
    y = fitted.normalize(torch.from_numpy(x))
    assert y.isfinite().all() and float(y.square().sum() / 20) == pytest.approx(19, rel=1e-4)  # its rank
    torch.testing.assert_close(fitted.denormalize(y), torch.from_numpy(x), rtol=1e-5, atol=1e-5)


@each
def test_normalizer_cached_in_inference_mode_still_trains(choice):
    fitted = choose("normalizer", choice).fit(correlated(), np.arange(100))
    y = torch.ones(2, *fitted.shape((3, 2)))
    with torch.inference_mode():
        fitted.denormalize(y)
    y.requires_grad_(True)
    fitted.denormalize(y).sum().backward()
    assert y.grad is not None and y.grad.isfinite().all() and y.grad.any()


@each
def test_autocast_changes_nothing(choice):
    fitted = choose("normalizer", choice).fit(correlated(), np.arange(4000))
    x = torch.from_numpy(correlated(50, seed=1))
    with torch.autocast("cpu", torch.bfloat16):
        inside = fitted.normalize(x)
    assert inside.dtype == torch.float32 and torch.equal(inside, fitted.normalize(x))


@each
def test_no_rows_are_no_error(choice):
    fitted = choose("normalizer", choice).fit(correlated(), np.arange(100))
    y = fitted.normalize(torch.zeros(0, 3, 2))
    assert y.shape == (0, *fitted.shape((3, 2))) and fitted.denormalize(y).shape == (0, 3, 2)


@pytest.mark.parametrize(
    ("choice", "shape", "message"),
    [
        ("zscor", (9, 4), "unknown normalizer 'zscor'; expected auto, none, global, zscore, robust, whitening"),
        ("zscor", (9, 4), "did you mean 'zscore'"),
        ({"name": "whitening", "flor": 1}, (9, 4), "normalizer 'whitening' has no setting 'flor'; it has floor, components"),
        ({"name": "zscore", "floor": 1}, (9, 4), "normalizer 'zscore' has no setting 'floor'; it has none"),
        ({"name": "whitening", "components": 9}, (9, 4, 2), "components: 9, but rows have only 8 numbers; use at"),
        ("whitening", (1, 9000), "a 9000 x 9000 matrix for rows of 9,000 numbers; the limit is 8,192"),
    ],
)  # fmt: skip
def test_impossible_normalizers(choice, shape, message):
    with pytest.raises(UserError, match=message.split(";")[0].replace("(", r"\(")) as error:
        choose("normalizer", choice).fit(np.zeros(shape, np.float32), np.arange(shape[0]))
    assert message in str(error.value)


def test_dropping_directions_of_sketches_is_refused():
    from flowkit.data.dataset import Dataset
    from flowkit.sketch.domain import SketchDomain

    data = Dataset("sketch", np.zeros((2, 5, 8), np.float32))
    assert SketchDomain().model_args(data, (5, 8))["num_strokes"] == 5
    with pytest.raises(UserError, match="remove this key"):
        SketchDomain().model_args(data, (30,))


def test_damaged_statistics_are_refused():
    fitted = choose("normalizer", "whitening").fit(correlated(), np.arange(100))
    good, arrays = fitted.to_json(), fitted.tensors()
    assert normalizer_from_json(good, arrays).name == "whitening"
    skewed, zero = arrays["basis"].copy(), 0 * arrays["scale"]
    skewed[0, 0] += 1e-3
    affine = choose("normalizer", "zscore").fit(correlated(), np.arange(100)).to_json()
    for content, tensors in [
        ({}, {}), ({**good, "name": "witening"}, arrays), ({**good, "name": ["whitening"]}, arrays), (good, {}),
        ({**good, "shape": [7]}, arrays), ({**good, "shape": 3}, arrays), ({**good, "components": 5}, arrays),
        (good, {**arrays, "basis": skewed}), (good, {**arrays, "scale": zero}), (good, {**arrays, "mean": np.zeros(5)}),
        (good, {**arrays, "mean": np.full(6, np.nan)}), (good, {**arrays, "basis": np.nan * skewed}),
        ({**affine, "scale": 0}, {}), ({**affine, "shift": "wide"}, {}), ({"name": "zscore", "shift": 0}, {}),
        ({**affine, "shift": None}, {}),
    ]:  # fmt: skip
        with pytest.raises((KeyError, TypeError, ValueError)):
            normalizer_from_json(content, tensors)


def test_affine_scales_are_multiplied_back():
    fitted = AffineNormalizer("global", np.asarray(1.0), np.asarray(2.0))
    assert fitted.denormalize(torch.tensor([3.0])).tolist() == [7] and fitted.normalize(
        torch.tensor([7.0])
    ).tolist() == [3]


# ---- many rows at once ----


@pytest.mark.parametrize("chunk_rows", [1, 7, 100, 1000])
@each
def test_resident_rows_are_normalized_in_chunks_to_the_same_bits(tmp_path, monkeypatch, choice, chunk_rows):
    """For rows on disk and in memory, in the given order. No chunk exceeds its limit."""
    monkeypatch.setattr(normalizers_base, "CHUNK_BYTES", chunk_rows * 24, raising=False)
    stored = np.memmap(tmp_path / "x", np.float32, "w+", shape=(230, 2, 3))
    stored[:] = 3 + np.random.default_rng(0).standard_normal((230, 2, 3)) * [[1, 2, 5], [0.1, 1, 1]]
    rows = np.random.default_rng(1).permutation(230)[:201]
    fitted = choose("normalizer", choice).fit(stored, np.arange(230))
    wanted, sizes, whole = fitted.normalize(torch.from_numpy(stored[rows])), [], type(fitted).normalize
    monkeypatch.setattr(type(fitted), "normalize", lambda self, x: sizes.append(len(x)) or whole(self, x))
    for x in (stored, np.array(stored)):
        data = Dataset("array", x, np.arange(230) % 3, np.array(x[:, 0]))
        found = read_rows(data, rows, fitted, torch.device("cpu"))
        assert torch.equal(found.x, wanted) and found.x.is_contiguous()
        assert found.conditions.class_label.tolist() == (rows % 3).tolist() and torch.equal(
            found.conditions.tokens, torch.from_numpy(x[rows, 0])
        )
    assert sum(sizes) == 2 * 201 and max(sizes) <= chunk_rows


def test_rows_of_a_base_are_normalized_in_chunks_too(tmp_path, monkeypatch):
    x = np.random.default_rng(0).standard_normal((90, 4)).astype(np.float32)
    write_dataset(tmp_path / "base", Dataset("points", x, split=(np.arange(90) % 3 == 0).astype(np.uint8)))
    fitted = choose("normalizer", "zscore").fit(x, np.arange(90))
    wanted, sizes, whole = fitted.normalize(torch.from_numpy(x[np.arange(90) % 3 > 0])), [], type(fitted).normalize
    monkeypatch.setattr(normalizers_base, "CHUNK_BYTES", 10 * 16, raising=False)
    monkeypatch.setattr(type(fitted), "normalize", lambda self, x: sizes.append(len(x)) or whole(self, x))
    found = open_base({"source": str(tmp_path / "base"), "num_samples": 1, "seed": 0}, (4,), fitted)
    assert torch.equal(found.rows, wanted) and max(sizes) <= 10
