"""The compiled update: on one CPU process, `train.compile` turns a whole update into one graph that inductor compiles.

`torch.compile` of the network leaves the rest of an update (loss, norm, clipping, AdamW, averages, meters) to a hundred small
operations, which take longer than a small network. Here the recorded body of `capture.py` is traced, and so is its backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._inductor.exc import InvalidCxxCompiler
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from flowkit.distributed.environment import Environment
from flowkit.errors import UserError

if TYPE_CHECKING:
    from flowkit.training.session import Session

# Dropout draws from torch's generator, as eager updates do. The inputs are always the same memory, so their sizes need no checks.
OPTIONS: dict[str, Any] = {"fallback_random": True, "size_asserts": False}
FEW_COLUMNS = 8  # at most, in a product that is computed the other way round


def why_not_whole(environment: Environment) -> str | None:
    """Return why `train.compile` compiles only the network here; None if whole updates can be tried."""
    if environment.accelerator.device.type != "cpu":
        return "whole updates are only compiled for the CPU"
    return "whole updates are not supported with several processes yet" if environment.world_size > 1 else None


class Inductor:
    """Records an update as one graph that is compiled for the CPU."""

    key = "train.compile"
    otherwise = "only the network is compiled"

    def __init__(self, precision: str):
        """precision: of the recipe. Compiled bf16 rounds less often than eager bf16: the first steps are up to 4% apart."""
        self.close = (1e-2 if precision == "fp32" else 0.2), 3e-7

    def beside(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def record(self, body: Callable[[], object], memory: Sequence[Tensor]) -> Callable[[], object]:
        """Trace `body`, which runs it once, and compile it. Raises UserError without a C++ compiler."""
        try:
            # As inputs of the graph, so that reading a value raises instead of becoming a constant.
            traced = make_fx(lambda *_: body(), decomposition_table=_formulas())(*memory)
            graph, inputs = _with_inputs(traced, memory)
            with torch.no_grad():
                compiled: Any = torch._inductor.compile(graph, [*inputs], options=OPTIONS)
        except RuntimeError as error:
            if isinstance(getattr(error, "inner_exception", error), InvalidCxxCompiler):
                raise UserError(
                    f"{self.key}: requires a C++ compiler, and none was found; install g++ or clang, name one in the "
                    "environment variable CXX, or set train.compile = false"
                ) from None
            raise
        except Exception as error:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error

        @torch.no_grad()
        def replay() -> None:
            compiled(*inputs)

        return replay

    def done(self, seconds: float) -> str:
        return f"{self.key}: compiled the update in {seconds:.0f} s"

    def give_up(self, session: Session) -> None:
        session.model.compile()


def _with_inputs(traced: GraphModule, memory: Sequence[Tensor]) -> tuple[GraphModule, list[Tensor]]:
    """Return the graph with its constants as further inputs, without unused inputs and outputs, and those inputs.

    Constants would be copied, or folded as if they never changed.
    """
    graph, found = traced.graph, list(memory)
    places = [node for node in graph.nodes if node.op == "placeholder"]
    known = {_memory_of(tensor): place for tensor, place in zip(memory, places, strict=True)}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            value = getattr(traced, str(node.target))
            if (where := _memory_of(value)) not in known:
                with graph.inserting_after(places[-1]):
                    known[where] = graph.placeholder(f"constant_{len(found)}")
                places.append(known[where])
                found.append(value)
            node.replace_all_uses_with(known[where])
            graph.erase_node(node)
        elif node.op == "output":
            node.args = ((),)
    used = [bool(place.users) for place in places]
    for place, needed in zip(places, used, strict=True):
        if not needed:
            graph.erase_node(place)
    # A module of its own: inductor takes parameters of the traced one as inputs, and compares their memory at every call.
    return GraphModule({}, graph), [tensor.detach() for tensor, needed in zip(found, used, strict=True) if needed]


def _memory_of(tensor: Tensor) -> tuple[Any, ...]:
    place = tensor.untyped_storage().data_ptr(), tensor.storage_offset()
    return *place, tensor.dtype, tuple(tensor.shape), tuple(tensor.stride())


def _formulas() -> dict[Any, Callable[..., Any]]:
    """Return formulas for kernels that inductor does not know, and so could not fuse; and for two that are slow or wrong."""
    aten = torch.ops.aten
    return {
        aten._fused_adamw_.tensor_lr: _adamw,
        aten._fused_sgd_.tensor_lr: _sgd,
        aten._foreach_norm.Scalar: _norms,
        aten.sum.dim_IntList: _sum,
        aten.mm.default: _product,
    }


def _adamw(
    parameters: list[Tensor], gradients: list[Tensor], first: list[Tensor], second: list[Tensor], largest: list[Tensor],
    steps: list[Tensor], *, lr: Tensor, beta1: float, beta2: float, weight_decay: float, eps: float, amsgrad: bool,
    maximize: bool, grad_scale: Tensor | None = None, found_inf: Tensor | None = None,
) -> None:  # fmt: skip
    """AdamW (arXiv 1711.05101) as torch's kernel computes it: rates in float64, elements in their own dtype."""
    assert found_inf is not None and grad_scale is None and not (amsgrad or maximize), "as `AdamW.update` calls it"
    skipped, rates = found_inf != 0, dict[tuple[int, torch.dtype], tuple[Tensor, Tensor, Tensor]]()
    for x, gradient, m, v, step in zip(parameters, gradients, first, second, steps, strict=True):
        if (which := (id(step), x.dtype)) not in rates:
            count = step.double()
            size, root = lr / (1 - beta1**count), (1 - beta2**count).sqrt()
            rates[which] = size.to(x.dtype), root.to(x.dtype), (1 - lr * weight_decay).to(x.dtype)
        size, root, kept = rates[which]
        moved_m = torch.lerp(m, gradient, 1 - beta1)
        moved_v = v * beta2 + gradient * gradient * (1 - beta2)
        moved = x * kept - size * moved_m / (moved_v.sqrt() / root + eps)
        for mine, new in ((x, moved), (m, moved_m), (v, moved_v)):
            mine.copy_(torch.where(skipped, mine, new))


def _sgd(
    parameters: list[Tensor], gradients: list[Tensor], momenta: list[Tensor], *, weight_decay: float, momentum: float,
    lr: Tensor, dampening: float, nesterov: bool, maximize: bool, is_first_step: bool, grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:  # fmt: skip
    """SGD without momentum, which moves the averages (`move_unless`)."""
    assert found_inf is not None and grad_scale is None and not (momentum or maximize), "as `move_unless` calls it"
    skipped = found_inf != 0
    for x, gradient in zip(parameters, gradients, strict=True):
        x.copy_(torch.where(skipped, x, x - lr.to(x.dtype) * (gradient + weight_decay * x)))


def _norms(tensors: list[Tensor], ord: float = 2, dtype: torch.dtype | None = None) -> list[Tensor]:
    return [torch.linalg.vector_norm(tensor, ord, dtype=dtype) for tensor in tensors]


def _sum(x: Tensor, dim: list[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
    """Sum in float32, as inductor does anyway. Where it stores one sum twice in half precision, its C++ is not valid."""
    if dtype is not None or x.dtype not in (torch.bfloat16, torch.float16):
        return NotImplemented
    return torch.sum(x, dim, keepdim, dtype=torch.float32).to(x.dtype)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply by few columns as by few rows: 6 us instead of 27 for the gradient (64, 3) of a first layer, 512 rows."""
    narrow = b.shape[1] <= FEW_COLUMNS < a.shape[0] and a.shape[1] > FEW_COLUMNS
    return torch.mm(b.t(), a.t()).t() if narrow else NotImplemented
