"""Nucleus sampling (arXiv 1904.09751) whose draws are keyed by the row, so that a batch's make-up changes no sentence."""

from __future__ import annotations

import torch
from torch import Tensor

FIRST_LOOK = 1024  # of 256,000 probabilities: sorting them all at each step would cost more than the decoder


class KeyedNucleus:
    """The next token, drawn from the smallest set of likeliest tokens with a mass above p: a fairseq2 `Sampler`.

    uniforms: (B, S) on [0, 1): one for each row and step. fairseq2 drops a row after its end token; so does this.
    """

    def __init__(self, p: float, uniforms: Tensor, eos_idx: int):
        self._p, self._uniforms, self._eos_idx, self._step = p, uniforms, eos_idx, 0

    def sample(self, probs: Tensor) -> Tensor:
        """probs: (B', V), not necessarily of sum 1 -> token numbers (B')."""
        probs = probs / probs.sum(-1, keepdim=True)
        looked_at = min(FIRST_LOOK, probs.size(1))
        while True:
            likeliest, tokens = probs.topk(looked_at, -1)
            before = likeliest.cumsum(-1, dtype=torch.float64) - likeliest
            if looked_at == probs.size(1) or bool((before[:, -1] > self._p).all()):
                break
            looked_at = min(16 * looked_at, probs.size(1))
        nucleus = before <= self._p
        mass = (likeliest * nucleus).sum(-1, dtype=torch.float64)
        reached = before <= (self._uniforms[:, self._step] * mass).unsqueeze(-1)  # inverse of the cumulative sum
        place = (reached & nucleus).sum(-1, keepdim=True) - 1
        drawn = tokens.gather(-1, place).squeeze(-1)
        self._step += 1
        self._uniforms = self._uniforms[drawn != self._eos_idx]
        return drawn
