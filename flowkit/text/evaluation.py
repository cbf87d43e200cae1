"""Metrics of sentence vectors. `PROTOCOL` identifies features, metrics and counts: compare results of one protocol only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.data.files import replacing
from flowkit.domain import Tell
from flowkit.errors import UserError
from flowkit.metrics.comparison import Comparison
from flowkit.metrics.report import COLUMNS, Figure
from flowkit.metrics.resampling import Estimate, half_sampling
from flowkit.text.codec import ENGLISH, Codec, open_codec, why_unavailable
from flowkit.text.cycle import cosines, decode_and_encode, nearest_rows
from flowkit.text.distribution import Column, Reference
from flowkit.text.diversity import share, variety
from flowkit.text.figures import DECODED_LEGEND, FIGURES, LEGEND

PROTOCOL = "embedding-1"
DECODED = 500  # rows of each column that are decoded and encoded again, evenly spread
OWN_ROWS = 1000  # training rows to use if no rows are held out
WORDS = {"samples": "samples", "real": "real vectors", "gaussian": "Gaussian draws", "noise": "noise",
         "reference": "the reference"}  # fmt: skip
SHOWN, NEAREST = 40, 20  # rows of samples.md


@dataclass(frozen=True)
class DecodedRows:
    """Decoded `rows` (n,) of a column: their texts, the vectors of the texts (n, D), and the cosines to the rows (n,)."""

    rows: np.ndarray
    texts: list[str]
    again: np.ndarray
    cosines: np.ndarray


@dataclass(frozen=True)
class Near:
    """The nearest training rows of a column: cosines (n,), and row numbers in the data (n,)."""

    cosines: np.ndarray
    rows: np.ndarray


class TextEvaluator:
    """Measures vectors (N, D), and the sentences that they decode to if the codec is available (else `notes` say why not).

    Raises UserError if the samples belong to another codec than the data.
    """

    protocol = PROTOCOL

    def __init__(
        self, comparison: Comparison, *, decode: bool = True, device: str = "auto", codec: Codec | None = None
    ) -> None:
        """codec: an open codec; by default the one of the data, unless it would have to be downloaded or trained."""
        self.comparison = comparison
        data, sides, samples = comparison.data, comparison.sides, comparison.samples
        _same_codec(samples.info, data.info)
        self.lang = data.info.get("lang") or ENGLISH
        reason = None if codec else _why_not(data.info.get("codec"), decode)
        self.codec = codec or (None if reason else open_codec(data.info["codec"], device=device))
        self.notes = (f"the sentences were not measured: {reason}",) if reason else ()
        self.legend = LEGEND + (DECODED_LEGEND if self.codec else "")
        fitted = np.asarray(data.x[sides.train], np.float64)
        self.center = fitted.mean(axis=0)
        noise = np.random.default_rng(0).standard_normal(comparison.gaussian.shape)
        self.x: dict[str, np.ndarray] = {
            "samples": np.asarray(samples.x),
            "real": np.asarray(data.x[sides.real]),
            "gaussian": comparison.gaussian,
            "noise": (self.center + np.sqrt(fitted.var(axis=0).mean()) * noise).astype(np.float32),
            "reference": np.asarray(data.x[sides.reference]),
        }
        self._tell: Tell = lambda what, done, total: None

    def figures(self, tell: Tell) -> list[Figure]:
        """Compute all metrics for samples, real rows, Gaussian draws and noise. `tell` receives progress."""
        self._tell = tell
        reference = Reference(self.x["reference"])
        columns: dict[str, Column] = {}
        for number, name in enumerate(COLUMNS):
            tell(f"measuring {WORDS[name]}", number, len(COLUMNS))
            columns[name] = reference.compared(self.x[name])
        held_out = self._near_held_out()
        for name in COLUMNS:
            columns[name] |= _copying(self.near[name], self.near["real"], held_out.get(name))
        if self.codec is not None:
            said = Reference(self.decoded["reference"].again, reference.spread)
            tell("measuring sentences", 0, 1)
            for name in COLUMNS:
                columns[name] |= self._decoded_metrics(name, said)
        return [
            Figure(key, **text, **by_column)
            for key, text in FIGURES.items()
            if any((by_column := _one(columns, key)).values())
        ]

    def write(self, out: Path) -> list[Path]:
        """Write `samples.md`: samples with the nearest training sentence of each; some uncurated ones, then the nearest."""
        decoded, near = self.decoded.get("samples"), self.near["samples"]
        rows = np.arange(len(near.rows)) if decoded is None else decoded.rows
        path = out / "samples.md"
        write_samples_page(
            path, rows, near.cosines[rows], self._texts(near.rows[rows]), None if decoded is None else decoded.texts,
            None if decoded is None else decoded.cosines,
        )  # fmt: skip
        return [path]

    @cached_property
    def near(self) -> dict[str, Near]:
        """By column. "real" holds held-out rows, or training rows compared with the others. One pass over the training rows."""
        data, sides = self.comparison.data, self.comparison.sides
        real, train = sides.held_out if len(sides.held_out) else sides.train[:OWN_ROWS], data.rows("train")
        parts = {name: data.x[real] if name == "real" else self.x[name] for name in COLUMNS}
        own = [real if name == "real" else np.full(len(x), -1) for name, x in parts.items()]
        cosine, rows = nearest_rows(
            np.concatenate(list(parts.values())), data.x, train, own=np.concatenate(own), tell=self._tell
        )
        cuts = np.cumsum([len(x) for x in parts.values()])[:-1]
        return {
            name: Near(*found) for name, *found in zip(parts, np.split(cosine, cuts), np.split(rows, cuts), strict=True)
        }

    def _near_held_out(self) -> dict[str, np.ndarray]:
        """Return cosines to the nearest held-out row, by column; empty if there are too few held-out rows."""
        x, rows = self.comparison.data.x, self.comparison.sides.held_out
        if len(rows) < 2:
            return {}
        found = {name: nearest_rows(self.x[name], x, rows)[0] for name in COLUMNS if name != "real"}
        return {**found, "real": nearest_rows(x[rows], x, rows, own=rows)[0]}

    @cached_property
    def decoded(self) -> dict[str, DecodedRows]:
        """Decoded rows by column, and of the reference; empty without a codec."""
        if self.codec is None:
            return {}
        chosen = {name: _spread(len(x), DECODED) for name, x in self.x.items()}
        total, done, decoded = sum(map(len, chosen.values())), 0, {}
        for name, rows in chosen.items():
            x, told = self.x[name][rows], done
            texts, again = decode_and_encode(
                self.codec, x, lang=self.lang,
                tell=lambda _, some, __: self._tell(f"decoding {WORDS[name]}", told + some, total),  # noqa: B023
            )  # fmt: skip
            decoded[name] = DecodedRows(rows, texts, again, cosines(x, again, self.center))
            done += len(rows)
        return decoded

    def _decoded_metrics(self, name: str, said: Reference) -> Column:
        """Return cycle and sentence metrics of a column. "real" uses the cycle of the reference and the original sentences."""
        sides, decoded, texts = self.comparison.sides, self.decoded[name], self.decoded[name].texts
        if name == "real":
            texts = self._texts(sides.real[decoded.rows]) or texts
        return {
            "cycle": median(self.decoded["reference" if name == "real" else name].cosines),
            "frechet_cycle": said.frechet(decoded.again),
            **variety(texts),
            "new": self._new(name),
            "grammatical": self._grammatical(texts),
        }

    def _new(self, name: str) -> Estimate | None:
        if not self._seen:
            return None
        if name == "real" and self.comparison.sides.split == "all":
            return None  # the reference consists of training rows
        texts = self._written if name == "real" else self.decoded[name].texts
        return share([not self._seen[_key(text)] for text in texts])

    @cached_property
    def _written(self) -> list[str]:
        """The original sentences of the reference rows that are decoded."""
        return self._texts(self.comparison.sides.reference[self.decoded["reference"].rows])

    @cached_property
    def _seen(self) -> dict[str, bool]:
        """For every decoded or reference sentence, whether it is a training sentence. Empty if those are not known.

        Iterates over the training sentences, so that a million of them are read once and not kept in memory.
        """
        texts = self.comparison.data.texts
        if texts is None:
            return {}
        asked = [*self._written, *(text for decoded in self.decoded.values() for text in decoded.texts)]
        seen = dict.fromkeys(map(_key, asked), False)
        for row in self.comparison.data.rows("train"):
            if (key := _key(str(texts[int(row)]))) in seen:
                seen[key] = True
        return seen

    def _grammatical(self, texts: Sequence[str]) -> Estimate | None:
        assert self.codec is not None
        if self.codec.name != "mini-sonar":
            return None
        from flowkit.text.mini.grammar import belongs

        return share([belongs(text) for text in texts])

    def _texts(self, rows: np.ndarray) -> list[str]:
        """Return the sentences of these rows of the data. Empty if it has none."""
        texts = self.comparison.data.texts
        return [] if texts is None else [str(texts[int(row)]) for row in rows]


def median(cosines: np.ndarray) -> Estimate:
    """Return the median of cosines (n,), n >= 2, with its interval."""
    return half_sampling(lambda rows: float(np.median(cosines[rows])), (len(cosines),), bounds=(-1.0, 1.0))[0]


def _one(columns: dict[str, Column], key: str) -> dict[str, Any]:
    """Return one metric for every column. None for a column without it."""
    return {name: columns[name].get(key) for name in COLUMNS}


def _copying(near: Near, real: Near, held_out: np.ndarray | None) -> Column:
    far, usual = 1.0 - near.cosines, 1.0 - real.cosines
    ratio = lambda a, b: float(np.median(far[a]) / max(np.median(usual[b]), 1e-9))  # noqa: E731
    return {
        "nearest_train": median(near.cosines),
        "nearest_held_out": None if held_out is None else median(held_out),
        "memorisation": half_sampling(ratio, (len(far), len(usual)), bounds=(0.0, np.inf))[0],
    }


def _spread(size: int, limit: int) -> np.ndarray:
    """Return at most `limit` of `size` row numbers, evenly spaced, because rows may be sorted by class."""
    return np.arange(min(size, limit)) * size // min(size, limit)


def _key(text: str) -> str:
    return " ".join(text.split())


def _why_not(identity: Mapping[str, Any] | None, decode: bool) -> str | None:
    if not decode:
        return "decoding is turned off"
    return why_unavailable(identity or {})


def _same_codec(samples: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Raise UserError if both name their codec and the names differ."""
    ours, theirs = ((info.get("codec") or {}).get("name") for info in (samples, data))
    if None not in (ours, theirs) and ours != theirs:
        raise UserError(
            f"the samples use the codec {ours!r} and the real data {theirs!r}, so their vectors are not comparable. Use the "
            "data that the model was trained on"
        )


def write_samples_page(
    path: Path, rows: np.ndarray, cosines: np.ndarray, nearest: Sequence[str], texts: Sequence[str] | None,
    cycle: np.ndarray | None,
) -> None:  # fmt: skip
    """Write a page of samples, each with its nearest training sentence, for inspection by eye.

    rows (n,): numbers of the samples. cosines (n,) and nearest (n): of the nearest training rows; `nearest` is empty if
    their sentences are not known. texts and cycle (n): of the samples; None if they were not decoded. Raises UserError if
    the page cannot be written.
    """
    first = np.arange(min(len(rows), SHOWN)) * len(rows) // max(1, min(len(rows), SHOWN))
    left = [place for place in np.argsort(-cosines, kind="stable").tolist() if place not in set(first.tolist())]

    def table(places: Sequence[int]) -> list[str]:
        lines = ["| row | sample | cycle | nearest training sentence | cosine |", "|---:|---|---:|---|---:|"]
        for place in places:
            said = "(not decoded)" if texts is None else texts[place]
            round_trip = "" if cycle is None else f"{cycle[place]:.3f}"
            twin = nearest[place] if len(nearest) else "(not known)"
            lines.append(f"| {rows[place]} | {_cell(said)} | {round_trip} | {_cell(twin)} | {cosines[place]:.3f} |")
        return lines

    content = [
        "# Samples and their nearest training sentences", "",
        "cycle: centered cosine of the vector and the vector of its decoded sentence. cosine: to the nearest training row.",
        "", f"## {len(first)} uncurated samples", "", *table(first.tolist()), "",
    ]  # fmt: skip
    if left:
        content += [
            f"## The {len(left[:NEAREST])} other samples nearest to a training row",
            "",
            *table(left[:NEAREST]),
            "",
        ]
    with replacing(path) as partial:
        partial.write_text("\n".join(content), "utf-8")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
