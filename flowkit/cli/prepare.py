"""`flowkit prepare`: from files to a data set. What kind of data the source is decides which options go with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowkit.cli.options import count
from flowkit.errors import Interrupted, UserError

if TYPE_CHECKING:
    from flowkit.text.prepare import Settings

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
    of_sketches = {"--size": size, "--over": over, "--max-per-class": max_per_class,
                   "--recognized-only": recognized_only or None}  # fmt: skip
    of_sentences = {
        "--codec": codec, "--lang": lang, "--texts": texts, "--column": column, "--split-sentences": split_sentences or None,
        "--skip-empty": skip_empty or None, "--near-duplicates": near_duplicates, "--split": split, "--encoder": encoder,
        "--decoder": decoder, "--tokenizer": tokenizer, "--device": device, "--dtype": dtype,
    }  # fmt: skip
    if _holds_sentences(source):
        _refuse(of_sketches, source, "sketches", "sentences")
        settings = _settings(lang=lang, column=column, split_sentences=split_sentences, skip_empty=skip_empty,
                             near_duplicates=near_duplicates, split=_fractions(split), seed=seed, device=device,
                             dtype=dtype)  # fmt: skip
        parts = {"encoder": encoder, "decoder": decoder, "tokenizer": tokenizer}
        _prepare_sentences(source, out, _described(codec, parts), texts, settings, overwrite)
    else:
        _refuse(of_sentences, source, "sentences", "sketches")
        _prepare_sketches(source, out, size=size or 32, over=over or "fit", max_per_class=max_per_class, seed=seed,
                          recognized_only=recognized_only, overwrite=overwrite)  # fmt: skip


def _prepare_sketches(source: Path, out: Path, **options: Any) -> None:
    from rich.console import Console

    from flowkit.sketch.prepare import prepare as run_prepare
    from flowkit.ui.prepare_view import reading_bar, summary

    with reading_bar() as progress:
        report = run_prepare(source, out, progress=progress, **options)
    console = Console(highlight=False)
    console.print(summary(report, console.width))
    if not report.trainable:
        held = ", ".join(f"{count:,} {name}" for name, count in report.splits.items() if count)
        typer.echo(
            f"no row is left to train on: what was kept belongs to other splits ({held}). The data set is written, and "
            "`train` will refuse it",
            err=True,
        )
        raise typer.Exit(1)


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
    console = Console(highlight=False)
    console.print(summary(report, console.width))


def _holds_sentences(source: Path) -> bool:
    """Whether a source holds sentences or vectors, by its content. Raises UserError for a file of neither kind."""
    from flowkit.errors import Unreadable
    from flowkit.sources import arrays, kinds
    from flowkit.sources.files import open_files

    with open_files(source) as files:
        if any(files.kind(entry) in kinds.SKETCHES for entry in files.entries):
            return False
        found = {files.kind(entry) for entry in files.entries}
        alone = files.entries[0] if len(files.entries) == 1 and not source.is_dir() else None
        if found & set(kinds.ARRAYS):
            first = files.of_kind(*kinds.ARRAYS)[0]
            try:
                with arrays.open_arrays(files, first) as held:
                    what = arrays.hold(held)
                    if what == "vectors" and alone is None:
                        join = "np.concatenate([np.load(f) for f in sorted(glob.glob('FOLDER/*.npy'))])"
                        code = f"import glob, numpy as np; np.save('vectors.npy', {join})".replace(
                            "FOLDER", str(source)
                        )
                        raise UserError(
                            f"{source}: holds vectors ({first.name}) in a folder or zip; name the file itself, and that of its "
                            f'sentences with --texts. Several are joined by: python -c "{code}"'
                        )
                    if what or alone is None:
                        return what == "vectors"
                    what = arrays.described(held).replace("FILE", str(source))
            except Unreadable:
                return alone is not None and alone.suffix == ".npy"  # whose reader says what is wrong
            raise UserError(f"{source}: holds neither drawings nor vectors: {what}")
        if alone is None or found & {"text", *kinds.SENTENCES, *kinds.TENSORS} or not alone.size:
            return bool(found & {"text", *kinds.SENTENCES}) or (alone is not None)
        packed = alone.key != source  # in a zip
        name = alone.name if packed else str(source)
        why = kinds.refusal(files.kind(alone), name) or "it is of no kind that flowkit knows"
        first = f"its only file, {name}, is not read (unzip {source} first)" if packed else "is not read"
        raise UserError(f"{source}: {first}: {why}. {kinds.KNOWN}")


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
