"""BezierSketchTransformer: a transformer decoder over stroke tokens (as in SwiftSketch, arXiv 2502.08642)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from flowkit.models import Count, CountOrNone, Divides, Dropout, Heads, Layers, TokenWidth
from flowkit.models.conditioning import (
    CLASS_DIM,
    ClassEmbedding,
    EncodedConditions,
    FeatureProjection,
    condition_memory,
    dropped_rows,
    guidance_share,
    joined,
    with_augmented,
    with_given,
)
from flowkit.models.layers import POSITION_STD, SMOOTH, Attention, TimeEmbedding, learned, linear


class BezierSketchTransformer(nn.Module):
    """Predicts (B, num_strokes, stroke_dim) from x of that shape and t (B,). Its output is 0 at initialization.

    The time is one token before the strokes. Conditions are memory tokens that the strokes cross-attend to.
    num_classes, clip_dim, image_dim and text_dim of 0 mean none; the network then ignores that input, and without any has no
    cross-attention.
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
        class_embed_dim: Annotated[int, Field(ge=1, description="width of the class embedding")] = CLASS_DIM,
        num_memory_tokens: Annotated[int, Field(ge=1, description="number of memory tokens per class")] = 4,
        mlp_ratio: Annotated[
            float,
            Field(
                gt=0, allow_inf_nan=False, description="hidden width of the feed-forward layers, relative to embed_dim"
            ),
        ] = 4.0,
        two_times: bool = False,
        guided: bool = False,
        smooth_time: bool = True,
        completes: bool = False,
        augmented: CountOrNone = 0,
        image_dim: CountOrNone = 0,
        image_tokens: CountOrNone = 0,
        text_dim: CountOrNone = 0,
    ):
        """A class embedding of `class_embed_dim` numbers is expanded to `num_memory_tokens` memory tokens."""
        super().__init__()
        self.stroke_in = linear(stroke_dim, embed_dim)
        self.given = nn.Parameter(torch.zeros(embed_dim)) if completes else None  # added to strokes that are given
        self.augmented = (
            nn.Parameter(torch.zeros(augmented, embed_dim)) if augmented else None
        )  # for each of the numbers
        self.position = learned(num_strokes, embed_dim, std=POSITION_STD)
        self.time = TimeEmbedding(embed_dim, SMOOTH if two_times and smooth_time else 1000.0)
        self.span = TimeEmbedding(embed_dim, SMOOTH) if two_times else None
        self.guidance = TimeEmbedding(embed_dim, SMOOTH) if guided else None
        self.class_embedding = ClassEmbedding(num_classes, class_embed_dim) if num_classes else None
        if num_classes:
            self.class_tokens = linear(class_embed_dim, num_memory_tokens * embed_dim)
        self.features = FeatureProjection(clip_dim, embed_dim) if clip_dim else None
        if clip_dim:
            self.null_features = learned(embed_dim)
        self.encoded = (
            EncodedConditions(embed_dim, image_dim, image_tokens, text_dim) if image_dim or text_dim else None
        )
        cross = bool(num_classes or clip_dim or self.encoded)
        # Smaller initial branches in deeper networks, to keep the variance constant (as in GPT-2).
        gain = (3 * num_layers if cross else 2 * num_layers) ** -0.5
        self.blocks = nn.ModuleList(
            DecoderBlock(embed_dim, num_heads, dropout, mlp_ratio, cross, gain) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.stroke_out = linear(embed_dim, stroke_dim, gain=0)

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters without weight decay, besides biases and norms."""
        told = {f"encoded.{kind}.{name}" for kind in (self.encoded or ()) for name in ("position", "null")}
        return {"position", "null_features", "class_embedding.table.weight", "given", "augmented"} | told

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
        encoded = {"image": image, "image_mask": image_mask, "text": text, "text_mask": text_mask}
        memory, visible = self._memory(x, class_label, clip_features, cfg_mask, condition_mask, encoded)
        time = self.time(t)
        if self.span is not None:
            time = time + self.span(torch.zeros_like(t) if span is None else span)
        if self.guidance is not None:
            time = time + self.guidance(guidance_share(guidance, t))
        time = with_augmented(time, self.augmented, augmented)
        h = torch.cat((time[:, None], with_given(self.stroke_in(x) + self.position, self.given, given)), dim=1)
        for block in self.blocks:
            h = block(h, memory, visible)
        return self.stroke_out(self.norm(h[:, 1:]))

    def _memory(
        self,
        x: Tensor,
        class_label: Tensor | None,
        clip_features: Tensor | None,
        cfg_mask: Tensor | None,
        mask: Tensor | None,
        encoded: dict[str, Tensor | None],
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return memory tokens (B, M, D): features, class, image, text; and which of them each row sees (B, M) (None: all)."""
        memories = []
        if self.features is not None:
            projected, hidden = self.features(clip_features, dropped_rows(cfg_mask, "condition"), x, mask)
            memories.append(condition_memory(projected, self.null_features, hidden, mask))
        if self.class_embedding is not None:
            tokens = self.class_tokens(self.class_embedding(class_label, dropped_rows(cfg_mask, "class"), x))
            memories.append((tokens.unflatten(-1, (-1, self.position.shape[1])), None))
        if self.encoded is not None:
            memories += [memory for _, memory in self.encoded(x, cfg_mask, encoded)]
        return joined(memories) if memories else (None, None)


class DecoderBlock(nn.Module):
    """Pre-norm block: self-attention, cross-attention to the memory if there is one, feed-forward of width mlp_ratio D."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float, mlp_ratio: float, cross: bool, out_gain: float):
        super().__init__()
        hidden = round(mlp_ratio * embed_dim)
        self.norm_self = nn.LayerNorm(embed_dim)
        self.self_attention = Attention(embed_dim, num_heads, out_gain=out_gain)
        if cross:
            self.norm_cross = nn.LayerNorm(embed_dim)
            self.cross_attention = Attention(embed_dim, num_heads, cross=True, out_gain=out_gain)
        self.norm_mlp = nn.LayerNorm(embed_dim)
        self.mlp = nn.Sequential(linear(embed_dim, hidden), nn.GELU(), linear(hidden, embed_dim, gain=out_gain))
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, memory: Tensor | None, visible: Tensor | None) -> Tensor:
        h = h + self.dropout(self.self_attention(self.norm_self(h)))
        if memory is not None:
            h = h + self.dropout(self.cross_attention(self.norm_cross(h), memory, visible))
        return h + self.dropout(self.mlp(self.norm_mlp(h)))
