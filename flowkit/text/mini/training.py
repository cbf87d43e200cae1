"""Train the miniature to reconstruct sentences from their noisy vectors. Takes minutes on two cores."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from flowkit.domain import Tell
from flowkit.text.codec import ENGLISH
from flowkit.text.mini.networks import make_decoder, make_encoder, standardize
from flowkit.text.mini.recipe import MiniRecipe

if TYPE_CHECKING:
    from fairseq2.data.tokenizers import Tokenizer

WARMUP = 50  # updates
DECAY = 0.5  # final fraction of the updates over which the learning rate decays to 0


def train(recipe: MiniRecipe, tokenizer: Tokenizer, sentences: list[str], tell: Tell) -> tuple[nn.Module, nn.Module]:
    """Train and return the encoder and the decoder. `tell` receives progress.

    Runs on the CPU, with a number of threads that depends only on the machine, and with its own generators. So on one
    machine, a recipe gives the same weights regardless of the state of the process.
    """
    with _threads(min(recipe.threads, _cores())), torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        encoder = make_encoder(recipe, tokenizer.vocab_info)
        decoder = make_decoder(recipe, tokenizer.vocab_info)
        tokens = _tokenize(tokenizer, sentences)
        parameters = [*encoder.parameters(), *decoder.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, betas=(0.9, 0.98), fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_factor(step, recipe.steps))
        end = tokenizer.vocab_info.eos_idx
        assert end is not None
        noises = torch.Generator().manual_seed(recipe.seed)
        batches = _batches(tokens, recipe.batch_size, np.random.default_rng(recipe.seed))
        shown = ""
        for step in range(recipe.steps):
            loss = _loss(encoder, decoder, next(batches), end, recipe.noise, noises)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            if step % 10 == 0:
                shown = f"miniature SONAR, loss {loss.item():.3f}"
            tell(shown, step + 1, recipe.steps)
        encoder.eval()
        decoder.eval()
        standardize(encoder, decoder, _encode(encoder, tokenizer, tokens[:4096]))
    return encoder, decoder


def _lr_factor(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / WARMUP, (steps - step) / (DECAY * steps))


def _tokenize(tokenizer: Tokenizer, sentences: list[str]) -> list[Tensor]:
    encode = tokenizer.create_encoder(lang=ENGLISH, mode="source")
    return [encode(sentence) for sentence in sentences]


def _batches(tokens: list[Tensor], size: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Yield batches (B, S) without end. All sentences of a batch have the same length, so there is no padding.

    Sentences that do not fill a batch are skipped in that epoch.
    """
    lengths = np.array([len(sentence) for sentence in tokens])
    while True:
        order = rng.permutation(len(tokens))
        batches = [
            rows[i : i + size]
            for length in np.unique(lengths)
            for rows in [order[lengths[order] == length]]
            for i in range(0, len(rows) - size + 1, size)
        ]
        for number in rng.permutation(len(batches)):
            yield torch.stack([tokens[row] for row in batches[number]])


def _loss(
    encoder: nn.Module, decoder: nn.Module, target: Tensor, end: int, noise: float, generator: torch.Generator
) -> Tensor:
    """Return the cross-entropy per token of decoding the sentences `target` (B, S) from their vectors.

    White noise of up to `noise` standard deviations is added to each vector, so that points near the vector of a sentence
    decode to that sentence, and similar sentences have similar vectors. The encoder input is language, words,
    end-of-sentence. The decoder input is shifted: end-of-sentence, language, words.
    """
    from fairseq2.nn import BatchLayout

    vectors = encoder(target, BatchLayout.of(target)).sentence_embeddings  # (B, D)
    scale = (vectors - vectors.mean(0)).square().mean().sqrt().detach()
    level = noise * scale * torch.rand(len(vectors), 1, generator=generator)
    vectors = vectors + level * torch.randn(vectors.shape, generator=generator)
    before = torch.cat([torch.full((len(target), 1), end), target[:, :-1]], 1)
    source = vectors[:, None]
    logits = decoder(source, BatchLayout.of(source), before, BatchLayout.of(before))  # (B, S, pieces)
    return nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())


@torch.no_grad()
def _encode(encoder: nn.Module, tokenizer: Tokenizer, tokens: list[Tensor]) -> Tensor:
    from fairseq2.nn import BatchLayout

    padded = nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=tokenizer.vocab_info.pad_idx or 0)
    return encoder(padded, BatchLayout.of(padded, [len(sentence) for sentence in tokens])).sentence_embeddings


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
