"""A cache of keys and values with room for what will be written: a step copies none of the past."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer

_ROOM = 64
"""Columns that are added at a time."""
States = Float[Tensor, "batch heads time dim"]


def with_room(cache: Cache) -> Cache:
    """The same cache, its plain growing layers with room; others (windows, recurrent states, what
    was read of a source, which does not grow) stay what they are."""
    growing = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
    if isinstance(growing, DynamicCache):
        growing.layers[:] = [
            GrowingLayer(layer) if type(layer) is DynamicLayer and layer.is_initialized else layer
            for layer in growing.layers
        ]
    return cache


class GrowingLayer(DynamicLayer):
    """What transformers' dynamic layer holds, as a part of a larger tensor that is written to.

    transformers joins past and present into new tensors at every step, which costs small models
    as much as a product of matrices. Without gradients only: steps write in place.
    """

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self.keys, self.values = layer.keys, layer.values
        self._held: dict[str, Tensor] = {"keys": layer.keys, "values": layer.values}

    def update(
        self, key_states: States, value_states: States, *_args: Any, **_kwargs: Any
    ) -> tuple[States, States]:
        """All keys and values, the new ones last."""
        self.keys = self._joined("keys", self.keys, key_states)
        self.values = self._joined("values", self.values, value_states)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Int[Tensor, " rows"]) -> None:
        """The batch is these rows from now on, in this order."""
        rows = beam_idx.to(self.keys.device)
        self.keys = self._selected("keys", self.keys, rows)
        self.values = self._selected("values", self.values, rows)

    def _joined(self, name: str, past: Tensor, new: Tensor) -> Tensor:
        read, end = past.shape[2], past.shape[2] + new.shape[2]
        if end > self._held[name].shape[2]:
            batch, heads, _, dim = past.shape
            held = past.new_empty(batch, heads, end + _ROOM, dim)
            held[:, :, :read] = past
            self._held[name] = held
        held = self._held[name]
        held[:, :, read:end] = new
        return held[:, :, :end]

    def _selected(self, name: str, past: Tensor, rows: Tensor) -> Tensor:
        read, held = past.shape[2], self._held[name]
        if len(rows) > len(held):
            self._held[name] = past.index_select(0, rows)
            return self._held[name]
        held[: len(rows), :, :read] = past.index_select(0, rows)
        self._held[name] = held[: len(rows)]
        return self._held[name][:, :, :read]
