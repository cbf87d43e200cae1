"""Networks by name. A network declares its settings in its constructor: `Annotated[int, Field(ge=1, description=...)]`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError

from flowkit.components import FROM_DATA, Divides, find, settings_of, wrong_setting
from flowkit.errors import UserError, listing

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Count", "CountOrNone", "Divides", "Dropout", "Heads", "Layers", "TokenWidth", "Width", "create_model"]

Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]
Layers = Annotated[int, Field(ge=1, le=1000, description="number of blocks, or layers for mlp")]
Dropout = Annotated[float, Field(ge=0, lt=1, description="dropout probability")]
Width = Annotated[int, Field(ge=1, le=10**6, description="width of the layers; for dit a multiple of num_heads")]
TokenWidth = Annotated[int, Field(ge=1, le=10**6, description="token width; a multiple of num_heads")]
Heads = Annotated[int, Field(ge=1, description="number of attention heads")]


def create_model(arch: str, **args: Any) -> nn.Module:
    """Create a network. Raises UserError for an unknown arch or argument, or an invalid value."""
    network = find("arch", arch)
    section = settings_of(arch, network, whole=True)
    try:
        settings = section.model_validate(args)
    except ValidationError as error:
        raise UserError(f"{arch}{wrong_setting(error, section)}") from None
    if args.get("attend_conditions") and not (args.get("clip_dim") or args.get("condition_dim")):
        raise UserError(f"{arch}: attend_conditions needs data with conditions; set model.attend_conditions = false")
    for parts, number, total, size in settings.undivided():
        raise UserError(f"{arch}: {_not_divisible(total, size, parts, number)}")
    return network(**{name: getattr(settings, name) for name in args})


def _not_divisible(total: str, size: int, parts: str, number: int) -> str:
    """`embed_dim 100 is not divisible by num_heads 8; use num_heads 4, 5, 10, or embed_dim 96`."""
    fitting = [n for n in range(1, size + 1) if size % n == 0]
    near = sorted(sorted(fitting, key=lambda n: abs(n - number))[:3])
    text = f"{total} {size} is not divisible by {parts} {number}; use {parts} {listing(map(str, near))}"
    if total in FROM_DATA:
        return text
    return f"{text}, or {total} {number * max(1, round(size / number))}"
