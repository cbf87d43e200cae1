"""The Recipe: ten sections, frozen. Made by `load_recipe` or `recipe_from_dict`, which report mistakes kindly."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from flowkit.recipe.base import Section
from flowkit.recipe.checks import contradictions
from flowkit.recipe.data import Data
from flowkit.recipe.ema import Ema
from flowkit.recipe.flow import Flow
from flowkit.recipe.loss import Loss
from flowkit.recipe.model import Model
from flowkit.recipe.optim import Optim
from flowkit.recipe.run import Run
from flowkit.recipe.sample import Sample
from flowkit.recipe.track import Track
from flowkit.recipe.train import Train


class Recipe(Section):
    """One experiment. Keys are `section.key`; `recipe.optim.lr` is the value of `lr` under `[optim]`."""

    run: Run
    data: Data = Field(default_factory=Data)
    model: Model
    flow: Flow = Field(default_factory=Flow)
    loss: Loss = Field(default_factory=Loss)
    optim: Optim = Field(default_factory=Optim)
    ema: Ema = Field(default_factory=Ema)
    train: Train = Field(default_factory=Train)
    sample: Sample = Field(default_factory=Sample)
    track: Track = Field(default_factory=Track)

    @model_validator(mode="before")
    @classmethod
    def _one_step(cls, data: Any) -> Any:
        """A network of average velocities samples in one step, unless the recipe says how."""
        if not isinstance(data, dict) or not isinstance(sample := data.get("sample", {}), dict) or "solver" in sample:
            return data
        objective = data["flow"].get("objective") if isinstance(data.get("flow"), dict) else None
        if (objective.get("name") if isinstance(objective, dict) else objective) != "mean_flow":
            return data
        return {**data, "sample": {"solver": "mean_flow", "steps": 1, **sample}}

    @model_validator(mode="after")
    def _possible(self) -> Recipe:
        # runs only where every key and type is right: impossible combinations are the second round of mistakes
        if problems := contradictions(self):
            raise PydanticCustomError(
                "impossible", "{text}", {"text": "; ".join(map(": ".join, problems)), "problems": problems}
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain tables as TOML can hold them: what is unset is left out, a choice without settings is its name."""
        return self.model_dump(exclude_none=True)
