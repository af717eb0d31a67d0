"""Numbers as the bits they are stored in, for exact zeros and exact copies. Does no arithmetic."""

from __future__ import annotations

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

_SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bit_patterns(tensor: Shaped[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The tensor's own memory, read as signed integers of the same width: writes go to the tensor.

    Only +0.0 has the pattern 0. The pattern of -0.0 is another, and NaN is equal to itself.
    """
    return tensor.detach().view(_SIGNED[tensor.element_size()])
