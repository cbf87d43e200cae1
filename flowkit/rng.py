"""Randomness: every draw is a function of (seed, purpose, position) and nothing else.

So resuming needs no saved state, and draws do not depend on the number of processes or batches. Torch is imported on first
use.
"""

from __future__ import annotations

import hashlib
import threading
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Version of the numbers that a seed and a recipe produce; checkpoints without one have 1. A run is only resumed with its own
# version, and a checkpoint samples as in its version. Version 3 differs from 2 in bf16 training on the CPU (its attention), and
# on CUDA in validation noise and in samples, which may use TF32; so a float32 run of version 2 can still be resumed. Version 4
# differs from 3 in the default of `flow.objective.along`.
NUMERICS = 4
MT_WORDS = 624  # 32-bit words of state of the Mersenne Twister, torch's CPU generator
MT_OFFSET = 3  # offset in the 64-bit words of the saved state, after the seed, two counters and a position


def key(seed: int, *place: str | int) -> int:
    """Return a 63-bit seed for one draw, from the run's seed and the draw's purpose and position: `key(0, "noise", update)`.

    Hashes (BLAKE2b) instead of adding, so that neighboring positions are independent: seed 0 at update 1 has nothing in common
    with seed 1 at update 0.
    """
    text = "/".join(map(str, (seed, *place)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def seed_generator(generator: torch.Generator, seed: int, numerics: int = NUMERICS) -> torch.Generator:
    """Seed `generator` with all 63 bits of `seed`, a key, and return it.

    On the CPU `manual_seed` only uses the low 32 bits, so that among 100,000 keys one or two pairs would give the same numbers.
    There, the whole state is a hash of the key (SHAKE-128). Version 1 of the numerics uses `manual_seed`.
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
    """Return the saved state of a newly seeded CPU generator, as 64-bit words."""
    import torch

    return torch.Generator().manual_seed(0).get_state().numpy().view(np.uint64)


def seed_modules(device: torch.device, seed: int) -> None:
    """Seed the generators that modules draw from (dropout), on the CPU and on `device`.

    Not with `torch.manual_seed`, which formats and keeps a stack trace at every call if CUDA is available but unused.
    """
    import torch

    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


class Draws:
    """A run's draws on one device, keyed by purpose and update, for the whole global batch on every process.

    A process uses only its rows of them, which costs less than a generator per row. The generator is reseeded for each draw, so
    it has no state. Each thread has its own, so a worker may draw ahead of the loop.
    """

    def __init__(self, seed: int, device: torch.device):
        self.seed, self.device = seed, device
        self._of_thread = threading.local()

    def normal(self, purpose: str, place: int, shape: tuple[int, ...]) -> Tensor:
        """Draw standard normals (fp32) of that shape."""
        import torch

        return torch.randn(shape, generator=self._at(purpose, place), device=self.device)

    def uniform(self, purpose: str, place: int, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        """Draw uniforms on [0, 1) of that shape, fp32 by default."""
        import torch

        return torch.rand(shape, generator=self._at(purpose, place), device=self.device, dtype=dtype or torch.float32)

    def _at(self, purpose: str, place: int) -> torch.Generator:
        import torch

        generator = getattr(self._of_thread, "generator", None)
        if generator is None:
            generator = self._of_thread.generator = torch.Generator(self.device)
        return seed_generator(generator, key(self.seed, purpose, place))


class RowOrder:
    """The rows of each batch: one endless stream of rows, epoch by epoch, without state to save.

    Update u takes positions u*B to (u+1)*B of the stream; position p is row p % N of the permutation of epoch p // N.
    A batch may span two epochs, so no row is dropped or repeated, for any N and B. Unless `shuffled`, every epoch takes the rows
    as stored. Threads may share one: the permutations of two epochs are kept, since threads that read ahead reach the next
    epoch first.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, *, shuffled: bool = True):
        if rows < 1:
            raise ValueError("an order needs at least one row")
        self.rows, self.batch_size, self.seed, self.shuffled = rows, batch_size, seed, shuffled
        self._kept: dict[int, np.ndarray] = {}  # by epoch; replaced, never modified, since threads read it
        self._making = threading.Lock()

    def batch(self, update: int) -> np.ndarray:
        """Return the row numbers (B,) int64 of the global batch of update `update`, counted from 0."""
        place, stop = update * self.batch_size, (update + 1) * self.batch_size
        pieces = []
        while place < stop:
            epoch, offset = divmod(place, self.rows)
            piece = self.permutation(epoch)[offset : offset + stop - place]
            pieces.append(piece)
            place += len(piece)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def permutation(self, epoch: int) -> np.ndarray:
        """Return the row numbers (N,) in the order of that epoch."""
        if not self.shuffled:
            epoch = 0  # all epochs are equal
        kept = self._kept
        if epoch not in kept:
            with self._making:  # one thread makes it while the others wait
                kept = self._kept
                if epoch not in kept:
                    latest = dict(list(kept.items())[-1:])
                    self._kept = kept = {**latest, epoch: self._make(epoch)}
        return kept[epoch]

    def _make(self, epoch: int) -> np.ndarray:
        if not self.shuffled:
            return np.arange(self.rows)
        return np.random.Generator(np.random.Philox(key(self.seed, "order", epoch))).permutation(self.rows)
