"""An adapter makes every transformers model look the same: encoder-decoder and decoder-only.

It runs the network up to its last hidden states; the vocabulary projection is left to the
objectives, which never build it whole. It knows no loss, no sampling and no device policy.
"""

from __future__ import annotations

import inspect

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from seqdistill.core.batch import Kind, SequenceBatch, StudentStates
from seqdistill.core.head import Head
from seqdistill.core.source import SourceInputs
from seqdistill.models.heads import (
    check_head,
    head_of,
    tiny_ids,
    widened_head_input,
    widening,
)
from seqdistill.models.modalities import modality_of


def kind_of(model: PreTrainedModel) -> Kind:
    """`seq2seq` for encoder-decoder models, `causal` for decoder-only ones."""
    return "seq2seq" if model.config.is_encoder_decoder else "causal"


def decoder_start_id(model: PreTrainedModel) -> int | None:
    """What an encoder-decoder's decoder reads first; None where the model does not say.

    Older folders keep it in config.json, newer ones may keep it in generation_config.json alone.
    """
    start = getattr(model.config, "decoder_start_token_id", None)
    if start is None and model.generation_config is not None:
        start = model.generation_config.decoder_start_token_id
    return None if start is None else int(start)


def decoder_prefix_ids(model: PreTrainedModel) -> tuple[int, ...]:
    """What an encoder-decoder's decoder is given after its start token: read, never predicted.

    The target language of M2M100, NLLB and mBART-50, <s> of many BARTs: `forced_bos_token_id` of
    the generation config, or of the configuration of older folders. None for decoder-only models,
    whose prompt says all of it.
    """
    if kind_of(model) != "seq2seq":
        return ()
    forced = getattr(model.generation_config, "forced_bos_token_id", None)
    if forced is None:
        forced = getattr(model.config, "forced_bos_token_id", None)
    return () if forced is None else (int(forced),)


def begin_like(model: PreTrainedModel, other: PreTrainedModel) -> None:
    """Has the decoder of `model` begin as that of `other` does, whose vocabulary it shares."""
    start, forced = decoder_start_id(other), next(iter(decoder_prefix_ids(other)), None)
    if start is not None:
        model.config.decoder_start_token_id = start
        model.generation_config.decoder_start_token_id = start
    model.generation_config.forced_bos_token_id = forced


def positions_from_mask(mask: Bool[Tensor, "batch time"]) -> Int[Tensor, "batch time"]:
    """Position of each token among the real ones of its row, so that left padding moves nothing."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


class SequenceModel(nn.Module):
    """A transformers model as (batch) -> hidden states + head; `module` is the model itself.

    The head is compared with the model's own logits when the adapter is built, so a wrong
    reading of an architecture is an error there and not a wrong loss later.
    """

    def __init__(self, module: PreTrainedModel) -> None:
        super().__init__()
        self.module = module
        parameters = inspect.signature(module.base_model.forward).parameters
        self._takes_positions = "position_ids" in parameters
        self._check()

    @property
    def kind(self) -> Kind:
        """`seq2seq` or `causal`."""
        return kind_of(self.module)

    @property
    def head(self) -> Head:
        """The live output head."""
        return head_of(self.module)

    def forward(
        self,
        decoder_input_ids: Int[Tensor, "batch time"],
        decoder_mask: Bool[Tensor, "batch time"],
        source: SourceInputs | None,
    ) -> Float[Tensor, "batch time dim"]:
        """The last hidden state at each decoder position.

        The prompt of a decoder-only model is part of the decoder's input.
        """
        named = {"input_ids": decoder_input_ids, "attention_mask": decoder_mask.long()}
        if self.kind == "seq2seq":
            assert source is not None, "batches of kind seq2seq have sources"
            encoded, encoded_mask = modality_of(self.module).encode(self.module, source)
            named["encoder_hidden_states"] = encoded
            named["encoder_attention_mask"] = encoded_mask.long()
            network = self.module.get_decoder()
        else:
            network = self.module.base_model
            if self._takes_positions:
                named["position_ids"] = positions_from_mask(decoder_mask)
        hidden: Tensor = network(**named, use_cache=False).last_hidden_state
        return hidden

    def states(self, batch: SequenceBatch) -> StudentStates:
        """What the model says of the batch."""
        return StudentStates(hidden_states(self, batch), self.head)

    @torch.no_grad()
    def _check(self) -> None:
        was_training, ids = self.module.training, tiny_ids(self.module)
        self.eval()
        named, source = {"input_ids": ids}, None
        if self.kind == "seq2seq":
            modality = modality_of(self.module)
            source = modality.pad([modality.tiny(self.module)]).to(self.module.device)
            named = {**modality.arguments(source), "decoder_input_ids": ids}
        hidden = self.forward(ids, torch.ones_like(ids, dtype=torch.bool), source)
        for factor in (1.0, widening(self.head, hidden)):
            with widened_head_input(self.module, factor):
                logits = self.module(**named, use_cache=False).logits
            check_head(self.head, hidden * factor, logits, type(self.module).__name__)
        # The adapter is new and would be in training mode; the model was in a mode of its own.
        self.train(was_training)


def hidden_states(model: nn.Module, batch: SequenceBatch) -> Float[Tensor, "batch time dim"]:
    """The model's hidden states; `model` may be a SequenceModel wrapped for several processes."""
    hidden: Tensor = model(batch.decoder_input_ids, batch.decoder_mask, batch.source)
    return hidden


def adapt(model: PreTrainedModel) -> SequenceModel:
    """The model as the objectives see it."""
    return SequenceModel(model)
