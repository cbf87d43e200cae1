"""The networks of the papers' two-dimensional benchmarks, and how they take time and conditions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from flowkit.models import Count, CountOrNone, Layers, Width
from flowkit.models.conditioning import dropped_rows, guidance_share, token_mean, without_any


class PointInput(nn.Module):
    """x (B, D), t (B,) and conditions -> (B, width): one linear layer over all of them concatenated.

    A class acts as a one-hot vector: its column of the weights is added. A dropped condition is replaced by learned numbers.
    Inputs that it is built without (0 classes, 0 numbers) are ignored.
    """

    def __init__(
        self, input_dim: int, width: int, num_classes: int = 0, condition_dim: int = 0, two_times: bool = False,
        guided: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.input_dim, self.num_classes, self.condition_dim = input_dim, num_classes, condition_dim
        self.two_times, self.guided = two_times, guided
        self.linear = nn.Linear(input_dim + 1 + two_times + guided, width)
        if num_classes:
            self.classes = nn.Embedding(num_classes + 1, width)  # the last is the null
            nn.init.uniform_(self.classes.weight, -1.0, 1.0)  # as in a linear layer with a single input
        if condition_dim:
            self.features = nn.Linear(condition_dim, width, bias=False)
            self.null_features = nn.Parameter(torch.empty(width).uniform_(-1.0, 1.0) / math.sqrt(condition_dim))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        class_label: Tensor | None,
        condition: Tensor | None,
        cfg_mask: Tensor | None,
        span: Tensor | None,
        mask: Tensor | None,
        guidance: Tensor | None,
    ) -> Tensor:
        inputs = [x, t[:, None]]
        if self.two_times:
            inputs.append(torch.zeros_like(inputs[1]) if span is None else span[:, None])
        if self.guided:
            inputs.append(guidance_share(guidance, t)[:, None])
        h = self.linear(torch.cat(inputs, dim=1).to(self.linear.weight.dtype))
        no_label, dropped = dropped_rows(cfg_mask, "class"), dropped_rows(cfg_mask, "condition")
        if self.num_classes:
            if class_label is None:
                class_label = torch.full((x.shape[0],), self.num_classes, device=x.device)
            elif no_label is not None:
                class_label = class_label.masked_fill(no_label, self.num_classes)
            h = h + self.classes(class_label)
        if self.condition_dim:
            # Compute both, so that every parameter is in every graph, as DDP requires.
            if condition is None:
                condition, dropped = (
                    x.new_zeros(x.shape[0], self.condition_dim),
                    x.new_ones(x.shape[0], dtype=torch.bool),
                )
            elif (dropped := without_any(dropped, mask)) is None:
                dropped = x.new_zeros(x.shape[0], dtype=torch.bool)
            features = condition if condition.ndim == 2 else token_mean(condition, mask)
            h = h + torch.where(dropped[:, None], self.null_features.to(h.dtype), self.features(features))
        return h


class SeluMLP(nn.Module):
    """Predicts (B, input_dim) from x of that shape and t (B,): `num_layers` hidden layers with SELU (arXiv 1706.02515).

    The network of [SF]2M and torchcfm (arXiv 2307.03672, 2302.00482): three layers of 64, 8,770 parameters in 2-D.
    num_classes = 0 and condition_dim = 0 mean none. Uses torch's default initialization, like theirs.
    """

    def __init__(
        self,
        input_dim: Count = 2,
        hidden_dim: Width = 64,
        num_layers: Layers = 3,
        num_classes: CountOrNone = 0,
        condition_dim: CountOrNone = 0,
        two_times: bool = False,
        guided: bool = False,
    ):
        super().__init__()
        self.input = PointInput(input_dim, hidden_dim, num_classes, condition_dim, two_times, guided)
        hidden = [layer for _ in range(num_layers - 1) for layer in (nn.SELU(), nn.Linear(hidden_dim, hidden_dim))]
        self.layers = nn.Sequential(*hidden, nn.SELU(), nn.Linear(hidden_dim, input_dim))
        self.input_dim = input_dim

    def no_weight_decay(self) -> set[str]:
        return {"input.null_features", "input.classes.weight"}

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
        return self.layers(self.input(x, t, class_label, condition, cfg_mask, span, condition_mask, guidance))
