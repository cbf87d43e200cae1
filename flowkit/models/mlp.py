"""SimpleMLP: the smallest velocity network for vectors, and the baseline of the larger ones."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from flowkit.models import Count, CountOrNone, Dropout, Width
from flowkit.models.conditioning import Conditioned
from flowkit.models.layers import linear

SILU_GAIN = 2**0.5  # as for ReLU; without it the signal shrinks in every layer, and learning is slower
OUT_GAIN = 0.1  # start with outputs near 0, the mean of the velocity


class SimpleMLP(Conditioned):
    """Predicts (B, input_dim) from x of that shape and t (B,): linear layers over x and the embedded time.

    num_layers counts the linear layers, including the output. num_classes = 0 and condition_dim = 0 mean none; the network then
    ignores that input. It has 920,064 parameters at its defaults.
    """

    def __init__(
        self,
        input_dim: Count = 1024,
        hidden_dim: Width = 256,
        num_layers: Annotated[int, Field(ge=2, le=1000, description="number of blocks, or layers for mlp")] = 5,
        dropout: Dropout = 0.0,
        num_classes: CountOrNone = 0,
        condition_dim: CountOrNone = 0,
        two_times: bool = False,
        guided: bool = False,
        smooth_time: bool = True,
    ):
        super().__init__()
        self.embed_conditions(hidden_dim, num_classes, condition_dim, two_times, guided=guided, smooth_time=smooth_time)
        widths = [input_dim + hidden_dim] + (num_layers - 1) * [hidden_dim]
        layers: list[nn.Module] = []
        for number, width in enumerate(widths[:-1]):
            layers += [linear(width, hidden_dim, gain=SILU_GAIN if number else 1.0), nn.SiLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, linear(widths[-1], input_dim, gain=OUT_GAIN))
        self.input_dim = input_dim

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
        assert x.shape[1:] == (self.input_dim,), f"x is {tuple(x.shape)}; the network takes (B, {self.input_dim})"
        told, _ = self.conditions(x, t, class_label, condition, cfg_mask, span, condition_mask, guidance)
        return self.layers(torch.cat((x, told), dim=-1))
