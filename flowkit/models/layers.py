"""Layers shared by the networks. D is the embedding width, T the number of tokens.

Batch sizes are read as `x.shape[0]`: `len(x)` would be a constant in an exported network.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POSITION_STD = 0.2  # about that of the projected strokes; with the usual 0.02 the order is learned late
SMOOTH = (
    1.0  # scale of times that a network is differentiated by, whose derivative grows with frequency (arXiv 2410.11081)
)
FEW_SCORES = 256 * 256  # attention scores per head and row; with more, torch's fused bf16 kernel is faster on a CPU
FREQUENCIES = 128  # number of frequencies of the time embedding, each with a sine and a cosine


def linear(in_features: int, out_features: int, *, bias: bool = True, gain: float = 1.0) -> nn.Linear:
    """Return a Linear with Xavier-uniform weights times `gain` and zero bias. Use gain 0 for layers that start at 0."""
    layer = nn.Linear(in_features, out_features, bias=bias)
    nn.init.xavier_uniform_(layer.weight, gain)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def learned(*shape: int, std: float = 0.02) -> nn.Parameter:
    """Return a free parameter, for positions and null tokens."""
    return nn.Parameter(torch.randn(*shape) * std)


class TimeEmbedding(nn.Module):
    """t (B,) in [0, 1] -> (B, D): sinusoids, then a two-layer network.

    Phases reach 1000 radians, so t and the frequencies stay in fp32 (or fp64) whatever the precision of the weights: in bf16
    they would be off by whole radians.
    """

    frequencies: Tensor

    def __init__(self, embed_dim: int, scale: float = 1000.0):
        super().__init__()
        # Designed for times from 0 to 1000 (arXiv 2006.11239). Not saved, since they are constants.
        exponents = torch.arange(FREQUENCIES, dtype=torch.float32)
        self.register_buffer(
            "frequencies", scale * torch.exp(-math.log(10_000) * exponents / FREQUENCIES), persistent=False
        )
        self.mlp = nn.Sequential(linear(2 * FREQUENCIES, embed_dim), nn.SiLU(), linear(embed_dim, embed_dim))
        self.precision = torch.float32  # dtype of the two layers

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TimeEmbedding:
        """Let `.to(torch.bfloat16)`, `.half()` etc. move the frequencies, but keep their precision."""
        exact = self.frequencies
        super()._apply(fn, recurse)
        self.precision = self.frequencies.dtype
        self.frequencies = exact.to(self.frequencies.device)
        return self

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        return self.mlp(torch.cat((angles.cos(), angles.sin()), dim=-1).to(self.precision))


def with_neighbors(x: Tensor) -> Tensor:
    """Return each token of x (B, S, D) after the one before it and before the one after it, zeros at the ends: (B, S, 3 D)."""
    padded = F.pad(x, (0, 0, 1, 1))
    return torch.cat((padded[:, :-2], x, padded[:, 2:]), dim=-1)


def modulate(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm with gain and bias from the condition: h (B, T, D), shift and scale (B, 1, D)."""
    return F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale) + shift


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of query (B, H, T, d) to key and value (B, H, M, d); mask (B, 1, 1, M): True to attend.

    By its formula for few tokens under bf16 autocast on the CPU, where torch's fused kernel takes up to 15 times as long
    (`tests/benchmarks/attention.py`). The softmax is float32.
    """
    small = query.shape[-2] * key.shape[-2] <= FEW_SCORES
    if not small or query.device.type != "cpu" or not _in_bf16():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.float().softmax(-1).to(value.dtype) @ value


def _in_bf16() -> bool:
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


class Attention(nn.Module):
    """Multi-head attention of x (B, T, D) to itself, or to `memory` (B, M, D) where `visible` (B, M) is True.

    Query, key and value have no biases by default. A key bias has no effect, but Adam would amplify its rounding noise; a value
    bias duplicates that of `out`; the norm before the queries has a shift already.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, *, cross: bool = False, out_gain: float = 1.0,
        bias: bool = False, qk_norm: bool = False,
    ):  # fmt: skip
        """bias: of query, key and value (self-attention only). qk_norm: queries and keys of unit RMS (arXiv 2302.05442)."""
        super().__init__()
        self.num_heads = num_heads
        self.cross = cross
        self.qk_norm = qk_norm
        if cross:
            self.query = linear(embed_dim, embed_dim, bias=False)
            self.key_value = linear(embed_dim, 2 * embed_dim, bias=False)
        else:
            self.qkv = linear(embed_dim, 3 * embed_dim, bias=bias)
        self.out = linear(embed_dim, embed_dim, gain=out_gain)

    def forward(self, x: Tensor, memory: Tensor | None = None, visible: Tensor | None = None) -> Tensor:
        if self.cross:
            assert memory is not None
            (query,) = self._heads(self.query(x), 1)
            key, value = self._heads(self.key_value(memory), 2)
        else:
            query, key, value = self._heads(self.qkv(x), 3)
        if self.qk_norm:
            query, key = (F.rms_norm(part, part.shape[-1:], eps=1e-6) for part in (query, key))
        mask = None if visible is None else visible[:, None, None, :]
        attended = attend(query, key, value, mask)
        return self.out(attended.transpose(1, 2).flatten(2))

    def of_one(self, x: Tensor) -> Tensor:
        """Self-attention of x (B, 1, D): all weight is on the only token, so the result is that of its value.

        Queries and keys are not computed. Their gradient is exactly 0 (instead of the rounding noise of a softmax, which Adam
        would amplify), and they stay in the graph, as rows of the same matrix.
        """
        value = 2 * x.shape[-1]
        return self.out(F.linear(x, self.qkv.weight[value:], None if self.qkv.bias is None else self.qkv.bias[value:]))

    def _heads(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, T, parts * D) -> `parts` times (B, heads, T, D / heads)."""
        return projected.unflatten(-1, (parts, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class CrossAttention(nn.Module):
    """h (B, T, D) plus attention to a memory (`condition_memory`); h itself at initialization."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float, *, qk_norm: bool = False):
        super().__init__()
        self.norm = nn.LayerNorm(embed_dim)
        self.attention = Attention(embed_dim, num_heads, cross=True, out_gain=0, qk_norm=qk_norm)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, memory: tuple[Tensor, Tensor | None]) -> Tensor:
        return h + self.dropout(self.attention(self.norm(h), *memory))


class SwiGLU(nn.Module):
    """W_out (silu(W_gate x) * W_up x), without biases. Hidden width 8/3 D, rounded up to a multiple of 8 (arXiv 2002.05202)."""

    def __init__(self, embed_dim: int):
        super().__init__()
        hidden = 8 * math.ceil(embed_dim / 3)
        self.gate_up = linear(embed_dim, 2 * hidden, bias=False)
        self.out = linear(hidden, embed_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * up)
