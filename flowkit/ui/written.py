"""What a command prints when it has written samples: where they are, how they were made, and a few of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowkit.decode import Decoded
    from flowkit.text.decoding import DecodedSentences

SHOWN = 8  # sentences, if all of them are in a file


def print_written(decoded: Decoded, noun: str, facts: str, preview: bool, also: tuple[Path, ...] = ()) -> None:
    """Print previews, then one line per fact. `also`: further files, such as the samples file and its sentences."""
    from rich.console import Console
    from rich.text import Text

    from flowkit.ui.facts import settings
    from flowkit.ui.previews import preview_grid
    from flowkit.ui.quantities import value

    console = Console(highlight=False)
    if preview and decoded.previews:
        for line in preview_grid(decoded.previews, console.width, caption=decoded.shown.caption):
            console.print(line)
        console.print()
    sheets = [path for path in decoded.files if path.suffix in (".png", ".gif")]
    rows = len(decoded.files) - len(sheets)
    if rows:
        console.print(f"[bold]{rows}[/bold] {decoded.shown.noun or noun} -> {decoded.out}/")
    for path in [*sheets, *also]:
        console.print(Text(f"  {path}"))
    if decoded.shown.figures:
        figures = {name.replace("_", " "): value(found) for name, found in decoded.shown.figures.items()}
        console.print(settings(figures, otherwise="dim"))
    for line in (decoded.shown.facts, decoded.notice, decoded.replaced, facts):
        if line:
            console.print(Text(line, "dim"))


def print_sentences(decoded: DecodedSentences, preview: bool) -> None:
    """Print a table of the sentences (of the first few if they are in a file), and where they were written."""
    from itertools import islice

    from rich.console import Console
    from rich.text import Text

    from flowkit.ui.sentences_view import sentence_table

    console, found = Console(highlight=False), decoded.sentences
    if preview or not decoded.files:
        shown = slice(SHOWN if decoded.files else None)
        columns = {lang: texts[shown] for lang, texts in found.by_lang.items()}
        if found.texts is not None:
            columns["text"] = list(islice(found.texts, shown.stop))
        cycle = [] if found.cycle is None else [f"{cosine:.3f}" for cosine in found.cycle[shown]]
        for line in sentence_table(columns, console.width, cycle, "cycle"):
            console.print(line, no_wrap=True, crop=True)
        console.print()
    for path in decoded.files:
        console.print(Text.assemble((f"{len(found):,}", "bold"), f" sentences -> {path}"))
    if decoded.replaced:
        console.print(Text(decoded.replaced, "dim"))
    if found.faithful is not None:
        console.print(Text(f"{found.faithful:,} of {len(found):,} match the original sentence exactly", "dim"))
    if found.cycle is not None:
        console.print(
            Text(
                f"cycle: cosine of a vector and that of its sentence, not centered; mean {found.cycle.mean():.3f}",
                "dim",
            )
        )
    console.print(Text(found.facts, "dim"))
