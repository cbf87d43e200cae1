"""FSDP2: split parameters, gradients, moments and averages among the processes, for models too large for one device.

Each block of the network is gathered for its forward and backward pass and released after it. Between updates a process
holds only its part of every tensor (a DTensor, split along the first dimension). Every forward pass is a collective.
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
    """Copy the first process's parameters and buffers to every process, via `device`. A collective.

    Needed for a user's own module, whose initial weights may be unseeded.
    """
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            moved = tensor.detach().to(device).contiguous()
            torch.distributed.broadcast(moved, src=0)
            tensor.copy_(moved)


def shard(modules: Iterable[nn.Module], device: torch.device) -> None:
    """Split each module in place among all processes: its blocks one by one, then the rest. A collective.

    The modules start whole on the CPU, so each must fit in host memory; one block at a time moves to `device` to be split.
    Their parameters are new objects afterwards and cannot be copied: make copies before, and the optimizer after.
    Raises UserError for a parameter without dimensions.
    """
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.ndim == 0:
                raise UserError(
                    f"model: FSDP cannot split the parameter {name!r}, which has no dimension; give it the shape (1,), or "
                    "launch with accelerate_configs/multi_gpu.yaml"
                )
        for part in (*separate_blocks(module), module):
            # Release the root too after a forward pass, or its parameters would be plain tensors after validation.
            fully_shard(part, mesh=mesh, reshard_after_forward=True)


def separate_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the parts gathered one at a time: elements of the outermost module lists, and compound ones of a Sequential.

    Blocks that share a parameter with another part are left out, since FSDP would duplicate the parameter.
    """
    everywhere = _uses(model)
    return [block for block in _listed(model) if (own := _uses(block)) and all(everywhere[p] == own[p] for p in own)]


def _uses(module: nn.Module) -> Counter[Tensor]:
    """Count how often each parameter occurs in a module."""
    return Counter(parameter for _, parameter in module.named_parameters(remove_duplicate=False))


def _listed(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):  # these have no forward pass
            yield from _listed(child)
        elif isinstance(module, nn.ModuleList) or (isinstance(module, nn.Sequential) and list(child.children())):
            yield child
        else:
            yield from _listed(child)


def full(tensor: Tensor) -> Tensor:
    """Return the whole of a split tensor on its device, on every process (a collective); other tensors unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_parts(tensors: list[Tensor]) -> list[Tensor]:
    """Return this process's parts of parameters or gradients, sharing their memory; unsplit tensors unchanged.

    Do not keep them: a module's first forward pass may move its parts.
    """
    if not isinstance(next(iter(tensors), None), DTensor):
        return tensors
    with torch.no_grad():
        return [cast(DTensor, tensor).to_local() for tensor in tensors]


def full_tensors(tensors: dict[str, Tensor], *, everywhere: bool = False) -> dict[str, Tensor]:
    """Return whole tensors by the same keys: split ones on the CPU of the first process; the others get nothing unless
    `everywhere`. A collective if any is split; a dictionary without split tensors is returned unchanged.
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
    """Return this process's part of a whole tensor, split as `like`; unchanged if `like` is not split. All have the whole."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.detach().to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def load_full_tensors(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load whole tensors, which every process has, into a module that may be split."""
    split = module.state_dict()
    module.load_state_dict({name: part_of(tensor, split[name]) for name, tensor in tensors.items()})
