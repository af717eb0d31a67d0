"""Weights in shards (FSDP2) and whole: which layers are sharded, and the way between both forms.

Gathering and scattering are collective: all processes call them together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from seqdistill.models.adapters import SequenceModel


def unique_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Name -> tensor of every parameter and persistent buffer, shared ones once."""
    seen: set[int] = set()
    unique: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            unique[name] = tensor.detach()
    return unique


def layer_classes(model: SequenceModel) -> list[str]:
    """The classes whose modules are sharded one by one: the outermost ones transformers names."""
    return sorted({type(layer).__name__ for layer in _layers(model)})


def _layers(model: SequenceModel) -> list[nn.Module]:
    wanted = set(getattr(model.module, "_no_split_modules", None) or ())
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():  # parents come before their children
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if type(module).__name__ in wanted and not inside:
            found[name] = module
    return list(found.values())


def shard_frozen(model: SequenceModel) -> None:
    """Shards a model that is not trained, in place: its layers are gathered one after the other.

    Embeddings and head stay whole after the first pass, since losses read the head after it.
    """
    for layer in _layers(model):
        fully_shard(layer)
    fully_shard(model, reshard_after_forward=False)


def whole(tensor: Tensor) -> Tensor:
    """The tensor, gathered if it is in shards."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def as_sharded(tensor: Tensor, like: Tensor) -> Tensor:
    """The whole tensor, in shards if `like`, which has its shape, is."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


@torch.no_grad()
def gather_weights(sharded: nn.Module, plain: nn.Module) -> None:
    """Copies the weights of a sharded model into its plain twin, parameter by parameter."""
    own = unique_parameters(plain)
    for name, tensor in unique_parameters(sharded).items():
        own[name].copy_(whole(tensor))


@torch.no_grad()
def scatter_weights(plain: nn.Module, sharded: nn.Module) -> None:
    """Copies the weights of a plain model into its sharded twin."""
    own = unique_parameters(plain)
    for name, tensor in unique_parameters(sharded).items():
        tensor.copy_(as_sharded(own[name], tensor))
