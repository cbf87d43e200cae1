"""Networks by name. What a network can be told is its constructor's signature: `Annotated[int, Field(ge=1, description=...)]`."""

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
Layers = Annotated[int, Field(ge=1, le=1000, description="blocks; of an mlp, layers")]
Dropout = Annotated[float, Field(ge=0, lt=1, description="dropout in blocks, or after hidden layers")]
Width = Annotated[int, Field(ge=1, le=10**6, description="width of the layers; of a dit, a multiple of num_heads")]
TokenWidth = Annotated[int, Field(ge=1, le=10**6, description="width of a token; a multiple of num_heads")]
Heads = Annotated[int, Field(ge=1, description="attention heads")]


def create_model(arch: str, **args: Any) -> nn.Module:
    """A new network. Raises UserError: an unknown arch or argument, an impossible value."""
    network = find("arch", arch)
    section = settings_of(arch, network, whole=True)
    try:
        settings = section.model_validate(args)
    except ValidationError as error:
        raise UserError(f"{arch}{wrong_setting(error, section)}") from None
    if args.get("attend_conditions") and not (args.get("clip_dim") or args.get("condition_dim")):
        raise UserError(
            f"{arch}: attend_conditions is true, and the data has no conditions to attend to; set model.attend_conditions = false"
        )
    for parts, number, total, size in settings.undivided():
        raise UserError(f"{arch}: {_not_divisible(total, size, parts, number)}")
    return network(**args)


def _not_divisible(total: str, size: int, parts: str, number: int) -> str:
    """`embed_dim 100 is not divisible by num_heads 8; num_heads of 4, 5, 10 would do, or embed_dim 96`."""
    fitting = [n for n in range(1, size + 1) if size % n == 0]
    near = sorted(sorted(fitting, key=lambda n: abs(n - number))[:3])
    text = f"{total} {size} is not divisible by {parts} {number}; {parts} of {listing(map(str, near))} would do"
    if total in FROM_DATA:
        return text
    return f"{text}, or {total} {number * max(1, round(size / number))}"
