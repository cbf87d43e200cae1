"""Samples of a run as markup: those drawn while it was trained, and those next to their nearest training rows."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from flowkit.checkpoint import folders_of
from flowkit.data.dataset import Dataset, data_files, read_dataset
from flowkit.data.files import read_bounded
from flowkit.domain import Domain, get_domain
from flowkit.errors import UserError
from flowkit.html import Markup, element
from flowkit.runs import RunSummary

T = TypeVar("T")
PICTURES = 12  # of one step
SENTENCES = 12
BEHIND = 1500  # real points behind those that were sampled
LARGEST = 1_500_000  # bytes of a picture that is embedded
NEAREST, PAGE = "nearest.png", "samples.md"  # written by evaluations, of sketches and of sentences


@dataclass(frozen=True)
class Frame:
    step: int
    markup: Markup
    key: bool  # whether it is printed: four of all


def frames(run: RunSummary, limit: int) -> list[Frame]:
    """Return the samples of at most `limit` steps, evenly spread; none if they cannot be read or have no picture."""
    folders = [folder for folder in sorted((run.path / "samples").glob("step-*")) if folder.name[5:].isdecimal()]
    found: list[tuple[int, Markup]] = []
    behind: np.ndarray | None = None
    for number, folder in enumerate(spread(folders, limit)):
        try:
            data = read_dataset(folder / "samples.safetensors", check=False)
            domain = get_domain(data.kind)
            if domain.together and number == 0:
                behind = _real_rows(run, domain, data)
            if (markup := drawn(data, domain, behind)) is not None:
                found.append((int(folder.name[5:]), markup))
        except (UserError, ValueError, TypeError, LookupError):  # a damaged file, or a kind whose code is not trusted
            continue
    printed = {step for step, _ in spread(found, 4)}
    return [Frame(step, markup, step in printed) for step, markup in found]


def drawn(data: Dataset, domain: Domain, behind: np.ndarray | None = None, limit: int = PICTURES) -> Markup | None:
    """Return some rows as pictures or sentences; None if they have neither."""
    rows = data if domain.together else data.take(np.arange(min(len(data), limit)))
    pictures = domain.draw(rows, behind)
    if not pictures and data.texts is not None:
        texts = [data.texts[row] for row in range(min(len(data), SENTENCES))]
        return element("ol", [element("li", text) for text in texts], class_="sentences card")
    if not pictures:
        return None
    titles = [""] if domain.together or rows.class_label is None else rows.titles()
    shown = [
        element("figure", Markup(picture), element("figcaption", title, title=title) if title else None)
        for picture, title in zip(pictures, titles * (len(pictures) if len(titles) == 1 else 1), strict=True)
    ]
    return element("div", shown, class_="pictures one" if domain.together else "pictures")


def nearest_rows(folder: Path) -> Markup | None:
    """Return the samples of an evaluation next to their nearest training rows; None if it has written none."""
    try:
        if (folder / NEAREST).is_file():
            raw = base64.b64encode(read_bounded(folder / NEAREST, LARGEST)).decode("ascii")
            picture = element("img", src=f"data:image/png;base64,{raw}", class_="embedded gray",
                              alt="Samples, each next to its nearest training row")  # fmt: skip
            return element("div", picture, class_="wide")
        if (folder / PAGE).is_file():
            return _sentences(read_bounded(folder / PAGE, LARGEST).decode("utf-8", "replace"))
    except UserError:
        pass
    return None


def _sentences(page: str) -> Markup | None:
    """Return the first table of a samples.md."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    cells = [[cell.strip().replace("\\|", "|") for cell in line.strip().strip("|").split(" | ")] for line in lines]
    if len(cells) < 3:
        return None
    head, rows = cells[0], [row for row in cells[2 : 2 + SENTENCES] if len(row) == len(cells[0]) and row != cells[0]]
    number = {name for name in head if name in ("row", "cycle", "cosine")}
    cell = lambda kind, name, text: element(kind, text, class_="n" if name in number else None)  # noqa: E731
    table = element(
        "table",
        element("thead", element("tr", [cell("th", name, name) for name in head])),
        element("tbody", [element("tr", [cell("td", name, text) for name, text in zip(head, row, strict=True)]) for row in rows]),
    )  # fmt: skip
    return element("div", table, class_="card wide")


def _real_rows(run: RunSummary, domain: Domain, like: Dataset) -> np.ndarray | None:
    """Return some rows of the data that the run was trained on, x (M, ...); None if they are not there any more."""
    if not run.data:
        return None
    try:
        if run.data in domain.builtin:
            return domain.generate(run.data, BEHIND, 0).x
        table: Any = run.recipe.get("run")
        places = [folder / run.data for folder in (*folders_of(run.path, {"run": table}), Path())]
        found = next((place for place in places if data_files(place)[0].exists()), None)
        rows = None if found is None else read_dataset(found, check=False)
    except UserError:
        return None
    if rows is None or rows.x.shape[1:] != like.x.shape[1:]:
        return None
    return np.asarray(rows.x[np.unique(np.linspace(0, len(rows) - 1, min(BEHIND, len(rows))).astype(int))])


def spread(items: Iterable[T], limit: int) -> list[T]:
    """Return at most `limit` items, evenly spread, with the last."""
    items = list(items)
    if len(items) <= limit:
        return items
    return [items[round((number + 1) * len(items) / limit) - 1] for number in range(limit)]
