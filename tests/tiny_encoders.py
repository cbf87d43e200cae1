"""Encoders without weights, for tests: gray levels of a picture on a 4 x 4 grid, and letters of a text."""

from __future__ import annotations

import numpy as np

from flowkit.encoders import Encoder
from flowkit.encoders.pictures import read_image


class Grays(Encoder):
    kind, name, tokens, width = "image", "tests.tiny_encoders:Grays", 16, 3
    calls: list[int] = []  # noqa: RUF012

    def __init__(self, weights=None, device="auto", batch_size=None) -> None:
        self.fingerprint = "0" * 64 if weights is None else weights.read_text()

    def encode(self, items):
        self.calls.append(len(items))
        small = [np.asarray(read_image(one).resize((4, 4)), np.float32).reshape(16, 3) / 255 for one in items]
        return np.stack(small).astype(np.float16), None


class Letters(Encoder):
    kind, name, tokens, width, fingerprint = "text", "tests.tiny_encoders:Letters", 12, 26, "1" * 64

    def __init__(self, weights=None, device="auto", batch_size=None) -> None:
        pass

    def encode(self, items):
        words = [one.lower().split()[:12] for one in items]
        found = np.zeros((len(items), 12, 26), np.float16)
        mask = np.zeros((len(items), 12), bool)
        for row, some in enumerate(words):
            for place, word in enumerate(some):
                mask[row, place] = True
                for letter in word:
                    if "a" <= letter <= "z":
                        found[row, place, ord(letter) - 97] += 1
        return found, mask

    def too_long(self, text: str) -> bool:
        return len(text.split()) > 12
