"""Every choice of [flow], of [data.augment], of [ema] and of how samples are drawn trains from a recipe, and is heeded.

The choices are read off the recipe's own types: one that is added there without a case here is a failure. Each case is
two trainings of one seed, with the choice and without it: what the choice concerns must differ, and nothing else. Choices that
look at the data or ask the network for more than its output are tried on each domain, the others on rows of two axes.
"""

from __future__ import annotations

import dataclasses
import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import flowkit
from flowkit.components import names as component_names
from flowkit.components import section_of
from flowkit.data.dataset import Dataset, write_dataset
from flowkit.domain import check_arch, get_domain
from flowkit.errors import UserError
from flowkit.recipe.data import Augment
from flowkit.recipe.ema import Ema
from flowkit.recipe.flow import Flow, Loss
from flowkit.recipe.sample import Sample, SampleSettings
from flowkit.settings import sections_of

MODELS = {
    "sketch": {"arch": "bezier_sketch_dit", "embed_dim": 8, "num_layers": 1, "num_heads": 2},
    "text": {"arch": "dit", "hidden_dim": 8, "num_layers": 1, "num_heads": 2},
    "points": {"arch": "selu_mlp", "hidden_dim": 16, "num_layers": 2},
}
DOMAINS = tuple(MODELS)
KINDS = {"sketch": "sketch", "text": "embedding", "points": "points"}
OTHER_DATA = {"sketch": "doodles", "text": "{folder}/others.safetensors", "points": "moons"}


def choices() -> Iterator[str]:
    """`flow.path=vp`, its setting `flow.path=vp beta_min`, the plain key `flow.stratified`; words one by one."""
    plain = {key: field for key, field in Flow.model_fields.items() if key != "loss"}
    tables = {
        "flow": plain,
        "flow.loss": Loss.model_fields,
        "data.augment": Augment.model_fields,
        "ema": Ema.model_fields,
    }
    tables["sample"] = SampleSettings.model_fields
    for section, fields in tables.items():
        for key, field in fields.items():
            kinds = sections_of(field)
            for kind in kinds:
                tag = f"{section}.{key}={kind.tag()}"
                yield tag
                for name, setting in kind.model_fields.items():
                    if not setting.is_required():  # what is required stands with the tag
                        yield from words(f"{tag} {name}", setting)
            if not kinds:
                yield from words(f"{section}.{key}", field)


def words(name: str, field: Any) -> list[str]:
    literal = get_origin(field.annotation) is Literal
    return [f"{name}={word}" for word in get_args(field.annotation)] if literal else [name]


# What to set, where the choice's name does not say it; of several values each is a case.
VALUES: dict[str, tuple[str, ...]] = {
    "flow.objective=mean_flow ratio": ("0.75",),
    "flow.objective=mean_flow power": ("0.0",),
    "flow.objective=mean_flow omega": ("2.0",),
    "flow.objective=mean_flow omega_max": ("4.0",),
    "flow.objective=distillation": ('{name="distillation",teacher="{weaker run}"}',),
    "flow.objective=distillation counts": ("[2]",),
    "flow.objective=distillation between": ("0.9",),
    "flow.objective=distillation steps": ("1",),
    "flow.objective=distillation omega": ("2.0",),
    "flow.objective=distillation omega_max": ("4.0",),
    "flow.base": ("{other data}",),
    "flow.path=linear sigma_min": ("0.2",),
    "flow.path=vp beta_min": ("1.0",),
    "flow.path=vp beta_max": ("9.0",),
    "flow.path=icfm sigma": ("0.5",),
    "flow.path=schrodinger_bridge sigma": ("0.5",),
    "flow.coupling=ot block": ("8", "64"),
    "flow.coupling=sinkhorn block": ("8", "64"),
    "flow.coupling=sinkhorn epsilon": ("5.0",),
    "flow.coupling=sinkhorn regularization": ("9.0",),
    "flow.coupling=c2ot": ('{name="c2ot",block=64}',),
    "flow.coupling=c2ot block": ("8", "64"),
    "flow.coupling=c2ot weight": ("0.01",),
    "flow.coupling=c2ot ratio": ("0.9",),
    "flow.times=logit_normal mean": ("-0.8",),
    "flow.times=logit_normal std": ("0.5",),
    "flow.times=logit_normal uniform_share": ("0.5",),
    "flow.times=shifted shift": ("0.5",),
    "flow.stratified": ("true",),
    "flow.loss.weights=min_snr gamma": ("0.5",),
    "flow.loss.weights=bins": ('{name="bins",losses=[1,4]}',),
    "flow.loss.error=pseudo_huber c": ("1.0",),
    "flow.cond_drop": ("0.0", "{class=0.5,condition=0.1}"),
    "flow.given": ("0.5", "{prefix=0.5}"),
    "data.augment.rate": ("0.2",),
    "data.augment.rotation": ("20", "[10,30]"),
    "data.augment.scale": ("1.2", "[0.7,0.9]"),
    "data.augment.shift": ("0.1",),
    "data.augment.shear": ("0.2",),
    "data.augment.mirror": ("0.5",),
    "data.augment.reverse": ("0.3",),
    "data.augment.reorder": ("2.0",),
    "ema.decay": ("0.5", "[0.5,0.9]", "0.0"),
    "ema.warmup": ("false",),
    "ema.warmup_share": ("0.5",),
    "ema.warmup_power": ("0.9",),
    "ema.power": ("[0.05,0.1]",),
    "ema.snapshot_every": ("1",),
    "sample.compile": ("true",),
    "sample.solver=dopri5 rtol": ("0.1",),
    "sample.solver=dopri5 atol": ("0.1",),
    "sample.solver=dopri5 max_steps": ("1",),
    "sample.solver=sde scale": ("0.3",),
    "sample.steps": ("5",),
    "sample.grid=shifted shift": ("0.5",),
    "sample.grid=power exponent": ("0.5",),
    "sample.grid=custom": ('{name="custom",times=[0,0.2,1]}',),
    "sample.guidance=cfg_zero zero_init": ("0.5",),
    "sample.guidance=autoguidance": ('{name="autoguidance",ckpt="{weaker run}"}',),
    "sample.guidance_scale": ("3.0", "{class=3.0}"),
    "sample.guidance_interval": ("[0.2,0.8]",),
    "sample.guidance_rescale": ("0.7",),
}
# What stands in both runs, for the choice to have something to act on; the longest key that the choice begins with holds.
BESIDE = {
    "flow.objective=distillation ": ('flow.objective={name="distillation",teacher="{weaker run}"}',),
    "flow.coupling=c2ot block": ("flow.coupling.ratio=0.5",),
    "flow.coupling=c2ot distance": ("flow.coupling.block=64",),
    "data.augment.rate": ("data.augment.mirror=0.5",),
    "ema.warmup": ("ema.decay=0.9",),
    "ema.warmup_share": ("ema.decay=0.9",),
    "ema.warmup_power": ("ema.decay=0.9",),
    "ema.snapshot": ("ema.power=[0.1]",),
    "sample.solver=dopri5 rtol": ("sample.solver.atol=1e-6",),
    "sample.solver=dopri5 atol": ("sample.solver.rtol=1e-6",),
    "sample.solver=mean_flow": ("flow.objective=mean_flow", "sample.solver=midpoint"),
    "sample.guidance": ("sample.guidance_scale=3.0",),
    "sample.guidance_scale": (),
}
BY_DOMAIN = ("flow.base", "flow.coupling", "flow.objective", "flow.path", "flow.prediction", "sample.guidance",
             "sample.solver=mean_flow")  # fmt: skip
WITHOUT_EFFECT = {"sample.solver=dopri5 max_steps", "sample.compile"}  # other than giving up; other than rounding


@dataclasses.dataclass(frozen=True)
class Case:
    choice: str
    value: str  # of the key
    key: str

    @property
    def beside(self) -> list[str]:
        """Overrides of both runs. A setting stands beside the name that it belongs to."""
        tag, _, setting = self.choice.partition(" ")
        longest = max((key for key in BESIDE if self.choice.startswith(key)), key=len, default=None)
        return ([tag] if setting else []) + list(BESIDE[longest] if longest else ())

    @property
    def domains(self) -> tuple[str, ...]:
        return DOMAINS if self.choice.startswith(BY_DOMAIN) and " " not in self.choice else ("sketch",)


def cases() -> Iterator[Case]:
    for choice in choices():
        tag, _, setting = choice.partition(" ")
        key, _, word = (setting or tag).partition("=")
        key = f"{tag.partition('=')[0]}.{key}" if setting else key
        for value in VALUES.get(choice, (word,)):
            yield Case(choice, value, key)


CASES = list(cases())


def names(case: Case) -> str:
    return case.choice if case.choice.endswith(f"={case.value}") else f"{case.choice} {case.value[:20]}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    run_dir: Path
    weights: dict[str, Tensor]
    averages: dict[str, Tensor]  # of all files of averages, snapshots too
    samples: np.ndarray
    prediction: str  # with nothing left to "auto"

    @property
    def parts(self) -> dict[str, dict[str, Tensor]]:
        return {"weights": self.weights, "averages": self.averages, "samples": {"x": torch.from_numpy(self.samples)}}

    def differs(self, other: Outcome) -> set[str]:
        return {name for name, part in self.parts.items() if not same(part, other.parts[name])}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]) for name, tensor in ours.items()
    )


def tensors(*files: Path) -> dict[str, Tensor]:
    return {
        f"{path.parent.name}/{path.name}/{name}": tensor for path in files for name, tensor in load_file(path).items()
    }


class Workshop:
    """Trains, and remembers what it trained without the choices: most cases are compared with the same few runs."""

    def __init__(self, folder: Path):
        self.folder, self.made, self.count = folder, {}, 0
        rng = np.random.default_rng(0)
        sketches = get_domain("sketch").generate("doodles", 64, 0).x
        points = get_domain("points").generate("8gaussians-labelled", 64, 0).x
        vectors = rng.standard_normal((128, 12)).astype(np.float32) + 0.3
        write_dataset(
            folder / "others.safetensors", Dataset("embedding", vectors[64:], texts=[f"{i}." for i in range(64)])
        )
        self.data = {
            domain: Dataset(KINDS[domain], x, np.arange(64) % 2, rng.standard_normal((64, 3)).astype(np.float32), None,
                            ("one", "two"), texts=[f"Number {i}." for i in range(64)] if domain == "text" else None)
            for domain, x in (("sketch", sketches), ("text", vectors[:64]), ("points", points))
        }  # fmt: skip

    def plain(self, domain: str, *overrides: str, paired: bool = False) -> Outcome:
        asked = (domain, overrides, paired)
        if asked not in self.made:
            self.made[asked] = self.train(domain, *overrides, paired=paired)
        return self.made[asked]

    def train(self, domain: str, *overrides: str, paired: bool = False, data: Dataset | None = None) -> Outcome:
        data = data or (self.pairs(domain) if paired else self.data[domain])
        run_dir = self.folder / str(self.count)
        self.count += 1
        model = flowkit.train(
            {
                "run": {"name": run_dir.name, "dir": str(self.folder)},
                "data": {"val_fraction": 0.0, "num_samples": 64},
                "model": MODELS[domain],
                "optim": {"lr": 0.02, "warmup": 0},
                "train": {"steps": 3, "batch_size": 32, "log_every": 1, "val_every": "never", "save_every": "never"},
                "sample": {"every": "never", "steps": 3, "decode": False},
            },
            data=data,
            overrides=overrides,
        )
        lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").open()]
        losses = [line["loss"] for line in lines if "loss" in line]
        assert len(losses) == 3 and np.isfinite(losses).all()
        samples = model.sample(4, seed=1).x
        assert samples.shape == (4, *data.x.shape[1:]) and np.isfinite(samples).all()
        weights = tensors(*run_dir.glob("checkpoints/latest/model.safetensors"))
        averages = tensors(
            *sorted(run_dir.glob("checkpoints/latest/ema*.safetensors")), *sorted(run_dir.glob("ema/*/*.safetensors"))
        )
        return Outcome(run_dir, weights, averages, samples, model.objective.prediction)

    def pairs(self, domain: str) -> Dataset:
        """Samples of the plain run, each with the noise that it came from."""
        if domain not in self.made:
            self.made[domain] = flowkit.load(self.plain(domain).run_dir).sample(64, pairs=True)
        return self.made[domain]

    def filled(self, text: str, domain: str) -> str:
        """An override with names replaced by paths."""
        text = text.replace("{other data}", OTHER_DATA[domain]).replace("{folder}", str(self.folder))
        return text.replace("{weaker run}", str(self.plain(domain).run_dir)) if "{weaker run}" in text else text


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    yield Workshop(tmp_path_factory.mktemp("choices"))


@pytest.fixture(autouse=True, scope="module")
def collected_once(workshop: Workshop) -> Iterator[None]:
    """The end of a training collects garbage; half a second each among all that torch has imported."""
    workshop.plain("points")
    gc.freeze()
    yield
    gc.unfreeze()


def test_every_choice_has_a_case():
    missing = [case.choice for case in CASES if not case.value]
    assert not missing, f"give them a value in VALUES: {missing}"
    unknown = VALUES.keys() - set(choices())
    assert not unknown, f"no such choices: {unknown}"


@pytest.mark.parametrize(
    ("domain", "case"),
    [
        pytest.param(domain, case, id=f"{domain}-{names(case)}")
        for case in CASES if case.choice not in WITHOUT_EFFECT for domain in case.domains
    ],
)  # fmt: skip
def test_every_choice_trains_and_has_an_effect(workshop, domain, case):
    beside = [workshop.filled(text, domain) for text in case.beside]
    paired = case.choice == "flow.coupling=paired"
    without = workshop.plain(domain, *beside, paired=paired)
    found = workshop.train(domain, *beside, workshop.filled(f"{case.key}={case.value}", domain), paired=paired)
    differs, section = found.differs(without), case.key.partition(".")[0]
    sampled = json.loads((found.run_dir / "checkpoints/latest/model.json").read_text())
    if is_default(case, without):
        assert differs == set()
    elif section in ("flow", "data"):
        assert differs == {"weights", "averages", "samples"}, differs
    elif section == "sample":
        assert differs == {"samples"}, differs
        assert (
            sampled["sampling"]
            != json.loads((without.run_dir / "checkpoints/latest/model.json").read_text())["sampling"]
        )
    elif case.choice in ("ema.decay", "ema.warmup", "ema.warmup_share", "ema.warmup_power"):
        assert differs == {"averages", "samples"}, differs
    else:  # snapshots, which no sample is drawn from
        assert differs == {"averages"}, differs


def is_default(case: Case, without: Outcome) -> bool:
    """Whether the case equals the default of the other run."""
    if case.key == "flow.prediction":
        return case.value in ("auto", without.prediction)
    table: Any = json.loads((without.run_dir / "checkpoints/latest/model.json").read_text())["recipe"]
    for name in case.key.split("."):
        table = table.get(name) if isinstance(table, dict) else None
    if isinstance(table, dict):
        table = table["name"]
    if table is None and case.choice.partition(" ")[2]:  # a setting of a choice that is written as its name alone
        return default_of(case) == case.value
    return table == case.value


def default_of(case: Case) -> Any:
    *sections, key, setting = case.key.split(".")
    section = ".".join(sections)
    field = {"flow": Flow, "flow.loss": Loss, "sample": Sample}[section].model_fields[key]
    (kind,) = (kind for kind in sections_of(field) if case.choice.startswith(f"{section}.{key}={kind.tag()} "))
    return kind.model_fields[setting].default


def test_dopri5_stops_after_max_steps(workshop):
    with pytest.raises(UserError, match="after max_steps = 1 attempts"):
        workshop.train("points", "sample.solver=dopri5", "sample.solver.max_steps=1")


ARCHITECTURES = [arch for arch in component_names("arch") if arch != "custom"]
SMALL = {"embed_dim": 8, "hidden_dim": 8, "num_heads": 2, "num_layers": 2}


def fits(arch: str, kind: str) -> bool:
    try:
        check_arch(arch, kind)
    except UserError:
        return False
    return True


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_mean_flow_trains_every_architecture(workshop, arch):
    domain = next(domain for domain in DOMAINS if fits(arch, KINDS[domain]))
    kind = section_of("arch", arch)
    sizes = ",".join(f"{name}={size}" for name, size in SMALL.items() if name in kind.model_fields)
    model = f'model={{arch="{arch}",{sizes}}}'
    found = workshop.train(domain, model, "flow.objective=mean_flow")
    spanless = workshop.train(domain, model, "flow.objective.name=mean_flow", "flow.objective.ratio=0")
    assert found.differs(spanless) == {"weights", "averages", "samples"}


@pytest.mark.parametrize("name", component_names("loss"))
def test_every_auxiliary_loss_trains(workshop, name):
    found = workshop.train("sketch", f"aux_loss.{name}=0.1")
    idle = name == "degenerate"  # no stroke is a dot here
    assert found.differs(workshop.plain("sketch")) == (set() if idle else {"weights", "averages", "samples"})
    lines = [json.loads(line) for line in (found.run_dir / "metrics.jsonl").open()]
    assert all(np.isfinite(line[name]) for line in lines if "grad_norm" in line)


IMPOSSIBLE = {
    "flow.coupling=c2ot": r'^flow\.coupling: "c2ot" .* neither class labels nor conditions; use "ot"$',
    "flow.coupling=paired": r'^flow\.coupling: "paired" needs data with the noise .*; `flowkit sample --pairs` writes',
    "flow.base={data of another shape}": r"^flow\.base: the rows of '[^']+' have shape \(.*\), and those of the data \(.*\); ",
    'sample.guidance={name="autoguidance",ckpt="{weaker run}"}': r"^guidance\.ckpt: .* has classes .*; autoguidance needs ",
    "sample.guidance_scale=2.0": r"^sample\.guidance_scale: 2 .* has neither; set sample\.guid",
    'flow.objective={name="mean_flow",omega=2.0}': r"^flow\.objective\.omega: 2 .*; set flow\.objective\.omega = 1\.0$",
}


@pytest.mark.parametrize("override", IMPOSSIBLE, ids=lambda text: text.partition("{")[0])
@pytest.mark.parametrize("domain", DOMAINS)
def test_settings_that_the_data_cannot_support_are_one_message(workshop, domain, override):
    bare = dataclasses.replace(workshop.data[domain], class_label=None, condition=None, class_names=())
    other = "moons" if domain == "sketch" else "doodles"
    filled = workshop.filled(override.replace("{data of another shape}", other), domain)
    with pytest.raises(UserError, match=IMPOSSIBLE[override]) as raised:
        workshop.train(domain, filled, data=bare)
    assert "\n" not in str(raised.value)
