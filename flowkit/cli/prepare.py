"""`flowkit prepare`: from files to a data set. What kind of data the source is decides which options go with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowkit.cli.options import count
from flowkit.domain import get_domain
from flowkit.errors import Interrupted, UserError

if TYPE_CHECKING:
    from flowkit.domain import Domain

SKETCHES, SENTENCES = "Sketches", "Sentences"  # the panels of the options that only they have


def _of(panel: str, help: str, *names: str, min: float | None = None, max: float | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, min=min, max=max)


def prepare(
    source: Annotated[
        Path,
        typer.Argument(
            help="A folder, a .zip or a file. Sketches: SVG, Quick, Draw! .ndjson, ControlSketch, stroke-3 and stroke-5 .npz. "
            "Sentences: .txt, .jsonl, .json, .csv, .tsv, .parquet. Their vectors: .npy, .npz, .safetensors, .pt.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The data set to write: OUT.safetensors and OUT.json.", show_default=False)],
    seed: Annotated[int, typer.Option(min=0, help="Shuffle seed.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a data set of the same name.")] = False,
    size: Annotated[int | None, _of(SKETCHES, "Cubic strokes a sketch; default: 32.", min=1)] = None,
    over: Annotated[
        str | None, _of(SKETCHES, "Sketches of more cubics than that: fit (the default), or leave-out.")
    ] = None,
    max_per_class: Annotated[
        int | None, count("Keep at most this many per class, the first ones.", panel=SKETCHES)
    ] = None,
    recognized_only: Annotated[
        bool, _of(SKETCHES, "Leave out what Quick, Draw! did not recognize.", "--recognized-only")
    ] = False,
    codec: Annotated[
        str | None,
        _of(SENTENCES, "sonar or mini-sonar: the codec that encodes the sentences, or that made the vectors."),
    ] = None,
    lang: Annotated[str | None, _of(SENTENCES, "Their language; default: eng_Latn.")] = None,
    texts: Annotated[
        Path | None, _of(SENTENCES, "The sentences of a file of vectors, in its order: any file of sentences.")
    ] = None,
    column: Annotated[
        str | None,
        _of(
            SENTENCES,
            "Column (or JSON key) of the sentences, by name or number. Default: detected.",
            "--column",
            "--text-key",
        ),
    ] = None,
    split_sentences: Annotated[
        bool, _of(SENTENCES, "Each line is a paragraph: split it into its sentences.", "--split-sentences")
    ] = False,
    skip_empty: Annotated[
        bool, _of(SENTENCES, "Leave out empty lines, which are an error otherwise.", "--skip-empty")
    ] = False,
    near_duplicates: Annotated[
        float | None,
        _of(
            SENTENCES, "Of two vectors with a cosine above this the first is kept; 0 keeps both. Default: 0.95.", min=0
        ),
    ] = None,
    split: Annotated[
        str | None, _of(SENTENCES, "Fractions for training, validation and test; default: 0.8,0.1,0.1.")
    ] = None,
    encoder: Annotated[str | None, _of(SENTENCES, "SONAR encoder: card, card file or checkpoint.")] = None,
    decoder: Annotated[str | None, _of(SENTENCES, "SONAR decoder: card, card file or checkpoint.")] = None,
    tokenizer: Annotated[str | None, _of(SENTENCES, "SONAR tokenizer: card, card file or sentencepiece model.")] = None,
    device: Annotated[str | None, _of(SENTENCES, "auto (the default), cpu, cuda, cuda:1, ...")] = None,
    dtype: Annotated[str | None, _of(SENTENCES, "fp32 (the default), fp16 or bf16, to encode in.")] = None,
) -> None:
    """Turn files into a data set that `train` reads, and print how many were kept, fitted or dropped.

    The file type is detected automatically, by content. gzip is read everywhere.
    What is not read, or is read as something else than it may look like, is counted.

    [bold]Sketches[/bold] lie in folders that are classes: SOURCE/cat/12.svg is a cat.
    Folders named like splits are splits: SOURCE/train/cat/12.svg, SOURCE/cat/Test/12.svg.
    A sketch of fewer cubics than --size has its longest ones split, without loss.
    One of more is fitted, with the fit error.

    [bold]Sentences[/bold], one a line or row, are encoded by --codec.
    Near-duplicates are removed, and the rest shuffled and split.
    If interrupted, rerun the same command to resume.
    data.subset = "1k" trains on the first 1,000 rows.

    [bold]Examples[/bold]

      flowkit prepare drawings/ --out data/drawings
      flowkit prepare kanji.zip --out data/kanji --over leave-out
      flowkit prepare quickdraw/ --out data/quickdraw --max-per-class 1000
      flowkit prepare cat.ndjson.gz --out data/cat --recognized-only
      flowkit prepare sketchrnn_cat.npz --out data/cat
      flowkit prepare sentences.txt --out data/mine --codec sonar --lang eng_Latn
      flowkit prepare pairs.tsv.gz --column 3 --out data/pairs --codec sonar
      flowkit prepare wiki.parquet --column sentence --out data/wiki --codec sonar
      flowkit prepare articles.jsonl --column body --split-sentences --out data/articles --codec sonar
      flowkit prepare vectors.npy --texts sentences.csv --out data/mine --codec sonar

    [bold]Exit status[/bold]

      0 done, 1 no row is left to train on (all were dropped, or all belong to other splits), 2 bad input.
    """
    options: dict[str, dict[str, Any]] = {
        "sketch": {"size": size, "over": over, "max_per_class": max_per_class, "recognized_only": recognized_only or None},
        "text": {
            "codec": codec, "lang": lang, "texts": texts, "column": column, "split_sentences": split_sentences or None,
            "skip_empty": skip_empty or None, "near_duplicates": near_duplicates, "split": split, "encoder": encoder,
            "decoder": decoder, "tokenizer": tokenizer, "device": device, "dtype": dtype,
        },
    }  # fmt: skip
    domain = _domain_of(source)
    given = {kind: {name: value for name, value in own.items() if value is not None} for kind, own in options.items()}
    for kind, own in given.items():
        if kind != domain.name and own:
            _refuse(own, source, get_domain(kind).noun, domain.noun)
    _run(domain, source, out, overwrite=overwrite, seed=seed, **given.get(domain.name, {}))


def _domain_of(source: Path) -> Domain:
    """The first domain that reads the files of `source`. Raises UserError if none does."""
    from flowkit.components import names
    from flowkit.registry import BUILT_IN
    from flowkit.sources.arrays import why_unread
    from flowkit.sources.files import open_files

    with open_files(source) as files:
        for name in sorted(names("domain"), key=lambda name: name in BUILT_IN["domain"]):  # built-in ones last
            if (domain := get_domain(name)).prepares(source, files):
                return domain
        raise UserError(why_unread(source, files))


def _run(domain: Domain, source: Path, out: Path, **options: Any) -> None:
    from rich.console import Console

    from flowkit.ui import prepare_text_view, prepare_view

    try:
        with prepare_text_view.preparing_bar() as (tell, notice):
            report = domain.prepare(source, out, tell=tell, notice=notice, **options)
    except KeyboardInterrupt as stop:
        raise Interrupted(str(stop)) from None  # what is kept, and how to resume, has been said
    console = Console(highlight=False)
    summaries = {"sketch": prepare_view.summary, "text": prepare_text_view.summary}
    console.print(summaries[domain.name](report, console.width) if domain.name in summaries else report)
    if not getattr(report, "trainable", True):
        held = ", ".join(f"{count:,} {name}" for name, count in report.splits.items() if count)
        typer.echo(
            f"no training rows: everything that was kept belongs to other splits ({held}). The data set is written, but "
            "`flowkit train` will refuse it",
            err=True,
        )
        raise typer.Exit(1)


def _refuse(options: dict[str, Any], source: Path, whose: str, held: str) -> None:
    names = [f"--{name.replace('_', '-')}" for name in options]
    are, them = ("is an option", "it") if len(names) == 1 else ("are options", "them")
    raise UserError(f"{', '.join(names)}: {are} for {whose}, and {source} is read as {held}; leave {them} out")
