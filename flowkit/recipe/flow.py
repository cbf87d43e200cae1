"""[flow]: what connects noise and data: path, coupling, prediction, loss and times, each chosen independently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from flowkit.components import Choose
from flowkit.conditions import scale_words
from flowkit.data.base import NORMAL
from flowkit.errors import listing
from flowkit.flow.couplings import Coupling, Independent
from flowkit.flow.error import Error, Squared
from flowkit.flow.given import Shares, rates
from flowkit.flow.guidance import ClassifierFree
from flowkit.flow.objective import FlowMatching, FlowObjective, Objective
from flowkit.flow.paths import Linear, Path
from flowkit.flow.solvers import Solver
from flowkit.flow.times import LogitNormal, Times
from flowkit.flow.weights import UniformWeights, Weights
from flowkit.settings import Says, Section

if TYPE_CHECKING:
    from flowkit.recipe.sample import SampleSettings

Probability = Annotated[float, Field(ge=0, le=1)]
CondDrop = Annotated[
    Probability | dict[Literal["all", "class", "condition", "image", "text"], Probability],
    Says("a number from 0 to 1, or a table of such numbers named all, class, condition, image, text"),
]


def drop_rates(cond_drop: float | Mapping[Any, float], kinds: Sequence[str]) -> dict[str, float]:
    """Return the probability that all conditions of a row are dropped ("all"), and each of `kinds` on its own, by name.

    A number is the probability of "all". With several kinds, each one alone is dropped with that probability too.
    """
    if isinstance(cond_drop, Mapping):
        return {name: cond_drop.get(name, 0.0) for name in ("all", *kinds)}
    return dict.fromkeys(("all", *kinds) if len(kinds) > 1 else ("all",), cond_drop)


def seen_without(missing: Sequence[str], cond_drop: float | Mapping[Any, float], kinds: Sequence[str]) -> bool:
    """Return whether training ever drops exactly the `missing` conditions of a row, in data with `kinds` of conditions."""
    rates = drop_rates(cond_drop, kinds)
    alone = all(rates.get(kind, 0.0) > 0 for kind in missing)
    return alone or (set(missing) == set(kinds) and rates["all"] > 0)


class Loss(Section):
    """[flow.loss]: how the network's error is turned into the loss."""

    space: Literal["velocity", "data", "noise"] = Field(
        default="velocity", description="space in which the error is measured, independent of `flow.prediction`"
    )
    error: Annotated[Error, Choose("error")] = Field(default=Squared(), description="error function")
    weights: Annotated[Weights, Choose("weights")] = Field(
        default=UniformWeights(), description="weight of each time t in the loss"
    )


class Flow(Section):
    objective: Annotated[Objective, Choose("objective")] = Field(
        default=FlowMatching(),
        description="training objective; mean_flow learns average velocities, for one-step samples",
    )
    base: str = Field(
        default="normal",
        min_length=1,
        description='distribution at t = 0: "normal", or a data set as in data.source',
    )
    path: Annotated[Path, Choose("path")] = Field(
        default=Linear(), description="path from noise (t = 0) to data (t = 1)"
    )
    coupling: Annotated[Coupling, Choose("coupling")] = Field(
        default=Independent(),
        description="how noise is paired with data; paired uses the noise stored by `flowkit sample --pairs` (reflow)",
    )
    prediction: Literal["auto", "velocity", "data", "noise"] = Field(
        default="auto", description="what the network predicts; auto is velocity"
    )
    loss: Loss = Field(default=Loss(), description="how the loss is computed")
    times: Annotated[Times, Choose("times")] = Field(
        default=LogitNormal(), description="distribution of training times t"
    )
    stratified: bool = Field(
        default=False,
        description="stratified sampling of t: one time from each of batch_size equal strata of the global batch",
    )
    cond_drop: CondDrop = Field(
        default=0.1,
        description="probability of dropping all conditions of a row, and each one alone if there are several; or by name: "
        "{all = 0.05, class = 0.1, image = 0.1}",
    )

    given: Shares = Field(
        default=0.0,
        description="probability of showing a row a part of itself, to learn completion: half beginnings, half subsets; or "
        "{prefix = 0.3, subset = 0.2}",
    )

    @property
    def completes(self) -> bool:
        """Whether the network is trained to complete rows."""
        return any(rates(self.given))

    @property
    def scored(self) -> FlowObjective:
        """Return path, prediction and loss as one objective.

        Raises UserError for combinations that do not work, and for the prediction "auto".
        """
        return FlowObjective(self.path, self.prediction, self.loss.space, self.loss.error, self.loss.weights)

    def why_no_score(self) -> str | None:
        """Return why the learned velocity implies no score; None if it does.

        The score is -E[x0 | x_t] / sigma only if x0 is normal noise, drawn independently of the data, on a Gaussian path.
        """
        if not self.path.converts("velocity", "score"):
            return f'flow.path = "{self.path.tag()}" has none'
        if self.base != NORMAL:
            return f"flow.base = {self.base!r} is not normal noise"
        if not self.coupling.independent:
            return f'with flow.coupling = "{self.coupling.tag()}" noise and data are not independent'
        return None

    def why_not_guided(self, settings: SampleSettings) -> str | None:
        """Return why a model that was told guidance scales in training cannot be guided like this; None if it can."""
        scale, most = settings.guidance_scale, self.objective.guidance_max
        if isinstance(scale, dict) or not 1 <= scale <= most:
            return (f"{scale_words(scale)}: flow.objective.omega_max taught the network scales from 1 to {most:g}; expected a "
                    "number in that range")  # fmt: skip
        plain = {"guidance": ClassifierFree(), "guidance_interval": None, "guidance_rescale": 0.0}
        if other := [name for name, value in plain.items() if getattr(settings, name) != value]:
            return f"the network does the guidance itself (flow.objective.omega_max); leave out {listing(other)}"
        return None

    def why_not(self, solver: Solver) -> str | None:
        """Return why a model of this flow cannot be sampled with that solver; None if it can."""
        name = solver.tag()
        if solver.averages and not self.objective.averages:
            return f'"{name}" requires a model of average velocities (flow.objective = "mean_flow" or "distillation")'
        if solver.gaussian and not self.path.converts("data", "noise"):
            return f'"{name}" requires a Gaussian path, and flow.path is "{self.path.tag()}"'
        if solver.stochastic and (why := self.why_no_score()):
            return f'"{name}" requires the score, and {why}'
        return None
