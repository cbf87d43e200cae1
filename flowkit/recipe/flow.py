"""[flow]: what connects noise and data: independent choices of path, coupling, prediction and times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from flowkit.components import Choose
from flowkit.data.base import NORMAL
from flowkit.flow.couplings import Coupling, Independent
from flowkit.flow.error import Error, Squared
from flowkit.flow.objective import FlowMatching, FlowObjective, Objective
from flowkit.flow.paths import Linear, Path
from flowkit.flow.solvers import Solver
from flowkit.flow.times import LogitNormal, Times
from flowkit.flow.weights import UniformWeights, Weights
from flowkit.settings import Says, Section

Probability = Annotated[float, Field(ge=0, le=1)]
CondDrop = Annotated[
    Probability | dict[Literal["all", "label", "condition"], Probability],
    Says("a number from 0 to 1, or a table of such numbers named all, label, condition"),
]


def drop_rates(cond_drop: float | Mapping[Any, float], kinds: Sequence[str]) -> dict[str, float]:
    """Probabilities, by name, that all of a row's conditions are dropped, and each kind of them alone, in data with `kinds`.

    A number means all of them; where there are several, each alone as often again.
    """
    if isinstance(cond_drop, Mapping):
        return {name: cond_drop.get(name, 0.0) for name in ("all", *kinds)}
    return dict.fromkeys(("all", *kinds) if len(kinds) > 1 else ("all",), cond_drop)


def seen_without(missing: Sequence[str], cond_drop: float | Mapping[Any, float], kinds: Sequence[str]) -> bool:
    """Whether, in data with `kinds` of conditions, training ever meets a row without just those that are `missing`."""
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
        description="what is learned: the velocity, or its average over intervals, for samples in one step",
    )
    base: str = Field(
        default="normal",
        min_length=1,
        description='what t = 0 is: "normal", or a data set as in data.source, to learn a flow from one to the other',
    )
    path: Annotated[Path, Choose("path")] = Field(
        default=Linear(), description="how a point moves from noise (t = 0) to data (t = 1)"
    )
    coupling: Annotated[Coupling, Choose("coupling")] = Field(
        default=Independent(),
        description="which noise is paired with which row; paired: the one that `flowkit sample --pairs` kept (reflow)",
    )
    prediction: Literal["auto", "velocity", "data", "noise"] = Field(
        default="auto", description="the network's output; auto: the domain's choice for the architecture"
    )
    loss: Loss = Field(default=Loss(), description="how the loss is computed")
    times: Annotated[Times, Choose("times")] = Field(
        default=LogitNormal(), description="how training times t are drawn"
    )
    stratified: bool = Field(
        default=False, description="draw one time from each of batch_size equal strata, over the whole global batch"
    )
    cond_drop: CondDrop = Field(
        default=0.1,
        description="probability that all of a row's conditions are dropped, label and condition each alone as often again; "
        "or by name: {all = 0.1, label = 0.2}",
    )

    @property
    def scored(self) -> FlowObjective:
        """Path, prediction and loss as one. Raises UserError for what does not go together, and for the prediction "auto"."""
        return FlowObjective(self.path, self.prediction, self.loss.space, self.loss.error, self.loss.weights)

    def why_no_score(self) -> str | None:
        """Why the velocity that is learned implies no score, in words; None where it does.

        The score is -E[x0 | x_t] / sigma only where x0 is normal noise drawn independently of the data, on a Gaussian path.
        """
        if not self.path.converts("velocity", "score"):
            return f'there is none on flow.path = "{self.path.tag()}"'
        if self.base != NORMAL:
            return f"flow.base = {self.base!r} is not normal noise"
        if not self.coupling.independent:
            return f'with flow.coupling = "{self.coupling.tag()}" noise and data are not independent'
        return None

    def why_not(self, solver: Solver) -> str | None:
        """Why a model of this flow cannot be sampled with that solver, in words; None where it can."""
        name = solver.tag()
        if solver.averages and not self.objective.averages:
            return f'"{name}" requires a model of average velocities (flow.objective = "mean_flow")'
        if solver.gaussian and not self.path.converts("data", "noise"):
            return f'"{name}" requires a Gaussian path, and flow.path is "{self.path.tag()}"'
        if solver.stochastic and (why := self.why_no_score()):
            return f'"{name}" requires the score, and {why}'
        return None
