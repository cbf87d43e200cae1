"""Keys for random draws: every draw is a function of (seed, what it is for, where it stands), of nothing else."""

from __future__ import annotations

import hashlib


def key(seed: int, *place: str | int) -> int:
    """A 63-bit seed for one draw, from the run's seed and the draw's purpose and place: `key(0, "noise", update)`.

    Hashing (BLAKE2b) rather than adding keeps neighbouring places independent: seed 0 at update 1 shares nothing with
    seed 1 at update 0.
    """
    text = "/".join(map(str, (seed, *place)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
