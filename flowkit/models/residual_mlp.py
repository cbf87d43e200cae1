"""ResidualMLP: the network of the conditional-transport tables (C2OT, arXiv 2503.10636)."""

from __future__ import annotations

from torch import Tensor, nn

from flowkit.models import Count, CountOrNone, Layers, Width
from flowkit.models.selu_mlp import PointInput


class ResidualMLP(nn.Module):
    """Predicts (B, input_dim) from x of that shape and t (B,): residual blocks of two linear layers around a wide GELU.

    The GELU is 4 times as wide. C2OT uses three blocks of width 128. num_classes = 0 and condition_dim = 0 mean none.
    Uses torch's default initialization.
    """

    def __init__(
        self,
        input_dim: Count = 2,
        hidden_dim: Width = 128,
        num_layers: Layers = 3,
        num_classes: CountOrNone = 0,
        condition_dim: CountOrNone = 0,
        two_times: bool = False,
        guided: bool = False,
    ):
        super().__init__()
        self.input = PointInput(input_dim, hidden_dim, num_classes, condition_dim, two_times, guided)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden_dim, 4 * hidden_dim), nn.GELU(), nn.Linear(4 * hidden_dim, hidden_dim))
            for _ in range(num_layers)
        )
        self.out = nn.Linear(hidden_dim, input_dim)
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
        """As SeluMLP: x (B, D), t (B,), class_label (B,), condition (B, C) or (B, P, C), cfg_mask, ... -> (B, D)."""
        assert x.shape[1:] == (self.input_dim,), f"x is {tuple(x.shape)}; the network takes (B, {self.input_dim})"
        h = self.input(x, t, class_label, condition, cfg_mask, span, condition_mask, guidance)
        for block in self.blocks:
            h = h + block(h)
        return self.out(h)
