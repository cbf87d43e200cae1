"""`flowkit prepare`: turn files into a data set. Which options apply depends on what the source holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowkit.cli.options import count
from flowkit.errors import Interrupted, UserError

if TYPE_CHECKING:
    from flowkit.text.prepare import Settings

SKETCHES, SENTENCES = "Sketches", "Sentences"  # panels of --help


def _of(panel: str, help: str, *names: str, min: float | None = None, max: float | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, min=min, max=max)


def prepare(
    source: Annotated[
        Path,
        typer.Argument(
            help="A folder, a .zip or a file. Sketches: SVG, Quick, Draw! .ndjson, ControlSketch, stroke-3 and stroke-5 .npz. "
            "Sentences: .txt, .jsonl, .json, .csv, .tsv, .parquet. Sentence vectors: .npy, .npz, .safetensors, .pt.",
            metavar="SOURCE",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The data set to write: OUT.safetensors and OUT.json.", show_default=False)],
    seed: Annotated[int, typer.Option(min=0, help="Shuffle seed.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing data set of the same name.")
    ] = False,
    size: Annotated[int | None, _of(SKETCHES, "Number of cubic strokes per sketch. Default: 32.", min=1)] = None,
    over: Annotated[
        str | None, _of(SKETCHES, "What to do with sketches that have more: fit (the default) or leave-out.")
    ] = None,
    max_per_class: Annotated[
        int | None, count("Keep at most this many per class, the first ones.", panel=SKETCHES)
    ] = None,
    recognized_only: Annotated[
        bool, _of(SKETCHES, "Leave out drawings that Quick, Draw! did not recognize.", "--recognized-only")
    ] = False,
    codec: Annotated[
        str | None,
        _of(SENTENCES, "sonar or mini-sonar: encodes the sentences. For vectors: the codec that made them."),
    ] = None,
    lang: Annotated[str | None, _of(SENTENCES, "Language of the sentences. Default: eng_Latn.")] = None,
    texts: Annotated[
        Path | None, _of(SENTENCES, "For vectors: the file of their sentences, in the same order.")
    ] = None,
    column: Annotated[
        str | None,
        _of(
            SENTENCES,
            "Column (or JSON key) of the sentences, by name or number. Default: detected automatically.",
            "--column",
            "--text-key",
        ),
    ] = None,
    split_sentences: Annotated[
        bool, _of(SENTENCES, "Each line is a paragraph. Split it into sentences.", "--split-sentences")
    ] = False,
    skip_empty: Annotated[
        bool, _of(SENTENCES, "Leave out empty lines. Without this they are an error.", "--skip-empty")
    ] = False,
    near_duplicates: Annotated[
        float | None,
        _of(
            SENTENCES,
            "If two vectors have a cosine similarity above this, keep only the first. 0 is off. Default: 0.95.",
            min=0,
        ),
    ] = None,
    split: Annotated[
        str | None, _of(SENTENCES, "Fractions for training, validation and test. Default: 0.8,0.1,0.1.")
    ] = None,
    encoder: Annotated[str | None, _of(SENTENCES, "SONAR encoder: card, card file or checkpoint.")] = None,
    decoder: Annotated[str | None, _of(SENTENCES, "SONAR decoder: card, card file or checkpoint.")] = None,
    tokenizer: Annotated[str | None, _of(SENTENCES, "SONAR tokenizer: card, card file or sentencepiece model.")] = None,
    device: Annotated[str | None, _of(SENTENCES, "Device: auto (the default), cpu, cuda, cuda:1, ...")] = None,
    dtype: Annotated[str | None, _of(SENTENCES, "Precision: fp32 (the default), fp16 or bf16.")] = None,
) -> None:
    """Turn files into a data set for training, and print how many were kept, fitted or dropped.

    The file type is detected automatically, by content. Every file may be gzipped.
    The summary counts what was skipped or reinterpreted, by cause.

    [bold]Sketches[/bold]: folders are classes. SOURCE/cat/12.svg is a cat.
    Folders with names such as train, valid or test are splits: SOURCE/train/cat/12.svg.
    If a sketch has fewer cubics than --size, its longest ones are split, without loss.
    If it has more, it is fitted, and the fit error is reported.

    [bold]Sentences[/bold]: one per line or row. --codec encodes them.
    Near-duplicates are removed. The rest is shuffled and split.
    If interrupted, rerun the same command to resume.

    [bold]Examples[/bold]

      flowkit prepare drawings/ --out data/drawings
      flowkit prepare kanji.zip --out data/kanji --over leave-out
      flowkit prepare quickdraw/ --out data/quickdraw --max-per-class 1k
      flowkit prepare cat.ndjson.gz --out data/cat --recognized-only
      flowkit prepare sketchrnn_cat.npz --out data/cat
      flowkit prepare sentences.txt --out data/mine --codec sonar
      flowkit prepare a.tsv.gz --column 3 --out data/a --codec sonar
      flowkit prepare a.jsonl --split-sentences --out data/a --codec sonar
      flowkit prepare a.npy --texts a.csv --out data/a --codec sonar

    [bold]Exit status[/bold]

      0  done
      1  no rows left to train on: all were dropped, or are in other splits
      2  bad input
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
            f"no rows left to train on: all rows that were kept belong to other splits ({held}). The data set was written, "
            "but `flowkit train` will refuse it",
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
        raise Interrupted(str(stop)) from None  # what was kept and how to resume has been printed
    console = Console(highlight=False)
    console.print(summary(report, console.width))


def _holds_sentences(source: Path) -> bool:
    """Return whether a source holds sentences or vectors, not sketches. Raises UserError if it holds none of these."""
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
                            f"{source}: holds vectors ({first.name}) in a folder or zip. Name the file itself, and the file of "
                            f'its sentences with --texts. To join several files: python -c "{code}"'
                        )
                    if what or alone is None:
                        return what == "vectors"
                    what = arrays.described(held).replace("FILE", str(source))
            except Unreadable:
                return alone is not None and alone.suffix == ".npy"  # its reader raises the UserError
            raise UserError(f"{source}: neither drawings nor vectors: {what}")
        if alone is None or found & {"text", *kinds.SENTENCES, *kinds.TENSORS} or not alone.size:
            return bool(found & {"text", *kinds.SENTENCES}) or (alone is not None)
        packed = alone.key != source  # in a zip
        name = alone.name if packed else str(source)
        why = kinds.refusal(files.kind(alone), name) or "unknown file type"
        first = f"cannot read its only file, {name} (unzip {source} first)" if packed else "cannot be read"
        raise UserError(f"{source}: {first}: {why}. {kinds.KNOWN}")


def _refuse(options: dict[str, Any], source: Path, whose: str, held: str) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise UserError(
            f"{', '.join(given)}: only for {whose}, but {source} holds {held}. Leave out {', '.join(given)}"
        )


def _described(codec: str | None, parts: dict[str, str | None]) -> dict[str, Any] | None:
    """Return the codec as `open_codec` takes it."""
    given = {name: value for name, value in parts.items() if value is not None}
    if given and codec != "sonar":
        raise UserError(f"{', '.join(f'--{name}' for name in given)}: requires --codec sonar")
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
        raise UserError(f"--split {split}: expected three fractions with a sum of 1, such as 0.8,0.1,0.1") from None
