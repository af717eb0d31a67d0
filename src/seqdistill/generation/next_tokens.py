"""What a live model says of the next token, one step at a time, with its key-value cache.

One form for encoder-decoder and decoder-only models. It chooses no token and knows no temperature:
`sampling` does.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, PreTrainedModel

from seqdistill.core.errors import ModelError
from seqdistill.core.head import Head
from seqdistill.core.source import Source, padded_ids, token_ids_of
from seqdistill.generation.model_facts import ModelFacts
from seqdistill.models.adapters import head_of, positions_from_mask
from seqdistill.models.modalities import modality_of


class CachedModel:
    """The logits of the next token in fp32, row by row, symbols that are no outputs at -inf.

    Reads the weights that the model has while it is asked. The caller switches dropout and
    gradients off. Prompts of a decoder-only model are padded on the left and their positions
    counted from their own first token, so that padding moves nothing.

    Raises ModelError for a model without a key-value cache.
    """

    def __init__(self, model: PreTrainedModel, facts: ModelFacts) -> None:
        self._model = model
        self._facts = facts
        base = model.get_decoder() if facts.kind == "seq2seq" else model.base_model
        self._takes_positions = "position_ids" in inspect.signature(base.forward).parameters
        self._head: Head
        self._cache: Cache | None
        self._mask: Int[Tensor, "batch read"]
        self._encoded: Float[Tensor, "batch source dim"]

    def begin(self, prompts: Sequence[Source]) -> Float[Tensor, "batch vocab"]:
        """The logits of each row's first token; forgets every earlier batch."""
        model, facts = self._model, self._facts
        self._head, self._cache = head_of(model), None
        if facts.kind == "causal":
            ids, mask = padded_ids(token_ids_of(prompts), side="left")
            self._mask = mask.long().to(model.device)
            return self._read(ids.to(model.device))
        modality = modality_of(model)
        source = modality.pad(prompts).to(model.device)
        self._encoded, mask = modality.encode(model, source)
        self._mask = mask.long()
        first = self._mask.new_tensor([[facts.start_id or 0, *facts.prefix_ids]])
        return self._read(first.expand(len(prompts), -1))

    def advance(self, token_ids: Int[Tensor, " batch"]) -> Float[Tensor, "batch vocab"]:
        """The logits after each row's next token."""
        if self._facts.kind == "causal":
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(token_ids), 1)], dim=1)
        return self._read(token_ids[:, None])

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drops every other row from the cache."""
        assert self._cache is not None, "begin comes first"
        # Unlike `batch_select_indices` it also moves the states of layers that keep no keys.
        self._cache.reorder_cache(rows)
        self._mask = self._mask[rows]
        if self._facts.kind == "seq2seq":
            self._encoded = self._encoded[rows]

    def _read(self, ids: Int[Tensor, "batch new"]) -> Float[Tensor, "batch vocab"]:
        if self._facts.kind == "seq2seq":
            named: dict[str, Any] = {
                "encoder_hidden_states": self._encoded,
                "encoder_attention_mask": self._mask,
            }
            network = self._model.get_decoder()
        else:
            named = {"attention_mask": self._mask}
            if self._takes_positions:
                named["position_ids"] = positions_from_mask(self._mask.bool())[:, -ids.shape[1] :]
            network = self._model.base_model
        output = network(input_ids=ids, past_key_values=self._cache, use_cache=True, **named)
        cache = output.get("past_key_values")
        if not isinstance(cache, Cache):
            raise ModelError(
                "Sequences can be written step by step by models that hand on a cache alone, but "
                f"{type(self._model).__name__} does not; let the teacher or the data write the "
                "sequences (sequences.origin), or take a model with attention layers."
            )
        self._cache = cache
        logits = self._head.logits(output.last_hidden_state[:, -1]).float()
        if self._facts.suppressed_ids:
            logits[:, list(self._facts.suppressed_ids)] = -torch.inf
        return logits
