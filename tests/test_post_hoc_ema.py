"""Power-function averages against quadrature, and an average made of snapshots against one tracked by the run itself."""

import shutil

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy.integrate import quad
from typer.testing import CliRunner

import flowkit
from flowkit.checkpoint import saving
from flowkit.cli import app
from flowkit.ema.post_hoc import reconstruct_ema
from flowkit.ema.power import WIDEST, Profile, inner_products, power_gamma, solve
from flowkit.errors import UserError


def profile(gamma, end):
    return lambda step: (gamma + 1) * (step / end) ** gamma / end


@pytest.mark.parametrize("sigma_rel", [0.01, 0.05, 0.13, 0.2, 0.2886])
def test_sigma_rel_is_the_standard_deviation_of_the_profile(sigma_rel):
    gamma = power_gamma(sigma_rel)
    density = profile(gamma, 7.0)
    moments = [quad(lambda step, k=k: step**k * density(step), 0, 7, points=[6, 6.9])[0] for k in range(3)]
    assert moments[0] == pytest.approx(1)
    assert np.sqrt(moments[2] - moments[1] ** 2) / 7 == pytest.approx(sigma_rel, rel=1e-6)
    assert (gamma + 1) ** 0.5 / (gamma + 2) / (gamma + 3) ** 0.5 == pytest.approx(sigma_rel, rel=1e-9)


def test_the_paper_s_own_pairs():
    """arXiv 2312.02696, section 3.1: sigma_rel of 0.05 and 0.10 are gamma of 16.97 and 6.94."""
    assert (round(power_gamma(0.05), 2), round(power_gamma(0.10), 2)) == (16.97, 6.94)
    assert power_gamma(WIDEST) == pytest.approx(0, abs=1e-12)
    for width in (0.0, -1.0, 0.3, float("nan")):
        with pytest.raises(UserError, match="sigma_rel"):
            power_gamma(width)


def test_inner_products_against_quadrature():
    a, b = [Profile(0.05, 40), Profile(0.1, 100), Profile(0.25, 70)], [Profile(0.13, 100), Profile(0.05, 55)]
    found = inner_products(a, b)
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            p, q = (profile(power_gamma(each.sigma_rel), each.step) for each in (one, other))
            wanted, _ = quad(lambda step: p(step) * q(step), 0, min(one.step, other.step), epsabs=1e-13)  # noqa: B023
            assert found[i, j] == pytest.approx(wanted, rel=1e-8)


def test_coefficients_are_the_nearest_that_add_up_to_one():
    snapshots = [Profile(width, step) for step in range(10, 101, 10) for width in (0.05, 0.1)]
    coefficients, error = solve(snapshots, Profile(0.07, 100))
    assert coefficients.sum() == pytest.approx(1, abs=1e-10) and error < 0.01
    grid = (np.arange(200_000) + 0.5) / 2000
    made = sum(c * np.where(grid < p.step, profile(power_gamma(p.sigma_rel), p.step)(grid), 0)
               for c, p in zip(coefficients, snapshots, strict=True))  # fmt: skip
    wanted = profile(power_gamma(0.07), 100)(grid)
    assert np.sqrt(((made - wanted) ** 2).sum() / (wanted**2).sum()) == pytest.approx(error, rel=1e-3)
    for i in range(1, len(coefficients)):  # no step that keeps the sum comes nearer
        nudge = np.zeros(len(coefficients))
        nudge[0], nudge[i] = 1e-3, -1e-3
        for moved in (coefficients + nudge, coefficients - nudge):
            assert _missed(moved, snapshots, Profile(0.07, 100)) >= error - 1e-9
    exact, error = solve(snapshots, Profile(0.1, 100))
    assert error < 1e-6 and exact[-1] == pytest.approx(1, abs=1e-5)
    assert solve(snapshots, Profile(0.004, 100))[1] > 0.1


def _missed(coefficients, snapshots, wanted):
    towards = inner_products(snapshots, [wanted])[:, 0]
    length = inner_products([wanted], [wanted])[0, 0]
    inner = inner_products(snapshots, snapshots)
    return np.sqrt(max(0, length - 2 * coefficients @ towards + coefficients @ inner @ coefficients) / length)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Widths 0.05 and 0.1 for the snapshots; 0.13 only tracked, to be the baseline."""
    folder = tmp_path_factory.mktemp("post-hoc")
    recipe = {
        "run": {"name": "run", "dir": str(folder)},
        "data": {"val_fraction": 0.0},
        "model": {"arch": "custom"},
        "optim": {"lr": 1e-2, "warmup": 0},
        "ema": {"decay": 0.9, "power": [0.05, 0.1, 0.13], "snapshot_every": 5, "snapshot_dtype": "fp32"},
        "train": {"steps": 160, "batch_size": 16, "log_every": 80, "val_every": "never", "save_every": "never"},
        "sample": {"every": "never", "steps": 2},
    }
    torch.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((64, 2)).astype(np.float32) + 3
    flowkit.train(recipe, model=network(), data=x)
    for path in (folder / "run" / "ema").glob("step-*/power-0.13.safetensors"):
        path.unlink()
        listed = path.with_name("snapshot.json")
        listed.write_text(listed.read_text().replace(',\n    "power-0.13"', ""))
    return folder / "run"


def network():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.SiLU(), torch.nn.Linear(16, 2))

        def forward(self, x, t):
            return self.layers(torch.cat((x, t[:, None]), dim=1))

    return Net()


def distance(a, b):
    return sum((a[name].double() - b[name].double()).square().sum() for name in b).sqrt().item()


def test_reconstructed_average_matches_a_tracked_one(run, tmp_path):
    """Within 2 % of how far that average is from the nearest of those that it is made of."""
    made = reconstruct_ema(run, 0.13, out=tmp_path / "wide.safetensors")
    assert (made.step, made.snapshots) == (160, 64) and made.error < 0.02
    checkpoint = run / "checkpoints" / "latest"
    tracked, near, found = (load_file(path) for path in (
        checkpoint / "ema-power-0.13.safetensors", checkpoint / "ema-power-0.1.safetensors", made.path))  # fmt: skip
    assert distance(found, tracked) < 0.02 * distance(near, tracked)
    earlier = reconstruct_ema(run, 0.13, step=80, out=tmp_path / "earlier.safetensors")
    assert earlier.snapshots == 32 and distance(load_file(earlier.path), found) > distance(near, tracked)


def test_the_command_writes_what_sampling_takes(run):
    done = CliRunner().invoke(app, ["ema", str(run), "--sigma-rel", "0.08"])
    assert done.exit_code == 0, done.output
    path = run / "ema" / "sigma-rel-0.08-step-00000160.safetensors"
    assert "sigma_rel 0.08 at step 160, from 64 snapshots" in done.output
    model = flowkit.load(path, model=network())
    assert model.info["step"] == 160 and model.info["ema"]["sigma_rel"] == 0.08
    assert model.sample(3).x.shape == (3, 2)


def test_impossible_averages_are_reported(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, symlinks=True)
    for arguments, said in (
        ({"sigma_rel": 0.5}, "0.5 is out of range"),
        ({"sigma_rel": 0.002}, r"0.002 at step 160 cannot be reconstructed .* of widths 0.05, 0.1"),
        ({"sigma_rel": 0.1, "step": 42}, r"no snapshot of step 42; it has 5, 10"),
        ({"sigma_rel": 0.1, "out": tmp_path / "a.pt"}, r"ending in .safetensors"),
    ):
        with pytest.raises(UserError, match=said):
            reconstruct_ema(copy, **arguments)
    damaged = copy / "ema" / "step-00000080" / "power-0.1.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"step-00000080/power-0.1.safetensors"):
        reconstruct_ema(copy, 0.1)
    damaged.unlink()
    with pytest.raises(UserError, match=r"step-00000080/power-0.1.safetensors: no such file"):
        reconstruct_ema(copy, 0.1)
    shutil.rmtree(copy / "ema")
    with pytest.raises(UserError, match=r"has no snapshots .* ema.power"):
        reconstruct_ema(copy, 0.1)
    assert not list(copy.glob("**/sigma-rel*"))


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_snapshot_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch, fails_at):
    def save(value):
        tensors = {"w": torch.full((3,), value)}
        return saving.save_snapshot(tmp_path, 7, {"power-0.05": tensors, "power-0.1": tensors}, ["w"], "fp32")

    def held():
        return {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}

    written, original = [], saving.save_file
    path = save(1.0)
    files = held()
    assert save(2.0) == path and held() == files and bool((load_file(path / "power-0.1.safetensors")["w"] == 2).all())

    def failing(tensors, path):
        written.append(path)
        if len(written) == fails_at:
            path.write_bytes(b"half")
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        original(tensors, path)

    monkeypatch.setattr(saving, "save_file", failing)
    with pytest.raises(UserError, match=r"step-00000007: the snapshot cannot be written \(.*No space.*untouched"):
        save(3.0)
    assert held() == files and bool((load_file(path / "power-0.05.safetensors")["w"] == 2).all())
