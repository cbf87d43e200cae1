"""The report of prepared data or samples: facts, classes as bars, and pictures of a few rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flowkit.errors import UserError, listing
from flowkit.ui.facts import Facts, FactsBlock, Settings, plain, settings
from flowkit.ui.heading import heading
from flowkit.ui.previews import preview_grid
from flowkit.ui.quantities import NOTHING, shape, size, value

STATISTICS = {"mean": "mean", "std": "std", "min": "from", "max": "to", "row_norm": "row norm"}
MOST_CLASSES = 60  # shown with their counts


def data_view(report: dict[str, Any], console: Console) -> None:
    console.print(FactsBlock(_facts(report)))
    if report["class_counts"]:
        console.print(heading("classes", f"{len(report['class_counts'])}", console.width))
        console.print(_classes(report["class_counts"], console.width))
    try:
        drawn = _pictures(report, console.width)
    except UserError as error:
        console.print(Text(f"no pictures: {error}", "yellow"))
        return
    if drawn:
        console.print(heading("a few of them", "", console.width))
        for line in drawn:
            console.print(line, no_wrap=True, crop=True)


def _pictures(report: dict[str, Any], width: int) -> list[Text]:
    from flowkit.inspect.dataset import pictures

    return preview_grid(pictures(Path(report["path"])), width)


def _facts(report: dict[str, Any]) -> Facts:
    facts: Facts = [("rows", Text.assemble((f"{report['rows']:,}", "bold"), f" of {shape(report['shape'])}"))]
    if report["condition_shape"]:
        there = report["condition_tokens"]
        padded = "" if there is None else f", {there:.3g} tokens present on average"
        facts.append(("condition", f"{shape(report['condition_shape'])}{padded}"))
    for kind, one in report["encoded"].items():
        several = f"{one['items']:,} {kind}s of {one['rows']:,} rows"
        facts.append((kind, f"{several} as {shape(one['shape'])} by {one.get('encoder', 'an unknown encoder')}"))
    if report["split"]:
        facts.append(("split", " · ".join(f"{count:,} {name}" for name, count in report["split"].items() if count)))
    facts.append(("files", settings({name: size(count) for name, count in report["files"].items()})))
    for name, found in report["statistics"].items():
        labels = {key: label for key, label in STATISTICS.items() if key != "row_norm" or not report["vectors"]}
        shown = settings({label: NOTHING if found[key] is None else value(found[key]) for key, label in labels.items()})
        if report["statistics_rows"] < report["rows"]:
            shown.parts.append(Text(f"of {report['statistics_rows']:,} rows", "dim"))
        facts.append((name, shown))
    if report["vectors"]:
        facts.append(("vectors", _vectors(report["vectors"], report["shape"][0])))
    if report["strokes"]:
        facts.append(("strokes", settings({name.replace("_", " "): f"{count['mean']:.3g} ({count['min']} to {count['max']})"
                                           for name, count in report["strokes"].items()})))  # fmt: skip
    facts += [
        (key, settings(content) if isinstance(content, dict) else plain(content))
        for key, content in report["info"].items()
    ]
    return facts


def _vectors(found: dict[str, Any], dimensions: int) -> Settings:
    flat = found["near_constant"]
    which = f" ({listing(flat, 6)})" if 0 < len(flat) < dimensions else ""
    return settings(
        {
            "norm": f"{value(found['norm_mean'])} ± {value(found['norm_std'])}",
            "mean pair cosine": value(found["mean_cosine"]),
            "near-constant": f"{len(flat)} of {dimensions:,} dimensions{which}",
        }
    )


def _classes(counts: dict[str, int], width: int) -> Table:
    """Return name, count and bar of each class, in as many columns as fit."""
    shown = list(counts.items())[:MOST_CLASSES]
    names = min(28, max(cell_len(name) for name, _ in shown))
    top, digits = max(1, *counts.values()), len(f"{max(counts.values()):,}")
    bar = 12
    columns = max(1, min(4, (width + 4) // (names + digits + bar + 6)))
    rows = -(-len(shown) // columns)
    table = Table.grid(padding=(0, 4, 0, 0))
    for row in range(rows):
        cells = [Text()] * columns
        for column in range(columns):
            if row + column * rows < len(shown):
                name, count = shown[row + column * rows]
                cell = Text(name)
                cell.truncate(names, overflow="ellipsis", pad=True)
                cell.append(f" {count:>{digits},} ").append(f"{_bar(count / top, bar):<{bar}}", "cyan")
                cells[column] = cell
        table.add_row(*cells)
    if len(counts) > len(shown):
        table.add_row(Text(f"... and {len(counts) - len(shown)} more", "dim"))
    return table


def _bar(share: float, width: int) -> str:
    """Return a bar, drawn in eighths of a cell."""
    whole, eighths = divmod(round(8 * width * share), 8)
    return "█" * whole + (" ▏▎▍▌▋▊▉"[eighths] if eighths else "")
