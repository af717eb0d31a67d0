"""Two adapters make every transformers model look the same: encoder-decoder and decoder-only.

They run the network up to its last hidden states; the vocabulary projection is left to the
objectives, which never build it whole. They know no loss, no sampling and no device policy.
"""

from __future__ import annotations

import inspect
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from seqdistill.core.batch import SequenceBatch, StudentStates
from seqdistill.core.errors import ModelError
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

Kind = Literal["seq2seq", "causal"]


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
        """The last hidden state at each decoder position."""
        raise AssertionError("use Seq2SeqAdapter or CausalAdapter, made by adapt()")

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


class Seq2SeqAdapter(SequenceModel):
    """Encoder-decoder models: T5, BART, mBART, Marian, Pegasus and their kin."""

    def forward(
        self,
        decoder_input_ids: Int[Tensor, "batch time"],
        decoder_mask: Bool[Tensor, "batch time"],
        source: SourceInputs | None,
    ) -> Float[Tensor, "batch time dim"]:
        """The decoder's last hidden state at each position. The batch must hold sources."""
        if source is None:
            raise ModelError(
                "An encoder-decoder model needs batches with a source, but this batch has none; "
                "encode the data for kind 'seq2seq'."
            )
        encoded, encoded_mask = modality_of(self.module).encode(self.module, source)
        decoded = self.module.get_decoder()(
            input_ids=decoder_input_ids,
            attention_mask=decoder_mask.long(),
            encoder_hidden_states=encoded,
            encoder_attention_mask=encoded_mask.long(),
            use_cache=False,
        )
        hidden: Tensor = decoded.last_hidden_state
        return hidden


class CausalAdapter(SequenceModel):
    """Decoder-only models: Llama, Qwen, GPT-2, Gemma and their kin."""

    def __init__(self, module: PreTrainedModel) -> None:
        parameters = inspect.signature(module.base_model.forward).parameters
        self._takes_positions = "position_ids" in parameters
        super().__init__(module)

    def forward(
        self,
        decoder_input_ids: Int[Tensor, "batch time"],
        decoder_mask: Bool[Tensor, "batch time"],
        source: SourceInputs | None,
    ) -> Float[Tensor, "batch time dim"]:
        """The last hidden state at each position; the prompt is part of the decoder's input."""
        positions = (
            {"position_ids": positions_from_mask(decoder_mask)} if self._takes_positions else {}
        )
        output = self.module.base_model(
            input_ids=decoder_input_ids,
            attention_mask=decoder_mask.long(),
            use_cache=False,
            **positions,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden


def adapt(model: PreTrainedModel) -> SequenceModel:
    """The adapter of the model's kind."""
    return Seq2SeqAdapter(model) if kind_of(model) == "seq2seq" else CausalAdapter(model)
