"""Auxiliary sketch losses against plain-Python geometry, and their gradients where geometry is singular."""

import math

import pytest
import torch
from scipy.optimize import minimize_scalar

from flowkit.sketch.losses import bending, degenerate, raster, smoothness

LOSSES = [smoothness, bending, degenerate]


def sketches(rows=3, strokes=5, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(rows, strokes, 8, generator=generator, dtype=torch.float64)


def one(*numbers):
    return torch.tensor([[numbers]], dtype=torch.float64)


def distance_to_segment(p, a, b):
    """By search, not by projection."""
    gap = lambda u: math.dist(p, [a[i] + u * (b[i] - a[i]) for i in (0, 1)])  # noqa: E731
    return min(minimize_scalar(gap, bounds=(0, 1), method="bounded", options={"xatol": 1e-10}).fun, gap(0), gap(1))


def points_of(stroke):
    return stroke.view(4, 2).tolist()


def test_smoothness_is_the_distance_to_the_chord():
    x = sketches()
    for sketch, value in zip(x, smoothness(x), strict=True):
        distances = []
        for p0, p1, p2, p3 in map(points_of, sketch):
            distances += [distance_to_segment(p1, p0, p3), distance_to_segment(p2, p0, p3)]
        assert value.item() == pytest.approx(sum(distances) / len(distances), rel=1e-6)


def test_smoothness_by_hand():
    assert smoothness(one(0, 0, 1, 0.3, 2, -0.1, 3, 0)).item() == pytest.approx(0.2)
    assert smoothness(one(0, 0, 1, 0, 2, 0, 3, 0)).item() == 0
    assert smoothness(one(0, 0, -3, 4, 2, 0, 3, 0)).item() == pytest.approx(2.5)  # beyond the end: from the end
    assert smoothness(one(1, 1, 4, 5, 1, 1, 1, 1)).item() == pytest.approx(2.5)  # no chord: from the point


def test_bending_is_the_second_difference():
    x = sketches()
    for sketch, value in zip(x, bending(x), strict=True):
        squares = []
        for p in map(points_of, sketch):
            for k in (1, 2):
                squares.append(sum((p[k - 1][i] - 2 * p[k][i] + p[k + 1][i]) ** 2 for i in (0, 1)))
        assert value.item() == pytest.approx(sum(squares) / len(squares))
    assert bending(one(0, 0, 1, 2, 2, 4, 3, 6)).item() == 0


def test_degenerate_is_the_missing_extent():
    x = sketches(scale=0.02)
    for sketch, value in zip(x, degenerate(x), strict=True):
        extents = [max(math.dist(p, q) for p in points_of(s) for q in points_of(s)) for s in sketch]
        assert value.item() == pytest.approx(sum(max(0, 0.05 - e) ** 2 for e in extents) / len(extents))
        assert value.item() > 0
    assert degenerate(one(*[0.7] * 8)).item() == pytest.approx(0.05**2)
    assert degenerate(one(0, 0, 0.01, 0, 0.05, 0, 0, 0)).item() == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients(loss):
    x = sketches(scale=0.02).requires_grad_()
    assert torch.autograd.gradcheck(loss, (x,), eps=1e-8, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "stroke",
    [
        (0.3,) * 8,  # a point
        (0, 0, 0, 0, 0, 0, 0, 0),
        (0, 0, 1, 0, 2, 0, 3, 0),  # straight
        (0, 0, 0, 0, 1, 0, 1, 0),  # straight, with doubled ends
        (1, 1, 4, 5, -2, 0, 1, 1),  # closed: no chord
        (1, 1, 4, 5, -2, 0, 1 + 1e-30, 1),
        (0, 0, 1e-25, 1e-25, 0, 1e-25, 1e-25, 0),  # squares underflow
        (0, 0, 0.05, 0, 0, 0, 0, 0),  # at the degenerate loss's threshold
        (1e6, -1e6, 1e6, 1e6, -1e6, 0, 0, 1e6),
    ],
)
def test_values_and_gradients_are_finite_everywhere(loss, stroke, dtype):
    x = torch.tensor([[stroke]], dtype=dtype, requires_grad=True)
    value = loss(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert value.isfinite().all() and gradient.isfinite().all()
    if loss is not bending:
        assert gradient.abs().max() <= 2  # distances have bounded slopes


@pytest.mark.parametrize("loss", LOSSES)
def test_one_value_a_sketch(loss):
    x = sketches(4, 7, scale=0.02)
    assert loss(x).shape == (4,)
    torch.testing.assert_close(loss(x)[2:3], loss(x[2:3]))


@pytest.mark.parametrize("loss", LOSSES)
def test_absent_cubics_do_not_count(loss):
    x = sketches(2, 4, scale=0.02)
    signs = torch.tensor([[1.0, -1], [1, 1], [-1, -1], [-1, -1]], dtype=torch.float64).expand(2, 4, 2)
    drawing = torch.cat([x, signs], dim=-1).requires_grad_()
    torch.testing.assert_close(loss(drawing), loss(x[:, :2]))
    (gradient,) = torch.autograd.grad(loss(drawing).sum(), drawing)
    assert not gradient[..., 8:].any() and gradient[:, :2, :8].any()
    drawing = torch.cat([x, -torch.ones(2, 4, 2)], dim=-1).requires_grad_()
    assert not loss(drawing).any() and not torch.autograd.grad(loss(drawing).sum(), drawing)[0].any()


def test_raster_is_0_for_the_same_ink_and_at_most_1():
    x, other = sketches(4, 5, scale=0.4), sketches(8, 5, scale=0.4)[4:]
    assert raster(x, x).shape == (4,) and not raster(x, x).any()
    backward = x.unflatten(-1, (4, 2)).flip(-2).flatten(-2).flip(1)
    torch.testing.assert_close(raster(backward, x), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-3)
    assert (raster(x, other) > 0.1).all() and (raster(x, other) < 1).all()
    assert raster(x + 5, x).tolist() == [1] * 4  # off the canvas
    assert raster(x + 5, x - 5).tolist() == [0] * 4
    torch.testing.assert_close(raster(x, other)[2:3], raster(x[2:3], other[2:3]))


def test_gradients_of_raster():
    x, target = sketches(2, 2, scale=0.4).requires_grad_(), sketches(4, 2, scale=0.4)[2:]
    assert torch.autograd.gradcheck(lambda x: raster(x, target), (x,), eps=1e-7, atol=1e-4)


def test_raster_pulls_a_line_that_does_not_overlap_yet():
    """It lies five pixels off, where the sharp pictures share no ink."""
    target = one(-0.6, 0, -0.2, 0, 0.2, 0, 0.6, 0)
    x = (target + torch.tensor([0, 5 / 32] * 4)).requires_grad_()
    (gradient,) = torch.autograd.grad(raster(x, target).sum(), x)
    assert (gradient[..., 1::2] > 1e-3).all()
    optimizer = torch.optim.Adam([x], lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        raster(x, target).sum().backward()
        optimizer.step()
    assert (x - target)[..., 1::2].abs().max() < 0.02


def test_raster_makes_a_missing_cubic_exist():
    x = torch.cat([sketches(1, 2, scale=0.4), torch.tensor([[[1.0, -1], [0.2, -1]]])], dim=-1)
    target = x.clone()
    target[0, :, 8] = torch.tensor([1.0, 1.0])
    x.requires_grad_()
    assert torch.autograd.grad(raster(x, target).sum(), x)[0][0, 1, 8] < 0
    target[0, :, 8] = torch.tensor([1.0, -1.0])
    assert torch.autograd.grad(raster(x, target).sum(), x)[0][0, 1, 8] > 0
