"""[track]: where the numbers and pictures of a run go, beside metrics.jsonl, which is always written."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from flowkit.recipe.base import AS_TUPLE, Says, Section

Tags = Annotated[tuple[str, ...], AS_TUPLE, Says("a list of text")]


def _names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Names = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    AS_TUPLE,
    BeforeValidator(_names),
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
