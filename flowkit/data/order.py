"""Which rows make up which batch: one endless stream of rows, epoch after epoch, with no state to save."""

from __future__ import annotations

import numpy as np

from flowkit.data.keys import key


class RowOrder:
    """Update u takes places u*B to (u+1)*B of the stream; place p is row p % N of the permutation of epoch p // N.

    A batch may straddle two epochs, so no row is dropped or repeated whatever N and B are. Unless `shuffled`, every epoch
    takes the rows as they stand.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, *, shuffled: bool = True):
        if rows < 1:
            raise ValueError("an order needs at least one row")
        self.rows, self.batch_size, self.seed, self.shuffled = rows, batch_size, seed, shuffled
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

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
        """Row numbers (N,) in the order of that epoch; the last one asked for is kept."""
        if not self.shuffled:
            epoch = 0  # they are all alike
        if epoch != self._epoch:
            generator = np.random.Generator(np.random.Philox(key(self.seed, "order", epoch)))
            self._epoch = epoch
            self._permutation = generator.permutation(self.rows) if self.shuffled else np.arange(self.rows)
        return self._permutation
