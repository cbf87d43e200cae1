"""[flow]: what connects noise and data: independent choices of path, coupling, prediction and times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from flowkit.recipe.base import AS_TUPLE, BY_NAME, Choice, Says, Section

BinLoss = Annotated[float, Field(gt=0)]
BinLosses = Annotated[tuple[BinLoss, ...], AS_TUPLE, Field(min_length=2), Says("a list of at least two numbers > 0")]


class LinearPath(Choice):
    name: Literal["linear"] = "linear"
    sigma_min: float = Field(
        default=0.0, ge=0, lt=1, description="standard deviation of the noise that is left around the data at t = 1"
    )


class CosinePath(Choice):
    name: Literal["cosine"] = "cosine"


class VPPath(Choice):
    name: Literal["vp"] = "vp"
    beta_min: float = Field(default=0.1, gt=0, description="the noise's rate at the data")
    beta_max: float = Field(default=20.0, gt=0, description="its rate at the noise")


class ICFMPath(Choice):
    name: Literal["icfm"] = "icfm"
    sigma: float = Field(default=0.1, gt=0, description="standard deviation of the noise around the line")


class SchrodingerBridgePath(Choice):
    name: Literal["schrodinger_bridge"] = "schrodinger_bridge"
    sigma: float = Field(default=1.0, gt=0, description="of the Brownian bridge, sigma sqrt(t (1 - t))")


class SphericalPath(Choice):
    name: Literal["spherical"] = "spherical"


Block = Annotated[
    int | None,
    Field(ge=2, description="rows that are paired with one another, fewer or more than a batch; without it, a batch"),
]


class IndependentCoupling(Choice):
    name: Literal["independent"] = "independent"


class OTCoupling(Choice):
    name: Literal["ot"] = "ot"
    block: Block = None


class SinkhornCoupling(Choice):
    name: Literal["sinkhorn"] = "sinkhorn"
    block: Block = None
    epsilon: float | None = Field(
        default=None, gt=0, description="regularisation relative to the mean squared distance; without either, 0.05"
    )
    regularisation: float | None = Field(
        default=None, gt=0, description="or in units of squared distance; a bridge of sigma wants 2 sigma^2"
    )


class C2OTCoupling(Choice):
    name: Literal["c2ot"] = "c2ot"
    block: Block = None
    weight: float | None = Field(
        default=None, ge=0, description="of a condition's distance beside x's; without it, labels are never crossed"
    )
    ratio: float | None = Field(
        default=None, gt=0, le=1,
        description="share of pairs that may cost less than a row's own noise: it finds the weight; without either, 0.05",
    )  # fmt: skip
    distance: Literal["squared", "cosine"] = Field(default="squared", description="between condition vectors")


class PairedCoupling(Choice):
    name: Literal["paired"] = "paired"


class UniformTimes(Choice):
    name: Literal["uniform"] = "uniform"


class LogitNormalTimes(Choice):
    name: Literal["logit_normal"] = "logit_normal"
    mean: float = Field(default=0.0, description="mean of the normal whose sigmoid is t; above 0 leans to the data")
    std: float = Field(default=1.0, gt=0, description="its standard deviation")
    uniform_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="share of times that are uniform instead, so that both ends are trained too",
    )


class ShiftedTimes(Choice):
    name: Literal["shifted"] = "shifted"
    shift: float = Field(default=3.0, gt=0, description="above 1 the times lean to the noise, below to the data")


class UniformWeights(Choice):
    name: Literal["uniform"] = "uniform"


class MinSNRWeights(Choice):
    name: Literal["min_snr"] = "min_snr"
    gamma: float = Field(default=5.0, gt=0, description="the signal-to-noise ratio above which it counts no more")


class BinWeights(Choice):
    name: Literal["bins"] = "bins"
    losses: BinLosses = Field(
        description="losses by equal bin of t, as validation measured them; weights are their inverse"
    )


class SquaredError(Choice):
    name: Literal["squared"] = "squared"


class PseudoHuberError(Choice):
    name: Literal["pseudo_huber"] = "pseudo_huber"
    c: float = Field(
        default=0.03, gt=0, description="root mean square of an error where it turns from square to linear"
    )


class AbsoluteError(Choice):
    name: Literal["l1"] = "l1"


class FlowMatching(Choice):
    name: Literal["flow_matching"] = "flow_matching"


class MeanFlow(Choice):
    name: Literal["mean_flow"] = "mean_flow"
    ratio: float = Field(default=0.25, ge=0, le=1, description="share of rows whose interval is longer than nothing")
    power: float = Field(default=1.0, ge=0, description="p of the adaptive weight 1 / (error + 1e-3)^p; 0 is none")
    omega: float = Field(default=1.0, gt=0, description="guidance scale learned into the network; 1 is none")


PathChoice = Annotated[
    LinearPath | CosinePath | VPPath | ICFMPath | SchrodingerBridgePath | SphericalPath,
    Field(discriminator="name"),
    BY_NAME,
]
CouplingChoice = Annotated[
    IndependentCoupling | OTCoupling | SinkhornCoupling | C2OTCoupling | PairedCoupling,
    Field(discriminator="name"),
    BY_NAME,
]
TimesChoice = Annotated[UniformTimes | LogitNormalTimes | ShiftedTimes, Field(discriminator="name"), BY_NAME]
WeightsChoice = Annotated[UniformWeights | MinSNRWeights | BinWeights, Field(discriminator="name"), BY_NAME]
ErrorChoice = Annotated[SquaredError | PseudoHuberError | AbsoluteError, Field(discriminator="name"), BY_NAME]


ObjectiveChoice = Annotated[FlowMatching | MeanFlow, Field(discriminator="name"), BY_NAME]


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


class Flow(Section):
    objective: ObjectiveChoice = Field(
        default=FlowMatching(),
        description="what is learned: the velocity, or its average over intervals, for samples in one step",
    )
    base: str = Field(
        default="normal",
        min_length=1,
        description='what t = 0 is: "normal", or a data set as in data.source, to learn a flow from one to the other',
    )
    path: PathChoice = Field(default=LinearPath(), description="how a point moves from noise (t = 0) to data (t = 1)")
    coupling: CouplingChoice = Field(
        default=IndependentCoupling(),
        description="which noise is paired with which row; paired: the one that `flowkit sample --pairs` kept (reflow)",
    )
    prediction: Literal["auto", "velocity", "data", "noise"] = Field(
        default="auto", description="the network's output; auto: the domain's choice for the architecture"
    )
    loss_space: Literal["velocity", "data", "noise"] = Field(
        default="velocity", description="what the loss is an error of, whatever the network's output is"
    )
    error: ErrorChoice = Field(default=SquaredError(), description="how an error is scored")
    times: TimesChoice = Field(default=LogitNormalTimes(), description="how training times t are drawn")
    stratified: bool = Field(
        default=False, description="draw one time from each of batch_size equal strata, over the whole global batch"
    )
    weights: WeightsChoice = Field(default=UniformWeights(), description="how much a time counts in the loss")
    cond_drop: CondDrop = Field(
        default=0.1,
        description="probability that all of a row's conditions are dropped, label and condition each alone as often again; "
        "or by name: {all = 0.1, label = 0.2}",
    )
