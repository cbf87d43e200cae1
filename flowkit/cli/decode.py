"""`flowkit decode`: from samples to what people can look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flowkit.cli.options import TrustCode, count

SENTENCES = "Sentences"  # the panel of the options that only they have


def _of_sentences(help: str, *names: str, min: float | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=SENTENCES, min=min)


def decode(
    samples: Annotated[
        Path,
        typer.Argument(
            help="Samples or prepared data: a .safetensors with its .json. Sentence vectors may also be a bare .npy, .npz, "
            ".safetensors or .pt file, with --codec.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Pictures: output folder, by default next to the samples. Sentences: a .jsonl or .txt file; "
            "by default they are printed as a table."
        ),
    ] = None,
    limit: Annotated[int | None, count("Decode only the first N rows.")] = None,
    preview: Annotated[bool, typer.Option(help="Show some pictures in the terminal.")] = True,
    lang: Annotated[
        list[str] | None,
        _of_sentences("Target language, such as fra_Latn; may be repeated. Default: the language of the data."),
    ] = None,
    beam_size: Annotated[int | None, _of_sentences("Width of the beam search; default: 5.", min=1)] = None,
    top_p: Annotated[
        float | None,
        _of_sentences("Nucleus sampling instead of beam search: probability mass of the tokens, such as 0.9."),
    ] = None,
    seed: Annotated[int | None, _of_sentences("Seed of --top-p; default: 0.")] = None,
    block_ngrams: Annotated[
        int | None,
        _of_sentences("Never repeat an n-gram of this length; 0 is off. Default: 3 for samples, else 0.", min=0),
    ] = None,
    max_seq_len: Annotated[
        int | None, _of_sentences("Maximum number of tokens per sentence; default: 128.", min=1)
    ] = None,
    cycle: Annotated[
        bool, _of_sentences("Encode each sentence again and report its cosine similarity to the vector.", "--cycle")
    ] = False,
    codec: Annotated[
        str | None, _of_sentences("sonar or mini-sonar; required for files that do not name their codec.")
    ] = None,
    encoder: Annotated[str | None, _of_sentences("SONAR encoder for --cycle: card, card file or checkpoint.")] = None,
    decoder: Annotated[str | None, _of_sentences("SONAR decoder: card, card file or checkpoint.")] = None,
    tokenizer: Annotated[str | None, _of_sentences("SONAR tokenizer: card, card file or sentencepiece model.")] = None,
    device: Annotated[str | None, _of_sentences("Device: auto (the default), cpu, cuda, cuda:1, ...")] = None,
    dtype: Annotated[str | None, _of_sentences("Precision: fp32 (the default), fp16 or bf16.")] = None,
    batch_size: Annotated[
        int | None, _of_sentences("Maximum number of vectors per batch; default: found automatically.", min=1)
    ] = None,
    trust_code: TrustCode = False,
) -> None:
    """Turn samples (or prepared data) into pictures or sentences.

    Sketches become one SVG each and a contact sheet. Sentence vectors are decoded by the codec that made them.

    [bold]Examples[/bold]

      flowkit decode water/samples.safetensors
      flowkit decode data/kanji.safetensors --limit 100 --out kanji-sheet/
      flowkit decode runs/dit-text/samples.safetensors --lang fra_Latn --lang deu_Latn
      flowkit decode runs/dit-text/samples.safetensors --top-p 0.9 --seed 1 --out samples.txt
      flowkit decode vectors.npy --codec sonar --block-ngrams 3 --out sentences.jsonl

    [bold]Files of sentences[/bold]

      .jsonl  one object per row: "row" (its number), one key per language ("fra_Latn": "..."), and if known
              "class", "text" (the sentence that a prepared vector was made from) and "cycle"
      .txt    one sentence per line; with several languages one file each: samples.fra_Latn.txt
    """
    from flowkit.decode import decode as run_decode
    from flowkit.text.decoding import DecodedSentences, TextOptions
    from flowkit.ui.progress import stage_bar
    from flowkit.ui.written import print_sentences, print_written

    options = TextOptions(
        lang=tuple(lang or ()), beam_size=beam_size, top_p=top_p, seed=seed, block_ngrams=block_ngrams, cycle=cycle,
        max_seq_len=max_seq_len, codec=codec, encoder=encoder, decoder=decoder, tokenizer=tokenizer, device=device,
        dtype=dtype, batch_size=batch_size,
    )  # fmt: skip
    decoded = run_decode(samples, out=out, limit=limit, options=options, bar=stage_bar)
    if isinstance(decoded, DecodedSentences):
        print_sentences(decoded, preview)
    else:
        print_written(decoded, "samples", "", preview)
