"""Noise after the coupling: blocks of the run's stream are paired ahead of the step, in worker threads.

A block is `coupling.block` consecutive places of the endless stream of rows. The updates that share a block, or the blocks
that share an update, make a window; the permutation of each is a function of (seed, block) alone, so every process finds
the same one, in the middle of a block as at its start, and nothing has to be sent or saved.
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
from flowkit.errors import UserError
from flowkit.flow.couplings import Coupling
from flowkit.rng import key
from flowkit.training.batches import Batches, Rows

MOST_WORKERS = 4
ROWS_AT_A_TIME = 4096  # of a block: the workers' cost matrices together are no larger than that of one so large


class Pairing:
    """`noise(update)` is x0 (B, ...) of the global batch, such that place i goes with row i of that update.

    `draw(update)` gives x0 (B, ...) before the coupling, on the device; it is called from several threads. The workers are
    threads, since what they wait in (scipy's solver, BLAS, copies) releases the interpreter's lock.
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
        """ahead: how many windows are paired while one is in use, each by a worker; None for as many as the cores allow.

        Raises UserError for a coupling that the data does not fit.
        """
        self.coupling, self.batches, self.draw, self.seed = coupling, batches, draw, seed
        batch = batches.order.batch_size
        self.block = coupling.rows(batch)
        if self.block % batch and batch % self.block:
            raise UserError(f"flow.coupling: a block of {self.block} and train.batch_size = {batch} do not divide")
        check_conditions(coupling, batches)
        self.updates = max(1, self.block // batch)  # in a window
        self._current: tuple[int, Tensor] | None = None
        self._next: deque[tuple[int, Future[Tensor]]] = deque()  # consecutive windows
        self.ahead = workers(max(self.block, batch)) if ahead is None else ahead
        self._pool = None if not coupling.permutes else ThreadPoolExecutor(max(1, self.ahead), "pairing")
        self._stream = None
        if self._pool is not None and batches.device.type == "cuda":
            draw(0)  # whatever it moves to the device at its first call is moved by the loop's stream
            self._stream = torch.cuda.Stream(batches.device)
            self._stream.wait_stream(torch.cuda.current_stream(batches.device))  # the resident rows have arrived

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
            self._next.clear()  # not where the stream went on
        if not self._next:
            self._next.append((window, pool.submit(self.permutation, window)))
        noise = self._joined(window)  # made again, by this stream: the worker's copy belongs to another one
        rows = self._next.popleft()[1].result()
        while len(self._next) < self.ahead:
            later = window + 1 + len(self._next)
            self._next.append((later, pool.submit(self.permutation, later)))
        return noise[rows.to(noise.device, non_blocking=True)]

    def permutation(self, window: int) -> Tensor:
        """Rows (updates x B,) int64 of the window's joined noise, on the host (pinned beside a GPU)."""
        if self._stream is None:
            x0, rows = self._joined(window), self.batches.window(window * self.updates, self.updates)
        else:
            # Copies by way of pinned memory and a stream of our own: the loop's stream never waits for them.
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
    """As many as this process has cores (those of a host are shared by its processes) and as their cost matrices leave room."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    own = cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(own, MOST_WORKERS, ROWS_AT_A_TIME**2 // block**2))


def pairs_normalizer(
    data: Dataset, choice: Normalization, given: Normalizer | None, notices: list[str]
) -> Normalizer | None:
    """The normalizer under which the data's rows and noise are pairs: another one's noise would be of other rows.

    It is in the data, or, of pairs written before that, in the checkpoint that they name, where that is at hand; None where
    it must be fitted. choice: data.normalizer. given: that of a checkpoint which the run continues or starts from. notices
    gets a line where the pairs' own is not known. Raises UserError where either is another one.
    """
    shape = tuple(data.x.shape[1:])
    own = data.normalizer or _normalizer_of_source(data)
    name = choice.tag()
    if own is None:
        if given is None and name != "none":
            notices.append(
                "flow.coupling: these pairs do not say which normalizer their noise belongs to, and the checkpoint that they "
                "came from is not at hand: it is fitted on them anew, which misplaces the noise; draw them again with "
                "`flowkit sample --pairs`"
            )
        return given
    kept, size = math.prod(own.shape(shape)), math.prod(shape)
    components = getattr(choice, "components", None)
    another = name != own.name or (not isinstance(components, float) and (components or size) != kept)
    if not isinstance(choice, Auto) and another:
        raise UserError(
            f"data.normalizer: {name!r} is asked for, and the noise of these pairs belongs to {own.name!r}, under which they "
            f'were drawn ({kept} of {size} numbers a row); set data.normalizer = "auto", which takes that one'
        )
    if given is not None and not given.same_as(own, shape):
        raise UserError(
            "flow.coupling: the checkpoint to go on from has another normalizer than the model which these pairs came from; "
            "start from that model, or without --init-from"
        )
    return own


def _normalizer_of_source(data: Dataset) -> Normalizer | None:
    """Of the checkpoint that old pairs say they came from, where it is at hand and of such rows."""
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
    """Rows (N,) int64 such that x0[rows] goes with `rows`, block after block; the last one may be smaller. x0: (N, ...)."""
    pieces = []
    for number, start in enumerate(range(0, len(x0), block)):
        part = rows.slice(start, start + block)
        told = part.conditions
        tokens = told.tokens if told.tokens is None or told.mask is None else told.tokens * told.mask[..., None]
        mine = coupling(x0[start : start + block], part.x, told.class_label, tokens, seed=key_of(number))
        pieces.append(mine + start)
    return torch.cat(pieces)


def check_conditions(coupling: Coupling, batches: Batches) -> None:
    if coupling.conditional and not batches.data.condition_kinds:
        raise UserError(
            f'flow.coupling: "{coupling.tag()}" transports within equal conditions, and the data has neither class labels nor '
            'conditions; use "ot"'
        )


def to_host(tensor: Tensor) -> Tensor:
    """A copy in pinned memory, begun on the current stream; it is there when that stream was synchronised."""
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)
