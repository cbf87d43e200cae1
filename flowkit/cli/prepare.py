"""`flowkit prepare`: from files to a data set. What kind of data the source is decides which options go with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowkit.errors import Interrupted, UserError, listing

if TYPE_CHECKING:
    from flowkit.text.prepare import Settings

SKETCHES, SENTENCES = "Sketches", "Sentences"  # the panels of the options that only they have
SKETCH_FILES = (".svg", ".zip", ".ndjson", ".npz")


def _of(panel: str, help: str, *names: str, min: float | None = None, max: float | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, min=min, max=max)


def prepare(
    source: Annotated[
        Path,
        typer.Argument(
            help="Sketches: a folder, a .zip or a file: SVG, ControlSketch or stroke-3 .npz, Quick, Draw! .ndjson. "
            "Sentences: .txt, .jsonl, or their vectors: .npy, .safetensors, .pt.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The data set to write: OUT.safetensors and OUT.json.", show_default=False)],
    seed: Annotated[int, typer.Option(min=0, help="Of the order of the rows.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a data set of the same name.")] = False,
    size: Annotated[int | None, _of(SKETCHES, "Cubic strokes a sketch; default: 32.", min=1)] = None,
    over: Annotated[
        str | None, _of(SKETCHES, "Sketches of more cubics than that: fit (the default), or leave-out.")
    ] = None,
    max_per_class: Annotated[int | None, _of(SKETCHES, "Only the first so many of each class.", min=1)] = None,
    codec: Annotated[
        str | None, _of(SENTENCES, "sonar or mini-sonar: what encodes the sentences, or has made the vectors.")
    ] = None,
    lang: Annotated[str | None, _of(SENTENCES, "Their language; default: eng_Latn.")] = None,
    texts: Annotated[
        Path | None, _of(SENTENCES, "The sentences of a file of vectors: .txt or .jsonl, a line each.")
    ] = None,
    text_key: Annotated[
        str | None, _of(SENTENCES, "Where the sentence of a .jsonl line stands; default: text.")
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
    encoder: Annotated[
        str | None, _of(SENTENCES, "Of sonar: a card, a card file or a checkpoint of one's own.")
    ] = None,
    decoder: Annotated[str | None, _of(SENTENCES, "The same of its decoder.")] = None,
    tokenizer: Annotated[str | None, _of(SENTENCES, "The same of its tokenizer, or a sentencepiece model.")] = None,
    device: Annotated[str | None, _of(SENTENCES, "auto (the default), cpu, cuda, cuda:1, ...")] = None,
    dtype: Annotated[str | None, _of(SENTENCES, "fp32 (the default), fp16 or bf16, to encode in.")] = None,
) -> None:
    """Turn files into a data set that `train` reads, with a table of what became of every one.

    The kind of file is found out.

    [bold]Sketches[/bold] lie in folders that are classes: SOURCE/cat/12.svg is a cat.
    One of fewer cubics than --size has its longest ones split, without loss; one of more is fitted, with the fit error.

    [bold]Sentences[/bold], one a line, are encoded by --codec; near-duplicates are removed, and the rest shuffled and split.
    Stopped, the same command goes on where it was. Only the first so many rows are trained on with data.subset = "1k".

    [bold]Examples[/bold]

      flowkit prepare drawings/ --out data/drawings
      flowkit prepare kanji.zip --out data/kanji --over leave-out
      flowkit prepare quickdraw/ --out data/quickdraw --max-per-class 1000
      flowkit prepare sentences.txt --out data/mine --codec sonar --lang eng_Latn
      flowkit prepare articles.jsonl --text-key body --split-sentences --out data/articles --codec sonar
      flowkit prepare vectors.npy --texts sentences.txt --out data/mine --codec sonar
    """
    of_sketches = {"--size": size, "--over": over, "--max-per-class": max_per_class}
    of_sentences = {
        "--codec": codec, "--lang": lang, "--texts": texts, "--text-key": text_key, "--split-sentences": split_sentences or None,
        "--skip-empty": skip_empty or None, "--near-duplicates": near_duplicates, "--split": split, "--encoder": encoder,
        "--decoder": decoder, "--tokenizer": tokenizer, "--device": device, "--dtype": dtype,
    }  # fmt: skip
    if _holds_sentences(source):
        _refuse(of_sketches, source, "sketches", "sentences")
        settings = _settings(lang=lang, text_key=text_key, split_sentences=split_sentences, skip_empty=skip_empty,
                             near_duplicates=near_duplicates, split=_fractions(split), seed=seed, device=device,
                             dtype=dtype)  # fmt: skip
        parts = {"encoder": encoder, "decoder": decoder, "tokenizer": tokenizer}
        _prepare_sentences(source, out, _described(codec, parts), texts, settings, overwrite)
    else:
        _refuse(of_sentences, source, "sentences", "sketches")
        _prepare_sketches(source, out, size or 32, over or "fit", max_per_class, seed, overwrite)


def _prepare_sketches(
    source: Path, out: Path, size: int, over: str, max_per_class: int | None, seed: int, overwrite: bool
) -> None:
    from rich.console import Console

    from flowkit.sketch.prepare import prepare as run_prepare
    from flowkit.ui.prepare_view import reading_bar, summary

    with reading_bar() as progress:
        report = run_prepare(
            source, out, size=size, over=over, max_per_class=max_per_class, seed=seed, overwrite=overwrite, progress=progress
        )  # fmt: skip
    Console(highlight=False).print(summary(report))


def _prepare_sentences(
    source: Path, out: Path, codec: dict[str, Any] | None, texts: Path | None, settings: Settings, overwrite: bool
) -> None:
    from rich.console import Console

    from flowkit.text.prepare import prepare as run_prepare
    from flowkit.ui.prepare_text_view import preparing_bar, summary

    try:
        with preparing_bar() as (tell, notice):
            report = run_prepare(
                source, out, codec=codec, texts=texts, settings=settings, overwrite=overwrite, tell=tell, notice=notice
            )
    except KeyboardInterrupt as stop:
        raise Interrupted(str(stop)) from None  # what is kept, and how to go on, has been said
    Console(highlight=False).print(summary(report))


def _holds_sentences(source: Path) -> bool:
    """By the source's suffix. Raises UserError for a file of neither kind."""
    from flowkit.text import reading, vectors

    suffix = source.suffix.lower()
    if suffix in (*reading.SUFFIXES, *vectors.SUFFIXES):
        return True
    if source.is_file() and suffix not in SKETCH_FILES:
        raise UserError(
            f"{source}: {suffix or 'a file without suffix'} is not read; sketches come from a folder or {listing(SKETCH_FILES)}, "
            f"sentences from {listing(reading.SUFFIXES)}, vectors from {listing(vectors.SUFFIXES)}"
        )
    return False


def _refuse(options: dict[str, Any], source: Path, whose: str, held: str) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        are, them = ("is an option", "it") if len(given) == 1 else ("are options", "them")
        raise UserError(f"{', '.join(given)}: {are} of {whose}, and {source} is read as {held}; leave {them} out")


def _described(codec: str | None, parts: dict[str, str | None]) -> dict[str, Any] | None:
    """The codec as `open_codec` takes it."""
    given = {name: value for name, value in parts.items() if value is not None}
    if given and codec != "sonar":
        raise UserError(
            f"{', '.join(f'--{name}' for name in given)}: names a part of SONAR; it goes with --codec sonar"
        )
    return None if codec is None else {"name": codec, **given}


def _settings(**given: Any) -> Settings:
    from flowkit.text.prepare import Settings

    return Settings(**{name: value for name, value in given.items() if value is not None})


def _fractions(split: str | None) -> tuple[float, ...] | None:
    if split is None:
        return None
    try:
        return tuple(float(part) for part in split.split(","))
    except ValueError:
        raise UserError(f"--split {split}: expected three fractions that add up to 1, such as 0.8,0.1,0.1") from None
