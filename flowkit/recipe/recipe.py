"""The Recipe: ten frozen sections. Made by `load_recipe` or `recipe_from_dict`, which turn mistakes into clear messages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import PydanticCustomError

from flowkit.components import Choose, Known, Network, find, imported, is_import_path, names
from flowkit.html import ShownAsHtml
from flowkit.recipe.checks import contradictions
from flowkit.recipe.data import Data
from flowkit.recipe.ema import Ema
from flowkit.recipe.flow import Flow
from flowkit.recipe.interval import Warmup
from flowkit.recipe.sample import Sample
from flowkit.recipe.train import CountOrAuto, Train
from flowkit.settings import AS_TUPLE, Says, Section

FolderName = Annotated[
    str, Field(pattern=r"^\w[\w.+=-]*$", max_length=200), Says("a folder name: letters, digits and . _ - + =")
]


class Run(Section):
    name: FolderName = Field(description="name of the run; the run directory is run.dir/run.name")
    seed: int = Field(default=0, ge=0, lt=2**63, description="random seed of the run")
    dir: str = Field(default="runs", min_length=1, description="folder that holds the run directories")
    deterministic: bool = Field(
        default=False, description="bit-equal repeats on CUDA, without TF32 and somewhat slower"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="device to train on; auto uses CUDA if available"
    )
    threads: CountOrAuto = Field(
        default="auto", description="CPU threads of each process; auto is 1 for a small network, else torch's default"
    )

    @property
    def directory(self) -> Path:
        return Path(self.dir) / self.name


Beta = Annotated[float, Field(ge=0, lt=1)]
Betas = Annotated[tuple[Beta, Beta], AS_TUPLE, Says("two numbers >= 0 and < 1")]


class Optim(Section):
    lr: float = Field(default=1e-4, gt=0, description="peak learning rate (AdamW)")
    betas: Betas = Field(default=(0.9, 0.999), description="decay rates of AdamW's moments")
    eps: float = Field(default=1e-8, gt=0, description="AdamW's epsilon")
    weight_decay: float = Field(
        default=0.05, ge=0, description="weight decay of matrices; biases, norms, embeddings and positions have none"
    )
    warmup: Warmup = Field(
        default=Warmup(0.05),
        description="length of the linear learning rate warm-up; a fraction is relative to the run",
    )
    schedule: Literal["cosine", "constant"] = Field(
        default="cosine", description="learning rate schedule after the warm-up"
    )
    min_lr_factor: float = Field(
        default=0.01, ge=0, le=1, description="final learning rate of the cosine schedule, as a fraction of lr"
    )
    max_grad_norm: float = Field(default=1.0, ge=0, description="clip gradients to this norm; 0 disables clipping")


Tags = Annotated[tuple[str, ...], AS_TUPLE, Says("a list of text")]


Names = Annotated[
    tuple[Annotated[str, Field(min_length=1), Known("tracker")], ...],
    AS_TUPLE,
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    Says("a name or a list of names"),
]


class Track(Section):
    to: Names = Field(
        default=(),
        description="trackers to log to: tensorboard, wandb, trackio, mlflow, comet_ml, aim, swanlab, ... (as in accelerate)",
    )
    wandb: bool = Field(default=False, description='short for to = "wandb"; respects WANDB_MODE')
    project: str = Field(default="flowkit", min_length=1, description="project or experiment name for the trackers")
    group: str | None = Field(default=None, description="run group for the trackers")
    tags: Tags = Field(default=(), description="run tags for the trackers")
    images: bool = Field(default=True, description="log sample sheets to the trackers too")

    @property
    def names(self) -> tuple[str, ...]:
        """Return all trackers asked for, without duplicates."""
        return tuple(dict.fromkeys((*self.to, *(("wandb",) if self.wandb else ()))))


Weight = Annotated[float, Field(ge=0)]


class AuxLossWeights(Section):
    """Weights of auxiliary losses on the predicted data, by the losses' names or import paths; 0 disables a loss."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Weight]  # pyright: ignore[reportIncompatibleVariableOverride]

    @model_validator(mode="before")
    @classmethod
    def _known(cls, table: Any) -> Any:
        for key in table if isinstance(table, dict) else ():
            if is_import_path(key):
                imported("loss", key)
            elif key not in cls.model_fields:
                raise ValidationError.from_exception_data(
                    cls.__name__, [{"type": "extra_forbidden", "loc": (key,), "input": table[key]}]
                )
        return table

    @property
    def used(self) -> dict[str, float]:
        """Return the weights that are not 0."""
        return {name: weight for name, weight in self.model_dump().items() if weight}


def described_loss(name: str) -> Any:
    """Return the field of a loss's weight, described by the first sentence of the loss's docstring: "The mean distance ..."."""
    sentence = " ".join((find("loss", name).__doc__ or "A loss").split(". ")[0].split()).rstrip(".")
    return Field(default=0.0, description=f"weight of {sentence[0].lower()}{sentence[1:]}")


if TYPE_CHECKING:
    AuxLoss = AuxLossWeights
else:
    AuxLoss = create_model(
        "AuxLoss", __base__=AuxLossWeights, **{name: (Weight, described_loss(name)) for name in names("loss")}
    )


class Recipe(ShownAsHtml, Section):
    """One experiment. Keys are `section.key`; `recipe.optim.lr` is the value of `lr` under `[optim]`."""

    run: Run
    data: Data = Field(default_factory=Data)
    model: Annotated[Network, Choose("arch", key="arch")]
    flow: Flow = Field(default_factory=Flow)
    aux_loss: AuxLoss = Field(default_factory=lambda: AuxLoss.model_validate({}))
    optim: Optim = Field(default_factory=Optim)
    ema: Ema = Field(default_factory=Ema)
    train: Train = Field(default_factory=Train)
    sample: Sample = Field(default_factory=Sample)
    track: Track = Field(default_factory=Track)

    @model_validator(mode="before")
    @classmethod
    def _sampled(cls, data: Any) -> Any:
        """Let the objective choose how samples are drawn, unless the recipe names a solver."""
        if not isinstance(data, dict) or not isinstance(sample := data.get("sample", {}), dict) or "solver" in sample:
            return data
        objective = data["flow"].get("objective") if isinstance(data.get("flow"), dict) else None
        name = objective.get("name") if isinstance(objective, dict) else objective
        if name not in names("objective"):
            return data
        return {**data, "sample": {**find("objective", name).sampled, **sample}}

    @model_validator(mode="after")
    def _possible(self) -> Recipe:
        # Runs only once every key and type is valid.
        if problems := contradictions(self):
            raise PydanticCustomError(
                "impossible", "{text}", {"text": "; ".join(map(": ".join, problems)), "problems": problems}
            )
        return self

    def __repr__(self) -> str:
        train = self.train
        length = f"{train.epochs:g} epochs" if train.steps is None else f"{train.steps:,} steps"
        return (
            f"<Recipe {self.run.name}: {self.model.arch} on {self.data.source}, {length} of {train.batch_size:,} rows>"
        )

    def __str__(self) -> str:
        """Return the recipe as TOML."""
        from flowkit.recipe.dump import dump_toml

        return dump_toml(self)

    def to_dict(self) -> dict[str, Any]:
        """Return plain tables as TOML can hold them: unset keys are left out, and a choice with default settings is its name."""
        return self.model_dump(exclude_none=True)
