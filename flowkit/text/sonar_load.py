"""Load models and tokenizers from cards with fairseq2, and turn its exceptions into UserErrors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowkit.errors import Interrupted, UserError
from flowkit.text.sonar_cards import WEIGHTS, Card, cache_folder

if TYPE_CHECKING:
    from fairseq2.data.tokenizers import Tokenizer
    from torch import nn


def load_model(role: str, card: Card) -> nn.Module:
    """Load the "encoder" or "decoder" of a card in fp32 on the CPU. Raises UserError: no network, or not such a checkpoint.

    The precision is always fp32, because fairseq2 sets it as the process-wide default while it loads, which would affect a
    training loop in another thread.
    """
    import torch
    from fairseq2.assets import AssetCardError
    from fairseq2.models import load_model

    asset, device = as_asset(card), torch.device("cpu")
    with _user_errors(role, card, "checkpoint"):
        try:
            return load_model(asset, device=device, dtype=torch.float32, mmap=True)  # without mmap, loading takes 9 GB
        except AssetCardError as error:
            if "mmap" not in f"{_deepest(error)}":
                raise
        return load_model(asset, device=device, dtype=torch.float32)  # a checkpoint saved by torch < 1.6


def load_tokenizer(card: Card) -> Tokenizer:
    """Load the tokenizer of a card. Raises UserError: no network, or not a sentencepiece model."""
    from fairseq2.data.tokenizers import load_tokenizer

    with _user_errors("tokenizer", card, "tokenizer"):
        return load_tokenizer(as_asset(card))


def dimension_of(encoder: Card, decoder: Card, tokenizer: Tokenizer, tokenizer_name: str) -> int:
    """Return the dimension D of the vectors. Reads only the configurations of the cards, not the weights.

    Raises UserError if encoder, decoder and tokenizer do not match.
    """
    from sonar.models.sonar_text import get_sonar_text_decoder_hub, get_sonar_text_encoder_hub

    with _user_errors("encoder", encoder, "checkpoint"):
        encoding = get_sonar_text_encoder_hub().get_model_config(as_asset(encoder))
    with _user_errors("decoder", decoder, "checkpoint"):
        decoding = get_sonar_text_decoder_hub().get_model_config(as_asset(decoder))
    made, taken = encoding.embedding_dim or encoding.model_dim, decoding.input_dim or decoding.model_dim
    if made != taken:
        raise UserError(
            f"codec: encoder {encoder.name!r} returns vectors of {made} dimensions, but decoder {decoder.name!r} expects "
            f"{taken}; use an encoder and a decoder of the same model"
        )
    for role, size in (("encoder", encoding.vocab_info.size), ("decoder", decoding.vocab_info.size)):
        if size != tokenizer.vocab_info.size:
            raise UserError(
                f"tokenizer: {tokenizer_name!r} has {tokenizer.vocab_info.size:,} tokens (including languages), but the {role} "
                f"has {size:,}; use the tokenizer and the languages that the {role} was trained with"
            )
    return made


def as_asset(card: Card) -> Any:
    """Convert a card to fairseq2's class."""
    from fairseq2.assets import AssetCard

    base = as_asset(card.base) if card.base else None
    return AssetCard(card.name, {**card.fields, "__base_path__": card.folder}, base)


@contextlib.contextmanager
def _user_errors(role: str, card: Card, field: str) -> Iterator[None]:
    from fairseq2.assets import AssetDownloadError

    place = card.place(field)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            f"{role}: {place} was not loaded. Complete downloads are kept in {cache_folder()}; rerun the same "
            "command to download the others"
        ) from None
    except AssetDownloadError as error:
        raise UserError(
            f"{role}: {place} could not be downloaded ({_deepest(error)}). SONAR's encoder and decoder ({WEIGHTS}) are "
            f"downloaded at first use and kept in {cache_folder()}. Without a network, name local files: --encoder "
            "and --decoder (.pt, or the card of one: .yaml) and --tokenizer (.model)"
        ) from error
    except Exception as error:  # invalid files can raise anything in the unpickler, protobuf reader or config parser
        where = place if isinstance(place, Path) else f"card {card.name!r}"
        raise UserError(f"{role}: {where}: cannot be loaded ({_told(error)}); expected a SONAR {role}") from error


def _told(error: Exception) -> str:
    deepest = _deepest(error)
    told = " ".join(str(deepest).split())
    if isinstance(deepest, KeyError):  # sonar-space looks for the names of its own or of fairseq's weights
        return f"it has no {told}"
    if "eights only load failed" in told or "weights_only" in told:  # torch's own message suggests weights_only=False
        return "it holds objects other than plain tensors, which are not unpickled"
    return told if len(told) <= 300 else told[:300] + " ..."


def _deepest(error: BaseException) -> BaseException:
    """Return the original error. fairseq2 wraps errors twice, and the outer ones say little."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
