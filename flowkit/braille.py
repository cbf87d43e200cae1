"""Dots in the terminal: braille characters of 2 x 4."""

from __future__ import annotations

import numpy as np

# The bit of each dot in a cell, by row and column (Unicode, block Braille Patterns).
_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])


def braille_lines(on: np.ndarray) -> tuple[str, ...]:
    """Convert dots `on` (4 R, 2 C), top row first, to R lines of C braille characters. The empty one is U+2800."""
    rows, columns = on.shape[0] // 4, on.shape[1] // 2
    cells = (on.astype(bool).reshape(rows, 4, columns, 2) * _BITS[None, :, None, :]).sum(axis=(1, 3))
    return tuple("".join(chr(0x2800 + cell) for cell in line) for line in cells.tolist())
