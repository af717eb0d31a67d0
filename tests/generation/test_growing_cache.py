"""A cache with room holds what transformers' own does, and copies nothing of it at a step."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache

from seqdistill.generation import growing_cache
from seqdistill.generation.growing_cache import GrowingLayer, with_room
from seqdistill.generation.model_facts import facts_of
from seqdistill.generation.scoring import CachedModel

from .families import build_tiny


def cache_of(keys: torch.Tensor, values: torch.Tensor) -> DynamicCache:
    cache = DynamicCache()
    cache.update(keys, values, 0)
    return cache


def test_steps_dropped_rows_and_tokens_taken_back_leave_what_transformers_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rooms of 3 columns, so that it grows more than once; keys and values of unequal width."""
    monkeypatch.setattr(growing_cache, "_ROOM", 3)
    generator = torch.Generator().manual_seed(1)

    def states(rows: int, columns: int) -> list[torch.Tensor]:
        return [torch.randn(rows, 2, columns, dim, generator=generator) for dim in (4, 6)]

    first = states(5, 4)
    plain, grown = cache_of(*first), with_room(cache_of(*first))
    assert isinstance(grown.layers[0], GrowingLayer)

    def both(rows: int, columns: int) -> None:
        new = states(rows, columns)
        for expected, found in zip(plain.update(*new, 0), grown.update(*new, 0), strict=True):
            assert torch.equal(expected, found)

    for columns in (1, 1, 1, 1, 2, 9, 1):
        both(5, columns)
    for rows in ([0, 2, 3], [2, 0], [1, 1, 0, 0]):  # fewer, in another order, and more again
        for cache in (plain, grown):
            cache.reorder_cache(torch.tensor(rows))
        both(len(rows), 1)
        for cache in (plain, grown):
            cache.crop(-2)
        assert grown.get_seq_length() == plain.get_seq_length()
        both(len(rows), 1)


@pytest.mark.parametrize("name", ["llama", "mbart"])
def test_a_step_writes_into_the_room_there_is(name: str) -> None:
    tiny = build_tiny(name)
    model = CachedModel(tiny.model, facts_of(tiny.model, tiny.tokenizer, kind=tiny.kind))
    with torch.no_grad():
        model.begin(tiny.sources)
        places = []
        for _ in range(4):
            model.advance(torch.full((len(tiny.sources),), 4))
            cache = model._cache
            own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
            assert own is not None
            places.append([layer.keys.data_ptr() for layer in own.layers])
    assert all(place == places[0] for place in places), "(what was read was copied)"
