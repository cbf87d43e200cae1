"""Networks by name. Importing this needs no torch, so that names and sizes can be checked early."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any

from flowkit.errors import UserError, listing, nearest

if TYPE_CHECKING:
    from torch import nn

ARCHS = {
    "bezier_sketch_transformer": "BezierSketchTransformer",
    "bezier_sketch_dit": "BezierSketchDiT",
    "mlp": "SimpleMLP",
    "dit": "DiTVelocityNetwork",
    "selu_mlp": "SeluMLP",
    "residual_mlp": "ResidualMLP",
}

MAX_LAYERS = 1000
_AT_LEAST_ONE = (
    *("num_strokes", "stroke_dim", "embed_dim", "num_layers", "num_heads"),
    *("class_embed_dim", "num_memory_tokens", "input_dim", "hidden_dim", "num_tokens"),
)
_AT_LEAST_ZERO = ("num_classes", "clip_dim", "condition_dim")
_DIVISIBLE = (("embed_dim", "num_heads"), ("hidden_dim", "num_heads"), ("input_dim", "num_tokens"))


def create_model(arch: str, **args: Any) -> nn.Module:
    """A new network, `ARCHS[arch](**args)`. Raises UserError: an unknown arch or argument, an impossible value."""
    if arch not in ARCHS:
        raise UserError(f"unknown arch {arch!r}; known are {listing(ARCHS)}{nearest(arch, ARCHS)}")
    network = getattr(import_module(f"flowkit.models.{arch}"), ARCHS[arch])
    known = signature(network).parameters
    for name in args:
        if name not in known:
            raise UserError(f"{arch} has no argument {name!r}; it has {listing(known)}{nearest(name, known)}")
    check_args(arch, {name: parameter.default for name, parameter in known.items()} | args)
    return network(**args)


def check_args(arch: str, args: dict[str, Any]) -> None:
    """Raise UserError for impossible values among the arguments that the architectures share."""
    for names, least in ((_AT_LEAST_ONE, 1), (_AT_LEAST_ZERO, 0)):
        for name in names:
            value = args.get(name, least)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(f"{arch}: {name} is {value!r}; expected a whole number of at least {least}")
    if args.get("num_layers", 1) > MAX_LAYERS:
        raise UserError(f"{arch}: num_layers is {args['num_layers']}; expected at most {MAX_LAYERS}")
    dropout = args.get("dropout", 0.0)
    if not isinstance(dropout, int | float) or isinstance(dropout, bool) or not 0 <= dropout < 1:
        raise UserError(f"{arch}: dropout is {dropout!r}; expected a number from 0 up to, but not including, 1")
    ratio = args.get("mlp_ratio", 1.0)
    if not isinstance(ratio, int | float) or isinstance(ratio, bool) or not 0 < ratio < float("inf"):
        raise UserError(f"{arch}: mlp_ratio is {ratio!r}; expected a number above 0")
    if arch == "mlp" and args.get("num_layers") == 1:
        raise UserError("mlp: num_layers is 1; expected at least 2, the first and the last")
    if args.get("attend_conditions") and not (args.get("clip_dim") or args.get("condition_dim")):
        raise UserError(
            f"{arch}: attend_conditions is true, and the data has no conditions to attend to; set model.attend_conditions = false"
        )
    for total, parts in _DIVISIBLE:
        if args.get(total) and args.get(parts) and args[total] % args[parts]:
            raise UserError(f"{arch}: {_not_divisible(total, args[total], parts, args[parts])}")


def _not_divisible(total: str, size: int, parts: str, number: int) -> str:
    """`embed_dim 100 is not divisible by num_heads 8; num_heads of 4, 5, 10 would do, or embed_dim 96`."""
    fitting = [n for n in range(1, size + 1) if size % n == 0]
    near = sorted(sorted(fitting, key=lambda n: abs(n - number))[:3])
    text = f"{total} {size} is not divisible by {parts} {number}; {parts} of {listing(map(str, near))} would do"
    if total == "input_dim":  # follows from the data
        return text
    return f"{text}, or {total} {number * max(1, round(size / number))}"
