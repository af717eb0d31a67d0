"""What single layers of a model compute for a batch, for losses that look inside."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from jaxtyping import Bool, Float
from torch import Tensor

from seqdistill.core.families import Stack

Layer = tuple[Stack, int]
"""The stack, and the layer's number in it, from 1."""


@dataclasses.dataclass(frozen=True)
class LayerFeatures:
    """Of one layer what was asked for: the names in a member's `reads`.

    `mask` is True on the tokens of the stack that are real.
    """

    tensors: Mapping[str, Tensor]
    mask: Bool[Tensor, "batch time"]
    is_causal: bool

    def cpu(self) -> LayerFeatures:
        """The same in the memory of the CPU."""
        tensors = {name: tensor.cpu() for name, tensor in self.tensors.items()}
        return LayerFeatures(tensors, self.mask.cpu(), self.is_causal)

    @property
    def hidden(self) -> Float[Tensor, "batch time width"]:
        """The layer's output; of the last layer after the stack's final norm."""
        return self.tensors["hidden"]

    @property
    def attention(self) -> Float[Tensor, "batch heads time time"]:
        """The weights of its self-attention, query by key."""
        return self.tensors["attention"]

    @property
    def queries(self) -> Float[Tensor, "batch time dim"]:
        """Of its self-attention, as projected, all heads side by side; before rotary positions."""
        return self.tensors["queries"]

    @property
    def keys(self) -> Float[Tensor, "batch time dim"]:
        """Likewise; heads that share their keys have them once."""
        return self.tensors["keys"]

    @property
    def values(self) -> Float[Tensor, "batch time dim"]:
        """Likewise."""
        return self.tensors["values"]

    @property
    def attended(self) -> Bool[Tensor, "batch time time"]:
        """Which keys a query may see: real ones, in a decoder up to its own."""
        seen = self.mask.unsqueeze(1).expand(-1, self.mask.shape[1], -1)
        return seen.tril() if self.is_causal else seen


Features = Mapping[Layer, LayerFeatures]
Wanted = Mapping[Layer, frozenset[str]]
"""The tensors that are asked for, by layer."""
NO_LAYERS: Wanted = MappingProxyType({})
