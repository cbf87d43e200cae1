"""[run]: what the run is called, where it lives, its seed and its device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from flowkit.recipe.base import Says, Section

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

    @property
    def directory(self) -> Path:
        return Path(self.dir) / self.name
