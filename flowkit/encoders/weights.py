"""Weights of encoders: read from files that run no code, checked against the network, and their fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.errors import UserError, listing


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file, or of a .pth or .bin file of torch.save, by their names, on the CPU.

    Raises UserError if there are none.
    """
    if not path.is_file():
        what = "is a folder; expected a file" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {what} (encoder weights: .safetensors, .pth or .bin)")
    with path.open("rb") as file:
        start = file.read(10)
    try:
        if start[8:9] == b"{":  # the header of safetensors, after its length
            from safetensors.torch import load_file

            found: Any = load_file(path)
        elif start[:2] == b"PK" or start[:1] == b"\x80":
            found = torch.load(path, map_location="cpu", weights_only=True)
        else:
            raise UserError(f"{path}: not a file of weights; expected .safetensors, .pth or .bin")
    except UserError:
        raise
    except Exception as error:  # damaged and malicious files can raise anything
        if type(error).__name__ == "UnpicklingError":  # torch's own message suggests weights_only=False
            raise UserError(
                f"{path}: holds Python objects other than tensors, or is not a file of torch.save. Reading it could run code. "
                "Save only the weights: torch.save(model.state_dict(), ...)"
            ) from None
        why = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise UserError(f"{path}: truncated or corrupt ({why}); copy or download it again") from None
    for key in ("state_dict_ema", "state_dict", "model"):  # as training scripts save them, timm's too
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    tensors = (
        {str(name): one for name, one in found.items() if isinstance(one, Tensor)} if isinstance(found, Mapping) else {}
    )
    if not tensors:
        raise UserError(
            f"{path}: holds a {type(found).__name__} without tensors; expected named weights (a state_dict)"
        )
    return tensors


def load_weights(
    network: nn.Module, tensors: Mapping[str, Tensor], *, path: Path, name: str, unused: Iterable[str] = ()
) -> None:
    """Copy tensors into a network in place.

    unused: names, or first parts of names, that a file may have though the network lacks them, such as a classifier's. Raises
    UserError if a tensor is missing, superfluous, or of another shape.
    """
    own = network.state_dict()
    counted = [key for key in own if key.endswith("num_batches_tracked")]  # older files lack them; they are not used
    missing = [key for key in own if key not in tensors and key not in counted]
    other = [key for key in own if key in tensors and tensors[key].shape != own[key].shape]
    unknown = [key for key in tensors if key not in own and not key.startswith(tuple(unused))]
    why = ""
    if missing:
        why = f"tensor {missing[0]!r} is missing{_more(missing)}"
    elif other:
        shapes = f"shape {tuple(tensors[other[0]].shape)}, expected {tuple(own[other[0]].shape)}"
        why = f"tensor {other[0]!r} has {shapes}{_more(other)}"
    elif unknown:
        why = f"tensor {unknown[0]!r} is not part of it{_more(unknown)}"
    if why:
        raise UserError(
            f"{path}: not the weights of {name}: {why}; the file has {listing(tensors, 3)}. Give the weights of this model, "
            "under the names of its own library (--encoder-weights FILE)"
        )
    network.load_state_dict({key: tensors[key] for key in own if key in tensors}, strict=False)


def fingerprint_of(network: nn.Module, settings: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a network's weights and of how it is used: the same on every machine and device."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(network.state_dict().items()):
        if tensor.is_floating_point():
            values = tensor.detach().to("cpu", torch.float32).contiguous()
            digest.update(f"\n{name} {tuple(values.shape)}\n".encode())
            digest.update(values.numpy().astype("<f4", copy=False).data)
    return digest.hexdigest()


def _more(names: list[str]) -> str:
    return f" ({len(names) - 1} more)" if len(names) > 1 else ""
