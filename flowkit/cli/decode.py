"""`flowkit decode`: turn samples into pictures or sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flowkit.cli.options import TrustCode, count

SKETCHES, SENTENCES = "Sketches", "Sentences"  # panels of --help


def _of_sketches(help: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=SKETCHES, metavar=metavar)


def _of_sentences(help: str, *names: str, min: float | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=SENTENCES, min=min)


def decode(
    samples: Annotated[
        Path,
        typer.Argument(
            help="Samples or prepared data: a .safetensors with its .json. With --codec also sentence vectors in a .npy, "
            ".npz, .safetensors or .pt file.",
            metavar="SAMPLES",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Pictures: output folder. Default: next to the samples. Sentences: a .jsonl or .txt file. "
            "Default: print a table."
        ),
    ] = None,
    limit: Annotated[int | None, count("Decode only the first N rows.")] = None,
    preview: Annotated[bool, typer.Option(help="Show some pictures in the terminal.")] = True,
    animate: Annotated[
        bool, _of_sketches("Also write an SVG of each drawing that draws itself, in the order of the pen.", "--animate")
    ] = False,
    page: Annotated[
        str | None,
        _of_sketches(
            "Also write pages for a pen plotter, in millimeters: a3, a4, a5, letter, legal, or a size such as 210x297mm.",
            metavar="SIZE",
        ),
    ] = None,
    margin: Annotated[
        str | None, _of_sketches("Margin of the page, such as 20mm, 2cm or 0.8in. Default: 10mm.", metavar="LENGTH")
    ] = None,
    landscape: Annotated[bool, _of_sketches("Turn the page on its side.", "--landscape")] = False,
    grid: Annotated[
        str | None,
        _of_sketches("Rows and columns of a page, such as 3x4. Default: as few pages as possible.", metavar="RxC"),
    ] = None,
    drawings: Annotated[
        str | None,
        _of_sketches("Drawings on the pages, by number, such as 0,4-7. Default: all.", metavar="NUMBERS"),
    ] = None,
    lang: Annotated[
        list[str] | None,
        _of_sentences("Target language, such as fra_Latn. May be repeated. Default: the language of the data."),
    ] = None,
    beam_size: Annotated[int | None, _of_sentences("Width of the beam search. Default: 5.", min=1)] = None,
    top_p: Annotated[
        float | None,
        _of_sentences("Use nucleus sampling instead of beam search, with this probability mass, such as 0.9."),
    ] = None,
    seed: Annotated[int | None, _of_sentences("Seed of --top-p. Default: 0.")] = None,
    block_ngrams: Annotated[
        int | None,
        _of_sentences(
            "Never repeat an n-gram of this length. 0 is off. Default: 3 for samples, 0 for other data.", min=0
        ),
    ] = None,
    max_seq_len: Annotated[
        int | None, _of_sentences("Maximum number of tokens per sentence. Default: 128.", min=1)
    ] = None,
    cycle: Annotated[
        bool, _of_sentences("Encode each sentence again, and report the cosine similarity to its vector.", "--cycle")
    ] = False,
    codec: Annotated[
        str | None, _of_sentences("sonar or mini-sonar. Required if the file does not name its codec.")
    ] = None,
    encoder: Annotated[str | None, _of_sentences("SONAR encoder for --cycle: card, card file or checkpoint.")] = None,
    decoder: Annotated[str | None, _of_sentences("SONAR decoder: card, card file or checkpoint.")] = None,
    tokenizer: Annotated[str | None, _of_sentences("SONAR tokenizer: card, card file or sentencepiece model.")] = None,
    device: Annotated[str | None, _of_sentences("Device: auto (the default), cpu, cuda, cuda:1, ...")] = None,
    dtype: Annotated[str | None, _of_sentences("Precision: fp32 (the default), fp16 or bf16.")] = None,
    batch_size: Annotated[
        int | None, _of_sentences("Maximum number of vectors per batch. Default: chosen automatically.", min=1)
    ] = None,
    trust_code: TrustCode = False,
) -> None:
    """Turn samples (or prepared data) into pictures or sentences.

    Sketches become one SVG each, and a contact sheet. With --page
    also pages for a pen plotter, with strokes in an order that saves
    travel.
    Sentence vectors are decoded by the codec that made them.

    [bold]Examples[/bold]

      flowkit decode fish/samples.safetensors
      flowkit decode data/kanji --limit 100 --out kanji-sheet/
      flowkit decode runs/quickstart --animate
      flowkit decode runs/quickstart --page a4 --margin 20mm
      flowkit decode runs/quickstart --page 8.5x11in --grid 3x2 --landscape
      flowkit decode runs/dit-text --lang fra_Latn --lang deu_Latn
      flowkit decode runs/dit-text --top-p 0.9 --seed 1 --out a.txt
      flowkit decode vectors.npy --codec sonar --out sentences.jsonl

    [bold]Sentence files[/bold]

      .jsonl  one object per row, with the keys "row" (its number),
              one per language ("fra_Latn"), and, if known, "class",
              "text" (the sentence that was encoded) and "cycle"
      .txt    one sentence per line. Several languages are written to
              one file each, such as samples.fra_Latn.txt
    """
    from flowkit.decode import decode as run_decode
    from flowkit.decode import of_one_domain
    from flowkit.sketch.decoding import SketchOptions
    from flowkit.text.decoding import DecodedSentences, TextOptions
    from flowkit.ui.progress import stage_bar
    from flowkit.ui.written import print_sentences, print_written

    of_sketches = SketchOptions(animate, page, margin, landscape, grid, drawings)
    of_sentences = TextOptions(
        lang=tuple(lang or ()), beam_size=beam_size, top_p=top_p, seed=seed, block_ngrams=block_ngrams, cycle=cycle,
        max_seq_len=max_seq_len, codec=codec, encoder=encoder, decoder=decoder, tokenizer=tokenizer, device=device,
        dtype=dtype, batch_size=batch_size,
    )  # fmt: skip
    options = of_one_domain(of_sketches, of_sentences)
    decoded = run_decode(samples, out=out, limit=limit, options=options, bar=stage_bar)
    if isinstance(decoded, DecodedSentences):
        print_sentences(decoded, preview)
    else:
        print_written(decoded, "samples", "", preview)
