"""Keys for random draws: every draw is a function of (seed, what it is for, where it stands), of nothing else."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# The version of the numbers that a seed and a recipe lead to; checkpoints without one have 1. A run is resumed under its own
# version only, and a checkpoint samples as its version did.
NUMERICS = 2
MT_WORDS = 624  # 32-bit words of state of the Mersenne Twister, torch's generator on the CPU
MT_OFFSET = 3  # in the 64-bit words of the generator's saved state: behind the seed, two counters and a position


def key(seed: int, *place: str | int) -> int:
    """A 63-bit seed for one draw, from the run's seed and the draw's purpose and place: `key(0, "noise", update)`.

    Hashing (BLAKE2b) rather than adding keeps neighbouring places independent: seed 0 at update 1 shares nothing with
    seed 1 at update 0.
    """
    text = "/".join(map(str, (seed, *place)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def seed_generator(generator: torch.Generator, seed: int, numerics: int = NUMERICS) -> torch.Generator:
    """Seed `generator` with all 63 bits of `seed`, a key, and return it.

    On the CPU `manual_seed` reads the low 32 bits only, so that among 100,000 keys one pair or two would give the same
    numbers. There, the whole state is a hash of the key (SHAKE-128). Version 1 of the numerics keeps `manual_seed`.
    """
    if generator.device.type != "cpu" or numerics == 1:
        return generator.manual_seed(seed)
    import torch

    state = _fresh_state().copy()
    words = np.frombuffer(hashlib.shake_128(seed.to_bytes(8, "little")).digest(4 * MT_WORDS), "<u4")
    state[MT_OFFSET : MT_OFFSET + MT_WORDS] = words
    generator.set_state(torch.from_numpy(state.view(np.uint8)))
    return generator


@cache
def _fresh_state() -> np.ndarray:
    """The saved state of a newly seeded CPU generator, as 64-bit words."""
    import torch

    return torch.Generator().manual_seed(0).get_state().numpy().view(np.uint64)
