"""Several averages of a run's weights: by their recursion, saved, measured, sampled from and resumed bit for bit."""

import json
import re
import shutil
from io import StringIO

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from timm.utils import ModelEmaV3
from torch import nn

import flowkit
from flowkit.checkpoint import decay_in_effect, find_checkpoint, list_checkpoints
from flowkit.ema.averages import make_averages, move_unless
from flowkit.ema.power import power_gamma
from flowkit.errors import UserError
from flowkit.events import Validated
from flowkit.inspect import inspect
from flowkit.recipe import recipe_from_dict
from flowkit.recipe.ema import Ema
from flowkit.ui.inspect_view import show
from flowkit.ui.quantities import value

FILES = {"0.5": "ema", "0.99": "ema-0.99", "power-0.1": "ema-power-0.1"}


@pytest.fixture
def recipe(tmp_path):
    return {
        "run": {"name": "several", "dir": str(tmp_path / "runs")},
        "data": {"val_fraction": 0.25},
        "model": {"arch": "custom"},
        "optim": {"lr": 1e-2},
        "ema": {"decay": [0.5, 0.99], "power": [0.1], "snapshot_every": 4},
        "train": {"steps": 12, "batch_size": 8, "log_every": 4, "val_every": 4, "save_every": 4},
        "sample": {"every": "never", "steps": 2},
    }


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x, t):
        return self.layer(torch.cat((x, t[:, None]), dim=1))


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((64, 2)).astype(np.float32)


def files_of(run, step):
    folder = run / "checkpoints" / f"step-{step:08d}"
    return {label: load_file(folder / f"{name}.safetensors") for label, name in FILES.items()}


def test_averages_follow_their_recursions(recipe):
    """Against the definition in float64: decay (n - 1) / (n + 9) after n - 1 earlier steps, (1 - 1/n)^(gamma + 1)."""
    torch.manual_seed(0)
    model = Line()
    averages = make_averages(model, recipe_from_dict({**recipe, "data": {"source": "doodles"}}))
    wanted = dict.fromkeys(FILES, model.layer.weight.detach().double())
    for step in range(1, 40):
        with torch.no_grad():
            model.layer.weight.add_(torch.randn(2, 3))
            model.calls += 1
        averages.update(step, torch.tensor(0.0))
        warm = (step - 1) / (step + 9)
        decays = {"0.5": 0.5 * warm, "0.99": 0.99 * warm, "power-0.1": (1 - 1 / step) ** (power_gamma(0.1) + 1)}
        for label, decay in decays.items():
            wanted[label] = decay * wanted[label] + (1 - decay) * model.layer.weight.detach().double()
    for label, average in averages.by_label.items():
        torch.testing.assert_close(average.module.layer.weight.double(), wanted[label], rtol=1e-4, atol=1e-5)
        assert average.module.calls == 39 and not average.module.layer.weight.requires_grad
    assert averages.module is averages.by_label["0.5"].module and averages.get_decay(39) == 0.5 * 38 / 48
    before = {label: average.module.layer.weight.clone() for label, average in averages.by_label.items()}
    averages.update(40, torch.tensor(1.0))  # a skipped update
    assert all(torch.equal(before[label], average.module.layer.weight) for label, average in averages.by_label.items())


def test_the_kernel_of_the_gpu_moves_as_lerp_does_and_skips_on_the_device():
    generator = torch.Generator().manual_seed(0)
    draw = lambda: [torch.randn(shape, generator=generator) for shape in ((3, 5), (7,), (1,))]  # noqa: E731
    averaged, current = draw(), draw()
    before, kept = [a.clone() for a in averaged], [c.clone() for c in current]
    move_unless(torch.tensor(1.0), averaged, current, 0.3)
    assert all(map(torch.equal, averaged, before))
    for weight in (0.3, 1e-4, 1.0):
        wanted = [torch.lerp(a.double(), c.double(), weight) for a, c in zip(averaged, current, strict=True)]
        move_unless(torch.tensor(0.0), averaged, current, weight)
        for found, exact in zip(averaged, wanted, strict=True):
            torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-7)
    assert all(map(torch.equal, current, kept))  # these are the weights that train


def profile(decays):
    """How much the weights after each update count in the average at the end (N,), from the decays of the updates."""
    later = np.append(np.cumprod(decays[::-1])[::-1][1:], 1.0)
    return (1 - decays) * later


@pytest.mark.parametrize("updates", [50, 300, 1500, 5000, 40_000])
def test_two_decays_give_two_averages(updates):
    """In a run of any length. The age of what is averaged is near the number of updates announced, and is a tenth at most."""
    ages = []
    for decay in (0.9, 0.999, 0.9999):
        decays = np.array([decay_in_effect(Ema().model_dump(), decay, n) for n in range(1, updates + 1)])
        weights = profile(decays)
        assert weights.sum() == pytest.approx(1, abs=1e-9) and decays[0] == 0 and (np.diff(decays) > 0).all()
        announced = 1 / (1 - decays[-1])  # what the live view and `inspect` call the last N updates
        age = weights @ (updates - np.arange(1, updates + 1)) + 1
        assert 0.8 * announced < age <= announced + 1e-9 < 0.1 * updates + 2
        assert announced == pytest.approx(1 / (1 - decay + decay / (1 + 0.1 * (updates - 1))))
        ages.append(age)
    assert ages[0] < ages[1] < ages[2]
    if updates == 1500:
        assert 1.1 * ages[1] < ages[2]  # neither reaches .9999 here


def test_settings_of_the_warm_up():
    at = lambda decay, n, **settings: decay_in_effect(Ema(**settings).model_dump(), decay, n)  # noqa: E731
    assert [at(0.9, n, warmup=False) for n in (1, 2, 100)] == [0.0, 0.9, 0.9]
    assert at(0.999, 1000, warmup_share=0.5) == pytest.approx(0.999 * 999 / 1001)
    assert at(0.999, 10**7) == pytest.approx(0.999, abs=1e-5)
    timm = ModelEmaV3(nn.Linear(1, 1), decay=0.999, use_warmup=True)  # and k-diffusion, and flowkit's first version
    for n in (1, 2, 10, 1000, 40_000):
        assert at(0.999, n, warmup_power=2 / 3) == pytest.approx(timm.get_decay(n), abs=1e-12)


def test_every_average_is_saved_validated_and_sampled(recipe, x, recorder):
    torch.manual_seed(0)
    loaded = flowkit.train(recipe, model=Line(), data=x, listeners=lambda: [recorder])
    run = loaded.files.run_dir
    found = files_of(run, 12)
    weights = {label: tensors["layer.weight"] for label, tensors in found.items()}
    assert len({tuple(tensor.flatten().tolist()) for tensor in weights.values()}) == 3
    for label, tensors in found.items():
        one = flowkit.load(run, weights=f"ema:{label}", model=Line())
        assert torch.equal(one.model.layer.weight, tensors["layer.weight"])
        assert one.weights == ("ema" if label == "0.5" else f"ema:{label}")
    assert torch.equal(loaded.model.layer.weight, weights["0.5"])  # unless asked otherwise, the first
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "val_loss" in line][-1]
    losses = [last["val_loss"], last["val_ema_0.99_loss"], last["val_ema_power-0.1_loss"]]
    assert len(set(losses)) == 3 and recorder.of(Validated)[-1].ema_losses == {
        "0.99": losses[1],
        "power-0.1": losses[2],
    }
    report = inspect(run)
    assert {f"{name}.safetensors" for name in FILES.values()} <= report["files"].keys() and not report["remarks"]
    assert report["run"]["snapshots"] == ["step-00000004", "step-00000008", "step-00000012"]
    assert report["model"]["validation"]["ema_losses"].keys() == {"0.99", "power-0.1"}
    written = StringIO()
    show(report, Console(width=100, file=written, highlight=False))
    shown = written.getvalue()
    assert (
        "averages last 1 update and last 2 updates" in shown
    )  # decays of 0.5 and 0.99 times 11 / 21, after 12 updates
    averages = next(line for line in shown.splitlines() if line.startswith("averages"))
    assert averages.split()[1:] == [
        "0.5",
        value(losses[0]),
        "·",
        "0.99",
        value(losses[1]),
        "·",
        "power-0.1",
        value(losses[2]),
    ]
    assert re.search(r"^snapshots +3  step 4 to 12$", shown, re.MULTILINE)
    for which, said in (
        ("best", "expected 'ema' or 'raw', or 'ema:' and one of 0.5"),
        ("ema:0.95", "no average '0.95'"),
    ):
        with pytest.raises(UserError, match=said):
            flowkit.load(run, weights=which, model=Line())


def test_resume_is_bit_exact_for_every_average(recipe, x):
    def run(name, **settings):
        torch.manual_seed(0)
        flowkit.train(recipe | {"run": {**recipe["run"], "name": name}}, model=Line(), data=x, **settings)
        return find_checkpoint(f"{recipe['run']['dir']}/{name}").run_dir

    whole, cut = run("whole"), run("cut")
    for step in (8, 12):
        shutil.rmtree(cut / "checkpoints" / f"step-{step:08d}")
    (cut / "checkpoints" / "latest").unlink()
    (cut / "ema" / "step-00000009").mkdir()  # of a future that does not come
    run("cut", resume=True)
    for label, tensors in files_of(whole, 12).items():
        again = files_of(cut, 12)[label]
        assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items()), label
    snapshot = "ema/step-00000012/power-0.1.safetensors"
    assert (cut / snapshot).read_bytes() == (whole / snapshot).read_bytes()
    assert sorted(path.name for path in (cut / "ema").iterdir()) == [f"step-{step:08d}" for step in (4, 8, 12)]

    with pytest.raises(UserError, match=r"ema.decay: \[0.5, 0.99\] -> 0.95"):
        run_changed(recipe, x, "cut", {"decay": 0.95})
    run_changed(recipe, x, "cut", {"decay": 0.99}, allow_changes=True)  # by its decay, not by its place
    for path in list_checkpoints(cut)[:-1]:
        shutil.rmtree(path)
    (cut / "checkpoints/latest/ema.safetensors").unlink()
    with pytest.raises(UserError, match=r"ema.safetensors: no such file"):
        run_changed(recipe, x, "cut", {"decay": 0.99, "power": [0.1]}, allow_changes=True, steps=20)


def run_changed(recipe, x, name, ema, *, allow_changes=False, steps=16):
    changed = recipe | {"run": {**recipe["run"], "name": name}, "ema": recipe["ema"] | ema}
    changed["train"] = {**recipe["train"], "steps": steps}
    return flowkit.train(changed, model=Line(), data=x, resume=True, allow_changes=allow_changes)


@pytest.mark.parametrize(
    ("ema", "said"),
    [({"decay": [0.9, 0.0]}, r"ema.decay: expected a number >= 0 and < 1, or a list of such numbers above 0, found \[0.9"),
     ({"decay": []}, "ema.decay: expected"), ({"decay": [0.9, 0.9]}, "ema.decay: lists 0.9 twice"),
     ({"power": [0.3]}, r"ema.power: expected a list of numbers > 0 and <= 0.2886, found \[0.3\]"),
     ({"power": 0.1}, r"ema.power: expected a list of .* found 0.1")],
)  # fmt: skip
def test_invalid_settings_are_reported(recipe, ema, said):
    with pytest.raises(UserError, match=said):
        recipe_from_dict({**recipe, "ema": ema})


def test_no_average_and_power_functions_alone(recipe, x):
    loaded = flowkit.train(recipe | {"ema": {"decay": 0.0}}, model=Line(), data=x)
    assert loaded.weights == "raw" and not list(loaded.files.directory.glob("ema*"))
    alone = recipe | {"ema": {"decay": 0.0, "power": [0.1]}, "run": {**recipe["run"], "name": "alone"}}
    loaded = flowkit.train(alone, model=Line(), data=x)
    assert loaded.weights == "ema" and loaded.files.averages().keys() == {"power-0.1"}
