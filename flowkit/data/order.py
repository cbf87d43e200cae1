"""Which rows make up which batch: one endless stream of rows, epoch after epoch, with no state to save."""

from __future__ import annotations

from threading import Lock

import numpy as np

from flowkit.data.keys import key


class RowOrder:
    """Update u takes places u*B to (u+1)*B of the stream; place p is row p % N of the permutation of epoch p // N.

    A batch may straddle two epochs, so no row is dropped or repeated whatever N and B are. Unless `shuffled`, every epoch
    takes the rows as they stand. Threads may share one: the permutations of two epochs are kept, since those who read
    ahead cross into the next epoch before the others do.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, *, shuffled: bool = True):
        if rows < 1:
            raise ValueError("an order needs at least one row")
        self.rows, self.batch_size, self.seed, self.shuffled = rows, batch_size, seed, shuffled
        self._kept: dict[int, np.ndarray] = {}  # by epoch; replaced whole and never changed, for threads read it
        self._making = Lock()

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
