"""DiTVelocityNetwork: a diffusion transformer (arXiv 2212.09748) over a vector, whole or split into a few tokens."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from flowkit.models import Count, CountOrNone, Divides, Dropout, Heads, Layers, Width
from flowkit.models.conditioning import Conditioned
from flowkit.models.layers import Attention, CrossAttention, learned, linear, modulate


class DiTVelocityNetwork(Conditioned):
    """Predicts (B, input_dim) from x of that shape and t (B,). Its output is 0 at initialization.

    With one token, attention is a linear map, and the network has 9,309,952 parameters at its other defaults. With more,
    x is split into num_tokens pieces of equal length, with shared projections and learned positions.
    num_classes = 0 and condition_dim = 0 mean none; the network then ignores that input.
    """

    def __init__(
        self,
        input_dim: Count = 1024,
        hidden_dim: Width = 384,
        num_layers: Layers = 3,
        num_heads: Annotated[Heads, Divides("hidden_dim")] = 6,
        num_tokens: Annotated[
            int,
            Field(ge=1, description="number of tokens to split a vector into; divides its length"),
            Divides("input_dim"),
        ] = 1,
        dropout: Dropout = 0.0,
        num_classes: CountOrNone = 0,
        condition_dim: CountOrNone = 0,
        two_times: bool = False,
        guided: bool = False,
        smooth_time: bool = True,
        attend_conditions: Annotated[
            bool, Field(description="attend to the condition tokens, in addition to their mean")
        ] = False,
    ):
        """hidden_dim is a multiple of num_heads, input_dim of num_tokens."""
        super().__init__()
        self.num_tokens = num_tokens
        self.token_dim = input_dim // num_tokens
        self.token_in = linear(self.token_dim, hidden_dim)
        # As large as the projected tokens of unit-variance data: with the usual 0.02 the order is learned late.
        std = (2 * self.token_dim / (self.token_dim + hidden_dim)) ** 0.5
        self.position = learned(num_tokens, hidden_dim, std=std) if num_tokens > 1 else None
        self.embed_conditions(hidden_dim, num_classes, condition_dim, two_times, attend_conditions, guided, smooth_time)
        self.blocks = nn.ModuleList(
            AdaLNBlock(hidden_dim, num_heads, num_tokens, dropout, self.attend_conditions) for _ in range(num_layers)
        )
        self.out_modulation = linear(hidden_dim, 2 * hidden_dim, gain=0)
        self.token_out = linear(hidden_dim, self.token_dim, gain=0)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        class_label: Tensor | None = None,
        condition: Tensor | None = None,
        cfg_mask: Tensor | None = None,
        span: Tensor | None = None,
        condition_mask: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """x (B, D), t (B,) in [0, 1], class_label (B,) int64, condition (B, C) or (B, P, C), of which the mean is used -> (B, D).

        cfg_mask (B,) bool: True drops a row's conditions; (B, 4): its class, its condition. Missing conditions count as dropped.
        span (B,): length of the interval that starts at t, for networks built with two_times; 0 by default.
        condition_mask (B, P) bool: True for tokens, False for padding. A row without tokens counts as dropped.
        guidance (B,): guidance scale to predict for, for networks built with `guided`; 1 by default.
        """
        size = self.num_tokens * self.token_dim
        assert x.shape[1:] == (size,), f"x is {tuple(x.shape)}; the network takes (B, {size})"
        told, memory = self.conditions(x, t, class_label, condition, cfg_mask, span, condition_mask, guidance)
        modulation = F.silu(told)
        h = self.token_in(x.unflatten(1, (self.num_tokens, self.token_dim)))
        if self.position is not None:
            h = h + self.position
        for block in self.blocks:
            h = block(h, modulation, memory)
        shift, scale = self.out_modulation(modulation)[:, None].chunk(2, dim=-1)
        return self.token_out(modulate(h, shift, scale)).flatten(1)


class AdaLNBlock(nn.Module):
    """norm -> modulate -> self-attention -> gate, norm -> modulate -> GELU MLP -> gate; the identity at initialization.

    attend: add attention to the condition's tokens between the two.
    """

    def __init__(self, hidden_dim: int, num_heads: int, num_tokens: int, dropout: float, attend: bool = False):
        super().__init__()
        self.modulation = linear(hidden_dim, 6 * hidden_dim, gain=0)
        self.attention = Attention(hidden_dim, num_heads, bias=True, qk_norm=True)
        self.cross = CrossAttention(hidden_dim, num_heads, dropout, qk_norm=True) if attend else None
        self.single = num_tokens == 1
        self.mlp = nn.Sequential(linear(hidden_dim, 4 * hidden_dim), nn.GELU(), linear(4 * hidden_dim, hidden_dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, condition: Tensor, memory: tuple[Tensor, Tensor | None] | None = None) -> Tensor:
        """h (B, T, D), condition (B, D) after a SiLU shared by all blocks."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)[:, None].chunk(6, dim=-1)
        attend = self.attention.of_one if self.single else self.attention
        h = h + gate_a * self.dropout(attend(modulate(h, shift_a, scale_a)))
        if self.cross is not None and memory is not None:
            h = self.cross(h, memory)
        return h + gate_m * self.dropout(self.mlp(modulate(h, shift_m, scale_m)))
