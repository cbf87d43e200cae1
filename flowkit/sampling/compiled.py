"""A network compiled for sampling (`sample.compile`): one program for any number of rows, on CUDA replayed as a graph."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.errors import NotCompiled

MOST_WORDS = 160  # characters of an error of torch in the warning


class Compiled:
    """Calls a network in its compiled form. Results differ from the network's own by rounding.

    Torch compiles it at the first call, and again for other kinds of conditions or another precision, but not for another number
    of rows. If that fails, it warns once (`NotCompiled`) and calls the network itself from then on.
    """

    def __init__(self, model: nn.Module, *, graphs: bool = False):
        """graphs: record the kernels of each number of rows as a CUDA graph. Only for inputs on CUDA."""
        self.model, self.graphs = model, graphs
        self.failed = False
        self._compiled: Any = torch.compile(model, mode="reduce-overhead" if graphs else None)

    def __call__(self, *given: Tensor | None, **named: Tensor) -> Tensor:
        """Call it with x (B, ...), t (B,) and the conditions, as `call_model` does. All tensors have B rows."""
        if self.failed:
            return self.model(*given, **named)
        try:
            return self._call(*given, **named)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers raise all kinds; a mistake in the network is raised again below
            found = self.model(*given, **named)
            self.failed = True
            why = f"{type(error).__name__}: {error}".partition("\n\nSet ")[0]  # torch goes on about its variables
            why = " ".join(why.split())[:MOST_WORDS]
            warnings.warn(f"sample.compile: the network runs eagerly, since torch cannot compile it ({why})", NotCompiled,
                          stacklevel=2)  # fmt: skip
            return found

    def _call(self, *given: Tensor | None, **named: Tensor) -> Tensor:
        x = given[0]
        assert x is not None
        alone = len(x) == 1

        def ready(tensor: Tensor | None) -> Tensor | None:
            """Keep torch from compiling again: for one row, which it never treats as any number, and for tensors that were or
            were not made in inference mode."""
            if tensor is None:
                return None
            tensor = torch.cat((tensor, tensor)) if alone else tensor.contiguous()
            if torch.is_inference_mode_enabled() and not tensor.is_inference():
                tensor = tensor.clone()
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
            return tensor

        inputs, by_name = [ready(one) for one in given], {name: ready(one) for name, one in named.items()}
        if not self.graphs:
            found = self._compiled(*inputs, **by_name)
            return found[:1] if alone else found
        torch.compiler.cudagraph_mark_step_begin()
        found = self._compiled(*inputs, **by_name)
        return (found[:1] if alone else found).clone()  # the next call overwrites it, and solvers keep several
