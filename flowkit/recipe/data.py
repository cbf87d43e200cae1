"""[data]: the training data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from flowkit.components import Choose, Known
from flowkit.data.normalizers import Auto, Normalization
from flowkit.settings import Says, Section

Rows = Annotated[int, Field(ge=1), Says('a whole number >= 1, or "1k" for 1000')]


class Data(Section):
    source: str = Field(
        default="doodles", min_length=1, description="name of a built-in data set, or path of a prepared .safetensors"
    )
    domain: Annotated[str, Field(min_length=1), Known("domain")] | None = Field(
        default=None,
        min_length=1,
        description="domain of the rows, overriding what the data file says: a name, or the import path of your own",
    )
    num_samples: Rows = Field(default=15000, description="number of rows to generate (built-in data sets only)")
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="seed of generated rows, split and validation noise; independent of run.seed",
    )
    val_fraction: float = Field(
        default=0.05, ge=0, lt=1, description="fraction held out for validation; ignored if the file has its own split"
    )
    subset: Rows | None = Field(default=None, description="use only the first so many training rows")
    order: Literal["shuffled", "stored"] = Field(
        default="shuffled",
        description="order of training rows: reshuffled each epoch, or as stored",
    )
    normalizer: Annotated[Normalization, Choose("normalizer")] = Field(
        default=Auto(),
        description="scaling of x to unit variance; auto uses the domain's default, or the normalizer of the pairs",
    )
