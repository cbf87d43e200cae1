"""`samples.md`: what the samples say, each with the nearest training sentence, to be read and not measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flowkit.data.files import replacing

SHOWN, NEAREST = 40, 20


def write_samples_page(
    path: Path, rows: np.ndarray, cosines: np.ndarray, nearest: Sequence[str], texts: Sequence[str] | None,
    cycle: np.ndarray | None,
) -> None:  # fmt: skip
    """rows (n,): the samples' numbers; cosines (n,) and nearest (n): of the nearest training rows, `nearest` empty where

    their sentences are not known; texts and cycle (n): of the samples, None where nothing was decoded. Raises UserError
    where it cannot write.
    """
    first = np.arange(min(len(rows), SHOWN)) * len(rows) // max(1, min(len(rows), SHOWN))
    left = [place for place in np.argsort(-cosines, kind="stable").tolist() if place not in set(first.tolist())]

    def table(places: Sequence[int]) -> list[str]:
        lines = ["| row | sample | cycle | nearest training sentence | cosine |", "|---:|---|---:|---|---:|"]
        for place in places:
            said = "(not decoded)" if texts is None else texts[place]
            round_trip = "" if cycle is None else f"{cycle[place]:.3f}"
            twin = nearest[place] if len(nearest) else "(not known)"
            lines.append(f"| {rows[place]} | {_cell(said)} | {round_trip} | {_cell(twin)} | {cosines[place]:.3f} |")
        return lines

    content = [
        "# Samples and their nearest training sentences", "",
        "cycle: the centred cosine of the vector to that of the sentence it decodes to; cosine: to the nearest training row.",
        "", f"## {len(first)} of them, as they come", "", *table(first.tolist()), "",
    ]  # fmt: skip
    if left:
        content += [f"## The {len(left[:NEAREST])} nearest of the others", "", *table(left[:NEAREST]), ""]
    with replacing(path) as partial:
        partial.write_text("\n".join(content), "utf-8")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
