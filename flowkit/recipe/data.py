"""[data]: what is learned from."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from flowkit.recipe.base import BY_NAME, Choice, Says, Section

_THOUSANDS = re.compile(r"([1-9]\d{0,8})k")


def _rows(value: Any) -> Any:
    match = _THOUSANDS.fullmatch(value) if isinstance(value, str) else None
    return 1000 * int(match[1]) if match else value


Rows = Annotated[int, Field(ge=1), BeforeValidator(_rows), Says('a whole number >= 1, or "1k" for 1000')]


def _components(value: float) -> float:
    if value <= 0 or (isinstance(value, float) and value >= 1):
        raise ValueError("neither a number of directions nor a share of the variance")
    return value


Components = Annotated[
    int | float, AfterValidator(_components), Says("a whole number >= 1, or a share of the variance below 1")
]


class AutoNormalizer(Choice):
    name: Literal["auto"] = "auto"


class NoNormalizer(Choice):
    name: Literal["none"] = "none"


class GlobalNormalizer(Choice):
    name: Literal["global"] = "global"


class ZScoreNormalizer(Choice):
    name: Literal["zscore"] = "zscore"


class RobustNormalizer(Choice):
    name: Literal["robust"] = "robust"


class WhiteningNormalizer(Choice):
    name: Literal["whitening"] = "whitening"
    floor: float = Field(
        default=0.01, gt=0, description="least variance of a direction, over the mean of all directions'"
    )
    components: Components | None = Field(
        default=None, description="directions to keep, the widest first, or the share of the variance to keep"
    )


NormalizerChoice = Annotated[
    AutoNormalizer | NoNormalizer | GlobalNormalizer | ZScoreNormalizer | RobustNormalizer | WhiteningNormalizer,
    Field(discriminator="name"),
    BY_NAME,
]


class Data(Section):
    source: str = Field(
        default="doodles", min_length=1, description="a built-in set or the path of a prepared .safetensors"
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
    normalizer: NormalizerChoice = Field(
        default=AutoNormalizer(),
        description="how x is brought to unit variance for the model; auto is the domain's choice, or that of pairs",
    )
