"""The encoder and decoder of the miniature, built from sonar-space's classes, and its tokenizer."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flowkit.errors import UserError
from flowkit.text.codec import ENGLISH
from flowkit.text.mini.recipe import MiniRecipe

if TYPE_CHECKING:
    from fairseq2.data.tokenizers import Tokenizer, VocabularyInfo

MAX_SEQ_LEN = 512  # tokens
PRINTABLE = "".join(map(chr, range(33, 127)))


def train_tokenizer(recipe: MiniRecipe, sentences: list[str]) -> bytes:
    """Train a sentencepiece model (BPE). It falls back to bytes, so it can encode any text."""
    try:
        import sentencepiece
    except ImportError:
        raise UserError(
            "codec: training the miniature needs sentencepiece, which is not installed: pip install sentencepiece"
        ) from None
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="bpe",
        vocab_size=recipe.pieces,
        hard_vocab_limit=False,
        byte_fallback=True,
        required_chars=PRINTABLE,
        num_threads=1,  # for reproducibility
        minloglevel=2,
    )
    return model.getvalue()


def load_tokenizer(path: Path) -> Tokenizer:
    from fairseq2.models.nllb.tokenizer import NllbTokenizerConfig, load_nllb_tokenizer

    return load_nllb_tokenizer(path, NllbTokenizerConfig(langs=[ENGLISH], default_lang=ENGLISH))


def make_encoder(recipe: MiniRecipe, vocabulary: VocabularyInfo) -> nn.Module:
    """Return an encoder of tokens to the mean of their outputs, (B, dimension)."""
    from sonar.models.sonar_text.config import SonarTextEncoderConfig
    from sonar.models.sonar_text.factory import SonarTextEncoderFactory

    config = SonarTextEncoderConfig(
        model_dim=recipe.dimension,
        max_seq_len=MAX_SEQ_LEN,
        vocab_info=vocabulary,
        num_encoder_layers=recipe.layers,
        num_decoder_layers=recipe.layers,
        num_encoder_attn_heads=recipe.heads,
        num_decoder_attn_heads=recipe.heads,
        ffn_inner_dim=recipe.inner_dimension,
        pooling="mean",
        emb_dropout_p=0.0,
        attention_dropout_p=0.0,
        activation_dropout_p=0.0,
    )
    return SonarTextEncoderFactory(config).create_model()


def make_decoder(recipe: MiniRecipe, vocabulary: VocabularyInfo) -> nn.Module:
    from sonar.models.sonar_text.config import SonarTextDecoderConfig
    from sonar.models.sonar_text.factory import SonarTextDecoderFactory

    config = SonarTextDecoderConfig(
        model_dim=recipe.dimension,
        max_seq_len=MAX_SEQ_LEN,
        vocab_info=vocabulary,
        activation_fn="ReLU",
        no_scale_embedding=False,
        no_token_positional_embeddings=False,
        learned_pos=False,
        emb_dropout_p=0.0,
        attention_dropout_p=0.0,
        activation_dropout_p=0.0,
        normalize_before=True,
        num_encoder_layers=recipe.layers,
        num_decoder_layers=recipe.layers,
        num_encoder_attn_heads=recipe.heads,
        num_decoder_attn_heads=recipe.heads,
        ffn_inner_dim=recipe.inner_dimension,
    )
    return SonarTextDecoderFactory(config).create_model()


@torch.no_grad()
def standardize(encoder: Any, decoder: Any, vectors: Tensor) -> None:
    """Change the weights of both so that `vectors` (N, D) become (vectors - mean) / scale and decode to the same text.

    The mean over tokens commutes with an affine map, so the encoder's last norm can apply it. The decoder reads the vector
    only through keys and values, which can undo it. Without this, all vectors share an offset that makes their cosines
    large.
    """
    mean = vectors.mean(0)
    scale = (vectors - mean).square().mean().sqrt()
    encoder.layer_norm.weight.div_(scale)
    encoder.layer_norm.bias.sub_(mean).div_(scale)
    for layer in decoder.decoder.layers:
        for projection in (layer.encoder_decoder_attn.k_proj, layer.encoder_decoder_attn.v_proj):
            projection.bias.add_(projection.weight @ mean)
            projection.weight.mul_(scale)
