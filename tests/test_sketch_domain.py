"""The sketch domain: what the trainer asks of it, and what it writes."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from flowkit.components import find, names
from flowkit.data.dataset import Dataset
from flowkit.domain import builtin_sets, get_domain
from flowkit.errors import UserError
from flowkit.sketch.domain import SketchDomain, safe_name


@pytest.fixture(scope="module")
def domain() -> SketchDomain:
    return get_domain("sketch")


def test_generates_its_builtin_sets(domain):
    for name in domain.builtin:
        data = domain.generate(name, 12, seed=0)
        assert builtin_sets()[name] == data.kind == "sketch" and len(data) == 12
        domain.check(data, name)
    with pytest.raises(UserError, match="did you mean 'doodles'"):
        domain.generate("doodle", 12, seed=0)


@pytest.mark.parametrize("shape", [(4, 8), (4, 32, 6), (4, 0, 8), (4, 32, 4, 2)])
def test_refuses_wrong_shapes(domain, shape):
    with pytest.raises(UserError, match=r"data/x.*shape.*\(N, S, 8\)"):
        domain.check(Dataset("sketch", np.zeros(shape, np.float32)), "data/x")


def test_refuses_pixels_but_not_strokes_that_leave_the_canvas(domain):
    x = np.zeros((70_000, 1, 8), np.float32)
    x[69_999, 0, 3] = 9.5
    domain.check(Dataset("sketch", x), "file")
    for pixel in (511.0, -12.0):
        x[69_999, 0, 3] = pixel
        with pytest.raises(UserError, match="canvas units"):
            domain.check(Dataset("sketch", x), "file")
    domain.check(Dataset("sketch", np.zeros((0, 3, 8), np.float32)), "file")


def test_model_args_follow_from_the_data(domain):
    x = np.zeros((2, 5, 8), np.float32)
    plain = {"num_strokes": 5, "stroke_dim": 8, "shape": [5, 8], "num_classes": 0, "clip_dim": 0, "condition_dim": 0,
             "image_dim": 0, "image_tokens": 0, "text_dim": 0}  # fmt: skip
    assert domain.model_args(Dataset("sketch", x, class_names=("a",)), x.shape[1:]) == plain
    data = Dataset("sketch", x, np.array([0, 2]), np.zeros((2, 7, 512), np.float32), class_names=("a", "b", "c"))
    assert domain.model_args(data, x.shape[1:]) == {**plain, "num_classes": 3, "clip_dim": 512, "condition_dim": 512}
    data.condition = np.zeros((2, 64), np.float32)
    assert domain.model_args(data, x.shape[1:])["clip_dim"] == 64


def test_extra_losses_take_sketches_to_one_number_each(domain):
    import torch

    losses = {name: find("loss", name) for name in names("loss")}
    assert set(losses) == {"smoothness", "bending", "degenerate", "raster"}
    assert all(loss.kinds == ("sketch",) for loss in losses.values())
    assert (losses.pop("raster")(*[torch.zeros(6, 3, 8)] * 2)).shape == (6,)
    x = torch.from_numpy(domain.generate("doodles", 6, 0).x)
    for loss in losses.values():
        assert loss(x).shape == (6,)
    assert (losses["degenerate"](x) == 0).all()  # no ghost strokes among the doodles


def test_preview_is_a_picture_of_equal_lines(domain):
    rows = domain.generate("doodles", 2, 0)
    previews = domain.preview(rows)
    assert [preview.title for preview in previews] == rows.titles()
    assert all(len(preview.lines) == 12 and {len(line) for line in preview.lines} == {24} for preview in previews)


def named(domain, *titles: str) -> Dataset:
    x = domain.generate("doodles", len(titles), 0).x
    return Dataset("sketch", x, np.arange(len(titles)), class_names=titles)


def test_write_makes_an_svg_each_and_a_sheet(domain, tmp_path):
    rows = named(domain, "cat", "../../etc/passwd", "a/b\x00<c>")
    shown = domain.presenter(None)(rows, tmp_path / "out", shown=[2, 0])
    paths = shown.files
    assert [preview.title for preview in shown.previews] == ["a/b\x00<c>", "cat"]
    assert [path.name for path in paths] == ["000-cat.svg", "001-etc-passwd.svg", "002-a-b-c.svg", "sheet.png"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(p.name for p in paths)
    assert not [p for p in tmp_path.iterdir() if p.name != "out"]
    for path in paths[:3]:
        assert sum(element.tag.endswith("path") for element in ET.parse(path).iter()) == 32
    Image.open(paths[-1]).verify()
    assert domain.presenter(None)(rows.take(np.arange(0)), tmp_path / "none").files == ()


def test_write_to_a_place_that_cannot_be_written(domain, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot be written"):
        domain.presenter(None)(named(domain, "cat"), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("cat", "cat"),
        ("the Eiffel Tower", "the-Eiffel-Tower"),
        ("../..", "sketch"),
        ("", "sketch"),
        ("水", "水"),
        ("C:\\con*?", "C-con"),
        ("x" * 300, "x" * 40),
        ("\ud800", "sketch"),
        ("snow_man 2", "snow_man-2"),
    ],
)
def test_safe_names(title, name):
    assert safe_name(title) == name


def test_no_torch_is_imported_to_look_at_sketches(tmp_path):
    code = (
        "import sys; from pathlib import Path; from flowkit.domain import get_domain; d = get_domain('sketch')\n"
        "data = d.generate('doodles', 2, 0); d.check(data, ''); d.model_args(data, data.x.shape[1:]); d.preview(data)\n"
        "assert 'PIL' not in sys.modules\n"
        f"d.presenter(None)(data, Path({str(tmp_path)!r}))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
