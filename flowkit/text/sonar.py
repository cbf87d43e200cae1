"""SONAR (arXiv 2308.11466) as a codec: find its files, check whether they are available, and open them.

`described` names its parts: {"name": "sonar", "encoder": ..., "decoder": ..., "tokenizer": ...}. Each is the name of an
asset card, a card file (.yaml), a folder of cards, a checkpoint (.pt) or a sentencepiece model. Parts that are left out
default to Meta's release. For checkpoints of another size, "encoder_config" and "decoder_config" override fields of
sonar-space's configuration, and "languages" lists the languages of a sentencepiece model. Weights are loaded on first use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowkit.errors import UserError, listing
from flowkit.text import sonar_packages
from flowkit.text.codec import ENGLISH
from flowkit.text.sonar_cards import (
    CHECKPOINTS,
    FAMILIES,
    WEIGHTS,
    Card,
    cache_folder,
    find_card,
    is_local,
    tokenizer_card,
)

if TYPE_CHECKING:
    from flowkit.text.codec import Codec

RELEASED = {"encoder": "text_sonar_basic_encoder", "decoder": "text_sonar_basic_decoder"}


def open_sonar(described: Mapping[str, Any], *, device: str = "auto", dtype: str = "fp32") -> Codec:
    """Open the codec with these parts. Meta's release is downloaded if it is not in fairseq2's cache.

    Raises UserError for a missing or incompatible sonar-space, missing files, parts that do not match, and no network.
    """
    reason = sonar_packages.why_not_importable()
    if reason:
        raise UserError(f"codec: {reason}")
    parts = find_parts(described)
    places = parts.places()
    sonar_packages.import_sonar(show_progress=not all(is_local(place) for place in places.values()))
    from flowkit.text.pipelines import PipelineCodec
    from flowkit.text.sonar_load import dimension_of, load_model, load_tokenizer

    tokenizer = load_tokenizer(parts.tokenizer)
    dimension = dimension_of(parts.encoder, parts.decoder, tokenizer, parts.tokenizer.name)
    return PipelineCodec(
        name="sonar",
        dimension=dimension,
        languages=parts.tokenizer.languages(),
        identity=parts.described | {"dimension": dimension},
        tokenizer=tokenizer,
        load_encoder=partial(load_model, "encoder", parts.encoder),
        load_decoder=partial(load_model, "decoder", parts.decoder),
        device=device,
        dtype=dtype,
    )


def why_sonar_unavailable(described: Mapping[str, Any]) -> str | None:
    """Return None if `open_sonar` would download nothing; otherwise the reason, as part of a sentence. Fast."""
    reason = sonar_packages.why_not_importable()
    if reason:
        return reason
    try:
        files = list(find_parts(described).files())
    except UserError as error:
        return str(error)
    missing = [(role, card.place(field)) for role, card, field in files if not is_local(card.place(field))]
    if not missing:
        return None
    remote = [role for role, place in missing if not isinstance(place, Path)]
    gone = [f"its {role} {place} does not exist" for role, place in missing if isinstance(place, Path)]
    if remote:
        gone.append(f"SONAR's {listing(remote)} ({WEIGHTS}) must be downloaded first, to {cache_folder()}")
    return "; ".join(gone)


@dataclass(frozen=True)
class Parts:
    encoder: Card
    decoder: Card
    tokenizer: Card
    described: dict[str, Any]  # with defaults filled in and absolute paths

    def files(self) -> Iterator[tuple[str, Card, str]]:
        """Yield (role, card, the field of the card that names the file)."""
        yield "encoder", self.encoder, "checkpoint"
        yield "decoder", self.decoder, "checkpoint"
        yield "tokenizer", self.tokenizer, "tokenizer"

    def places(self) -> dict[str, Path | str]:
        """Return the location of each role's file. Raises UserError for a local file that does not exist."""
        places = {role: card.place(field) for role, card, field in self.files()}
        for role, place in places.items():
            if isinstance(place, Path) and not place.exists():
                raise UserError(f"{role}: {place}: no such file")
        return places


def find_parts(described: Mapping[str, Any]) -> Parts:
    """Return the cards that `described` names. Raises UserError, see `find_card`."""
    complete = {"name": "sonar"} | {name: value for name, value in described.items() if value is not None}
    cards: dict[str, Card] = {}
    for role in FAMILIES:
        value = complete[role] = _absolute(str(complete.get(role, RELEASED[role])))
        config = complete.get(f"{role}_config")
        cards[role] = (
            _checkpoint_card(role, Path(value), config) if _is_file(value, CHECKPOINTS) else find_card(role, value)
        )
        if cards[role].get("checkpoint") is None:
            raise UserError(f"{role}: card {cards[role].name!r} names no checkpoint")
    if "tokenizer" in complete:
        value = complete["tokenizer"] = _absolute(str(complete["tokenizer"]))
        named = (
            _tokenizer_card(Path(value), complete) if _is_file(value, (".model",)) else find_card("tokenizer", value)
        )
    else:
        with_tokenizer = (card for card in cards.values() if card.get("tokenizer") or card.get("tokenizer_ref"))
        named = next(with_tokenizer, None) or find_card("tokenizer", RELEASED["encoder"])
    return Parts(cards["encoder"], cards["decoder"], tokenizer_card(named), complete)


def _is_file(value: str, endings: tuple[str, ...]) -> bool:
    return Path(value).suffix in endings or (Path(value).is_file() and Path(value).suffix not in (".yaml", ".yml"))


def _absolute(value: str) -> str:
    """Make a path absolute. The name of a card is returned unchanged."""
    path = Path(value).expanduser()
    return str(path.absolute()) if path.exists() or path.suffix or len(path.parts) > 1 else value


def _checkpoint_card(role: str, path: Path, config: Any) -> Card:
    fields = {"model_family": FAMILIES[role], "model_arch": "basic", "checkpoint": path.as_uri()}
    return Card(str(path), fields | ({"model_config": dict(config)} if config else {}), path.parent)


def _tokenizer_card(path: Path, described: dict[str, Any]) -> Card:
    languages = described.get("languages") or find_card("tokenizer", RELEASED["encoder"]).languages()
    default = ENGLISH if ENGLISH in languages else languages[0]
    config = {"_set_": {"default_lang": default, "langs": list(languages)}}
    return Card(
        str(path), {"tokenizer": path.as_uri(), "tokenizer_family": "nllb", "tokenizer_config": config}, path.parent
    )
