"""Timing two things in turn: A B A B ..., so that a machine that slows down slows both. What counts is the ratio."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(work: Callable[[], object]) -> float:
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def paired(
    a: Callable[[], object], b: Callable[[], object], rounds: int, warmup: int = 2
) -> tuple[float, float, float]:
    """(median seconds of a, median seconds of b, median of the pairwise ratios a / b)."""
    for _ in range(warmup):
        a(), b()
    pairs = [(seconds(a), seconds(b)) if i % 2 else (seconds(b), seconds(a))[::-1] for i in range(rounds)]
    first, second = zip(*pairs, strict=True)
    return statistics.median(first), statistics.median(second), statistics.median(x / y for x, y in pairs)


def machine() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    return f"{device}, torch {torch.__version__}"
