"""Asset cards of fairseq2, which say where weights lie and how they are read: found, checked and read without fairseq2.

So that whether SONAR is at hand can be answered in milliseconds, and that a card which would unpickle is refused by us.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from flowkit.data.files import read_bounded
from flowkit.errors import UserError, listing, nearest
from flowkit.text.sonar_packages import sonar_cards_folder

FAMILIES = {"encoder": "transformer_encoder", "decoder": "transformer_decoder"}
WEIGHTS = "about 3 GB each, licence CC BY-NC 4.0"  # Meta's release
TEXTS = ("base", "checkpoint", "tokenizer", "tokenizer_ref", "model_family", "model_arch")  # fields that name something
MAX_CARDS = 1_000_000  # bytes of a file of cards
CHECKPOINTS = (".pt", ".pth", ".bin", ".safetensors")


@dataclass(frozen=True)
class Card:
    """One card. `fields` are its own; what it lacks comes from `base`, as fairseq2 has it."""

    name: str
    fields: Mapping[str, Any]
    folder: Path  # of relative paths
    base: Card | None = None

    def get(self, field: str) -> Any:
        return self.fields[field] if field in self.fields else self.base.get(field) if self.base else None

    def chain(self) -> Iterator[Card]:
        yield self
        if self.base:
            yield from self.base.chain()

    def place(self, field: str) -> Path | str:
        """Where the file of that field lies: a path, or the address it would be downloaded from."""
        address = str(self.get(field))
        parsed = urlparse(address)
        if parsed.scheme == "file":
            return Path(unquote(parsed.path))
        return address if parsed.scheme else self.folder / address

    def languages(self) -> list[str]:
        """The languages of an NLLB tokenizer's card."""
        for card in self.chain():
            for field in ("tokenizer_config_overrides", "tokenizer_config_override", "tokenizer_config"):
                config = card.fields.get(field)
                inner = (config.get("_set_") or config) if isinstance(config, Mapping) else None
                found = inner.get("langs") if isinstance(inner, Mapping) else None
                if found and isinstance(found, list):
                    return [str(lang) for lang in found]
        raise UserError(
            f"card {self.name!r}: names no languages; expected tokenizer_config: {{_set_: {{langs: [...]}}}}"
        )


def find_card(role: str, value: str) -> Card:
    """The card of the "encoder", "decoder" or "tokenizer" that `value` names: a card's name, a card file, or a folder of cards.

    Raises UserError: no such card, more than one that would do, a card for something else, a card that unpickles.
    """
    path = Path(value).expanduser()
    if path.suffix in (".yaml", ".yml") or path.is_dir():
        if not path.exists():
            raise UserError(f"{role}: {value}: no such file")
        cards = [card for card in read_cards(path).values() if fits(card, role)]
        if role == "tokenizer" and len({card.place("tokenizer") for card in cards}) == 1:
            cards = cards[:1]  # an encoder and a decoder in one file say the same of it
        if len(cards) != 1:
            found = f"several ({listing(card.name for card in cards)})" if cards else "none"
            raise UserError(f"{role}: {value}: expected one card of a SONAR {role}, found {found}")
        card = cards[0]
    else:
        card = named_card(value, role)
    for part in card.chain():
        if part.fields.get("base") is not None and part.base is None:
            raise UserError(f"{role}: the base {part.fields['base']!r} of card {part.name!r} is no known card")
        if part.fields.get("restrict") is not None and part.fields["restrict"] is not True:
            raise UserError(
                f"{role}: card {part.name!r} says restrict: {part.fields['restrict']}, which would unpickle its checkpoint and "
                "so run whatever code is in it; flowkit loads tensors only: save the weights as plain tensors, and drop that line"
            )
    if not fits(card, role):
        family = card.get("model_family")
        raise UserError(f"{role}: card {card.name!r} is of the family {family!r}; expected a SONAR {role}")
    return card


def fits(card: Card, role: str) -> bool:
    """Whether a card is one of a SONAR encoder, decoder or tokenizer."""
    if role == "tokenizer":
        return card.get("tokenizer") is not None or card.get("tokenizer_ref") is not None
    return card.get("model_family") == FAMILIES[role]


def named_card(name: str, role: str) -> Card:
    """The card of that name, among the user's, the system's and sonar-space's own."""
    known: dict[str, Card] = {}
    for folder in card_folders():
        known = {**read_cards(folder), **known}
        if name in known:
            return known[name]
    fitting = [other for other, card in known.items() if fits(card, role)]
    near = nearest(name, fitting) or "."
    file = ".model" if role == "tokenizer" else ".pt"
    raise UserError(
        f"{role}: there is no card {name!r}; known are {listing(sorted(fitting))}{near} For a file of your own give its path "
        f"({file}), or that of its card (.yaml); cards in $FAIRSEQ2_USER_ASSET_DIR are known by their names"
    )


def card_folders() -> list[Path]:
    """Where cards are looked for, first found first served: fairseq2's own places for users and systems, then sonar-space."""
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    user = os.environ.get("FAIRSEQ2_USER_ASSET_DIR") or f"{config}/fairseq2/assets"
    system = os.environ.get("FAIRSEQ2_ASSET_DIR") or "/etc/fairseq2/assets"
    folders = [Path(user).expanduser(), Path(system), sonar_cards_folder()]
    return [folder for folder in folders if folder and folder.is_dir()]


def read_cards(path: Path) -> dict[str, Card]:
    """The cards of a YAML file (documents apart by ---), or of all YAML files below a folder, by their names."""
    import yaml

    Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(Safe):
        """Without merge keys: a dozen lines of them expand to more than any memory holds."""

        def flatten_mapping(self, node: Any) -> None:
            if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
                raise yaml.YAMLError("merge keys (<<) are not read in an asset card; write the fields out")

    files = [path] if path.is_file() else sorted(file for end in ("*.yaml", "*.yml") for file in path.rglob(end))
    raw: dict[str, tuple[dict[str, Any], Path]] = {}
    for file in files:
        try:
            documents = list(yaml.load_all(read_bounded(file, MAX_CARDS), Loader))
        except UserError:
            raise
        except (
            yaml.YAMLError,
            ValueError,
            TypeError,
            RecursionError,
        ) as error:  # the 31st of February, a list as a key
            raise UserError(f"{file}: is no asset card ({' '.join(str(error).split())})") from None
        for fields in documents:
            if not isinstance(fields, dict) or not isinstance(fields.get("name"), str):
                raise UserError(f'{file}: is no asset card; expected "name: ..." and what it names')
            if odd := [field for field in TEXTS if not _is_text(fields.get(field))]:
                raise UserError(f"{file}: card {fields['name']!r}: {odd[0]} is no text; expected a name or a place")
            name, _, environment = fields["name"].partition("@")
            if environment.strip() in ("", "user"):  # fairseq2's other environments are clusters of its authors
                merged = {**raw.get(name.strip(), ({}, file))[0], **fields}
                raw[name.strip()] = merged, file.parent

    def build(name: str, below: tuple[str, ...] = ()) -> Card:
        fields, folder = raw[name]
        base, known = fields.get("base"), None
        if base in raw and base not in (*below, name):
            known = build(base, (*below, name))
        elif base is not None:
            known = _packaged(str(base))
        return Card(name, fields, folder, known)

    return {name: build(name) for name in raw}


def _is_text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and "\0" not in value)


def _packaged(name: str) -> Card | None:
    folder = sonar_cards_folder()
    return read_cards(folder).get(name) if folder else None


def tokenizer_card(card: Card) -> Card:
    """The card that `tokenizer_ref` leads to, or the card itself. Raises UserError where it leads in a circle."""
    passed = []
    while (reference := card.get("tokenizer_ref")) is not None:
        if reference in passed:
            raise UserError(f"tokenizer: card {card.name!r} refers to {reference!r}, which leads back to it")
        passed.append(reference)
        card = find_card("tokenizer", str(reference))
    return card


def cache_folder() -> Path:
    """Where fairseq2 keeps what it downloads."""
    cache = os.environ.get("FAIRSEQ2_CACHE_DIR")
    return Path(cache or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/fairseq2/assets").expanduser()


def is_local(place: Path | str) -> bool:
    """Whether no download is needed for it: a file that exists, or an address that fairseq2 has in its cache."""
    if isinstance(place, Path):
        return place.exists()
    folder = cache_folder() / sha1(place.encode()).hexdigest()[:24]  # how fairseq2 names it
    return folder.is_dir() and any(folder.iterdir())
