"""[data]: what is learned from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from flowkit.components import Choose, Known
from flowkit.data.normalizers import Auto, Normalization
from flowkit.settings import Says, Section

Rows = Annotated[int, Field(ge=1), Says('a whole number >= 1, or "1k" for 1000')]


class Data(Section):
    source: str = Field(
        default="doodles", min_length=1, description="a built-in set or the path of a prepared .safetensors"
    )
    domain: Annotated[str, Field(min_length=1), Known("domain")] | None = Field(
        default=None,
        min_length=1,
        description="what the rows are, where it is not what their file says: a domain's name, or "
        "the import path of one's own",
    )
    num_samples: Rows = Field(default=15000, description="rows to generate; built-in sets only")
    seed: int = Field(
        default=0, ge=0, lt=2**63, description="of generated rows, split and validation noise; apart from run.seed"
    )
    val_fraction: float = Field(
        default=0.05, ge=0, lt=1, description="share held out for validation; a file that was split keeps its own split"
    )
    subset: Rows | None = Field(default=None, description="train on the first so many training rows only")
    order: Literal["shuffled", "stored"] = Field(
        default="shuffled",
        description="of training rows: permuted anew each epoch, or as they stand, epoch after epoch",
    )
    normalizer: Annotated[Normalization, Choose("normalizer")] = Field(
        default=Auto(),
        description="how x is brought to unit variance for the model; auto is the domain's choice, or that of pairs",
    )
