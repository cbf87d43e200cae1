"""The Recipe: ten sections, frozen. Made by `load_recipe` or `recipe_from_dict`, which report mistakes kindly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import PydanticCustomError

from flowkit.components import Choose, Known, Network, find, imported, is_import_path, names
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
    name: FolderName = Field(description="name of the run; its directory is dir/name")
    seed: int = Field(default=0, ge=0, lt=2**63, description="every random draw is a function of it")
    dir: str = Field(default="runs", min_length=1, description="folder that holds the run directories")
    deterministic: bool = Field(default=False, description="bit-equal repeats on CUDA, at some cost in speed")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where to train; auto takes CUDA where there is one"
    )
    threads: CountOrAuto = Field(
        default="auto", description="CPU threads of each process; auto is 1 for a small network, else as torch has it"
    )

    @property
    def directory(self) -> Path:
        return Path(self.dir) / self.name


Beta = Annotated[float, Field(ge=0, lt=1)]
Betas = Annotated[tuple[Beta, Beta], AS_TUPLE, Says("two numbers >= 0 and < 1")]


class Optim(Section):
    lr: float = Field(default=1e-4, gt=0, description="AdamW's learning rate at the end of the warm-up")
    betas: Betas = Field(default=(0.9, 0.999), description="decay of AdamW's two moments")
    eps: float = Field(default=1e-8, gt=0, description="AdamW's epsilon")
    weight_decay: float = Field(
        default=0.05, ge=0, description="on matrices only: not on biases, norms, embeddings, positions"
    )
    warmup: Warmup = Field(default=Warmup(0.05), description="linear rise from 0; a fraction is one of the whole run")
    schedule: Literal["cosine", "constant"] = Field(default="cosine", description="the learning rate after the warm-up")
    min_lr_factor: float = Field(default=0.01, ge=0, le=1, description="the cosine ends at this fraction of lr")
    max_grad_norm: float = Field(default=1.0, ge=0, description="gradients are clipped to this norm; 0 is off")


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
        description="trackers to log to, by accelerate's names: tensorboard, wandb, trackio, mlflow, comet_ml, aim, swanlab, ...",
    )
    wandb: bool = Field(default=False, description='short for to = "wandb" (WANDB_MODE is respected)')
    project: str = Field(
        default="flowkit", min_length=1, description="project (or experiment) that the run belongs to there"
    )
    group: str | None = Field(default=None, description="group of the run there")
    tags: Tags = Field(default=(), description="tags of the run there")
    images: bool = Field(default=True, description="log the sheets of samples there too")

    @property
    def names(self) -> tuple[str, ...]:
        """All trackers asked for, each once."""
        return tuple(dict.fromkeys((*self.to, *(("wandb",) if self.wandb else ()))))


Weight = Annotated[float, Field(ge=0)]


class AuxLossWeights(Section):
    """Weights of auxiliary losses on the predicted data, by the losses' names or import paths; 0 is off."""

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
        """Those that are not off."""
        return {name: weight for name, weight in self.model_dump().items() if weight}


def described_loss(name: str) -> Any:
    """A loss's weight, described by the first sentence of the loss's docstring: "The mean distance ..."."""
    sentence = " ".join((find("loss", name).__doc__ or "A loss").split(". ")[0].split()).rstrip(".")
    return Field(default=0.0, description=f"weight of {sentence[0].lower()}{sentence[1:]}")


if TYPE_CHECKING:
    AuxLoss = AuxLossWeights
else:
    AuxLoss = create_model(
        "AuxLoss", __base__=AuxLossWeights, **{name: (Weight, described_loss(name)) for name in names("loss")}
    )


class Recipe(Section):
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
        """How samples are drawn may follow from the objective, unless the recipe names a solver."""
        if not isinstance(data, dict) or not isinstance(sample := data.get("sample", {}), dict) or "solver" in sample:
            return data
        objective = data["flow"].get("objective") if isinstance(data.get("flow"), dict) else None
        name = objective.get("name") if isinstance(objective, dict) else objective
        if name not in names("objective"):
            return data
        return {**data, "sample": {**find("objective", name).sampled, **sample}}

    @model_validator(mode="after")
    def _possible(self) -> Recipe:
        # runs only where every key and type is right: impossible combinations are the second round of mistakes
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
        """The recipe as TOML."""
        from flowkit.recipe.dump import dump_toml

        return dump_toml(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain tables as TOML can hold them: what is unset is left out, a choice without settings is its name."""
        return self.model_dump(exclude_none=True)
