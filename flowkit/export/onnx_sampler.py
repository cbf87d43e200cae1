"""Draw samples from a flowkit model in ONNX, with NumPy and onnxruntime only.

    pip install numpy onnxruntime
    python sample.py -n 16 --class-label cat --out samples

model.onnx is the network. sampler.json says how to call it and how to draw from it. Samples go to samples.npz, and drawings
also to SVG files. To use it from Python:

    import sample
    model = sample.Model("FOLDER")
    x = model.sample(16, class_label="cat", seed=0)     # (16, *shape) float32
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

EXISTS, CONTINUES = 8, 9  # where the two signs of a cubic are, in drawings with pen strokes
# Runge-Kutta methods: nodes, stages and weights of their tableaus.
TABLEAUS = {
    "euler": ([0.0], [[]], [1.0]),
    "midpoint": ([0.0, 0.5], [[], [0.5]], [0.0, 1.0]),
    "heun": ([0.0, 1.0], [[], [1.0]], [0.5, 0.5]),
    "rk4": ([0.0, 0.5, 0.5, 1.0], [[], [0.5], [0.0, 0.5], [0.0, 0.0, 1.0]], [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
}


class Model:
    """The network and what belongs to it. t = 0 is noise, t = 1 is data."""

    def __init__(self, folder: str | Path):
        import onnxruntime  # pyright: ignore[reportMissingImports]

        self.facts: dict[str, Any] = json.loads((Path(folder) / "sampler.json").read_text("utf-8"))
        self.session = onnxruntime.InferenceSession(Path(folder) / "model.onnx", providers=["CPUExecutionProvider"])
        self.inputs = {one.name: one for one in self.session.get_inputs()}
        self.shape = tuple(self.facts["latent_shape"])
        self.normalizer: dict[str, Any] = self.facts["normalizer"]
        if "file" in self.normalizer:
            self.normalizer = dict(np.load(Path(folder) / self.normalizer["file"]))
        self.class_names: list[str] = self.facts["class_names"]

    def sample(
        self,
        num_samples: int,
        *,
        class_label: str | None = None,
        condition: np.ndarray | None = None,
        guidance_scale: float | None = None,
        solver: str | None = None,
        steps: int | None = None,
        seed: int = 0,
        noise: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return samples (N, *shape) float32 in the data's units.

        class_label: a name, "null" for none, or None for each class in turn. condition: (C,) or (P, C) for all samples, or one
        per sample. noise: (N, *latent_shape) to start from, instead of normals from the seed. The rest: sampler.json's.
        """
        facts = self.facts
        x = noise if noise is not None else np.random.default_rng(seed).standard_normal((num_samples, *self.shape))
        scale = facts["guidance_scale"] if guidance_scale is None else guidance_scale
        labels = self._labels(class_label, num_samples, conditioned=condition is not None)
        told = self._told(num_samples, labels, condition)
        method: str = solver or facts["solver"]
        edges = step_times(facts["grid"], steps or facts["steps"])
        if facts["averages"] and method != "mean_flow":
            print("note: this network learned average velocities; its solver is mean_flow", file=sys.stderr)
        x = x.astype(np.float32)
        if method == "mean_flow":
            for a, b in pairwise(edges):
                x = x + np.float32(b - a) * self.velocity(x, a, told, scale, span=b - a)
        elif facts["prediction"] == "velocity":
            x = runge_kutta(method, lambda x, t: self.velocity(x, t, told, scale), x, edges)
        else:
            x = self._straight(method, x, edges, told, scale)
        return self.finish(x)

    def velocity(self, x: np.ndarray, t: float, told: dict[str, Any], scale: float, span: float = 0.0) -> np.ndarray:
        """Return the guided velocity: v_null + scale (v - v_null), from one call on twice the rows, or as the network guides."""
        if "guidance" in self.inputs:
            most = self.facts["guidance_max"]
            if not 1 <= scale <= most:
                raise SystemExit(f"guidance scale {scale:g}: this network learned scales from 1 to {most:g}")
            told = {**told, "guidance": np.full(len(x), scale, np.float32)}
            return self._velocity(x, t, told, span)
        if scale == 1 or "cfg_mask" not in told or told["cfg_mask"].all():
            return self._velocity(x, t, told, span)
        twice = {name: np.concatenate([value, value]) for name, value in told.items()}
        twice["cfg_mask"] = np.concatenate([told["cfg_mask"], np.ones_like(told["cfg_mask"])])
        v, null = np.split(self._velocity(np.concatenate([x, x]), t, twice, span), 2)
        return null + np.float32(scale) * (v - null)

    def finish(self, x: np.ndarray) -> np.ndarray:
        """Return x in the data's units, and drawings with pen strokes without gaps."""
        normalizer = self.normalizer
        if "basis" in normalizer:
            x = (x.reshape(len(x), -1) * normalizer["scale"]) @ normalizer["basis"].T + normalizer["mean"]
        else:
            x = x * np.array(normalizer["scale"], np.float32) + np.array(normalizer["shift"], np.float32)
        x = x.reshape(len(x), *self.facts["shape"]).astype(np.float32)
        return tidy(x) if self.facts["kind"] == "sketch" and x.shape[-1] > EXISTS else x

    def _velocity(self, x: np.ndarray, t: float, told: dict[str, Any], span: float) -> np.ndarray:
        feed = {"x": x, "t": np.full(len(x), t, np.float32), **told}
        if "span" in self.inputs:
            feed["span"] = np.full(len(x), span, np.float32)
        if "given" in self.inputs:  # none of the tokens
            feed["given"] = np.zeros(x.shape[:2], bool)
        (output,) = self.session.run(None, {name: feed[name] for name in self.inputs})
        if self.facts["prediction"] == "velocity":
            return output
        alpha, sigma, d_alpha, d_sigma = coefficients(self.facts["path"], t)
        if self.facts["prediction"] == "data":
            ratio = d_sigma / sigma if sigma > 1e-6 else 0.0
            return np.float32(ratio) * x + np.float32(d_alpha - ratio * alpha) * output
        ratio = d_alpha / alpha if alpha > 1e-6 else 0.0
        return np.float32(ratio) * x + np.float32(d_sigma - ratio * sigma) * output

    def _straight(self, solver: str, x: np.ndarray, edges: list[float], told: dict[str, Any], scale: float) -> Any:
        """Solve in z = x / (alpha + sigma) over tau = alpha / (alpha + sigma), where the path is a line.

        For networks that predict the data or the noise. The last step ends at the predicted data.
        """
        path = self.facts["path"]
        ends = [coefficients(path, t)[:2] for t in edges]
        taus = [alpha / (alpha + sigma) for alpha, sigma in ends]

        def slope(z: np.ndarray, tau: float) -> np.ndarray:
            t = time_of(path, tau)
            alpha, sigma, d_alpha, d_sigma = coefficients(path, t)
            x = np.float32(alpha + sigma) * z
            v = self.velocity(x, t, told, scale)
            wronskian = sigma * d_alpha - d_sigma * alpha
            return (np.float32(-(d_sigma + d_alpha)) * x + np.float32(sigma + alpha) * v) / np.float32(wronskian)

        z = x / np.float32(sum(ends[0]))
        z = runge_kutta(solver, slope, z, taus[:-1])
        parts = len(TABLEAUS[solver][0])
        last = [taus[-2] + (taus[-1] - taus[-2]) * i / parts for i in range(parts + 1)]
        return np.float32(sum(ends[-1])) * runge_kutta("euler", slope, z, last)

    def _labels(self, class_label: str | None, count: int, *, conditioned: bool) -> np.ndarray | None:
        names = self.class_names
        if not names or class_label == "null" or (class_label is None and conditioned):
            if names and not self.facts["null"]:
                raise SystemExit("this network was trained without dropped classes; choose a class")
            return None
        if class_label is None:
            return np.arange(count) * len(names) // count
        if class_label not in names:
            raise SystemExit(f"unknown class {class_label!r}; expected one of {', '.join(names)}, or null")
        return np.full(count, names.index(class_label))

    def _told(self, count: int, labels: np.ndarray | None, condition: np.ndarray | None) -> dict[str, Any]:
        """Return the network's inputs besides x and t. cfg_mask (N, 2): whose label and whose condition is dropped."""
        told: dict[str, Any] = {}
        if "class_label" in self.inputs:
            told["class_label"] = np.zeros(count, np.int64) if labels is None else labels.astype(np.int64)
        if "condition" in self.inputs:
            shape = tuple(self.facts["condition_shape"])
            value = np.zeros(shape) if condition is None else condition
            told["condition"] = np.broadcast_to(value, (count, *shape)).astype(np.float32)
            if "condition_mask" in self.inputs:
                told["condition_mask"] = np.ones((count, shape[0]), bool)
        if "cfg_mask" in self.inputs:
            told["cfg_mask"] = np.tile([labels is None, condition is None], (count, 1))
        return told


def runge_kutta(solver: str, slope: Any, x: np.ndarray, edges: list[float]) -> np.ndarray:
    """Follow dx/dt = slope(x, t) along the times `edges`."""
    nodes, stages, weights = TABLEAUS[solver]
    for a, b in pairwise(edges):
        slopes: list[np.ndarray] = []
        for node, row in zip(nodes, stages, strict=True):
            at = x
            for weight, known in zip(row, slopes, strict=True):
                at = at + np.float32((b - a) * weight) * known
            slopes.append(slope(at, (1 - node) * a + node * b))
        for weight, known in zip(weights, slopes, strict=True):
            x = x + np.float32((b - a) * weight) * known
    return x


def step_times(grid: dict[str, Any], steps: int) -> list[float]:
    """Return the times of a grid of steps, from 0 to 1."""
    times = [step / steps for step in range(steps + 1)]
    if grid["name"] == "shifted":
        return [t / (t + grid["shift"] * (1 - t)) for t in times]
    if grid["name"] == "power":
        return [t ** grid["exponent"] for t in times]
    return grid["times"] if grid["name"] == "custom" else times


def coefficients(path: dict[str, Any], t: float) -> tuple[float, float, float, float]:
    """Return alpha, sigma and their derivatives of a Gaussian path x_t = alpha data + sigma noise."""
    if path["name"] == "linear":
        slope = 1 - path["sigma_min"]
        return t, 1 - slope * t, 1.0, -slope
    if path["name"] == "cosine":
        quarter = np.pi / 2
        sine, cosine = np.sin(t * quarter), max(np.cos(t * quarter), 0.0)
        return sine, cosine, quarter * cosine, -quarter * sine
    s, low, high = 1 - t, path["beta_min"], path["beta_max"]  # vp
    log_alpha = -s * (0.25 * (high - low) * s + 0.5 * low)
    alpha, sigma = np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha))
    d_alpha = alpha * 0.5 * ((high - low) * s + low)
    return alpha, sigma, d_alpha, -alpha * d_alpha / max(sigma, 0.01)


def time_of(path: dict[str, Any], tau: float) -> float:
    """Return the time at which alpha / (alpha + sigma) is tau."""
    if path["name"] == "linear":
        return tau / (1 - path["sigma_min"] * tau)
    if path["name"] == "cosine":
        return np.arctan2(tau, 1 - tau) * (2 / np.pi)
    cost = 0.5 * np.log1p(((1 - tau) / tau) ** 2)
    low, slope = 0.5 * path["beta_min"], path["beta_max"] - path["beta_min"]
    return 1 - 2 * cost / (low + np.sqrt(low**2 + slope * cost))


def tidy(x: np.ndarray) -> np.ndarray:
    """Close the gaps within pen strokes (N, S, 10): where a cubic continues another one, both ends move to their middle."""
    x = x.copy()
    x[np.arange(len(x)), x[..., EXISTS].argmax(axis=1), EXISTS] = 1  # at least one cubic
    there = x[..., EXISTS] > 0
    joined = there & (x[..., CONTINUES] > 0)
    joined[:, 0] = False
    joined[:, 1:] &= there[:, :-1]
    order = np.argsort(~there, axis=1, kind="stable")  # cubics that exist first
    x = np.take_along_axis(x, order[..., None], axis=1)
    there, joined = np.take_along_axis(there, order, axis=1), np.take_along_axis(joined, order, axis=1)
    x[..., EXISTS], x[..., CONTINUES] = np.where(there, 1, -1), np.where(joined, 1, -1)
    x[~there, :EXISTS] = 0
    gap = (x[:, :-1, 6:8] - x[:, 1:, 0:2]) * joined[:, 1:, None] * np.float32(0.5)
    x[:, 1:, 0:2] += gap
    x[:, 1:, 2:4] += gap
    x[:, :-1, 4:6] -= gap
    x[:, :-1, 6:8] -= gap
    x[:, 1:, 0:2] = np.where(joined[:, 1:, None], x[:, :-1, 6:8], x[:, 1:, 0:2])
    return x


def svg(sketch: np.ndarray, size: int = 512) -> str:
    """Return a drawing (S, 8 or 10), on the canvas [-1, 1], as SVG."""
    there = sketch[:, EXISTS] > 0 if sketch.shape[1] > EXISTS else np.ones(len(sketch), bool)
    data, points = "", np.round((sketch[:, :8] + 1) * (size / 2), 2)
    for number, cubic in enumerate(points):
        if not there[number] or not np.isfinite(cubic).all():
            continue
        if sketch.shape[1] <= CONTINUES or sketch[number, CONTINUES] <= 0 or not data:
            data += "M{:g} {:g}".format(*cubic[:2])
        data += "C{:g} {:g} {:g} {:g} {:g} {:g}".format(*cubic[2:])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{size}" viewBox="0 0 {size} {size}">\n'
        f'<rect width="{size}" height="{size}" fill="white"/>\n<path d="{data}" fill="none" stroke="black" '
        f'stroke-width="{0.011 * size:g}" stroke-linecap="round" stroke-linejoin="round"/>\n</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw samples from a flowkit model in ONNX.")
    parser.add_argument("--model", default=Path(__file__).parent, help="folder with model.onnx and sampler.json")
    parser.add_argument("-n", "--num-samples", type=int, default=16)
    parser.add_argument("--class-label", help="class name, or null for none; default: each class in turn")
    parser.add_argument("--condition", help="a .npy file: one condition for all samples, or one per sample")
    parser.add_argument("-w", "--guidance-scale", type=float, help="1 disables guidance; default: sampler.json's")
    parser.add_argument("--solver", choices=[*TABLEAUS, "mean_flow"], help="default: sampler.json's")
    parser.add_argument("--steps", type=int, help="default: sampler.json's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("samples"), help="folder; default: samples")
    asked = parser.parse_args()
    model = Model(asked.model)
    x = model.sample(
        asked.num_samples, class_label=asked.class_label, guidance_scale=asked.guidance_scale, solver=asked.solver,
        steps=asked.steps, seed=asked.seed, condition=None if asked.condition is None else np.load(asked.condition),
    )  # fmt: skip
    asked.out.mkdir(parents=True, exist_ok=True)
    np.savez(asked.out / "samples.npz", x=x)
    if model.facts["kind"] == "sketch":
        for number, sketch in enumerate(x):
            (asked.out / f"{number:03d}.svg").write_text(svg(sketch), "utf-8")
    print(f"{asked.out}: {len(x)} samples of shape {x.shape[1:]}")


if __name__ == "__main__":
    main()
