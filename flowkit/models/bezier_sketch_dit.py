"""BezierSketchDiT: a diffusion transformer (arXiv 2212.09748) over stroke tokens, conditioned by adaLN-Zero."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from flowkit.models import Count, CountOrNone, Divides, Dropout, Heads, Layers, TokenWidth
from flowkit.models.conditioning import Conditioned, with_augmented, with_given
from flowkit.models.layers import (
    POSITION_STD,
    Attention,
    CrossAttention,
    SwiGLU,
    learned,
    linear,
    modulate,
    with_neighbors,
)


class BezierSketchDiT(Conditioned):
    """Predicts (B, num_strokes, stroke_dim) from x of that shape and t (B,). Its output is 0 at initialization.

    num_classes, clip_dim, image_dim and text_dim of 0 mean none; the network then ignores that input.
    """

    def __init__(
        self,
        num_strokes: Count = 32,
        stroke_dim: Count = 8,
        embed_dim: TokenWidth = 256,
        num_layers: Layers = 8,
        num_heads: Annotated[Heads, Divides("embed_dim")] = 8,
        dropout: Dropout = 0.0,
        num_classes: CountOrNone = 0,
        clip_dim: CountOrNone = 0,
        two_times: bool = False,
        guided: bool = False,
        smooth_time: bool = True,
        completes: bool = False,
        neighbors: Annotated[
            bool, Field(description="each stroke also reads the numbers of the strokes before and after it")
        ] = False,
        augmented: CountOrNone = 0,
        attend_conditions: Annotated[
            bool, Field(description="attend to the condition tokens, in addition to their mean")
        ] = False,
        image_dim: CountOrNone = 0,
        image_tokens: CountOrNone = 0,
        text_dim: CountOrNone = 0,
    ):
        super().__init__()
        self.neighbors = neighbors
        self.stroke_in = linear(3 * stroke_dim if neighbors else stroke_dim, embed_dim)
        self.given = nn.Parameter(torch.zeros(embed_dim)) if completes else None  # added to strokes that are given
        self.augmented = (
            nn.Parameter(torch.zeros(augmented, embed_dim)) if augmented else None
        )  # for each of the numbers
        self.position = learned(num_strokes, embed_dim, std=POSITION_STD)  # the order of strokes has meaning
        self.embed_conditions(embed_dim, num_classes, clip_dim, two_times, attend_conditions, guided,
                              smooth_time, image_dim, image_tokens, text_dim)  # fmt: skip
        self.blocks = nn.ModuleList(
            DiTBlock(embed_dim, num_heads, dropout, self.attend_conditions) for _ in range(num_layers)
        )
        self.out_modulation = linear(embed_dim, 2 * embed_dim, gain=0)
        self.stroke_out = linear(embed_dim, stroke_dim, gain=0)

    def no_weight_decay(self) -> set[str]:
        return super().no_weight_decay() | {"given", "augmented"}

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        class_label: Tensor | None = None,
        clip_features: Tensor | None = None,
        cfg_mask: Tensor | None = None,
        span: Tensor | None = None,
        condition_mask: Tensor | None = None,
        given: Tensor | None = None,
        augmented: Tensor | None = None,
        image: Tensor | None = None,
        image_mask: Tensor | None = None,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """x (B, S, 8), t (B,) in [0, 1], class_label (B,) int64, clip_features (B, C) or (B, P, C) -> (B, S, 8).

        cfg_mask (B,) bool: True drops a row's conditions; (B, 4): its class, condition, image, text. What is missing counts as
        dropped.
        span (B,): length of the interval that starts at t, for networks built with two_times; 0 by default.
        condition_mask (B, P) bool: True for tokens, False for padding. A row without tokens counts as dropped.
        given (B, S) bool, for networks built with `completes`: strokes of x that are clean, to be completed by the others.
        augmented (B, A), for networks built with augmented = A: how the row was augmented; None or zeros: not at all.
        image (B, P, C), text (B, P, C): tokens of an image and a text by an encoder, for networks built with their sizes;
        image_mask, text_mask (B, P), as condition_mask.
        guidance (B,): guidance scale to predict for, for networks built with `guided`; 1 by default.
        """
        assert x.shape[1] == len(self.position), f"x has {x.shape[1]} strokes; expected {len(self.position)}"
        condition, memory = self.conditions(
            x, t, class_label, clip_features, cfg_mask, span, condition_mask, guidance,
            image=image, image_mask=image_mask, text=text, text_mask=text_mask,
        )  # fmt: skip
        condition = F.silu(with_augmented(condition, self.augmented, augmented))
        h = with_given(self.stroke_in(with_neighbors(x) if self.neighbors else x) + self.position, self.given, given)
        for block in self.blocks:
            h = block(h, condition, memory)
        shift, scale = self.out_modulation(condition)[:, None].chunk(2, dim=-1)
        return self.stroke_out(modulate(h, shift, scale))


class DiTBlock(nn.Module):
    """norm -> modulate -> self-attention -> gate, norm -> modulate -> SwiGLU -> gate; the identity at initialization.

    attend: add attention to the condition's tokens between the two.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float, attend: bool = False):
        super().__init__()
        self.modulation = linear(embed_dim, 6 * embed_dim, gain=0)
        self.attention = Attention(embed_dim, num_heads)
        self.cross = CrossAttention(embed_dim, num_heads, dropout) if attend else None
        self.mlp = SwiGLU(embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, condition: Tensor, memory: tuple[Tensor, Tensor | None] | None = None) -> Tensor:
        """h (B, S, D), condition (B, D) after a SiLU shared by all blocks."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)[:, None].chunk(6, dim=-1)
        h = h + gate_a * self.dropout(self.attention(modulate(h, shift_a, scale_a)))
        if self.cross is not None and memory is not None:
            h = self.cross(h, memory)
        return h + gate_m * self.dropout(self.mlp(modulate(h, shift_m, scale_m)))
