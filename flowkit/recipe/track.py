"""[track]: Weights & Biases. metrics.jsonl is written always."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from flowkit.recipe.base import AS_TUPLE, Says, Section

Tags = Annotated[tuple[str, ...], AS_TUPLE, Says("a list of text")]


class Track(Section):
    wandb: bool = Field(default=False, description="log to Weights & Biases (WANDB_MODE is respected)")
    project: str = Field(default="flowkit", min_length=1, description="Weights & Biases project")
    group: str | None = Field(default=None, description="group of the run there")
    tags: Tags = Field(default=(), description="tags of the run there")
    images: bool = Field(default=True, description="log the sheets of samples there too")
