"""Completion, variation and interpolation: what is given stays, what is made fits it, and training sees parts of rows."""

import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import flowkit
import flowkit.sketch.strokes
from flowkit.cli import app
from flowkit.conditions import Conditions
from flowkit.data.dataset import Dataset, read_dataset
from flowkit.domain import Given
from flowkit.errors import UserError
from flowkit.flow.error import Absolute, PseudoHuber, Squared
from flowkit.flow.given import Held, rates, resampled, shown_tokens
from flowkit.flow.objective import FlowMatching, FlowObjective, Pairs
from flowkit.flow.paths import Cosine, Linear, over_tokens
from flowkit.flow.solvers import integrate
from flowkit.sampling.draw import Start, slerp
from flowkit.sketch.domain import SketchDomain
from flowkit.sketch.doodles import generate_doodles
from flowkit.sketch.strokes import as_row, continues, exists
from flowkit.sketch.svg_write import path_data
from tests.test_sketch_strokes import chain

PARTS = torch.tensor([[0, 0, 1, 2, 2, -1, -1]])


def shown(kind, count=20_000):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.rand(shape, generator=generator)  # noqa: E731
    return shown_tokens(PARTS.expand(count, -1), rates(kind), draw(count), draw(count), draw(count, 7))


def test_a_prefix_has_each_length_below_the_whole_equally_often():
    tokens = shown({"prefix": 1.0})
    assert not tokens[:, 5:].any() and not tokens[:, 4].any()
    assert (tokens[:, 1:].int() <= tokens[:, :-1].int()).all()
    lengths = torch.bincount(tokens.sum(1), minlength=5) / len(tokens)
    torch.testing.assert_close(lengths, torch.full((5,), 0.2), atol=0.012, rtol=0)


def test_a_subset_has_whole_parts_and_no_absent_tokens():
    tokens = shown({"subset": 1.0})
    assert torch.equal(tokens[:, 0], tokens[:, 1]) and torch.equal(tokens[:, 3], tokens[:, 4])
    assert not tokens[:, 5:].any()
    assert tokens[:, [0, 2, 3]].float().mean(0).tolist() == pytest.approx([0.5] * 3, abs=0.015)
    alone = tokens[:, 0] & ~tokens[:, 2]  # P(first, not second) = E[u (1 - u)] = 1/6
    assert alone.float().mean() == pytest.approx(1 / 6, abs=0.012)


def test_a_number_is_half_prefixes_and_half_subsets():
    tokens = shown(0.6)
    none = ~tokens.any(1)
    # .4 see nothing; of the .3 prefixes a fifth is empty; of the .3 subsets E[(1 - u)^3] = 1/4.
    assert none.float().mean() == pytest.approx(0.4 + 0.3 / 5 + 0.3 / 4, abs=0.012)
    assert not shown(0.0, 100).any()


def test_parts_of_sketches_are_pen_strokes():
    rows = torch.from_numpy(np.stack([as_row(chain(2, 1, 3), 8)]))
    assert SketchDomain().parts(rows).tolist() == [[0, 0, 1, 2, 2, 2, -1, -1]]
    assert SketchDomain().parts(rows[..., :8]).tolist() == [list(range(8))]


@pytest.mark.parametrize("error", [Squared(), PseudoHuber(c=0.5), Absolute()])
def test_the_loss_is_the_mean_over_what_is_not_given(error):
    generator = torch.Generator().manual_seed(1)
    x0, x1, output = (torch.randn(4, 5, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    given = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 1, 1, 0], [0] * 5, [1] * 5]).bool()
    t = torch.rand(4, generator=generator, dtype=torch.float64)
    seen = {}

    def network(x, t, conditions):
        seen["x"], seen["given"] = x, conditions.given
        return output

    scored = FlowObjective(Linear(), error=error)
    pairs = Pairs(x0, x1, t, None, Conditions(given=given), None, network, network)
    losses = FlowMatching().loss(pairs, scored)
    for row in range(3):
        rest = ~given[row]
        alone = scored.loss(
            output[row : row + 1, rest], x0[row : row + 1, rest], x1[row : row + 1, rest], t[row : row + 1]
        )
        assert losses.descended[row].item() == pytest.approx(alone.item())
    assert losses.descended[3] == 0
    expected = scored.path.interpolate(x0, x1, t)
    torch.testing.assert_close(seen["x"], torch.where(given[..., None], x1, expected))
    assert torch.equal(losses.data()[given], x1[given]) and seen["given"] is given
    assert not torch.allclose(losses.data()[~given], x1[~given])


def test_what_is_given_stays_with_and_without_conditions():
    given = torch.tensor([[True, False], [False, False]])
    conditions = Conditions(class_label=torch.tensor([0, 1]), given=given)
    for changed in (conditions.drop(), conditions.drop(torch.tensor([True, False])), conditions.slice(0, 2)):
        assert torch.equal(changed.given, given)
    assert torch.equal(conditions.doubled().given, torch.cat([given, given]))
    assert torch.equal(conditions.take(torch.tensor([1])).given, given[1:])


def test_repeated_steps_start_from_new_noise_also_of_what_is_given():
    path, known = Linear(), torch.full((4, 2, 1), 0.7, dtype=torch.float64)
    generator = torch.Generator().manual_seed(5)
    draw = lambda _=0: torch.randn(4, 2, 1, generator=generator, dtype=torch.float64)  # noqa: E731
    given = over_tokens(torch.tensor([[True, False]]).expand(4, 2), known)
    seen = []

    def velocity(x, t):
        seen.append((x[:, 0, 0] - t * 0.7) / (1 - t))
        return -x

    x = draw()
    resampled(
        Held(velocity, known, given, path, x),
        x,
        path=path,
        times=3,
        steps=2,
        grid="uniform",
        noise=draw,
        solver="euler",
    )
    assert len(seen) == 6 and torch.allclose(seen[0], x[:, 0, 0])
    assert not any(torch.allclose(a, b, atol=1e-3) for a, b in pairwise(seen[:3]))


# A Gaussian of two tokens with correlation RHO: the velocity is linear, and so is the conditional of one token.
RHO = 0.8
COVARIANCE = torch.tensor([[1.0, RHO], [RHO, 1.0]], dtype=torch.float64)


def gaussian_velocity(path):
    """x (B, 2, 1) -> the exact velocity to N(0, COVARIANCE)."""

    def velocity(x, t):
        at = t[:1]
        alpha, sigma, da, ds = path.alpha(at), path.sigma(at), path.d_alpha(at), path.d_sigma(at)
        total = alpha**2 * COVARIANCE + sigma**2 * torch.eye(2, dtype=torch.float64)
        matrix = (alpha * da * COVARIANCE + sigma * ds * torch.eye(2, dtype=torch.float64)) @ torch.linalg.inv(total)
        return (x[..., 0] @ matrix.T)[..., None]

    return velocity


@pytest.mark.parametrize("path", [Linear(), Cosine()])
def test_completion_without_training_is_the_conditional_of_a_gaussian(path):
    count, value = 4000, 1.5
    generator = torch.Generator().manual_seed(2)
    noise = lambda _=0: torch.randn(count, 2, 1, generator=generator, dtype=torch.float64)  # noqa: E731
    x = noise()
    known = torch.full((count, 2, 1), value, dtype=torch.float64)
    given = over_tokens(torch.tensor([[True, False]]).expand(count, 2), x)
    held = Held(gaussian_velocity(path), known, given, path, x)
    how = {"path": path, "steps": 8, "grid": "uniform", "solver": "rk4"}
    made = resampled(held, x, times=30, noise=noise, **how).x[:, 1, 0]
    assert made.mean() == pytest.approx(RHO * value, abs=0.06)
    assert made.var() == pytest.approx(1 - RHO**2, abs=0.06)
    once = resampled(held, x, times=1, noise=noise, **how).x
    assert once[:, 1, 0].mean() < RHO * value / 2  # why steps are repeated
    assert torch.allclose(once[:, 0, 0], known[:, 0, 0], atol=0.02)


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun", "rk4", "ab2", "dpm", "dopri5", "sde"])
def test_given_tokens_stay_and_the_network_sees_them_clean(solver):
    known = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(3))
    given = over_tokens(torch.tensor([[1, 0, 0, 1]]).bool().expand(3, 4), known)
    seen = []

    def velocity(x, t):
        seen.append(torch.equal(x[:, [0, 3]], known[:, [0, 3]]))
        return -x

    velocity.take = lambda rows: velocity
    held = Held(velocity, known, given)
    noise = lambda step: torch.randn(3, 4, 2)  # noqa: E731
    start = torch.where(given, known, torch.randn(3, 4, 2))
    x = integrate(held, start, solver=solver, steps=5, path=Linear(), noise=noise).x
    if solver != "sde":  # which shakes them too; the sampler puts them back in the end
        torch.testing.assert_close(x[:, [0, 3]], known[:, [0, 3]], atol=1e-5, rtol=1e-5)
    assert seen and (all(seen) or solver == "dopri5")


# A model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """ "trained" to complete, and "plain"; both on 96 drawings of three classes with pen strokes."""
    folder = tmp_path_factory.mktemp("given")
    rng = np.random.default_rng(0)
    centers = np.stack([as_row(chain(2, 1, 2, seed=seed), 7) for seed in range(3)])
    labels = np.arange(96) % 3
    x = centers[labels]
    x[..., :8] += np.where(exists(x)[..., None], 0.05 * rng.standard_normal((96, 7, 8)), 0).astype(np.float32)
    data = Dataset("sketch", flowkit.sketch.strokes.tidy(x), labels, class_names=("a", "b", "c"))
    data.save(folder / "rows")
    for name, given in (("trained", 0.6), ("plain", 0.0)):
        flowkit.train({
            "run": {"name": name, "dir": str(folder), "device": "cpu"},
            "data": {"source": str(folder / "rows.safetensors"), "val_fraction": 0.1},
            "model": {"arch": "bezier_sketch_dit", "embed_dim": 32, "num_layers": 2, "num_heads": 4},
            "flow": {"given": given, "cond_drop": 0.2}, "optim": {"lr": 5e-3}, "ema": {"decay": 0.9},
            "train": {"steps": 150, "batch_size": 32, "val_every": "never"},
            "sample": {"every": "never", "solver": "midpoint", "steps": 4},
        })  # fmt: skip
    return folder, data


def open_(models, name):
    return flowkit.load(models[0] / name, device="cpu")


@pytest.mark.parametrize("name", ["trained", "plain"])
@pytest.mark.parametrize("tokens", [[1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0, 0]])
def test_given_strokes_come_back_equal_and_joined(models, name, tokens):
    model, row, tokens = open_(models, name), models[1].x[0], np.array(tokens, bool)
    made = model.sample(5, class_label="a", given=Given(row, tokens), seed=1)
    for sample in made.x:
        at = [int(np.flatnonzero((sample[:, :8] == cubic).all(1))[0]) for cubic in row[tokens][:, :8]]
        assert at == sorted(at) and exists(sample)[at].all()
        joined = continues(sample)
        np.testing.assert_array_equal(sample[1:, :2][joined[1:]], sample[:-1, 6:8][joined[1:]])
    assert made.info["given"] == np.flatnonzero(tokens).tolist()
    assert ("resample" in made.info) == (name == "plain")
    assert len({sample.tobytes() for sample in made.x}) == 5
    one = model.sample(5, class_label="a", given=Given(row, tokens), seed=1, batch_size=2)
    np.testing.assert_allclose(one.x, made.x, atol=1e-5)


def test_a_trained_model_uses_what_is_given(models):
    """The beginning of a drawing of class a, of b or of c: without a label, the rest is that of the same class."""
    model, data = open_(models, "trained"), models[1]
    tokens = np.array([1, 1, 1, 0, 0, 0, 0], bool)
    centers = [data.x[data.class_label == label].mean(0)[3:5, :8] for label in range(3)]
    for label in range(3):
        rest = model.sample(8, class_label="null", given=Given(data.x[label], tokens)).x[:, 3:5, :8]
        distances = [np.abs(rest - center).mean() for center in centers]
        assert int(np.argmin(distances)) == label


def test_guidance_and_dropped_labels_keep_what_is_given(models):
    model, row = open_(models, "trained"), models[1].x[0]
    tokens = np.array([1, 1, 0, 0, 0, 0, 0], bool)
    for settings in ({"guidance_scale": 3.0}, {"guidance_scale": 0.0}, {"guidance": "cfg_zero", "guidance_scale": 2.0}):
        made = model.sample(3, class_label="a", given=Given(row, tokens), **settings)
        np.testing.assert_array_equal(made.x[:, :2, :8], np.broadcast_to(row[:2, :8], (3, 2, 8)))


def test_what_cannot_be_completed_is_refused(models):
    model, row = open_(models, "plain"), models[1].x[0]
    tokens = np.zeros(7, bool)
    with pytest.raises(UserError, match=r"given: rows have shape \(6, 10\)"):
        model.sample(2, given=Given(row[:6], tokens[:6]))
    with pytest.raises(UserError, match="requires a solver with fixed steps"):
        model.sample(2, given=Given(row, tokens), solver="dopri5")
    with pytest.raises(UserError, match="resample: 0; expected at least 1"):
        model.sample(2, given=Given(row, tokens), resample=0)
    assert open_(models, "trained").sample(2, given=Given(row, tokens), resample=3).info["resample"] == 3


# Files and the command


def begun(folder, strokes, box="0 0 24 24", name="begun.svg"):
    """An SVG of pen strokes in canvas units, written into another coordinate system."""
    paths = "".join(f'<path d="{path_data(stroke * 12 + 12, 5)}"/>' for stroke in strokes)
    text = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}"><g fill="none" stroke="black">{paths}</g></svg>'
    (folder / name).write_text(text)
    return folder / name


def run(*words):
    return CliRunner().invoke(app, ["sample", *map(str, words), "--device", "cpu", "--no-preview"])


@pytest.mark.parametrize("name", ["trained", "plain"])
def test_a_begun_file_comes_back_in_its_own_units(models, tmp_path, name):
    file = begun(tmp_path, [stroke * 0.97313 for stroke in chain(2, 1)])  # numbers of many digits
    done = run(models[0] / name, "--complete", file, "-n", 3, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    wanted = re.findall(r'd="([^"]+)"', file.read_text())
    for number in range(3):
        text = (tmp_path / "out" / f"{number:03d}-{number}.svg").read_text()
        assert 'viewBox="0 0 24 24"' in text
        found = re.findall(r'd="([^"]+)"', text)
        numbers = lambda d: np.array(re.findall(r"-?[\d.]+", d), float)  # noqa: E731
        assert len(found) >= len(wanted) == 2
        for path, other in zip(wanted, found, strict=False):  # the last given stroke may be continued
            np.testing.assert_allclose(
                numbers(other)[: len(numbers(path))], numbers(path), atol=6e-5
            )  # four decimals of 24
    assert (tmp_path / "out" / "sheet.png").is_file()


def test_varied_and_interpolated_files(models, tmp_path):
    a, b = (begun(tmp_path, chain(2, 1, 2, seed=seed), name=f"{seed}.svg") for seed in (0, 1))
    done = run(
        models[0] / "plain", "--between", a, b, "--frames", 4, "--class-label", "a", "--out", tmp_path / "between"
    )
    assert done.exit_code == 0, done.output
    assert {"between.png", "between.gif", "003-a.svg"} <= {path.name for path in (tmp_path / "between").iterdir()}
    done = run(
        models[0] / "plain",
        "--vary",
        f"{models[0] / 'rows.safetensors'}#5",
        "--strength",
        0,
        "-n",
        2,
        "--out",
        tmp_path / "v",
    )
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(read_dataset(tmp_path / "v" / "samples.safetensors").x[1], models[1].x[5], atol=1e-6)


WRONG = {
    "has 8 cubics, but this model draws at most 7": lambda folder: begun(folder, chain(8)),
    "has ink outside its canvas": lambda folder: begun(folder, chain(2), "0 0 12 12"),
    "has no strokes": lambda folder: begun(folder, []),
    "is not valid XML": lambda folder: (folder / "x.svg").write_text("hm") and folder / "x.svg",
    "cannot be read": lambda folder: folder / "nowhere.svg",
}


@pytest.mark.parametrize("message", WRONG)
def test_a_file_that_cannot_be_completed_is_refused(models, tmp_path, message):
    done = run(models[0] / "trained", "--complete", WRONG[message](tmp_path), "--out", tmp_path / "out")
    assert isinstance(done.exception, UserError) and message in str(done.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words, message", [
    (["--complete", "a.svg", "--vary", "b.svg"], "mutually exclusive"),
    (["--strength", "0.5"], "only used with --vary"),
    (["--frames", "5"], "only used with --between"),
    (["--resample", "5"], "only used with --complete"),
    (["--vary", "a.svg", "--pairs"], "mutually exclusive"),
])  # fmt: skip
def test_options_that_do_not_fit_each_other(models, words, message):
    done = run(models[0] / "plain", *words)
    assert isinstance(done.exception, UserError) and message in str(done.exception)


def test_a_strength_outside_its_range_is_refused(models):
    for strength in (-0.1, 1.5):
        with pytest.raises(UserError, match="expected a number from 0"):
            open_(models, "plain").vary(models[1].x[0], 2, strength=strength)


def test_a_model_of_loose_cubics_completes_and_says_how(models, tmp_path):
    x = generate_doodles(40, 0).x
    data = Dataset("sketch", x[:, :7].copy())
    flowkit.train({
        "run": {"name": "loose", "dir": str(tmp_path), "device": "cpu"},
        "model": {"arch": "bezier_sketch_dit", "embed_dim": 16, "num_layers": 1, "num_heads": 2},
        "train": {"steps": 2, "batch_size": 16, "val_every": "never"}, "sample": {"every": "never", "steps": 2},
    }, data=data)  # fmt: skip
    done = run(tmp_path / "loose", "--complete", begun(tmp_path, chain(2)), "-n", 2, "--out", tmp_path / "out")
    assert done.exit_code == 0 and "are given as 2 cubics" in done.output, done.output


# Variation and interpolation


def test_a_variation_is_nearer_the_weaker_it_is(models):
    model, row = open_(models, "plain"), models[1].x[0]
    rows = np.broadcast_to(row, (8, *row.shape))
    distances = []
    for strength in (0.0, 0.3, 1.0):
        made = model.sample(8, class_label="a", start=Start(rows=rows, strength=strength))
        distances.append(np.abs(made.x[..., :8] - row[:, :8]).mean())
        assert made.info["strength"] == strength
    assert distances[0] < 1e-5 < distances[1] < distances[2]
    fresh = model.sample(8, class_label="a")
    np.testing.assert_allclose(
        model.sample(8, class_label="a", start=Start(rows=rows, strength=1.0)).x, fresh.x, atol=1e-5
    )


@pytest.mark.parametrize("path", ["icfm", "schrodinger_bridge", "spherical", "vp"])
def test_variation_on_every_path_and_completion_of_what_has_no_parts(tmp_path, path):
    model = flowkit.train({
        "run": {"name": "points", "dir": str(tmp_path), "device": "cpu"}, "data": {"source": "moons", "num_samples": 200},
        "model": {"arch": "selu_mlp", "hidden_dim": 8, "num_layers": 1}, "flow": {"path": path},
        "train": {"steps": 2, "batch_size": 32, "val_every": "never"}, "sample": {"every": "never", "steps": 4},
    })  # fmt: skip
    row = np.array([0.5, 0.2], np.float32)
    same, other = (model.vary(row, 6, strength=strength).x for strength in (0.0, 0.5))
    np.testing.assert_allclose(same, np.tile(row, (6, 1)), atol=1e-5)
    assert np.isfinite(other).all() and len(np.unique(other, axis=0)) == 6
    with pytest.raises(UserError, match="points cannot be completed"):
        model.complete(row)


def test_noise_of_rows_leads_back_to_them(models):
    model, rows = open_(models, "plain"), models[1].x[:4]
    how = {"solver": "rk4", "steps": 40}
    noise = model.invert(rows, model.settings(**how), class_label=[0, 1, 2, 0])
    back = model.sample(4, class_label=np.array([0, 1, 2, 0]), start=Start(noise=noise), **how)
    np.testing.assert_allclose(back.x, rows, atol=2e-3)


def test_interpolated_noise_keeps_its_norm():
    a, b = torch.randn(2, 500, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    ways = slerp(a, b, torch.linspace(0, 1, 9, dtype=torch.float64))
    torch.testing.assert_close(ways[0], a)
    torch.testing.assert_close(ways[-1], b)
    norms = ways.norm(dim=1)
    torch.testing.assert_close(norms, torch.lerp(norms[0], norms[-1], torch.linspace(0, 1, 9, dtype=torch.float64)))
    same = slerp(a, a, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    torch.testing.assert_close(same, a.expand(3, -1))


def test_completion_is_refused_where_it_cannot_be_trained(tmp_path):
    with pytest.raises(UserError, match=r"flow.given: .*use \"flow_matching\""):
        flowkit.train({"run": {"name": "x"}, "data": {"source": "pen_doodles"}, "model": {"arch": "bezier_sketch_dit"},
                       "flow": {"given": 0.5, "objective": "mean_flow"}, "train": {"steps": 1}})  # fmt: skip
    with pytest.raises(UserError, match="points rows have no parts"):
        flowkit.train({"data": {"source": "moons", "num_samples": 300}, "model": {"arch": "mlp"}, "flow": {"given": 0.5},
                       "train": {"steps": 1}, "run": {"name": "x", "dir": str(tmp_path)}})  # fmt: skip
