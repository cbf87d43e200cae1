"""`flowkit prepare`: turn files into a data set. Which options apply depends on what the source holds."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowkit.cli.options import count, weights_by_kind
from flowkit.domain import get_domain
from flowkit.errors import UserError

if TYPE_CHECKING:
    from flowkit.domain import Domain

SKETCHES, CONDITIONS, SENTENCES = "Sketches", "Images and texts of sketches", "Sentences"  # panels of --help
NEXT = {"sketch": "quickstart", "text": "mlp_text"}  # the recipe to suggest, by domain


def _of(panel: str, help: str, *names: str, min: float | None = None, max: float | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, min=min, max=max)


def prepare(
    source: Annotated[
        Path,
        typer.Argument(
            help="A folder, a .zip or a file. Sketches: SVG, Quick, Draw! .ndjson, ControlSketch (.npz, .parquet), stroke-3 and "
            "stroke-5 .npz. "
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
    cubics: Annotated[
        int | None, _of(SKETCHES, "Maximum number of cubics per sketch. Pen strokes are kept. Default: 32.", min=1)
    ] = None,
    exactly: Annotated[
        int | None, _of(SKETCHES, "Cut sketches into exactly this many cubics, without pen strokes.", min=1)
    ] = None,
    simplify: Annotated[
        float | None,
        _of(SKETCHES, "Use fewer cubics, as long as lines move by less than this. The canvas is 2 wide.", min=0),
    ] = None,
    over: Annotated[
        str | None, _of(SKETCHES, "How to handle sketches with more cubics: fit (the default) or leave-out.")
    ] = None,
    max_per_class: Annotated[int | None, count("Keep only the first N sketches of each class.", panel=SKETCHES)] = None,
    recognized_only: Annotated[
        bool, _of(SKETCHES, "Leave out drawings that Quick, Draw! did not recognize.", "--recognized-only")
    ] = False,
    hold_out: Annotated[
        list[str] | None,
        _of(
            SKETCHES,
            "Put this whole class into the test split, to measure classes that were never seen. A tenth of the other rows "
            "validates. May be repeated.",
        ),
    ] = None,
    images: Annotated[
        str | None,
        _of(
            CONDITIONS,
            "A folder of photos with the names of the drawings; or render: pictures of the drawings themselves.",
        ),
    ] = None,
    image_encoder: Annotated[
        str | None,
        _of(
            CONDITIONS,
            "efficientnet-lite0 (works offline), clip, clip-rn101 or timm:MODEL. For the images, or those of SOURCE.",
        ),
    ] = None,
    text_encoder: Annotated[
        str | None,
        _of(CONDITIONS, "minilm (works offline) or transformers:MODEL. For --texts, or for the captions of SOURCE."),
    ] = None,
    join_texts: Annotated[
        bool, _of(CONDITIONS, "The texts of a drawing are tags. Join them to one text.", "--join-texts")
    ] = False,
    variants: Annotated[
        int | None,
        count("Pictures of each drawing (render), or random selections of its tags. Default: 4.", panel=CONDITIONS),
    ] = None,
    encoder_weights: Annotated[
        list[str] | None,
        _of(
            CONDITIONS,
            "Load the encoder from this file instead of the network. With two encoders: image=FILE, text=FILE.",
        ),
    ] = None,
    codec: Annotated[
        str | None,
        _of(SENTENCES, "sonar or mini-sonar: encodes the sentences. For vectors: the codec that made them."),
    ] = None,
    lang: Annotated[str | None, _of(SENTENCES, "Language of the sentences. Default: eng_Latn.")] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            help="Sketches: a .json, .jsonl, .csv or .tsv with a text, or several, by the name of each drawing. Vectors: the "
            "file of their sentences, in the same order."
        ),
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
    device: Annotated[
        str | None, typer.Option(help="Device of the encoder: auto (the default), cpu, cuda, cuda:1, ...")
    ] = None,
    dtype: Annotated[str | None, _of(SENTENCES, "Precision: fp32 (the default), fp16 or bf16.")] = None,
) -> None:
    """Turn files into a data set for training, and print how many were kept, fitted or dropped.

    The file type is detected automatically, by content. Every file may be gzipped.
    The summary counts what was skipped or reinterpreted, by cause.

    [bold]Sketches[/bold]: folders are classes. SOURCE/cat/12.svg has the class cat.
    Folders with names such as train, valid or test are splits: SOURCE/train/cat/12.svg.
    Pen strokes stay whole: an SVG path or a Quick, Draw! stroke is a chain of cubics.
    If a sketch has more than --cubics, it is fitted, and the fit error is reported.
    --simplify 0.01 often halves the number of cubics. The drawing looks the same, and models learn faster.

    [bold]Images and texts[/bold] of sketches become conditions: an encoder turns each into tokens, once, here.
    They are paired by file name: drawings/cat/12.svg with photos/cat/12.jpg, and 12-2.jpg.
    If interrupted, rerun the same command to resume.

    [bold]Sentences[/bold]: one per line or row. --codec encodes them.
    Near-duplicates are removed. The rest is shuffled and split.
    If interrupted, rerun the same command to resume.

    [bold]Examples[/bold]

      flowkit prepare drawings/ --out data/drawings
      flowkit prepare kanji.zip --out data/kanji --simplify 0.01
      flowkit prepare ControlSketch/ --out data/control --exactly 32
      flowkit prepare quickdraw/ --out data/quickdraw --max-per-class 1k
      flowkit prepare cat.ndjson.gz --out data/cat --recognized-only
      flowkit prepare sketchrnn_cat.npz --out data/cat
      flowkit prepare icons.zip --out data/icons --images render --image-encoder efficientnet-lite0
      flowkit prepare drawings/ --out data/mine --images photos/ --image-encoder clip
      flowkit prepare icons.zip --out data/tagged --texts tags.json --join-texts --text-encoder minilm
      flowkit prepare ControlSketch/ --out data/control --image-encoder clip-rn101
      flowkit prepare sentences.txt --out data/mine --codec sonar
      flowkit prepare a.tsv.gz --column 3 --out data/a --codec sonar
      flowkit prepare a.jsonl --split-sentences --out data/a --codec sonar
      flowkit prepare a.npy --texts a.csv --out data/a --codec sonar

    [bold]Exit status[/bold]

      0  done
      1  no rows left to train on: all were dropped, or are in other splits
      2  bad input
    """
    options: dict[str, dict[str, Any]] = {
        "sketch": {
            "cubics": cubics, "exactly": exactly, "simplify": simplify, "over": over, "max_per_class": max_per_class,
            "recognized_only": recognized_only or None, "hold_out": hold_out or None, "images": images,
            "image_encoder": image_encoder, "texts": texts, "text_encoder": text_encoder, "join_texts": join_texts or None,
            "variants": variants, "encoder_weights": weights_by_kind(encoder_weights, image_encoder, text_encoder),
            "device": device,
        },
        "text": {
            "codec": codec, "lang": lang, "texts": texts, "column": column, "split_sentences": split_sentences or None,
            "skip_empty": skip_empty or None, "near_duplicates": near_duplicates, "split": split, "encoder": encoder,
            "decoder": decoder, "tokenizer": tokenizer, "device": device, "dtype": dtype,
        },
    }  # fmt: skip
    domain = _domain_of(source)
    given = {kind: {name: value for name, value in own.items() if value is not None} for kind, own in options.items()}
    shared = given["sketch"].keys() & given["text"].keys()
    for kind, own in given.items():
        own = {name: value for name, value in own.items() if name not in shared}
        if kind != domain.name and own:
            _refuse(own, source, get_domain(kind).noun, domain.noun)
    _run(domain, source, out, overwrite=overwrite, seed=seed, **given.get(domain.name, {}))


def _domain_of(source: Path) -> Domain:
    """Return the first domain that reads the files of `source`. Raises UserError if none does."""
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
    from rich.text import Text

    from flowkit.ui import prepare_text_view, prepare_view

    with prepare_text_view.preparing_bar() as (tell, notice):
        report = domain.prepare(source, out, tell=tell, notice=notice, **options)
    console = Console(highlight=False)
    summaries = {"sketch": prepare_view.summary, "text": prepare_text_view.summary}
    console.print(summaries[domain.name](report, console.width) if domain.name in summaries else report)
    if not getattr(report, "trainable", True):
        held = ", ".join(f"{count:,} {name}" for name, count in report.splits.items() if count)
        typer.echo(
            f"no rows left to train on: all rows that were kept belong to other splits ({held}). The data set was written, "
            "but `flowkit train` will refuse it",
            err=True,
        )
        raise typer.Exit(1)
    recipe = NEXT.get(domain.name)
    for kind in getattr(report, "encoded", ()):
        recipe = f"{kind}_sketch"
    if recipe:
        command = f"flowkit train {recipe} --set data.source={shlex.quote(str(report.paths[0]))} --set run.name=NAME"
        # Not wrapped, so that it can be copied as a whole.
        console.print(Text(f"next: {command}", "dim"), soft_wrap=True)


def _refuse(options: dict[str, Any], source: Path, whose: str, held: str) -> None:
    names = [f"--{name.replace('_', '-')}" for name in options]
    raise UserError(f"{', '.join(names)}: only for {whose}, but {source} holds {held}. Leave out {', '.join(names)}")
