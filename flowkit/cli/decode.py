"""`flowkit decode`: from samples to what people can look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

SENTENCES = "Sentences"  # the panel of the options that only they have


def _of_sentences(help: str, *names: str, min: float | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=SENTENCES, min=min)


def decode(
    samples: Annotated[
        Path,
        typer.Argument(
            help="Samples or prepared data: a .safetensors with its .json. Of vectors also a bare .npy, .safetensors "
            "or .pt, with --codec.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Pictures: the folder to write to, by default beside the samples. Sentences: a .jsonl or .txt; "
            "by default they are shown as a table."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")] = None,
    preview: Annotated[bool, typer.Option(help="Show some of them in the terminal.")] = True,
    lang: Annotated[
        list[str] | None, _of_sentences("A language, such as fra_Latn; may be repeated; default: that of the data.")
    ] = None,
    beam_size: Annotated[int | None, _of_sentences("Width of the beam search; default: 5.", min=1)] = None,
    top_p: Annotated[float | None, _of_sentences("Draw from this mass of likely tokens instead: 0.9.")] = None,
    seed: Annotated[int | None, _of_sentences("Of --top-p; default: 0.")] = None,
    block_ngrams: Annotated[
        int | None, _of_sentences("No n-gram of this length twice; 0 is off. Default: 3 for samples, else 0.", min=0)
    ] = None,
    max_seq_len: Annotated[int | None, _of_sentences("Tokens of a sentence at most; default: 128.", min=1)] = None,
    cycle: Annotated[
        bool, _of_sentences("Encode each sentence again, and give its cosine to the vector.", "--cycle")
    ] = False,
    codec: Annotated[
        str | None, _of_sentences("sonar or mini-sonar, for files that do not say which made them.")
    ] = None,
    encoder: Annotated[
        str | None, _of_sentences("Of sonar: a card, a card file or a checkpoint of one's own, for --cycle.")
    ] = None,
    decoder: Annotated[str | None, _of_sentences("The same of its decoder.")] = None,
    tokenizer: Annotated[str | None, _of_sentences("The same of its tokenizer, or a sentencepiece model.")] = None,
    device: Annotated[str | None, _of_sentences("auto (the default), cpu, cuda, cuda:1, ...")] = None,
    dtype: Annotated[str | None, _of_sentences("fp32 (the default), fp16 or bf16.")] = None,
    batch_size: Annotated[
        int | None, _of_sentences("Vectors at a time, at most; default: found to fit the device.", min=1)
    ] = None,
) -> None:
    """Turn samples (or prepared data) back into what people can look at.

    Sketches become an SVG each and a contact sheet; sentence vectors become sentences, by the codec that made them.

    [bold]Examples[/bold]

      flowkit decode water/samples.safetensors
      flowkit decode data/kanji.safetensors --limit 100 --out kanji-sheet/
      flowkit decode runs/dit-text/samples.safetensors --lang fra_Latn --lang deu_Latn
      flowkit decode runs/dit-text/samples.safetensors --top-p 0.9 --seed 1 --out samples.txt
      flowkit decode vectors.npy --codec sonar --block-ngrams 3 --out sentences.jsonl

    [bold]Files of sentences[/bold]

      .jsonl  an object a row: "row" (its number), a key a language ("fra_Latn": "..."), and where there are
              such: "class", "text" (what a prepared vector was made from), "cycle"
      .txt    a sentence a line; of several languages a file each: samples.fra_Latn.txt
    """
    from flowkit.decode import DecodedSentences
    from flowkit.decode import decode as run_decode
    from flowkit.text.decoding import TextOptions
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
