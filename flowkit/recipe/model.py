"""[model]: an architecture and its arguments. What follows from the data (rows' shape, classes) is no key."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from flowkit.recipe.base import Section

ARCH = 'the architecture; "custom" is a module given to flowkit.train(recipe, model=...)'


class SketchModel(Section):
    """What both sketch architectures take, `arch` first; names and defaults are those of the constructors."""

    arch: str
    embed_dim: int = Field(default=256, ge=1, le=10**6, description="width of a token; a multiple of num_heads")
    num_layers: int = Field(default=8, ge=1, description="number of blocks")
    num_heads: int = Field(default=8, ge=1, description="attention heads")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout inside the blocks")

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for `create_model(arch, ...)`; those that follow from the data are added by its domain."""
        return self.model_dump(exclude={"arch"})


class SketchDiT(SketchModel):
    arch: Literal["bezier_sketch_dit"] = Field(description=ARCH)  # pyright: ignore[reportIncompatibleVariableOverride]


class SketchTransformer(SketchModel):
    arch: Literal["bezier_sketch_transformer"] = Field(description=ARCH)  # pyright: ignore[reportIncompatibleVariableOverride]
    class_embed_dim: int = Field(default=128, ge=1, description="width of the class embedding")
    num_memory_tokens: int = Field(
        default=4, ge=1, description="memory tokens that a class becomes, for the strokes to attend to"
    )
    mlp_ratio: float = Field(default=4.0, gt=0, description="hidden width of the feed-forward layers over embed_dim")


class CustomModel(Section):
    """A module of one's own, from Python."""

    arch: Literal["custom"] = Field(description=ARCH)

    def arguments(self) -> dict[str, Any]:
        """None: the module is built already."""
        return {}


Model = Annotated[SketchDiT | SketchTransformer | CustomModel, Field(discriminator="arch")]
