"""The signatures of progress callbacks."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], object]  # called with how much is done, and the total
Tell = Callable[[str, int, int], object]  # called with the current stage, how much of it is done, and the total
