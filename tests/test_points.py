"""The points domain: its distributions, networks, pictures and transport, and a run from recipe to evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from rich.text import Text
from typer.testing import CliRunner

from flowkit.cli import app
from flowkit.components import choose
from flowkit.data.dataset import Dataset, write_dataset
from flowkit.domain import Preview, builtin_sets, get_domain
from flowkit.errors import UserError
from flowkit.inspect.dataset import pictures
from flowkit.metrics.distances import normalized_path_energy, path_energy, wasserstein2
from flowkit.models import create_model
from flowkit.models.residual_mlp import ResidualMLP
from flowkit.points.distributions import CLASS_NAMES, NAMES, draw
from flowkit.points.plot import LEFT, PALETTE, SIDE, TOP, ticks
from flowkit.points.scatter import color_at, write_scatter, write_trajectories
from flowkit.points.window import window_of
from flowkit.ui.previews import preview_grid

MANY = 200_000


def many(name: str) -> tuple[np.ndarray, np.ndarray]:
    x, label, _ = draw(f"{name}-labelled", MANY, np.random.default_rng(7))
    assert label is not None
    return x, label


def test_built_in_names_and_messages_for_others():
    domain = get_domain("points")
    assert {name for name, kind in builtin_sets().items() if kind == "points"} == set(domain.builtin) == set(NAMES)
    with pytest.raises(UserError, match="moons"):
        domain.generate("moon", 10, 0)
    assert np.array_equal(domain.generate("moons", 50, 3).x, domain.generate("moons", 50, 3).x)
    assert not np.array_equal(domain.generate("moons", 50, 3).x, domain.generate("moons", 50, 4).x)


def test_eight_gaussians_have_the_published_radius_and_spread():
    x, label = many("8gaussians")
    for number in range(8):
        own, angle = x[label == number].astype(np.float64), number * np.pi / 4
        assert abs(len(own) / MANY - 1 / 8) < 0.005
        assert np.allclose(own.mean(axis=0), [5 * np.cos(angle), 5 * np.sin(angle)], atol=0.02)
        assert np.allclose(np.cov(own.T), np.sqrt(0.1) * np.eye(2), atol=0.01)  # torchcfm's covariance is sqrt(.1)


def test_moons_are_half_circles_moved_along_the_diagonal():
    x, label = many("moons")
    assert np.bincount(label).tolist() == [MANY // 2, MANY // 2]
    # E cos = 0 and E sin = 2 / pi on a half circle; the uniform shift has mean .1; all is 3 x - 1.
    assert np.allclose(x[label == 0].mean(axis=0), [3 * 0.1 - 1, 3 * (2 / np.pi + 0.1) - 1], atol=0.01)
    assert np.allclose(x[label == 1].mean(axis=0), [3 * 1.1 - 1, 3 * (0.6 - 2 / np.pi) - 1], atol=0.01)
    plain = (x.astype(np.float64) + 1) / 3
    for number, center, way in ((0, (0.0, 0.0), 1), (1, (1.0, 0.5), -1)):
        u = plain[label == number] - center
        # |u - s (1, 1)| = 1 for one s in [0, .2)
        b = u.sum(axis=1)
        root = np.sqrt(np.maximum(b**2 - 2 * ((u**2).sum(axis=1) - 1), 0))  # rounding, where they touch
        near, on_arc = np.zeros(len(u), bool), np.zeros(len(u), bool)
        for s in ((b - root) / 2, (b + root) / 2):
            fits = (s > -2e-3) & (s < 0.2 + 2e-3)
            near |= fits
            on_arc |= fits & (way * (u[:, 1] - s) > -2e-3)
        assert near.all() and on_arc.all()


def test_s_curve_lies_on_two_circles_of_radius_one_and_a_half():
    x, label = many("scurve")
    center = np.where(label == 0, 1.5, -1.5)[:, None] * [0.0, 1.0]
    radius = np.linalg.norm(x - center, axis=1)
    assert abs(radius.mean() - 1.5) < 0.005 and abs(radius.std() - 0.075) < 0.002
    assert np.allclose(x.mean(axis=0), 0, atol=0.02) and abs(np.bincount(label)[0] / MANY - 0.5) < 0.005


def test_checkerboard_squares_and_spiral_arms():
    x, label = many("checkerboard")
    column, row = np.floor((x.astype(np.float64) + 4) / 2).T.astype(int)
    assert ((column + row) % 2 == 0).all() and np.abs(x).max() <= 4
    names = np.array(CLASS_NAMES["checkerboard"])[label]
    assert (names == np.char.add(np.array(list("abcd"))[column], (row + 1).astype(str))).all()
    x, label = many("spirals")
    assert np.allclose(x[label == 0].mean(axis=0), -x[label == 1].mean(axis=0), atol=0.03)
    # The angle is 3 pi sqrt(u), so that the mean of its square is (3 pi)^2 / 2; the arm's jitter and noise add theirs.
    arm = 3 * x[label == 0].astype(np.float64)
    angle = 3 * np.pi * np.sqrt((np.arange(10**6) + 0.5) / 10**6)
    exact = np.mean((0.25 - angle * np.cos(angle)) ** 2 + (0.25 + angle * np.sin(angle)) ** 2) + 2 * (0.25 / 12 + 0.09)
    assert abs((arm**2).sum(axis=1).mean() / exact - 1) < 0.01


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_variants_have_the_labels_or_conditions_that_their_names_say(name: str):
    x, label, condition = draw(name, 64, np.random.default_rng(0))
    assert x.shape == (64, 2) and x.dtype == np.float32 and label is None and condition is None
    x, label, condition = draw(f"{name}-labelled", 64, np.random.default_rng(0))
    assert label is not None and label.dtype == np.int64 and condition is None
    assert label.min() >= 0 and label.max() < len(CLASS_NAMES[name]) and len(set(label[:16].tolist())) > 1  # no order
    x, label, condition = draw(f"{name}-conditioned", 64, np.random.default_rng(0))
    assert label is None and condition is not None and np.array_equal(condition, x[:, :1])


def test_selu_mlp_is_torchcfms_network():
    MLP = pytest.importorskip("torchcfm.models.models").MLP

    ours, theirs = create_model("selu_mlp", input_dim=2), MLP(dim=2, time_varying=True, w=64)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x, t = torch.randn(33, 2), torch.rand(33)
    assert torch.allclose(ours(x, t), theirs(torch.cat((x, t[:, None]), dim=1)), atol=1e-6)


def test_residual_mlp_is_the_conditional_transport_papers_network():
    model = ResidualMLP(input_dim=2)
    block = 128 * 512 + 512 + 512 * 128 + 128
    assert sum(p.numel() for p in model.parameters()) == (3 * 128 + 128) + 3 * block + (128 * 2 + 2)
    x, t = torch.randn(5, 2), torch.rand(5)
    h = model.input.linear(torch.cat((x, t[:, None]), 1))
    for first, _, second in cast("Iterable[Any]", model.blocks):
        h = h + second(torch.nn.functional.gelu(first(h)))
    assert torch.allclose(model(x, t), model.out(h), atol=1e-6)


@pytest.mark.parametrize("arch", ["selu_mlp", "residual_mlp"])
def test_conditions_change_the_answer_are_dropped_by_the_mask_and_leave_no_parameter_without_gradient(arch: str):
    torch.manual_seed(0)
    model = create_model(arch, input_dim=2, num_classes=3, condition_dim=1)
    x, t, label, condition = torch.randn(8, 2), torch.rand(8), torch.arange(8) % 3, torch.randn(8, 1)
    given = model(x, t, label, condition)
    assert not torch.allclose(given, model(x, t, (label + 1) % 3, condition), atol=1e-3)
    assert not torch.allclose(given, model(x, t, label, condition + 1), atol=1e-3)
    assert torch.allclose(model(x, t, label, condition[:, None]), given)  # by patch; the mean is used
    mask = torch.arange(8) % 2 == 0
    dropped = model(x, t, label, condition, mask)
    assert torch.allclose(dropped[~mask], given[~mask], atol=1e-6)
    assert torch.allclose(dropped[mask], model(x, t)[mask], atol=1e-6)
    for arguments in ((label, condition, mask), (label, condition, None), (None, None, None)):
        model.zero_grad(set_to_none=True)
        model(x, t, *arguments).square().sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


def test_distance_of_shifted_points_is_the_shift():
    x = np.random.default_rng(0).standard_normal((300, 2))
    assert wasserstein2(x, (x + np.array([3.0, 4.0]))[::-1]) == pytest.approx(5.0)
    line = np.arange(5.0)[:, None]
    assert wasserstein2(line, line[::-1] * 2) == pytest.approx(np.sqrt(np.mean(np.arange(5.0) ** 2)))
    with pytest.raises(ValueError, match="same"):
        wasserstein2(x, x[:10])
    with pytest.raises(ValueError, match="NaN"):
        wasserstein2(x, np.full_like(x, np.nan))


@pytest.mark.parametrize("pair", [("moons", "moons"), ("8gaussians", "moons"), ("checkerboard", "checkerboard")])
def test_distance_is_that_of_the_plain_solver(pair: tuple[str, str]):
    rng = np.random.default_rng(1)
    a, b = (draw(name, 400, rng)[0] for name in pair)
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    cost = cdist(a, b, "sqeuclidean")
    exact = np.sqrt(cost[linear_sum_assignment(cost)].mean())
    assert wasserstein2(a, b) == pytest.approx(exact, rel=1e-9)


def test_path_energy_of_a_straight_flow_is_the_squared_distance():
    x0 = torch.randn(500, 2, dtype=torch.float64)
    energy = path_energy(lambda x, t: torch.full_like(x, 3.0), x0)
    assert energy == pytest.approx(18.0)
    assert normalized_path_energy(energy, wasserstein2(x0.numpy(), x0.numpy() + 3)) == pytest.approx(0, abs=1e-9)
    # x -> x (1 + t): v = x / (1 + t), constant along each path; the displacement is x0.
    energy = path_energy(lambda x, t: x / (1 + t[:, None]), x0)
    assert energy == pytest.approx(float(x0.square().sum(1).mean()))
    assert normalized_path_energy(20.0, 4.0) == pytest.approx(0.25)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_scatter_has_ink_where_the_points_are(tmp_path: Path):
    data = np.random.default_rng(0).uniform(-1, 1, (400, 2)).astype(np.float32)
    samples = np.array([[0.5, 0.5], [-0.5, -0.25], [np.nan, 0], [1e30, 0]], np.float32)
    shown = pixels(write_scatter(tmp_path / "a.png", samples, data, class_label=np.array([0, 1, 1, 1]),
                                 class_names=("up", "down")))  # fmt: skip
    window = window_of(data)
    for point, color in zip(samples[:2], PALETTE, strict=False):
        right, down = window.place(point[None])[0] * SIDE
        found = shown[round(TOP + down), round(LEFT + right)]
        assert np.abs(found - color).max() < 60, (point, found)
    gray = np.abs(shown[TOP : TOP + SIDE, LEFT : LEFT + SIDE] - 208).max(axis=2) < 12
    assert gray.mean() > 0.005


def test_trajectories_run_from_their_starts_to_their_ends(tmp_path: Path):
    way = np.linspace(0, 1, 21)[:, None, None]
    start, end = np.array([[-1.0, -1.0], [-1.0, 1.0]]), np.array([[1.0, -1.0], [1.0, 1.0]])
    states = (1 - way) * start + way * end
    path = write_trajectories(states, tmp_path / "t.png")
    shown, window = pixels(path), window_of(states.reshape(-1, 2))
    for t in (0.0, 0.3, 0.7, 1.0):
        right, down = window.place(((1 - t) * start + t * end)[:1])[0] * SIDE
        row, column = round(TOP + down), round(LEFT + right)  # the middle of the line is a pixel away at most
        near = shown[row - 1 : row + 2, column - 1 : column + 2]
        assert np.abs(near - color_at(t)).max(axis=2).min() < 50
    with pytest.raises(ValueError, match="states"):
        write_trajectories(start, path)


@pytest.mark.parametrize(("low", "side"), [(-7.2, 14.4), (0.0, 1.0), (-0.003, 0.0041), (120.0, 900.0)])
def test_ticks_are_few_and_round(low: float, side: float):
    marks = ticks(low, side)
    assert 3 <= len(marks) <= 10
    for value, share in marks:
        assert 0 <= share <= 1 and low + share * side == pytest.approx(value) and len(f"{value:g}") < 8


def test_terminal_picture_shows_samples_over_dim_data(tmp_path: Path):
    domain = get_domain("points")
    data = Dataset("points", np.random.default_rng(0).uniform(-1, 1, (3000, 2)).astype(np.float32))
    samples = Dataset("points", np.array([[-0.9, 0.9], [0.9, -0.9], [50, 0]], np.float32))
    presented = domain.presenter(data)(samples, tmp_path, shown=[]).previews
    assert presented == ()
    from flowkit.points.domain import picture

    (preview,) = [picture(samples.x, data.x)]
    dots = [(row, column) for row, line in enumerate(preview.lines) for column, c in enumerate(line) if c != "\u2800"]
    assert len(dots) == 2 and dots[0] < (4, 8) and dots[1] > (13, 27)
    assert "1" in preview.note and len(preview.behind) == len(preview.lines)
    drawn = preview_grid([preview], 80)
    assert sum(len(line.plain.replace("\u2800", "").strip()) for line in drawn[1:]) > 400
    row, column = dots[0]
    assert drawn[1 + row].plain[column] == preview.lines[row][column]
    assert all(span.style == "dim" for span in drawn[1 + 9].spans if span.style)


@pytest.mark.parametrize(
    ("width", "height", "rows"), [(79, 12, 11), (79, 8, 7), (119, 24, 23), (30, 40, 15), (99, 99, 30)]
)
def test_picture_fills_the_available_height(width: int, height: int, rows: int):
    from flowkit.points.domain import picture

    points = np.array([[-0.9, 0.9], [0.9, -0.9]], np.float32)
    data = np.random.default_rng(0).uniform(-1, 1, (300, 2))
    drawn = preview_grid([picture(points, data)], width, height)
    assert len(drawn) == 1 + rows and len(drawn[1].plain) <= width
    assert not preview_grid([picture(points, data)], width, 6) and len(preview_grid([picture(points)], 79)) == 19
    (lines,) = (size.lines for size in picture(points, data).sizes if len(size.lines) == rows)
    dots = [[column for column, c in enumerate(line) if c != "\u2800"] for line in lines]
    row = [number for number, line in enumerate(dots) if line]
    assert row[0] < rows / 4 and row[-1] >= rows * 3 / 4 and dots[row[0]][0] < rows / 2 < rows < dots[row[-1]][0]


def test_preview_without_background_is_unchanged():
    drawn = preview_grid([Preview("a", ("x ", " y")), Preview("b", ("uv", "w "))], 20)
    assert [line.plain for line in drawn] == [Text("a   b").plain, "x   uv", " y  w"]


def test_inspect_draws_all_points_in_one_picture(tmp_path: Path):
    for name in ("moons", "moons-labelled"):
        path = write_dataset(tmp_path / name, get_domain("points").generate(name, 500, 0))
        (preview,) = pictures(path)
        assert "500" in preview.title and len(preview.lines) > 10


def test_points_of_other_dimensions_are_checked_and_described():
    domain = get_domain("points")
    domain.check(Dataset("points", np.zeros((4, 1), np.float32)), "here")
    for shape in ((4,), (4, 0), (4, 2, 2)):
        with pytest.raises(UserError, match="expected \\(N, D\\)"):
            domain.check(Dataset("points", np.zeros(shape, np.float32)), "here")
    (preview,) = domain.preview(Dataset("points", np.ones((4, 3), np.float32)))
    assert "+1.000" in preview.lines[0]


RECIPE = """
[run]
name = "tiny"
dir = "{root}"
device = "cpu"
[data]
source = "{source}"
num_samples = 1500
[model]
arch = "{arch}"
[optim]
lr = 2e-3
[train]
steps = 30
batch_size = 64
val_rows = 64
[sample]
every = 30
num_samples = 64
solver = "euler"
steps = 10
"""


@pytest.mark.parametrize(
    ("source", "arch"), [("moons-labelled", "selu_mlp"), ("scurve-conditioned", "residual_mlp"), ("spirals", "mlp")]
)
def test_a_run_trains_draws_and_is_measured(tmp_path: Path, source: str, arch: str):
    import flowkit
    from flowkit.evaluate import evaluate_checkpoint

    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(root=tmp_path, source=source, arch=arch))
    flowkit.train(recipe)
    run_dir = tmp_path / "tiny"
    drawn = run_dir / "samples" / "step-00000030"
    assert pixels(drawn / "scatter.png").shape[2] == 3 and (drawn / "samples.safetensors").is_file()
    info = json.loads((run_dir / "checkpoints" / "latest" / "model.json").read_text())
    assert info["normalizer"]["name"] == "none" and info["kind"] == "points"
    found = evaluate_checkpoint(run_dir, num_samples=60, out=tmp_path / "evaluation", device="cpu")
    figures = {figure.key: figure for figure in found.figures}
    assert ("w2_class" in figures) == ("class_fidelity" in figures) == source.endswith("-labelled")
    assert (tmp_path / "evaluation" / "scatter.png").is_file()


def test_evaluation_finds_shifted_points_and_swapped_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from flowkit.evaluate import evaluate_files
    from flowkit.points import evaluation

    monkeypatch.setattr(evaluation, "REPEATS", 4)
    monkeypatch.setattr("flowkit.metrics.resampling.REPEATS", 10)
    domain = get_domain("points")
    data = write_dataset(tmp_path / "data", domain.generate("moons-labelled", 1000, 0))

    def figures(name: str, shift: float = 0.0, swap: bool = False) -> dict[str, tuple[float, float]]:
        samples = domain.generate("moons-labelled", 300, 1)
        samples.x = samples.x + np.array([shift, 0], np.float32)
        if swap:
            assert samples.class_label is not None
            samples.class_label = 1 - samples.class_label
        found = evaluate_files(write_dataset(tmp_path / name, samples), data, num_samples=300)
        return {one.key: (one.samples.value, one.real.value) for one in found.figures if one.samples and one.real}

    good, shifted, swapped = figures("good"), figures("shifted", shift=30.0), figures("swapped", swap=True)
    assert good["w2"][0] < 0.6 and good["w2"][1] < 0.6 and abs(good["energy"][0]) < 0.05
    assert good["class_fidelity"][0] > 0.95 and good["w2_class"][0] < 0.6
    assert shifted["w2"][0] == pytest.approx(30, abs=0.2) and shifted["w2_class"][0] == pytest.approx(30, abs=0.2)
    assert swapped["w2"] == pytest.approx(good["w2"]) and swapped["w2_class"][0] > 3
    assert swapped["class_fidelity"][0] < 0.05 and swapped["class_fidelity"][1] > 0.95


def test_command_line_samples_points(tmp_path: Path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(root=tmp_path, source="checkerboard-labelled", arch="selu_mlp"))
    import flowkit

    flowkit.train(recipe)
    words = ["sample", "--ckpt", str(tmp_path / "tiny"), "-n", "200", "--class-label", "b2"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "tiny" / "samples" / "last" / "scatter.png").is_file()
    assert "200 points" in done.output and any("\u2801" <= c <= "\u28ff" for c in done.output)
    assert not (tmp_path / "tiny" / "samples" / "last" / "trajectories.png").exists()


def test_trajectories_are_those_of_samples_spread_over_all_batches(tmp_path: Path):
    from flowkit.recipe.sample import SampleSettings
    from flowkit.sampling.draw import draw_samples

    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(root=tmp_path, source="moons-labelled", arch="selu_mlp"))
    import flowkit

    loaded = flowkit.train(recipe)
    plain = loaded.sample(130, batch_size=50, pairs=True)
    for solver, steps in (("euler", 7), ("dopri5", None)):
        kept: list[np.ndarray] = []
        samples = loaded.sample(130, batch_size=50, solver=solver, steps=steps, on_states=kept.append)
        rows = np.linspace(0, 129, 64).astype(int)
        (states,) = kept
        assert states.shape[1:] == (64, 2) and np.array_equal(states[-1], samples.x[rows])
        assert plain.noise is not None and np.array_equal(states[0], plain.noise[rows])  # without a normalizer
        assert len(states) == 8 or solver == "dopri5"
    drawn = draw_samples(loaded, 5, SampleSettings())
    assert drawn.states is None

    words = ["sample", "--ckpt", str(tmp_path / "tiny"), "-n", "20", "--trajectories", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "trajectories.png").is_file() and "trajectories.png" in done.output.replace("\n", "")


def test_finished_trajectories_stay_at_their_ends():
    from flowkit.sampling.draw import States

    data = np.random.default_rng(0).normal(3, 2, (500, 2)).astype(np.float32)
    states = States(3, 9, choose("normalizer", "zscore").fit(data, np.arange(500)))  # keeps samples 0, 4 and 8
    for first, steps in ((0, 1), (3, 4), (6, 2)):
        keep = states.begin(range(first, first + 3), torch.full((3, 2), float(first)))
        assert keep is not None
        for step in range(1, steps + 1):
            keep(step, torch.full((3, 2), first + step / 10))
    wanted = np.array([[0, 3, 6], [0.1, 3.1, 6.1], [0.1, 3.2, 6.2], [0.1, 3.3, 6.2], [0.1, 3.4, 6.2]])
    found = states.stacked()
    assert found is not None
    assert (found - data.mean(axis=0)) / data.std(axis=0) == pytest.approx(
        np.repeat(wanted[..., None], 2, axis=2), abs=1e-3
    )
    assert (
        States(3, 100, choose("normalizer", "none").fit(data, np.arange(500))).begin(
            range(1, 9), torch.from_numpy(data)
        )
        is None
    )


def test_there_are_no_trajectories_outside_the_plane(tmp_path: Path):
    recipe = tmp_path / "recipe.toml"
    text = RECIPE.format(root=tmp_path, source="moons", arch="selu_mlp").replace('"moons"', '"spread.safetensors"')
    recipe.write_text(text.replace("spread", str(tmp_path / "spread")))
    write_dataset(
        tmp_path / "spread", Dataset("points", np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32))
    )
    import flowkit

    flowkit.train(recipe)
    words = ["sample", "--ckpt", str(tmp_path / "tiny"), "--trajectories", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, UserError) and "requires 2-D points" in str(done.exception)
    assert "3 dimensions" in str(done.exception) and not (tmp_path / "out").exists()
