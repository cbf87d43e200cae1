"""[data]: the training data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic_core import core_schema

from flowkit.components import Choose, Known
from flowkit.data.normalizers import Auto, Normalization
from flowkit.settings import AS_TUPLE, Says, Section


@dataclass(frozen=True)
class Within:
    """Annotates a range, as [low, high] within least to most, or a number n for -n to n (if `factor` 1/n to n)."""

    least: float
    most: float
    factor: bool = False

    @property
    def words(self) -> str:
        smallest = 1 if self.factor else 0
        return f"a number from {smallest} to {self.most:g}, or [low, high] within {self.least:g} to {self.most:g}"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def parse(self, value: Any) -> float | tuple[float, float]:
        """Raises ValueError."""
        alone = not isinstance(value, list | tuple)
        numbers = [value] if alone else list(value)
        if any(isinstance(one, bool) or not isinstance(one, int | float) for one in numbers):
            raise ValueError("not numbers")
        if alone and (1 if self.factor else 0) <= numbers[0] <= self.most:
            return float(numbers[0])
        if len(numbers) == 2 and self.least <= numbers[0] <= numbers[1] <= self.most:
            return float(numbers[0]), float(numbers[1])
        raise ValueError("not a range")


Range = float | tuple[float, float]


class Augment(Section):
    """[data.augment]: random changes of training rows, of which the network is told (as in EDM, arXiv 2206.00364)."""

    rate: float = Field(default=0.5, gt=0, lt=1, description="probability that a row is augmented")
    rotation: Annotated[Range, Within(-180, 180)] = Field(
        default=0.0, description="clockwise rotation about the middle, in degrees; n means -n to n"
    )
    scale: Annotated[Range, Within(0.1, 10, factor=True)] = Field(
        default=1.0, description="factor of the size; n means 1/n to n"
    )
    shift: Annotated[Range, Within(-1, 1)] = Field(
        default=0.0, description="shift in x and in y, in halves of the canvas; n means -n to n"
    )
    shear: Annotated[Range, Within(-1, 1)] = Field(default=0.0, description="shift in x per unit of y; n means -n to n")
    mirror: float = Field(default=0.0, ge=0, le=1, description="probability of a left-right flip of an augmented row")
    reverse: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="probability that a pen stroke of an augmented row is drawn from its other end",
    )
    reorder: float = Field(
        default=0.0,
        ge=0,
        description="standard deviation of the random moves of pen strokes in the drawing order, in places",
    )

    def bounds(self, key: str) -> tuple[float, float]:
        """Return the ends of a range: of "rotation" in degrees, "scale", "shift" or "shear"."""
        value = getattr(self, key)
        if isinstance(value, tuple):
            return value
        return (1 / value, value) if key == "scale" else (-value, value)

    def __bool__(self) -> bool:
        """Whether rows are augmented at all."""
        return any(
            getattr(self, key) != field.default for key, field in type(self).model_fields.items() if key != "rate"
        )


Kinds = Annotated[
    Literal["all"] | tuple[Literal["class", "condition", "image", "text"], ...],
    AS_TUPLE,
    Says('"all", or a list of class, condition, image, text'),
]
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
    conditions: Kinds = Field(
        default="all",
        description="what the model is given of class, condition, image and text; by default all that the data has",
    )
    augment: Augment = Field(default=Augment(), description="random changes of training rows")
