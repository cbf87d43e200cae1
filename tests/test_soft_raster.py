"""The differentiable raster against all distances at once, finite differences and resvg, and its memory."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from flowkit.domain import get_domain
from flowkit.sketch import soft_raster as module
from flowkit.sketch.soft_raster import SOFT, soft_raster
from flowkit.sketch.svg_write import svg


def sketches(rows: int, cubics: int, width: int = 8, scale: float = 0.6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, cubics, width, generator=generator, dtype=torch.float64)


def all_distances(x: torch.Tensor, size: int, width: float, chords: int = 16) -> torch.Tensor:
    """The same picture from the distance of every pixel to every chord."""
    t = torch.linspace(0, 1, chords + 1, dtype=x.dtype)[:, None]
    p0, p1, p2, p3 = x.unflatten(-1, (4, 1, 2)).unbind(-3)
    line = (1 - t) ** 3 * p0 + 3 * (1 - t) ** 2 * t * p1 + 3 * (1 - t) * t * t * p2 + t**3 * p3
    a, step = line[:, :, :-1, None], (line[:, :, 1:] - line[:, :, :-1])[..., None, :]
    centers = (torch.arange(size, dtype=x.dtype) + 0.5) * (2 / size) - 1
    pixels = torch.stack(torch.meshgrid(centers, centers, indexing="xy"), -1).reshape(-1, 2)
    along = (((pixels - a) * step).sum(-1) / step.square().sum(-1).clamp_min(1e-30)).clamp(0, 1)[..., None]
    distance = (pixels - a - along * step).norm(dim=-1).amin(2)
    soft = SOFT * 2 / size
    edge = lambda inside: (u := (inside / (2 * soft) + 0.5).clamp(0, 1)) * u * (3 - 2 * u)  # noqa: E731
    ink = edge(width / 2 - distance) - edge(-width / 2 - distance)
    return (1 - (1 - ink).prod(1)).view(-1, size, size)


@pytest.mark.parametrize(("size", "width"), [(9, 0.4), (32, 0.02), (32, 0.3)])
def test_it_is_the_picture_of_all_distances(size, width):
    x = sketches(3, 5, scale=1.2)  # some of it off the canvas
    found = soft_raster(x, size, stroke_width=width)
    torch.testing.assert_close(found, all_distances(x, size, width), rtol=1e-4, atol=2e-5)
    assert found.min() >= 0 and found.max() <= 1


def test_gradients_by_finite_differences():
    x = sketches(2, 3, 10).requires_grad_()
    width = torch.full((2, 3), 0.2, dtype=torch.float64, requires_grad=True)
    presence = torch.tensor([[1.0, 0.5, 0.0], [0.3, 0.9, 1.0]], dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        x[..., 8:] = 0.5 * x[..., 8:].tanh()  # signs between -1 and 1, where presence is linear
    draw = lambda x, width: soft_raster(x, 8, stroke_width=width, chords=4)  # noqa: E731
    assert torch.autograd.gradcheck(draw, (x, width), eps=1e-7, atol=1e-4)
    draw = lambda presence: soft_raster(x.detach(), 8, presence=presence, stroke_width=0.3)  # noqa: E731
    assert torch.autograd.gradcheck(draw, presence, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "stroke",
    [
        (0.3,) * 8,  # a point
        (1 / 32,) * 8,  # a point at the center of a pixel
        (0, 0, 0, 0, 0, 0, 0, 0),
        (-1, 0, 1, 0, -1, 0, 1, 0),  # back and forth
        (0.5, 0.5, 0.9, 0.9, -0.2, 0, 0.5, 0.5),  # closed
        (0, 0, 1e-25, 1e-25, 0, 1e-25, 1e-25, 0),
        (-1, -1, 1, -1, 1, 1, -1, 1),
        (50, 50, 60, 60, 70, 70, 80, 80),
        (1e6, -1e6, 1e6, 1e6, -1e6, 0, 0, 1e6),
        (3e38, -3e38, 0, 0, 0, 0, -3e38, 3e38),
    ],
)
def test_values_and_gradients_are_finite_everywhere(stroke, dtype):
    rows = [(*stroke, 1, -1), (*stroke, 1, 1), (0, 0, 0.5, 0, 0, 0.5, 0.5, 0.5, 1, -1)]
    x = torch.tensor([rows], dtype=dtype, requires_grad=True)
    for width in (0.001, 0.1, 1.5):
        ink = soft_raster(x, 32, stroke_width=width)
        (gradient,) = torch.autograd.grad((ink * torch.linspace(-1, 1, 32)).sum(), x)
        assert ink.isfinite().all() and gradient.isfinite().all() and gradient.dtype == dtype


def test_empty_batches_and_sketches_are_blank():
    assert soft_raster(torch.zeros(0, 3, 8), 16).shape == (0, 16, 16)
    assert not soft_raster(torch.zeros(2, 0, 8), 16).any()
    assert not soft_raster(torch.full((2, 1, 8), 4.0), 16).any()


def test_gradients_survive_dense_ink():
    """Four lines on top of each other: a sum cut at 1 would have no gradient where it is full."""
    x = torch.tensor([[[-0.9, 0, -0.3, 0, 0.3, 0, 0.9, 0]]], dtype=torch.float64).repeat(1, 4, 1).requires_grad_()
    ink = soft_raster(x, 32, stroke_width=0.1)[0, 15]
    assert 0.99 < ink[4:-4].min() < 1
    (gradient,) = torch.autograd.grad(ink.sum(), x)
    assert (gradient[..., 1::2].abs() > 0.1).all()


def test_presence_is_soft_and_absent_cubics_leave_no_ink():
    x = sketches(1, 4)
    signs = torch.tensor([[[1.0, -1], [1, 1], [-1, -1], [-1.3, -1]]], dtype=torch.float64)
    with_signs = torch.cat([x, signs], dim=-1).requires_grad_()
    ink = soft_raster(with_signs, 24)
    torch.testing.assert_close(ink, soft_raster(x[:, :2], 24))
    (gradient,) = torch.autograd.grad(ink.sum(), with_signs)
    assert gradient[0, 2, 8] > 0  # absent, and ink would grow with it
    assert not gradient[..., 9].any()
    half = soft_raster(x[:, :1], 24, presence=torch.full((1, 1), 0.5, dtype=torch.float64))
    torch.testing.assert_close(half, soft_raster(x[:, :1], 24) / 2)


@pytest.mark.parametrize(
    ("size", "width", "tolerance"),
    [(64, 2 / 64, 0.09), (64, 0.06, 0.05), (128, 0.06, 0.025), (64, 0.2, 0.02)],
)
def test_it_is_the_picture_of_resvg(size, width, tolerance):
    """The mean difference, as a share of the mean ink. resvg draws eight times finer: it widens lines thinner than a pixel."""
    resvg_py = pytest.importorskip("resvg_py")
    x = get_domain("sketch").generate("doodles", 6, 0).x
    found = soft_raster(torch.from_numpy(x), size, stroke_width=width).numpy()
    for ours, sketch in zip(found, x, strict=True):
        png = resvg_py.svg_to_bytes(svg_string=svg(sketch, size=8 * size, stroke_width=width))
        fine = 1 - np.asarray(Image.open(io.BytesIO(bytes(png))).convert("L")) / 255
        theirs = fine.reshape(size, 8, size, 8).mean((1, 3))
        assert np.abs(ours - theirs).mean() < tolerance * theirs.mean()


def test_small_groups_give_the_same_picture(monkeypatch):
    x = sketches(3, 5).requires_grad_()
    whole = soft_raster(x, 32)
    (gradient,) = torch.autograd.grad(whole.square().sum(), x)
    monkeypatch.setattr(module, "ENTRIES", 1)
    again = soft_raster(x, 32)
    assert torch.equal(again, whole)
    assert torch.equal(torch.autograd.grad(again.square().sum(), x)[0], gradient)


MEMORY = """
import resource, torch
from flowkit.domain import get_domain
from flowkit.sketch.soft_raster import soft_raster
x = torch.from_numpy(get_domain("sketch").generate("doodles", 8, 0).x)
soft_raster(x[:1].clone().requires_grad_(), 32).sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
soft_raster(x.requires_grad_(), 512).sum().backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory")
def test_memory_grows_with_the_ink():
    """Eight pictures of 512 pixels. The distance of each pixel to each chord would take 4.3 GB."""
    output = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True).stdout
    assert float(output) < 200
