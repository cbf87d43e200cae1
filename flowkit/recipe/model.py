"""[model]: an architecture and its arguments. What follows from the data (rows' shape, classes) is no key."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from flowkit.recipe.base import Section

ARCH = 'the architecture; "custom" is a module given to flowkit.train(recipe, model=...)'


HIDDEN = "width of the layers; of a dit, a multiple of num_heads"
LAYERS = "blocks; of an mlp, layers"
HEADS = "attention heads"
ATTEND = "blocks attend to the condition's tokens, beside the mean of them"
DROPOUT = "dropout in blocks, or after hidden layers"


class BuiltIn(Section):
    """Keys of our own architectures, `arch` first; names and defaults are those of the constructors."""

    arch: str

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for `create_model(arch, ...)`; those that follow from the data are added by its domain."""
        return self.model_dump(exclude={"arch"})


class SketchModel(BuiltIn):
    """What both sketch architectures take."""

    embed_dim: int = Field(default=256, ge=1, le=10**6, description="width of a token; a multiple of num_heads")
    num_layers: int = Field(default=8, ge=1, description=LAYERS)
    num_heads: int = Field(default=8, ge=1, description=HEADS)
    dropout: float = Field(default=0.0, ge=0, lt=1, description=DROPOUT)


class SketchDiT(SketchModel):
    arch: Literal["bezier_sketch_dit"] = Field(description=ARCH)  # pyright: ignore[reportIncompatibleVariableOverride]
    attend_conditions: bool = Field(default=False, description=ATTEND)


class SketchTransformer(SketchModel):
    arch: Literal["bezier_sketch_transformer"] = Field(description=ARCH)  # pyright: ignore[reportIncompatibleVariableOverride]
    class_embed_dim: int = Field(default=128, ge=1, description="width of the class embedding")
    num_memory_tokens: int = Field(
        default=4, ge=1, description="memory tokens that a class becomes, for the strokes to attend to"
    )
    mlp_ratio: float = Field(default=4.0, gt=0, description="hidden width of the feed-forward layers over embed_dim")


class VectorMLP(BuiltIn):
    arch: Literal["mlp"] = Field(description=ARCH)  # pyright: ignore[reportIncompatibleVariableOverride]
    hidden_dim: int = Field(default=256, ge=1, le=10**6, description=HIDDEN)
    num_layers: int = Field(default=5, ge=2, description=LAYERS)
    dropout: float = Field(default=0.0, ge=0, lt=1, description=DROPOUT)


class VectorDiT(BuiltIn):
    arch: Literal["dit"] = Field(description=ARCH)  # pyright: ignore[reportIncompatibleVariableOverride]
    hidden_dim: int = Field(default=384, ge=1, le=10**6, description=HIDDEN)
    num_layers: int = Field(default=3, ge=1, description=LAYERS)
    num_heads: int = Field(default=6, ge=1, description=HEADS)
    num_tokens: int = Field(default=1, ge=1, description="pieces that a vector is cut into; divides its length")
    dropout: float = Field(default=0.0, ge=0, lt=1, description=DROPOUT)
    attend_conditions: bool = Field(default=False, description=ATTEND)


class SeluMLP(BuiltIn):
    arch: Literal["selu_mlp"] = Field(description=ARCH)  # pyright: ignore[reportIncompatibleVariableOverride]
    hidden_dim: int = Field(default=64, ge=1, le=10**6, description=HIDDEN)
    num_layers: int = Field(default=3, ge=1, description=LAYERS)


class ResidualMLP(BuiltIn):
    arch: Literal["residual_mlp"] = Field(description=ARCH)  # pyright: ignore[reportIncompatibleVariableOverride]
    hidden_dim: int = Field(default=128, ge=1, le=10**6, description=HIDDEN)
    num_layers: int = Field(default=3, ge=1, description=LAYERS)


class CustomModel(Section):
    """A module of one's own, from Python."""

    arch: Literal["custom"] = Field(description=ARCH)

    def arguments(self) -> dict[str, Any]:
        """None: the module is built already."""
        return {}


Model = Annotated[
    SketchDiT | SketchTransformer | VectorMLP | VectorDiT | SeluMLP | ResidualMLP | CustomModel,
    Field(discriminator="arch"),
]
