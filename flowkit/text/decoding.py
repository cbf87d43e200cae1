"""Decode the vectors of a file to sentences: options, choice of codec and languages, and output files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from flowkit.data.dataset import Dataset
from flowkit.data.files import replacing
from flowkit.domain import Bar, Tell
from flowkit.errors import UserError, nearest
from flowkit.outputs import check_writable, earlier_files, one_call
from flowkit.registry import STORED_KINDS
from flowkit.text.codec import BLOCKED, ENGLISH, Codec, Decoding, languages_of, open_codec
from flowkit.text.languages import unknown_language

SUFFIXES = (".jsonl", ".txt")


@dataclass(frozen=True)
class TextOptions:
    """The options of `flowkit decode` for sentences. None (or empty) for those that were not given."""

    kind: ClassVar[str] = STORED_KINDS["text"]
    noun: ClassVar[str] = "sentence vectors"
    lang: tuple[str, ...] = ()
    beam_size: int | None = None
    top_p: float | None = None
    seed: int | None = None
    block_ngrams: int | None = None
    max_seq_len: int | None = None
    codec: str | None = None
    encoder: str | None = None  # replacements for parts of SONAR
    decoder: str | None = None
    tokenizer: str | None = None
    dtype: str | None = None
    device: str | None = None
    batch_size: int | None = None
    cycle: bool = False

    def given(self) -> list[str]:
        """Return the options that were given, as on the command line: "--beam-size"."""
        asked = [field.name for field in fields(self) if getattr(self, field.name) not in (None, (), False)]
        return [f"--{name.replace('_', '-')}" for name in asked]

    def check(self) -> None:
        """Raise UserError for options that are mutually exclusive, without effect, or out of range."""
        if self.top_p is not None and self.beam_size is not None:
            raise UserError("--top-p (nucleus sampling) and --beam-size (beam search) are mutually exclusive")
        if self.seed is not None and self.top_p is None:
            raise UserError("--seed has no effect on beam search; it requires --top-p")
        self.decoding(ENGLISH)

    def identify(self) -> bool:
        return self.codec is not None

    def presenter(self) -> None:
        return None

    def decoding(self, lang: str) -> Decoding:
        names = ("beam_size", "top_p", "seed", "block_ngrams", "max_seq_len")
        return Decoding(lang, **{name: getattr(self, name) for name in names if getattr(self, name) is not None})


@dataclass(frozen=True)
class Sentences:
    """Decoded rows, in order."""

    by_lang: Mapping[str, Sequence[str]]
    texts: Sequence[str] | None  # original sentences of prepared vectors
    classes: Sequence[str] | None
    cycle: np.ndarray | None  # (N,) cosine between a vector and the encoding of its sentence
    facts: str  # "mini-sonar, beam 5"
    faithful: int | None = None  # rows that were decoded to their original sentence, word for word

    def __len__(self) -> int:
        return len(next(iter(self.by_lang.values())))


@dataclass(frozen=True)
class DecodedSentences:
    sentences: Sentences
    files: tuple[Path, ...]  # none if they are only shown
    replaced: str = ""  # which earlier files were replaced or renamed; empty if none were


def decode_file(data: Dataset, tensors: Path, out: Path | None, options: TextOptions, bar: Bar) -> DecodedSentences:
    """Decode the rows of the file `tensors`, and write them to the file `out` unless it is None. Raises UserError."""
    if out is not None:
        check_file(out, tensors.with_suffix(".jsonl"))
        check_writable(out.parent)
    if not len(data):
        raise UserError(f"{tensors}: has no rows, so there is nothing to decode")
    codec = codec_of(data, str(tensors), options)
    langs = languages(data, options, codec)
    with bar("decoding") as tell:
        sentences = decode_rows(codec, data, langs, options, tell)
    return DecodedSentences(sentences, ()) if out is None else write_file(sentences, out)


def write_file(sentences: Sentences, out: Path) -> DecodedSentences:
    """Write sentences to `out`, replacing the files of an earlier call. Raises UserError if that is not possible."""
    # One file needs no manifest. A file per language does, so that files of other languages do not stay.
    part = f"sentences {out.name}"
    if (out.suffix == ".jsonl" or len(sentences.by_lang) == 1) and part not in earlier_files(out.parent).values():
        return DecodedSentences(sentences, write_sentences(sentences, out))
    with one_call(out.parent, part, only_part=True) as call:
        files = write_sentences(sentences, call.partial / out.name)
    return DecodedSentences(sentences, tuple(out.parent / path.name for path in files), call.said)


def codec_of(data: Dataset, where: str, options: TextOptions) -> Codec:
    """Open the codec that made the vectors: the one in the sidecar, or else the one in the options.

    May download or train it. Raises UserError if none is known, or if it contradicts the sidecar or the dimension.
    """
    described: Any = data.info.get("codec")
    described = dict(described) if isinstance(described, Mapping) else {"name": described}
    own, named = described.get("name"), options.codec
    if named is not None and own not in (None, named):
        raise UserError(f"--codec {named}: contradicts {where}, whose vectors were made by {own!r}; leave it out")
    if named is None and not isinstance(own, str):
        raise UserError(f"{where}: does not name the codec of its vectors; name it with --codec")
    parts = {name: part for name in ("encoder", "decoder", "tokenizer") if (part := getattr(options, name)) is not None}
    if parts and (named or own) != "sonar":
        raise UserError(f"--{next(iter(parts))} requires the codec sonar, and {where} is decoded by {named or own}")
    described = (described if own is not None else {"name": named}) | parts
    _check_languages(data, options, languages_of(described), str(described["name"]))
    codec = open_codec(described, device=options.device or "auto", dtype=options.dtype or "fp32")
    if data.x.shape[1] != codec.dimension:
        raise UserError(
            f"{where}: its vectors have {data.x.shape[1]} dimensions, but the codec {codec.name!r} has {codec.dimension}; "
            "name the codec that made them with --codec"
        )
    return codec


def languages(data: Dataset, options: TextOptions, codec: Codec) -> tuple[str, ...]:
    """Return the languages of the options, or else of the data, or else English. Raises UserError for unknown ones."""
    return _check_languages(data, options, codec.languages, codec.name)


def _check_languages(data: Dataset, options: TextOptions, known: Sequence[str], codec: str) -> tuple[str, ...]:
    langs = tuple(dict.fromkeys(options.lang)) or (data.info.get("lang") or ENGLISH,)
    for lang in langs:
        if lang not in known:
            raise UserError(unknown_language(lang, known, f"the codec {codec!r}"))
    return langs


def decode_rows(codec: Codec, data: Dataset, langs: Sequence[str], options: TextOptions, tell: Tell) -> Sentences:
    """Decode all rows to every language. `tell` receives progress."""
    x = np.asarray(data.x)
    sampled = data.info.get("source") == "samples"
    if sampled and options.block_ngrams is None:
        options = replace(options, block_ngrams=BLOCKED)
    by_lang = {}
    for lang in langs:
        what = f"decoding to {lang}" if len(langs) > 1 else "decoding"
        tell(what, 0, len(x))
        by_lang[lang] = codec.decode(
            x,
            options.decoding(lang),
            batch_size=options.batch_size,
            tell=lambda _, done, total, what=what: tell(what, done, total),
        )
    cycle = None
    if options.cycle:
        back = codec.encode(by_lang[langs[0]], lang=langs[0], tell=tell)
        norms = np.linalg.norm(x, axis=1) * np.linalg.norm(back, axis=1)
        cycle = np.einsum("nd,nd->n", x, back) / np.maximum(norms, 1e-12)
    texts = None if sampled else data.texts  # the texts of samples are decoded ones themselves
    faithful = None
    if texts is not None and (lang := data.info.get("lang", ENGLISH)) in by_lang:
        faithful = sum(one.split() == own.split() for one, own in zip(by_lang[lang], texts, strict=True))
    how = options.decoding(langs[0])
    search = f"beam {how.beam_size}" if how.top_p is None else f"top-p {how.top_p:g}, seed {how.seed}"
    classes = None if data.class_label is None else data.titles()
    return Sentences(by_lang, texts, classes, cycle, f"{codec.name}, {search}", faithful)


def check_file(out: Path, own: Path) -> None:
    """Raise UserError unless sentences can be written to `out`; `own` is the file with the sentences of the data."""
    if out.suffix not in SUFFIXES:
        raise UserError(
            f"--out {out}: expected a {' or '.join(SUFFIXES)} file{nearest(out.suffix, SUFFIXES)} "
            "(without --out the sentences are shown as a table)"
        )
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; name a file in it, such as {out / 'sentences.jsonl'}")
    if own.is_file() and out.resolve() == own.resolve():
        raise UserError(f"--out {out}: is the file with the sentences of the data; choose another name")


def write_sentences(sentences: Sentences, out: Path) -> tuple[Path, ...]:
    """Write .jsonl with one object per row (see `json_lines`), or .txt with one sentence per line and one file per language.

    Returns the paths. Raises UserError if one cannot be written.
    """
    if out.suffix == ".jsonl":
        contents = {out: json_lines(sentences)}
    else:
        several = len(sentences.by_lang) > 1
        contents = {
            out.with_suffix(f".{lang}.txt") if several else out: [" ".join(text.split()) for text in texts]
            for lang, texts in sentences.by_lang.items()
        }
    for path, lines in contents.items():
        with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    return tuple(contents)


def json_lines(sentences: Sentences) -> list[str]:
    """Return lines such as {"row": 0, "class": "news", "eng_Latn": "...", "fra_Latn": "...", "text": "...", "cycle": 0.98}.

    "class", "text" (the original sentence of a prepared vector) and "cycle" are left out if unknown.
    """
    lines = []
    for row in range(len(sentences)):
        line: dict[str, Any] = {"row": row}
        if sentences.classes is not None:
            line["class"] = sentences.classes[row]
        line |= {lang: texts[row] for lang, texts in sentences.by_lang.items()}
        if sentences.texts is not None:
            line["text"] = sentences.texts[row]
        if sentences.cycle is not None:
            line["cycle"] = round(float(sentences.cycle[row]), 6)
        lines.append(json.dumps(line, ensure_ascii=False))
    return lines
