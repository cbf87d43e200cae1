"""Layers for what a network is given besides x and t: classes, features, images, texts, given strokes, augmentation.

D is the embedding width, P a number of condition tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit.conditions import KINDS
from flowkit.models.layers import POSITION_STD, SMOOTH, TimeEmbedding, learned, linear

COLUMNS = {kind: column for column, kind in enumerate(KINDS)}
CLASS_DIM = 128  # width of class embeddings


def dropped_rows(cfg_mask: Tensor | None, kind: str) -> Tensor | None:
    """Return whose conditions of that kind are dropped, (B,), from a mask (B,) for all kinds, or (B, 4) in the order of KINDS."""
    return cfg_mask if cfg_mask is None or cfg_mask.ndim == 1 else cfg_mask[:, COLUMNS[kind]]


class ClassEmbedding(nn.Module):
    """class_label (B,) -> (B, dim). The last row of the table is the null class, for rows with a dropped or no label."""

    def __init__(self, num_classes: int, dim: int = CLASS_DIM):
        super().__init__()
        self.null = num_classes
        self.table = nn.Embedding(num_classes + 1, dim)

    def forward(self, class_label: Tensor | None, dropped: Tensor | None, like: Tensor) -> Tensor:
        """`like` (B, ...) provides the batch size and device."""
        if class_label is None:
            class_label = torch.full((like.shape[0],), self.null, device=like.device)
        elif dropped is not None:
            class_label = class_label.masked_fill(dropped, self.null)
        return self.table(class_label)


def with_given(h: Tensor, mark: nn.Parameter | None, given: Tensor | None) -> Tensor:
    """Add the mark (D,) to tokens h (B, S, D) where `given` (B, S)."""
    if given is None:
        return h
    assert mark is not None, "the network was built without `completes`"
    return h + given[..., None] * mark


def guidance_share(guidance: Tensor | None, like: Tensor) -> Tensor:
    """Return how networks take a guidance scale (B,), as 1 - 1 / scale, from 0 to 1. None is a scale of 1. like: (B,)."""
    return torch.zeros_like(like) if guidance is None else 1 - 1 / guidance


def with_augmented(condition: Tensor, weight: nn.Parameter | None, augmented: Tensor | None) -> Tensor:
    """Add how rows were `augmented` (B, A) to the condition (B, D): weight (A, D); nothing for a row of zeros."""
    if augmented is None:
        return condition
    assert weight is not None, "the network was built without `augmented`"
    return condition + augmented @ weight


def token_mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean (B, D) over tokens (B, P, D) where mask (B, P) is True; 0 for rows without tokens."""
    if mask is None:
        return tokens.mean(1)
    return tokens.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)


def without_any(dropped: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """Return the rows (B,) bool whose condition is dropped or has no tokens, which is equivalent; None if there are none."""
    if mask is None:
        return dropped
    return ~mask.any(1) if dropped is None else dropped | ~mask.any(1)


def condition_memory(
    tokens: Tensor, null: Tensor, hidden: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return the tokens to attend to (B, P + 1, D), and which of them each row sees (B, P + 1) bool (None: all).

    tokens (B, P, D) with mask (B, P), and the null token (D,). The null token is always visible, and the only visible one for
    rows that are `hidden` (B,). So "dropped" means the same for any number of tokens, and attention to a single token can vary.
    """
    memory = torch.cat((tokens, null.to(tokens.dtype).expand(tokens.shape[0], 1, -1)), dim=1)
    if hidden is None and mask is None:
        return memory, None
    seen = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask
    if hidden is not None:
        seen = seen & ~hidden[:, None]
    return memory, F.pad(seen, (0, 1), value=True)


class FeatureProjection(nn.Module):
    """Image features (B, C) pooled or (B, P, C) per patch -> (B, P, D), P = 1 if pooled.

    Normalizes them first, since unit-length and raw features differ by an order of magnitude.
    """

    def __init__(self, clip_dim: int, embed_dim: int):
        super().__init__()
        self.clip_dim = clip_dim
        self.norm = nn.LayerNorm(clip_dim)
        self.project = linear(clip_dim, embed_dim)

    def forward(
        self, features: Tensor | None, dropped: Tensor | None, like: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the tokens, and which rows to ignore (B,) bool (None: no row). mask (B, P): True for tokens.

        Without features, zeros are projected, so that every parameter is in every graph, as DDP requires.
        """
        if features is None:
            tokens = like.new_zeros(like.shape[0], 1, self.clip_dim)
            dropped = torch.ones(like.shape[0], dtype=torch.bool, device=like.device)
        else:
            tokens = features if features.ndim == 3 else features[:, None]
            dropped = without_any(dropped, mask)
        if mask is not None:  # ignore the padding
            tokens = tokens.masked_fill(~mask[..., None], 0)
        return self.project(self.norm(tokens)), dropped


class EncodedTokens(nn.Module):
    """Tokens of an image or a text, as an encoder made them, for a network to attend to.

    positions: the number of tokens if each has a fixed place, as the cells of an image have; they get learned positions, since
    the features of a convolutional encoder say little about where they are.
    """

    def __init__(self, width: int, embed_dim: int, positions: int = 0):
        super().__init__()
        self.features = FeatureProjection(width, embed_dim)
        self.position = learned(positions, embed_dim, std=POSITION_STD) if positions else None
        self.null = learned(embed_dim)

    def forward(
        self, tokens: Tensor | None, dropped: Tensor | None, like: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor | None]]:
        """tokens (B, P, C), dropped (B,), mask (B, P) -> their mean (B, D), and the memory as in `condition_memory`."""
        if tokens is not None:  # may be stored in half precision
            tokens = tokens.to(self.features.project.weight.dtype)
        projected, dropped = self.features(tokens, dropped, like, mask)
        if self.position is not None:
            projected = projected + self.position
        memory = condition_memory(projected, self.null, dropped, mask)
        mean = token_mean(projected, mask)
        return mean if dropped is None else torch.where(dropped[:, None], self.null, mean), memory


class EncodedConditions(nn.ModuleDict):
    """The tokens of images and texts that a network attends to. A size of 0 means none."""

    def __init__(self, embed_dim: int, image_dim: int, image_tokens: int, text_dim: int):
        super().__init__()
        if image_dim:
            self["image"] = EncodedTokens(image_dim, embed_dim, image_tokens)
        if text_dim:
            self["text"] = EncodedTokens(text_dim, embed_dim)

    def forward(
        self, like: Tensor, cfg_mask: Tensor | None, given: dict[str, Tensor | None]
    ) -> list[tuple[Tensor, tuple[Tensor, Tensor | None]]]:
        """Return the mean (B, D) and the memory of each kind. given: tokens and masks by name, as in `Conditions.encoded`."""
        return [each(given.get(kind), dropped_rows(cfg_mask, kind), like, given.get(f"{kind}_mask"))
                for kind, each in self.items()]  # fmt: skip


def joined(memories: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    """Join memories, each tokens (B, M, D) and the visible ones (B, M) bool (None: all), to one."""
    if len(memories) == 1:
        return memories[0]
    tokens = torch.cat([one for one, _ in memories], dim=1)
    if all(seen is None for _, seen in memories):
        return tokens, None
    every = [torch.ones(one.shape[:2], dtype=torch.bool, device=one.device) if seen is None else seen
             for one, seen in memories]  # fmt: skip
    return tokens, torch.cat(every, dim=1)


class Conditioned(nn.Module):
    """A network whose time, class and features are embedded and summed to one vector (B, D).

    Inputs that it is built without (num_classes = 0, feature_dim = 0) have no parameters and are ignored.
    """

    def embed_conditions(
        self, embed_dim: int, num_classes: int, feature_dim: int, two_times: bool = False, attend: bool = False,
        guided: bool = False,
        smooth_time: bool = True, image_dim: int = 0, image_tokens: int = 0, text_dim: int = 0,
    ) -> None:  # fmt: skip
        """Create the layers, as part of `__init__`. two_times: also takes the span to the end of an interval. guided: also
        takes a guidance scale. smooth_time: whether a network of two times is differentiated by them.

        attend: blocks also attend to the features. They always attend to the tokens of images and texts.
        """
        self.attend_features = attend and feature_dim > 0
        self.encoded = (
            EncodedConditions(embed_dim, image_dim, image_tokens, text_dim) if image_dim or text_dim else None
        )
        self.attend_conditions = self.attend_features or self.encoded is not None
        self.time = TimeEmbedding(embed_dim, SMOOTH if two_times and smooth_time else 1000.0)
        self.span = TimeEmbedding(embed_dim, SMOOTH) if two_times else None
        self.guidance = TimeEmbedding(embed_dim, SMOOTH) if guided else None
        self.class_embedding = ClassEmbedding(num_classes) if num_classes else None
        if num_classes:
            self.class_mlp = nn.Sequential(linear(CLASS_DIM, embed_dim), nn.SiLU(), linear(embed_dim, embed_dim))
        self.features = FeatureProjection(feature_dim, embed_dim) if feature_dim else None
        if feature_dim:
            self.null_features = learned(embed_dim)

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters without weight decay, besides biases and norms."""
        told = {f"encoded.{kind}.{name}" for kind in (self.encoded or ()) for name in ("position", "null")}
        return {"position", "null_features", "class_embedding.table.weight"} | told

    def conditions(
        self,
        x: Tensor,
        t: Tensor,
        class_label: Tensor | None,
        features: Tensor | None,
        cfg_mask: Tensor | None,
        span: Tensor | None = None,
        mask: Tensor | None = None,
        guidance: Tensor | None = None,
        **encoded: Tensor | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor | None] | None]:
        """Return the embedded conditions (B, D), and what the blocks attend to (see `condition_memory`) or None.

        t, span, guidance (B,); class_label (B,); features (B, C) or (B, P, C), of which the mean over mask (B, P) is used;
        cfg_mask (B,) or (B, 4); encoded: image, image_mask, text and text_mask, as in `Conditions`.
        """
        condition, memories = self.time(t), []
        if self.span is not None:
            condition = condition + self.span(torch.zeros_like(t) if span is None else span)
        if self.guidance is not None:
            condition = condition + self.guidance(guidance_share(guidance, t))
        if self.class_embedding is not None:
            condition = condition + self.class_mlp(
                self.class_embedding(class_label, dropped_rows(cfg_mask, "class"), x)
            )
        if self.features is not None:
            tokens, dropped = self.features(features, dropped_rows(cfg_mask, "condition"), x, mask)
            if self.attend_features:
                memories.append(condition_memory(tokens, self.null_features, dropped, mask))
            if dropped is None:
                dropped = torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)
            condition = condition + torch.where(dropped[:, None], self.null_features, token_mean(tokens, mask))
        if self.encoded is not None:
            for mean, memory in self.encoded(x, cfg_mask, encoded):
                condition = condition + mean
                memories.append(memory)
        return condition, joined(memories) if memories else None
