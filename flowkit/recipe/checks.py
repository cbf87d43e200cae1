"""Impossible combinations: keys that are each fine and contradict one another."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from flowkit.errors import UserError

if TYPE_CHECKING:
    from flowkit.recipe.recipe import Recipe


def contradictions(recipe: Recipe) -> list[tuple[str, str]]:
    """(key, what is wrong and how to mend it) for every impossible combination."""
    found = [*_length(recipe), *_batch(recipe), *_heads(recipe), *_guidance(recipe)]
    if recipe.run.device == "cpu" and recipe.train.precision == "fp16":
        found.append(("train.precision", '"fp16" needs a GPU, and run.device is "cpu"; use "bf16" or "no" there'))
    return found


def check_batch(batch_size: int, micro_batch_size: int | None, num_processes: int) -> tuple[int, int]:
    """How an update's rows are shared: (rows per process and accumulation step, accumulation steps).

    Raises UserError, with the nearest sizes that divide, where `batch_size` is no multiple of
    `num_processes` or a process's share is no multiple of `micro_batch_size`.
    """
    if batch_size % num_processes:
        raise UserError(
            f"train.batch_size: {batch_size} rows do not divide among {num_processes} processes; "
            f"sizes that do are {_multiples(batch_size, num_processes)}"
        )
    share = batch_size // num_processes
    micro = micro_batch_size or share
    if share % micro:
        of = f"a process's share of {share} rows ({batch_size} over {num_processes})" if num_processes > 1 else ""
        raise UserError(f"train.micro_batch_size: {_no_divisor(micro, share, of or f'a batch_size of {share}')}")
    return micro, share // micro


def _length(recipe: Recipe) -> list[tuple[str, str]]:
    train, warmup = recipe.train, recipe.optim.warmup
    if train.steps is None and train.epochs is None:
        return [("train.steps", "missing, and so is train.epochs; give one of them: how long to train")]
    if train.steps is not None and train.epochs is not None:
        return [
            ("train.steps", f"{train.steps}, but train.epochs = {train.epochs} is given too; leave one of them out")
        ]
    length = {"steps": train.steps, "epochs": train.epochs}.get(warmup.unit)
    if length is not None and warmup.count >= length:
        return [("optim.warmup", f"{warmup.plain()} is no shorter than the run (train.{warmup.unit} = {length}); "
                                 "use a fraction of the run such as 0.05")]  # fmt: skip
    return []


def _batch(recipe: Recipe) -> list[tuple[str, str]]:
    batch, micro = recipe.train.batch_size, recipe.train.micro_batch_size
    if micro is None or batch % micro == 0:
        return []
    return [("train.micro_batch_size", _no_divisor(micro, batch, f"train.batch_size = {batch}"))]


def _heads(recipe: Recipe) -> list[tuple[str, str]]:
    sizes = recipe.model.arguments()
    if "num_heads" not in sizes:
        return []
    width = "embed_dim" if "embed_dim" in sizes else "hidden_dim"
    dim, heads = sizes[width], sizes["num_heads"]
    if dim % heads == 0:
        return []
    article = "an" if width == "embed_dim" else "a"
    return [("model.num_heads", f"{_no_divisor(heads, dim, f'model.{width} = {dim}')}, or {article} {width} of "
                                f"{_multiples(dim, heads, 'or')}")]  # fmt: skip


def _guidance(recipe: Recipe) -> list[tuple[str, str]]:
    scale = recipe.sample.guidance_scale
    if recipe.flow.cond_drop > 0 or scale == 1:
        return []
    return [("sample.guidance_scale", f"{scale:g} needs a model that saw dropped conditions, and flow.cond_drop is 0; "
                                      "set flow.cond_drop = 0.1 or sample.guidance_scale = 1.0")]  # fmt: skip


def _no_divisor(size: int, total: int, of: str) -> str:
    """`6 does not divide train.batch_size = 64; the nearest that do are 4 and 8`."""
    divisors = {d for n in range(1, math.isqrt(total) + 1) if total % n == 0 for d in (n, total // n)}
    below = max((d for d in divisors if d < size), default=None)
    above = min((d for d in divisors if d > size), default=None)
    near = [d for d in (below, above) if d is not None]
    verb = "nearest that do are" if len(near) > 1 else "nearest that does is"
    return f"{size} does not divide {of}; the {verb} {' and '.join(map(str, near))}"


def _multiples(size: int, unit: int, link: str = "and") -> str:
    """The multiples of `unit` on either side of `size`, 0 left out: `248 and 256`."""
    below = size // unit * unit
    return f" {link} ".join(str(multiple) for multiple in (below, below + unit) if multiple > 0)
