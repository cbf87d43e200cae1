"""[optim]: AdamW, the learning rate's schedule, gradient clipping."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from flowkit.recipe.base import AS_TUPLE, Says, Section
from flowkit.recipe.interval import Warmup

Beta = Annotated[float, Field(ge=0, lt=1)]
Betas = Annotated[tuple[Beta, Beta], AS_TUPLE, Says("two numbers >= 0 and < 1")]


class Optim(Section):
    lr: float = Field(default=1e-4, gt=0, description="AdamW's learning rate at the end of the warm-up")
    betas: Betas = Field(default=(0.9, 0.999), description="decay of AdamW's two moments")
    eps: float = Field(default=1e-8, gt=0, description="AdamW's epsilon")
    weight_decay: float = Field(
        default=0.05, ge=0, description="on matrices only: not on biases, norms, embeddings, positions"
    )
    warmup: Warmup = Field(default=Warmup(0.05), description="linear rise from 0; a fraction is one of the whole run")
    schedule: Literal["cosine", "constant"] = Field(default="cosine", description="the learning rate after the warm-up")
    min_lr_factor: float = Field(default=0.01, ge=0, le=1, description="the cosine ends at this fraction of lr")
    max_grad_norm: float = Field(default=1.0, ge=0, description="gradients are clipped to this norm; 0 is off")
