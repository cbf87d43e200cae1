"""The point sets that table A was measured on, in the scales of its authors' published code (one a column).

Two of them are drawn otherwise there than in their package, whose scales flowkit's built-in points have: "8gaussians" has a
standard deviation of 1 from normal noise and another radius from moons, and the moons are scikit-learn's, moved and
stretched. W2 depends on that, and so does NPE where the other end is a unit normal.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flowkit.data.dataset import Dataset, write_dataset
from flowkit.points import distributions
from flowkit.rng import key


def draw(name: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, 2) float32 points of `name`, a key of `SETS`, or "normal"."""
    return SETS[name](n, rng).astype(np.float32)


def write(name: str, n: int, rng: np.random.Generator, folder: Path) -> str:
    """Prepared data of n points; the path, for a recipe."""
    path = folder / f"{name.replace(' ', '-')}.safetensors"
    write_dataset(path, Dataset("points", draw(name, n, rng), None, None, None, (), {"source": name}))
    return str(path)


def write_blocks(name: str, block: int, n: int, seed: int, folder: Path) -> str:
    """Prepared data of the built-in points `name`: at least n of them, in blocks that are a draw each; the path, for a recipe.

    Within its block a row's place is random, where C2OT's code has one class after the other.
    """
    rng = np.random.default_rng(key(seed, "blocks"))
    draws = [distributions.draw(name, block, rng) for _ in range(-(-n // block))]
    x, label, condition = (None if part[0] is None else np.concatenate(part) for part in zip(*draws, strict=True))
    assert x is not None
    path = folder / f"{name}.safetensors"
    data = Dataset("points", x, label, condition, None, distributions.class_names(name), {"source": name})
    write_dataset(path, data)
    return str(path)


def _gaussians(radius: float, std: float, n: int, rng: np.random.Generator) -> np.ndarray:
    angle = rng.integers(8, size=n) * (np.pi / 4)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1) + std * rng.standard_normal((n, 2))


def _moons(noise: float, n: int, rng: np.random.Generator) -> np.ndarray:
    angle, lower = rng.random(n) * np.pi, rng.random(n) < 0.5
    x = np.where(lower, 1 - np.cos(angle), np.cos(angle))
    y = np.where(lower, 0.5 - np.sin(angle), np.sin(angle))
    return np.stack([x, y], axis=1) + noise * rng.standard_normal((n, 2))


def _wide_moons(n: int, rng: np.random.Generator) -> np.ndarray:
    x = _moons(0.1, n, rng)
    return 7 * (x - x.mean()) / x.std()  # over both axes at once, as published


def _s_curve(n: int, rng: np.random.Generator) -> np.ndarray:
    angle = 3 * np.pi * (rng.random(n) - 0.5)
    x = np.stack([np.sin(angle), np.sign(angle) * (np.cos(angle) - 1)], axis=1)
    return 1.5 * (x + 0.05 * rng.standard_normal((n, 2)))


SETS = {
    "normal": lambda n, rng: rng.standard_normal((n, 2)),
    "8gaussians": lambda n, rng: _gaussians(5.0, 1.0, n, rng),
    "wide 8gaussians": lambda n, rng: _gaussians(12.0, 1.5, n, rng),
    "moons": lambda n, rng: 2 * _moons(0.05, n, rng) - np.array([1.0, 0.0]),
    "wide moons": _wide_moons,
    "scurve": _s_curve,
}
