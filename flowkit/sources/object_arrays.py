"""Read arrays of arrays, which numpy stores as a pickle, without unpickling them.

A pickle is a program for a small virtual machine. `pickletools` splits it into instructions without executing any. Only
instructions that build numbers, bytes, text and arrays are interpreted here, and nothing is ever called. The two types and
two functions that numpy's own streams refer to are represented by their names. Any other name or instruction is refused.
"""

from __future__ import annotations

import pickletools
from typing import IO, Any

import numpy as np

MAX_INSTRUCTIONS = 20_000_000  # a class of sketch-rnn has one million
_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_NAMES = {
    **{(module, "_reconstruct"): "reconstruct" for module in _MODULES},
    ("numpy", "ndarray"): "ndarray", ("numpy", "dtype"): "dtype", ("_codecs", "encode"): "encode",
}  # fmt: skip
_MARK = object()
_PLAIN = (
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "BINSTRING", "SHORT_BINSTRING", "STRING", "BINBYTES"),
    *("SHORT_BINBYTES", "BINBYTES8", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"),
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Name(str):
    """One of `_NAMES`. It represents a type or function and cannot be called."""


class _Object:
    """An array or dtype under construction: its arguments and its state."""

    def __init__(self, kind: str, arguments: tuple[Any, ...]) -> None:
        self.kind, self.arguments, self.state = kind, arguments, ()


def read_object_array(stream: IO[bytes]) -> list[np.ndarray | None]:
    """Return the elements of a pickled one-dimensional array of arrays. None for each that is not an array of numbers.

    Raises ValueError for a stream that contains anything but arrays.
    """
    try:
        found = _follow(stream)
    except (IndexError, TypeError, KeyError, AttributeError) as error:  # an instruction without valid operands
        raise ValueError(f"its pickle stream contradicts itself ({error})") from None
    elements = found.state[-1] if isinstance(found, _Object) and isinstance(found.state, tuple) and found.state else ()
    if not isinstance(elements, list):
        raise ValueError("it is not an array of arrays")
    return [_numbers(one) for one in elements]


def _follow(stream: IO[bytes]) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        above: list[Any] = []
        while (one := stack.pop()) is not _MARK:
            above.append(one)
        return above[::-1]

    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count > MAX_INSTRUCTIONS:
            raise ValueError(f"its pickle stream has more than {MAX_INSTRUCTIONS:,} instructions")
        name = opcode.name
        if name in _PLAIN:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in _TUPLES:
            size = _TUPLES[name]
            stack[-size:] = [tuple(stack[-size:])]
        elif name in ("EMPTY_TUPLE", "EMPTY_LIST"):
            stack.append(() if name == "EMPTY_TUPLE" else [])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("TUPLE", "LIST"):
            above = since_mark()
            stack.append(tuple(above) if name == "TUPLE" else above)
        elif name in ("APPEND", "APPENDS"):
            above = [stack.pop()] if name == "APPEND" else since_mark()
            if not isinstance(stack[-1], list):
                raise ValueError("it appends to something other than a list")
            stack[-1] += above
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            module, what = argument.split(" ", 1) if name == "GLOBAL" else stack[-2:]
            if name == "STACK_GLOBAL":
                del stack[-2:]
            if (module, what) not in _NAMES:
                raise ValueError(f"it refers to {module}.{what}")
            stack.append(_Name(_NAMES[module, what]))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_made(stack.pop(), arguments))
        elif name == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], _Object):
                raise ValueError("it sets the state of something other than an array")
            stack[-1].state = state
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"its pickle stream has the instruction {name}")
    raise ValueError("its pickle stream has no end")


def _made(what: Any, arguments: Any) -> Any:
    if not isinstance(what, _Name) or not isinstance(arguments, tuple):
        raise ValueError("it calls something other than an array")
    if what == "encode":
        text, _ = arguments
        return text.encode("latin1")
    return _Object("ndarray" if what == "reconstruct" else str(what), arguments)


def _numbers(one: Any) -> np.ndarray | None:
    """Return the array with a state (version, shape, dtype, Fortran order, data)."""
    try:
        if one.kind != "ndarray":
            return None
        _, shape, dtype, fortran, data = one.state
        code, order = dtype.arguments[0], dtype.state[1] if dtype.state else "|"
        kind = np.dtype((order if order in ("<", ">") else "|") + code)
        if dtype.kind != "dtype" or kind.kind not in "iuf":
            return None
        if isinstance(data, str):  # written by Python 2
            data = data.encode("latin1")
        return np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")
    except (TypeError, ValueError, AttributeError, LookupError, OverflowError):
        return None
