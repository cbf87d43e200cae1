"""Encoding and decoding through a codec against sonar-space's pipelines called by hand, with their default batch of 5.

    python -m tests.benchmarks.codecs [--file sentences.txt] [--sentences 200] [--rounds 5] [--max-seq-len 64] [--device cuda]

With the miniature SONAR, which is trained first where it has not been. Without --file the sentences are the built-in
ones. Both ways use the same models, texts and vectors, and 5 beams, which is the default of both.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch

from flowkit.text.codec import ENGLISH, Decoding, open_codec
from flowkit.text.mini.grammar import generate
from flowkit.text.pipelines import PipelineCodec
from flowkit.text.reading import read_sentences
from tests.benchmarks.paired import machine, paired


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-seq-len", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="fp32")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # both report the truncated sentences, each time
    sentences = read_sentences(arguments.file).texts if arguments.file else generate(arguments.sentences, seed=0)
    texts = list(sentences[: arguments.sentences])
    codec = open_codec("mini-sonar", device=arguments.device, dtype=arguments.dtype)
    assert isinstance(codec, PipelineCodec)
    how = Decoding(max_seq_len=arguments.max_seq_len)
    print(f"{machine()}; {len(texts)} sentences of {np.mean([len(text) for text in texts]):.0f} characters")

    vectors: dict[str, np.ndarray] = {}

    def encode() -> None:
        vectors["codec"] = codec.encode(texts)

    def encode_by_hand() -> None:
        encoded = codec._encoder.predict(texts, source_lang=ENGLISH, max_seq_len=codec._source_limit)
        vectors["hand"] = encoded.float().cpu().numpy()

    ours, by_hand, ratio = paired(encode, encode_by_hand, arguments.rounds, warmup=1)
    difference = np.abs(vectors["codec"] - vectors["hand"]).max()
    print(f"encode: codec {ours:.3f} s, by hand {by_hand:.3f} s: {1 / ratio:.2f} times as fast; "
          f"largest difference of a number {difference:.1e}")  # fmt: skip

    source = torch.from_numpy(vectors["codec"]).to(codec.device, codec.dtype)
    decoded: dict[str, list[str]] = {}

    def decode() -> None:
        decoded["codec"] = codec.decode(vectors["codec"], how)

    def decode_by_hand() -> None:
        decoded["hand"] = codec._decoder.predict(source, target_lang=ENGLISH, max_seq_len=how.max_seq_len)

    ours, by_hand, ratio = paired(decode, decode_by_hand, arguments.rounds, warmup=1)
    same = sum(a == b for a, b in zip(decoded["codec"], decoded["hand"], strict=True))
    print(f"decode: codec {ours:.3f} s, by hand {by_hand:.3f} s: {1 / ratio:.2f} times as fast; "
          f"{same} of {len(texts)} texts the same")  # fmt: skip


if __name__ == "__main__":
    main()
