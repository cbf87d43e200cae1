"""Noise after the coupling: blocks of rows are paired in worker threads, ahead of training.

A block is `coupling.block` consecutive positions of the endless stream of rows. The updates that share a block, or the
blocks that share an update, form a window. The permutation of a block is a function of (seed, block) alone, so every
process finds the same one at any point of a run, and nothing has to be sent or saved.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from flowkit.data.dataset import Dataset
from flowkit.data.normalizers import Auto, Normalization, Normalizer
from flowkit.device import to_device
from flowkit.errors import UserError
from flowkit.flow.couplings import Coupling
from flowkit.rng import key
from flowkit.training.batches import Batches, Rows

MOST_WORKERS = 4
ROWS_AT_A_TIME = 4096  # the workers' cost matrices together are no larger than that of a block of this size


class Pairing:
    """`noise(update)` is x0 (B, ...) of the global batch, where x0[i] is paired with row i of that update.

    `draw(update)` returns x0 (B, ...) before the coupling, on the device; it is called from several threads. Threads are enough
    for the workers, because scipy's solver, BLAS and copies release the interpreter's lock.
    """

    def __init__(
        self,
        coupling: Coupling,
        batches: Batches,
        draw: Callable[[int], Tensor],
        *,
        seed: int,
        ahead: int | None = None,
    ):
        """ahead: number of windows to pair in advance, one worker each; None for as many as the cores allow.

        Raises UserError for a coupling that does not fit the data.
        """
        self.coupling, self.batches, self.draw, self.seed = coupling, batches, draw, seed
        batch = batches.order.batch_size
        self.block = coupling.rows(batch)
        if self.block % batch and batch % self.block:
            raise UserError(
                f"flow.coupling.block: {self.block} is not a multiple or a divisor of train.batch_size = {batch}"
            )
        check_conditions(coupling, batches)
        self.updates = max(1, self.block // batch)  # in a window
        self._current: tuple[int, Tensor] | None = None
        self._next: deque[tuple[int, Future[Tensor]]] = deque()  # consecutive windows
        self.ahead = workers(max(self.block, batch)) if ahead is None else ahead
        self._pool = None if not coupling.permutes else ThreadPoolExecutor(max(1, self.ahead), "pairing")
        self._stream = None
        if self._pool is not None and batches.device.type == "cuda":
            draw(0)  # let the loop's stream do the copies of the first call
            self._stream = torch.cuda.Stream(batches.device)
            self._stream.wait_stream(torch.cuda.current_stream(batches.device))  # wait for the resident rows

    def noise(self, update: int) -> Tensor:
        if self._pool is None:
            return self.draw(update)
        window, place = divmod(update, self.updates)
        if self._current is None or self._current[0] != window:
            self._current = (window, self._paired(window, self._pool))
        batch = self.batches.order.batch_size
        return self._current[1][place * batch : (place + 1) * batch]

    def _paired(self, window: int, pool: ThreadPoolExecutor) -> Tensor:
        if self._next and self._next[0][0] != window:
            self._next.clear()  # the updates are not consecutive
        if not self._next:
            self._next.append((window, pool.submit(self.permutation, window)))
        noise = self._joined(window)  # drawn again on this stream; the worker's copy belongs to another
        rows = self._next.popleft()[1].result()
        while len(self._next) < self.ahead:
            later = window + 1 + len(self._next)
            self._next.append((later, pool.submit(self.permutation, later)))
        return noise[to_device(rows, noise.device)]

    def permutation(self, window: int) -> Tensor:
        """Return rows (updates x B,) int64 of the window's joined noise, on the host (pinned if there is a GPU)."""
        if self._stream is None:
            x0, rows = self._joined(window), self.batches.window(window * self.updates, self.updates)
        else:
            # Copy through pinned memory on a separate stream, so that the loop's stream never waits.
            with torch.cuda.stream(self._stream):
                x0 = to_host(self._joined(window))
                found = self.batches.window(window * self.updates, self.updates)
                rows = Rows(to_host(found.x), found.conditions.map(to_host))
            self._stream.synchronize()
        first = window * self.updates * self.batches.order.batch_size // self.block
        permuted = pair_blocks(self.coupling, self.block, x0, rows, key_of=lambda block: self._key(first + block))
        return permuted if self._stream is None else permuted.pin_memory()

    def _key(self, block: int) -> int:
        return key(self.seed, "coupling", block)

    def _joined(self, window: int) -> Tensor:
        first = window * self.updates
        if self.updates == 1:
            return self.draw(first)
        return torch.cat([self.draw(update) for update in range(first, first + self.updates)])

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def workers(block: int) -> int:
    """Return the number of workers: one per core of this process (processes share a host's cores), limited by memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    own = cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(own, MOST_WORKERS, ROWS_AT_A_TIME**2 // block**2))


def pairs_normalizer(
    data: Dataset, choice: Normalization, given: Normalizer | None, notices: list[str]
) -> Normalizer | None:
    """Return the normalizer that the pairs' noise belongs to; with any other the noise would not match the rows.

    It is in the data, or for older pairs in the checkpoint that they name; None if it has to be fitted. choice:
    data.normalizer. given: the normalizer of a checkpoint that the run continues or starts from. notices: gets a line if the
    pairs' normalizer is unknown. Raises UserError if `choice` or `given` is another one.
    """
    shape = tuple(data.x.shape[1:])
    own = data.normalizer or _normalizer_of_source(data)
    name = choice.tag()
    if own is None:
        if given is None and name != "none":
            notices.append(
                "flow.coupling: these pairs do not contain the normalizer of their noise, and the checkpoint they came from was "
                "not found. A new normalizer is fitted, which does not match the noise; draw the pairs again with "
                "`flowkit sample --pairs`"
            )
        return given
    kept, size = math.prod(own.shape(shape)), math.prod(shape)
    components = getattr(choice, "components", None)
    another = name != own.name or (not isinstance(components, float) and (components or size) != kept)
    if not isinstance(choice, Auto) and another:
        raise UserError(
            f"data.normalizer: {name!r}, but these pairs were drawn with {own.name!r} ({kept} of {size} numbers per row); "
            'set data.normalizer = "auto"'
        )
    if given is not None and not given.same_as(own, shape):
        raise UserError(
            "flow.coupling: the checkpoint has another normalizer than the model that these pairs came from; "
            "start from that model, or without --init-from"
        )
    return own


def _normalizer_of_source(data: Dataset) -> Normalizer | None:
    """Return the normalizer of the checkpoint that older pairs came from, if it is found and fits."""
    from flowkit.checkpoint import find_checkpoint, read_model_json, read_normalizer

    try:
        files = find_checkpoint(str(data.info["checkpoint"]))
        found = read_normalizer(files, read_model_json(files.sidecar))
    except (KeyError, UserError):
        return None
    assert data.noise is not None
    shape = tuple(data.x.shape[1:])
    return found if found.fits(shape) and found.shape(shape) == data.noise.shape[1:] else None


def pair_blocks(coupling: Coupling, block: int, x0: Tensor, rows: Rows, key_of: Callable[[int], int]) -> Tensor:
    """Return rows (N,) int64 such that x0[rows] is paired with `rows`, block by block; the last may be smaller. x0: (N, ...)."""
    pieces = []
    for number, start in enumerate(range(0, len(x0), block)):
        part = rows.slice(start, start + block)
        mine = coupling(x0[start : start + block], part.x, part.conditions, seed=key_of(number))
        pieces.append(mine + start)
    return torch.cat(pieces)


def check_conditions(coupling: Coupling, batches: Batches) -> None:
    """Raise UserError for a coupling that needs conditions the data lacks."""
    if coupling.conditional and not {"class", "condition"} & {*batches.data.condition_kinds}:
        raise UserError(
            f'flow.coupling: "{coupling.tag()}" pairs rows with equal conditions, but the data has neither class labels nor '
            'conditions; use "ot"'
        )


def to_host(tensor: Tensor) -> Tensor:
    """Start a copy to pinned memory on the current stream. It is complete once that stream is synchronized."""
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)
