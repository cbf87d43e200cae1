"""Numbers for people: losses, counts, times, sizes, each in a nearly constant width."""

from __future__ import annotations

import math
from collections.abc import Sequence

NOTHING = "–"  # shown for a value that is not known yet


def value(x: float | None) -> str:
    """Format with four significant digits: `0.4312`, `12.35`, `3.2e-05`; `nan` and `inf` as they are."""
    if x is None:
        return NOTHING
    if not math.isfinite(x):
        return str(x)
    if x != 0 and not 1e-3 <= abs(x) < 1e5:
        return f"{x:.2e}"
    decimals = 4 if abs(x) < 1 else max(0, 3 - int(math.log10(abs(x))))
    return f"{x:.{decimals}f}"


def short_count(n: float) -> str:
    """Format a count: `812`, `7.41 M`, `1.20 B`."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= 0.9995 * size:
            scaled = n / size
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f} {unit}"
    return f"{n:.0f}"


def rate(per_second: float) -> str:
    """Format rows per second: `21,400` or `3.2`."""
    if not math.isfinite(per_second):
        return NOTHING
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.1f}"


def size(num_bytes: float) -> str:
    """Format a size in bytes: `812 B`, `29.6 MB`, `3.1 GB`, in powers of 1000 as disks and file managers count."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.0f} {unit}" if unit == "B" or num_bytes >= 99.95 else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def duration(seconds: float) -> str:
    """Format a duration: `0:07`, `12:04`, `1:02:03`, `3 d 04:10`."""
    if not math.isfinite(seconds):
        return NOTHING
    minutes, s = divmod(max(0, round(seconds)), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days} d {h:02d}:{m:02d}"
    return f"{h}:{m:02d}:{s:02d}" if h else f"{m}:{s:02d}"


def shape(sizes: Sequence[int]) -> str:
    """Format a shape: `32 × 8`."""
    return " × ".join(map(str, sizes)) or "scalar"
