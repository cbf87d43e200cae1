"""Find, check and read the asset cards of fairseq2, which name weights and how to load them, without importing fairseq2.

This is fast enough to check the availability of SONAR in milliseconds. It also allows refusing cards that would unpickle.
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
WEIGHTS = "about 3 GB each, license CC BY-NC 4.0"  # Meta's release
TEXTS = (
    "base",
    "checkpoint",
    "tokenizer",
    "tokenizer_ref",
    "model_family",
    "model_arch",
)  # fields that must be strings
MAX_CARDS = 1_000_000  # bytes per file of cards
CHECKPOINTS = (".pt", ".pth", ".bin", ".safetensors")


@dataclass(frozen=True)
class Card:
    """One card. `fields` are its own; missing ones are inherited from `base`, as in fairseq2."""

    name: str
    fields: Mapping[str, Any]
    folder: Path  # base of relative paths
    base: Card | None = None

    def get(self, field: str) -> Any:
        return self.fields[field] if field in self.fields else self.base.get(field) if self.base else None

    def chain(self) -> Iterator[Card]:
        yield self
        if self.base:
            yield from self.base.chain()

    def place(self, field: str) -> Path | str:
        """Return the location of the file in `field`: a path, or a URL from which it would be downloaded."""
        address = str(self.get(field))
        parsed = urlparse(address)
        if parsed.scheme == "file":
            return Path(unquote(parsed.path))
        return address if parsed.scheme else self.folder / address

    def languages(self) -> list[str]:
        """Return the languages of the card of an NLLB tokenizer."""
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
    """Return the card of an "encoder", "decoder" or "tokenizer". value: name of a card, a card file, or a folder of cards.

    Raises UserError if there is no such card or more than one, if it is for something else, or if it would unpickle.
    """
    path = Path(value).expanduser()
    if path.suffix in (".yaml", ".yml") or path.is_dir():
        if not path.exists():
            raise UserError(f"{role}: {value}: no such file")
        cards = [card for card in read_cards(path).values() if fits(card, role)]
        if role == "tokenizer" and len({card.place("tokenizer") for card in cards}) == 1:
            cards = cards[:1]  # the cards of encoder and decoder in one file name the same tokenizer
        if len(cards) != 1:
            found = f"several ({listing(card.name for card in cards)})" if cards else "none"
            raise UserError(f"{role}: {value}: expected one card of a SONAR {role}, found {found}")
        card = cards[0]
    else:
        card = named_card(value, role)
    for part in card.chain():
        if part.fields.get("base") is not None and part.base is None:
            raise UserError(f"{role}: card {part.name!r} has an unknown base {part.fields['base']!r}")
        if part.fields.get("restrict") is not None and part.fields["restrict"] is not True:
            raise UserError(
                f"{role}: card {part.name!r} sets restrict: {part.fields['restrict']}, which allows its checkpoint to run code "
                "when it is loaded. flowkit loads plain tensors only; save the weights as such and remove this line"
            )
    if not fits(card, role):
        family = card.get("model_family")
        raise UserError(f"{role}: card {card.name!r} has model_family {family!r}; expected a SONAR {role}")
    return card


def fits(card: Card, role: str) -> bool:
    """Return whether a card describes a SONAR encoder, decoder or tokenizer."""
    if role == "tokenizer":
        return card.get("tokenizer") is not None or card.get("tokenizer_ref") is not None
    return card.get("model_family") == FAMILIES[role]


def named_card(name: str, role: str) -> Card:
    """Return the card with this name among those of the user, the system and sonar-space."""
    known: dict[str, Card] = {}
    for folder in card_folders():
        known = {**read_cards(folder), **known}
        if name in known:
            return known[name]
    fitting = [other for other, card in known.items() if fits(card, role)]
    near = nearest(name, fitting) or "."
    file = ".model" if role == "tokenizer" else ".pt"
    raise UserError(
        f"{role}: unknown card {name!r}; expected {listing(sorted(fitting))}{near} For your own file, give the path of the "
        f"file ({file}) or of its card (.yaml). Cards in $FAIRSEQ2_USER_ASSET_DIR can be given by name"
    )


def card_folders() -> list[Path]:
    """Return the folders to search for cards, in order of precedence: fairseq2's user and system folders, sonar-space."""
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    user = os.environ.get("FAIRSEQ2_USER_ASSET_DIR") or f"{config}/fairseq2/assets"
    system = os.environ.get("FAIRSEQ2_ASSET_DIR") or "/etc/fairseq2/assets"
    folders = [Path(user).expanduser(), Path(system), sonar_cards_folder()]
    return [folder for folder in folders if folder and folder.is_dir()]


def read_cards(path: Path) -> dict[str, Card]:
    """Return the cards of a YAML file (documents separated by ---), or of all YAML files in a folder tree, by name."""
    import yaml

    Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(Safe):
        """Refuses merge keys, because a few nested ones expand to more than memory can hold."""

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
        ) as error:  # such as an invalid date, or a list as a key
            raise UserError(f"{file}: is not a valid asset card ({' '.join(str(error).split())})") from None
        for fields in documents:
            if not isinstance(fields, dict) or not isinstance(fields.get("name"), str):
                raise UserError(f'{file}: is not an asset card; expected a mapping with "name: ..."')
            if odd := [field for field in TEXTS if not _is_text(fields.get(field))]:
                raise UserError(
                    f"{file}: card {fields['name']!r}: {odd[0]} is not a string; expected a name, path or URL"
                )
            name, _, environment = fields["name"].partition("@")
            if environment.strip() in ("", "user"):  # fairseq2's other environments are its authors' clusters
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
    """Follow `tokenizer_ref` and return the last card. Raises UserError for a cycle."""
    passed = []
    while (reference := card.get("tokenizer_ref")) is not None:
        if reference in passed:
            raise UserError(f"tokenizer: card {card.name!r} refers to {reference!r}, which refers back to it")
        passed.append(reference)
        card = find_card("tokenizer", str(reference))
    return card


def cache_folder() -> Path:
    """Return the folder to which fairseq2 downloads."""
    cache = os.environ.get("FAIRSEQ2_CACHE_DIR")
    return Path(cache or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/fairseq2/assets").expanduser()


def is_local(place: Path | str) -> bool:
    """Return whether no download is needed: the file exists, or the URL is in fairseq2's cache."""
    if isinstance(place, Path):
        return place.exists()
    folder = cache_folder() / sha1(place.encode()).hexdigest()[:24]  # how fairseq2 names it
    return folder.is_dir() and any(folder.iterdir())
