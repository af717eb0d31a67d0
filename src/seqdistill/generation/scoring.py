"""What a live transformers model says of given tokens, and of the next token.

Given tokens are scored by a plain forward pass, the yardstick for both engines; next tokens one
step at a time with the key-value cache. Chooses no token and knows no temperature.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, DynamicCache, EncoderDecoderCache, PreTrainedModel

from seqdistill.core.batches import padded_batches
from seqdistill.core.errors import ModelError
from seqdistill.core.head import Head
from seqdistill.core.source import Source, padded_ids, token_ids_of
from seqdistill.generation.growing_cache import with_room
from seqdistill.generation.model_facts import ModelFacts
from seqdistill.models.adapters import head_of, positions_from_mask
from seqdistill.models.dropout import evaluation_mode
from seqdistill.models.modalities import modality_of

IdPair = tuple[Sequence[int], Sequence[int]]
"""(source ids, target ids); for decoder-only models (prompt ids, continuation ids)."""
Pair = tuple[Source, Sequence[int]]
"""The same, with a source of any modality."""


class Prediction(NamedTuple):
    """What a model says at one position, in nats."""

    log_prob: float
    """Of the token that is there."""
    best_id: int
    """The likeliest token."""
    best_log_prob: float


# Logits held at once: 2 ** 24 fp32 values are 64 MiB.
_MAX_LOGITS = 2**24


def token_log_probs(
    model: PreTrainedModel, pairs: Sequence[Pair], *, facts: ModelFacts
) -> list[list[float]]:
    """log p(token | source, earlier tokens) of every target token in nats, one list a pair.

    See `token_predictions`.
    """
    found = token_predictions(model, pairs, facts=facts)
    return [[prediction.log_prob for prediction in row] for row in found]


def token_predictions(
    model: PreTrainedModel, pairs: Sequence[Pair], *, facts: ModelFacts
) -> list[list[Prediction]]:
    """What the model says at every target token, given the source and the tokens before it.

    An empty target gives an empty list. Computed in the model's dtype, the softmax in fp32, with
    dropout off. Symbols in `facts.suppressed_ids` are outside the softmax.
    """
    found: list[list[Prediction]] = [[] for _ in pairs]
    lengths = [len(source) + len(target) for source, target in pairs]
    max_positions = max(1, _MAX_LOGITS // facts.vocab_size)
    with evaluation_mode(model), torch.inference_mode():
        for batch in padded_batches(lengths, batch_tokens=max_positions):
            sources = [pairs[index][0] for index in batch]
            targets = [pairs[index][1] for index in batch]
            if facts.kind == "seq2seq":
                logits = _seq2seq_logits(model, sources, targets, facts)
                offsets = [len(facts.prefix_ids)] * len(batch)
            else:
                logits, first = _causal_logits(model, token_ids_of(sources), targets)
                offsets = [len(source) - 1 - first for source in sources]
            for row, (index, offset) in enumerate(zip(batch, offsets, strict=True)):
                target = pairs[index][1]
                predicted = logits[row, offset : offset + len(target)].float()  # (time, vocab)
                predicted[:, list(facts.suppressed_ids)] = -torch.inf
                found[index] = predictions_of(predicted, target)
    return found


def predictions_of(logits: Float[Tensor, "time vocab"], target: Sequence[int]) -> list[Prediction]:
    """What these logits, one row a position, say of the target's tokens."""
    log_probs = logits.log_softmax(dim=-1)
    chosen = torch.tensor([*target], dtype=torch.long, device=logits.device)
    given = log_probs.gather(1, chosen[:, None])[:, 0]
    best, best_ids = log_probs.max(dim=-1)
    rows = zip(given.tolist(), best_ids.tolist(), best.tolist(), strict=True)
    return [Prediction(*row) for row in rows]


def _seq2seq_logits(
    model: PreTrainedModel,
    sources: Sequence[Source],
    targets: Sequence[Sequence[int]],
    facts: ModelFacts,
) -> Float[Tensor, "batch time vocab"]:
    modality = modality_of(model)
    named = modality.arguments(modality.pad(sources).to(model.device))
    # Padding after a row's last token is never looked at by the tokens before it.
    decoder_ids, _ = padded_ids(
        [[facts.start_id or 0, *facts.prefix_ids, *target[:-1]] for target in targets]
    )
    logits: Tensor = model(**named, decoder_input_ids=decoder_ids.to(model.device)).logits
    return logits


def _causal_logits(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
) -> tuple[Float[Tensor, "batch kept vocab"], int]:
    """Logits from the last token of the shortest prompt on, and the column where they begin.

    Those of the prompts before, which nobody reads, would be the most of them; models that cannot
    leave them out give all.
    """
    rows = [[*prompt, *target[:-1]] for prompt, target in zip(prompts, targets, strict=True)]
    ids, mask = (tensor.to(model.device) for tensor in padded_ids(rows))
    kept = ids.shape[1] - min(map(len, prompts)) + 1
    cuts = "logits_to_keep" in inspect.signature(model.forward).parameters
    named = {"logits_to_keep": kept} if cuts else {}
    logits: Tensor = model(
        input_ids=ids, attention_mask=mask.long(), use_cache=False, **named
    ).logits
    return logits, ids.shape[1] - logits.shape[1]


class CachedModel:
    """The logits of the next token in fp32, row by row, symbols that are no outputs at -inf.

    Reads the weights that the model has while it is asked. The caller switches dropout and
    gradients off. Prompts of a decoder-only model are padded on the left and their positions
    counted from their own first token, so that padding moves nothing.

    Tokens that were read can be taken back, see `after`, when `keeps_all`: then layers with a
    sliding window keep what has left it, too.

    Raises ModelError for a model without a key-value cache, and with `keeps_all` for one with
    recurrent layers, whose states do not go back.
    """

    def __init__(
        self, model: PreTrainedModel, facts: ModelFacts, *, keeps_all: bool = False
    ) -> None:
        self._model = model
        self._facts = facts
        self._keeps_all = keeps_all
        base = model.get_decoder() if facts.kind == "seq2seq" else model.base_model
        self._takes_positions = "position_ids" in inspect.signature(base.forward).parameters
        if keeps_all and model._is_stateful:
            raise ModelError(
                "Tokens can be taken back by models of attention layers alone, but "
                f"{type(model).__name__} has recurrent ones; use a model without them"
            )
        self._head: Head
        self._cache: Cache | None
        self._mask: Int[Tensor, "batch read"]
        self._encoded: Float[Tensor, "batch source dim"]
        self._written = 0
        """How many columns after what `begin` read are in the cache."""

    def begin(self, prompts: Sequence[Source]) -> Float[Tensor, "batch vocab"]:
        """The logits of each row's first token; forgets every earlier batch."""
        model, facts = self._model, self._facts
        self._head, self._cache, self._written = head_of(model), None, 0
        if self._keeps_all:
            self._cache = DynamicCache()
            if facts.kind == "seq2seq":
                self._cache = EncoderDecoderCache(self._cache, DynamicCache())
        if facts.kind == "causal":
            ids, mask = padded_ids(token_ids_of(prompts), side="left")
            self._mask = mask.long().to(model.device)
            return self._logits(self._read(ids.to(model.device))[:, -1])
        modality = modality_of(model)
        source = modality.pad(prompts).to(model.device)
        self._encoded, mask = modality.encode(model, source)
        self._mask = mask.long()
        first = self._mask.new_tensor([[facts.start_id or 0, *facts.prefix_ids]])
        return self._logits(self._read(first.expand(len(prompts), -1))[:, -1])

    def advance(self, token_ids: Int[Tensor, " batch"]) -> Float[Tensor, "batch vocab"]:
        """The logits after each row's next token."""
        return self._logits(self._extended(token_ids[:, None])[:, -1])

    def after(
        self,
        written: Int[Tensor, "batch time"],
        rows: Int[Tensor, " asked"],
        places: Int[Tensor, "asked places"],
        *,
        unchanged: int,
    ) -> Float[Tensor, "asked places vocab"]:
        """The logits after the tokens at `places` of `written`, in these rows.

        `written` holds what each row wrote, from its first token on. Its first `unchanged` columns,
        none of them right of a place, are what they were when they were read; what was read of
        others is taken back. All rows share the columns of the cache, so that one forward pass
        reads all from there to the rightmost place. `rows` and `places` are on the CPU.
        """
        assert self._keeps_all and self._cache is not None, "begin comes first"
        if (back := self._written - unchanged) > 0:
            self._cache.crop(-back)
            self._written -= back
            if self._facts.kind == "causal":
                self._mask = self._mask[:, :-back]
        start = self._written
        hidden = self._extended(written[:, start : int(places.max()) + 1])
        return self._logits(hidden[rows[:, None], places - start])

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drops every other row from the cache."""
        assert self._cache is not None, "begin comes first"
        # Unlike `batch_select_indices` it also moves the states of layers that keep no keys.
        self._cache.reorder_cache(rows)
        self._mask = self._mask[rows]
        if self._facts.kind == "seq2seq":
            self._encoded = self._encoded[rows]

    def _extended(self, ids: Int[Tensor, "batch new"]) -> Float[Tensor, "batch new dim"]:
        """The hidden states of tokens that were written."""
        self._written += ids.shape[1]
        if self._facts.kind == "causal":
            self._mask = torch.cat([self._mask, self._mask.new_ones(ids.shape)], dim=1)
        return self._read(ids)

    def _read(self, ids: Int[Tensor, "batch new"]) -> Float[Tensor, "batch new dim"]:
        if self._facts.kind == "seq2seq":
            named: dict[str, Any] = modality_of(self._model).attended(
                self._encoded, self._mask.bool()
            )
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
        self._cache = with_room(cache)
        hidden: Float[Tensor, "batch new dim"] = output.last_hidden_state
        return hidden

    def _logits(self, hidden: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows vocab"]:
        logits = self._head.logits(hidden).float()
        if self._facts.suppressed_ids:
            logits[..., list(self._facts.suppressed_ids)] = -torch.inf
        return logits
