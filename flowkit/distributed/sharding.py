"""FSDP2: parameters, gradients, moments and averages are split among the processes, for models that outgrow a device.

Each block of the network is gathered for its own forward and backward pass and let go after it. Between updates a process
holds its part of every tensor only (a DTensor, cut along the first dimension). Every forward pass is a collective then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from flowkit.errors import UserError


def same_everywhere(model: nn.Module, device: torch.device) -> None:
    """Give every process the first one's parameters and buffers, by way of `device`. A collective.

    What a recipe builds is the same everywhere; a user's own module may have drawn its weights with no seed.
    """
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            moved = tensor.detach().to(device).contiguous()
            torch.distributed.broadcast(moved, src=0)
            tensor.copy_(moved)


def shard(modules: Iterable[nn.Module], device: torch.device) -> None:
    """Split each module in place among all processes: its blocks one by one, then what is left. A collective.

    The modules come whole on the CPU, so one must fit the host's memory; a block at a time goes to `device` to be cut. Their
    parameters are new ones afterwards, and they can no longer be copied: make copies before and the optimizer after.
    Raises UserError where a parameter is a single number with no dimension to be cut along.
    """
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.ndim == 0:
                raise UserError(
                    f"model: the parameter {name!r} has no dimension, and so FSDP cannot split it; give it the shape (1,), or "
                    "launch with accelerate_configs/multi_gpu.yaml"
                )
        for part in (*separate_blocks(module), module):
            # The root too is let go after a forward pass: else its parameters would be plain tensors after a validation.
            fully_shard(part, mesh=mesh, reshard_after_forward=True)


def separate_blocks(model: nn.Module) -> list[nn.Module]:
    """The parts that are gathered one at a time: elements of the outermost module lists, and compound ones of a Sequential.

    One that shares a parameter with another part stays with what is left, or FSDP would make two of it.
    """
    everywhere = _uses(model)
    return [block for block in _listed(model) if (own := _uses(block)) and all(everywhere[p] == own[p] for p in own)]


def _uses(module: nn.Module) -> Counter[Tensor]:
    """How often each parameter is found in a module."""
    return Counter(parameter for _, parameter in module.named_parameters(remove_duplicate=False))


def _listed(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):  # these have no forward pass of their own to gather for
            yield from _listed(child)
        elif isinstance(module, nn.ModuleList) or (isinstance(module, nn.Sequential) and list(child.children())):
            yield child
        else:
            yield from _listed(child)


def full(tensor: Tensor) -> Tensor:
    """The whole of a split tensor, on its device, on every process (a collective); any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def local_parts(tensors: list[Tensor]) -> list[Tensor]:
    """This process's parts of a module's parameters, or of their gradients, sharing their memory; as they are if not split.

    Not to be kept: a module's first forward pass may move its parts elsewhere.
    """
    if not isinstance(next(iter(tensors), None), DTensor):
        return tensors
    return [cast(DTensor, tensor).to_local() for tensor in tensors]


def full_tensors(tensors: dict[str, Tensor], *, everywhere: bool = False) -> dict[str, Tensor]:
    """Whole tensors by the same keys, one after the other: split ones on the CPU of the first process, where the others
    get nothing unless `everywhere`. A collective if any is split; a dictionary with none comes back as it is.
    """
    if not any(isinstance(tensor, DTensor) for tensor in tensors.values()):
        return tensors
    wanted, found = everywhere or torch.distributed.get_rank() == 0, {}
    for name, tensor in tensors.items():
        gathered = full(tensor.detach())
        if wanted:
            found[name] = gathered.cpu()
    return found


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """Of a whole tensor, which every process has, this one's part, split as `like` is; as it is where that is not split."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.detach().to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def load_full_tensors(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """`module.load_state_dict` of whole tensors, which every process has, into a module that may be split."""
    split = module.state_dict()
    module.load_state_dict({name: part_of(tensor, split[name]) for name, tensor in tensors.items()})
