"""All that is random: every draw is a function of (seed, what it is for, where it stands), of nothing else.

So nothing has to be saved to resume, and what is drawn does not depend on how many processes or batches share it. Torch is
loaded where it draws, and not before.
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


def seed_modules(device: torch.device, seed: int) -> None:
    """Seed the generators that modules draw from (dropout), on the CPU and on `device`.

    Not `torch.manual_seed`: where CUDA is there but not in use, that one formats and keeps a stack trace at every call.
    """
    import torch

    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


class Draws:
    """A run's draws on one device, keyed by purpose and update, and made for the whole global batch on every process.

    A process uses its own rows of them; on a device that costs less than a generator for each row would. The generator is
    reseeded at each draw, so it carries no state. Each thread has its own: a worker may draw ahead of the loop.
    """

    def __init__(self, seed: int, device: torch.device):
        self.seed, self.device = seed, device
        self._of_thread = threading.local()

    def normal(self, purpose: str, place: int, shape: tuple[int, ...]) -> Tensor:
        """Standard normals (fp32) of that shape."""
        import torch

        return torch.randn(shape, generator=self._at(purpose, place), device=self.device)

    def uniform(self, purpose: str, place: int, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        """Uniforms on [0, 1) of that shape, fp32 unless a type is given."""
        import torch

        return torch.rand(shape, generator=self._at(purpose, place), device=self.device, dtype=dtype or torch.float32)

    def _at(self, purpose: str, place: int) -> torch.Generator:
        import torch

        generator = getattr(self._of_thread, "generator", None)
        if generator is None:
            generator = self._of_thread.generator = torch.Generator(self.device)
        return seed_generator(generator, key(self.seed, purpose, place))


class RowOrder:
    """Which rows make up which batch: one endless stream of rows, epoch after epoch, with no state to save.

    Update u takes places u*B to (u+1)*B of the stream; place p is row p % N of the permutation of epoch p // N.
    A batch may straddle two epochs, so no row is dropped or repeated whatever N and B are. Unless `shuffled`, every epoch
    takes the rows as they stand. Threads may share one: the permutations of two epochs are kept, since those who read
    ahead cross into the next epoch before the others do.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, *, shuffled: bool = True):
        if rows < 1:
            raise ValueError("an order needs at least one row")
        self.rows, self.batch_size, self.seed, self.shuffled = rows, batch_size, seed, shuffled
        self._kept: dict[int, np.ndarray] = {}  # by epoch; replaced whole and never changed, for threads read it
        self._making = threading.Lock()

    def batch(self, update: int) -> np.ndarray:
        """Row numbers (B,) int64 of the global batch of update `update`, counted from 0."""
        place, stop = update * self.batch_size, (update + 1) * self.batch_size
        pieces = []
        while place < stop:
            epoch, offset = divmod(place, self.rows)
            piece = self.permutation(epoch)[offset : offset + stop - place]
            pieces.append(piece)
            place += len(piece)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def permutation(self, epoch: int) -> np.ndarray:
        """Row numbers (N,) in the order of that epoch."""
        if not self.shuffled:
            epoch = 0  # they are all alike
        kept = self._kept
        if epoch not in kept:
            with self._making:  # one thread makes it, and the others that need it wait
                kept = self._kept
                if epoch not in kept:
                    latest = dict(list(kept.items())[-1:])
                    self._kept = kept = {**latest, epoch: self._make(epoch)}
        return kept[epoch]

    def _make(self, epoch: int) -> np.ndarray:
        if not self.shuffled:
            return np.arange(self.rows)
        return np.random.Generator(np.random.Philox(key(self.seed, "order", epoch))).permutation(self.rows)
