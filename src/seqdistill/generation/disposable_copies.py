"""A copy of a model for a converter to ruin. Converts nothing.

`copy.deepcopy` does the same and walks every attribute of every module in Python: most of the
price of converting a small student anew before each update.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def detached_cpu_copy(model: PreTrainedModel) -> PreTrainedModel:
    """`model` on the CPU, in fp32 and evaluation mode, without gradients; `model` is untouched.

    Modules, weights, buffers and the top configuration are new, tied weights tied again. Other
    attributes of the modules are shared.
    """
    copied: PreTrainedModel = _copied(model, {})
    copied.config = copy.deepcopy(model.config)
    return copied.eval()


def _copied(module: nn.Module, tensors: dict[int, Tensor]) -> Any:
    new = copy.copy(module)
    new._parameters = {
        name: None if weight is None else nn.Parameter(_twin(weight, tensors), requires_grad=False)
        for name, weight in module._parameters.items()
    }
    new._buffers = {
        name: None if buffer is None else _twin(buffer, tensors)
        for name, buffer in module._buffers.items()
    }
    new._modules = {
        name: None if child is None else _copied(child, tensors)
        for name, child in module._modules.items()
    }
    return new


def _twin(tensor: Tensor, tensors: dict[int, Tensor]) -> Tensor:
    """The same copy for the same tensor: what is tied stays tied."""
    if id(tensor) not in tensors:
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        tensors[id(tensor)] = tensor.detach().to("cpu", dtype, copy=True)
    return tensors[id(tensor)]


def tensor_shapes(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """The shape of every weight and buffer by name."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
