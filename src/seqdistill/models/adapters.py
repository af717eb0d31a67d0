"""An adapter makes every transformers model look the same: encoder-decoder and decoder-only.

It runs the network up to its last hidden states and gives the output head as data: the vocabulary
projection is left to the objectives, which never build it whole. Architectures hide a scale, a bias
or a soft cap in their forward pass, so the head that was read is compared, once, with the model's
own logits; an architecture that does something else is refused.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from seqdistill.core.batch import Kind, SequenceBatch, StudentStates
from seqdistill.core.errors import ModelError
from seqdistill.core.features import NO_LAYERS, Features, LayerFeatures, Wanted
from seqdistill.core.head import Head
from seqdistill.core.source import SourceInputs
from seqdistill.models.dropout import evaluation_mode
from seqdistill.models.features import Found, network_of, tapped
from seqdistill.models.modalities import modality_of, tiny_ids

# fp32 rounding over a few thousand-term dot products stays well below the first; in shorter dtypes
# the logits themselves are rounded, and the steps that lead to them.
_TOLERANCE, _ROUNDINGS = 1e-3, 4
# Gemma caps at 30, others at 15 or 50.
_WIDE_LOGIT = 200.0


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
    the generation config, or of the configuration of older folders. Of Whisper the language, the
    task and that there are no timestamps. None for decoder-only models, whose prompt says all of
    it.
    """
    if kind_of(model) != "seq2seq":
        return ()
    if model.config.model_type == "whisper":
        return _whisper_prefix_ids(model)
    forced = getattr(model.generation_config, "forced_bos_token_id", None)
    if forced is None:
        forced = getattr(model.config, "forced_bos_token_id", None)
    return () if forced is None else (int(forced),)


# What the prompt of a Whisper's decoder is made of.
_WHISPER_PROMPT = (
    *("is_multilingual", "lang_to_id", "language", "task", "task_to_id"),
    "no_timestamps_token_id",
)


def _whisper_prefix_ids(model: PreTrainedModel) -> tuple[int, ...]:
    """As `generate` begins for the language and the task that the generation config names.

    One that knows several languages and names none is left to `languages.with_languages`.
    """
    told = {name: getattr(model.generation_config, name, None) for name in _WHISPER_PROMPT}
    languages, tasks = told["lang_to_id"] or {}, told["task_to_id"] or {}
    found = [languages.get(f"<|{str(told['language']).strip('<|>')}|>")]
    if found != [None]:
        found.append(tasks.get(told["task"] or "transcribe"))
    return tuple(int(i) for i in (*found, told["no_timestamps_token_id"]) if i is not None)


def begin_like(model: PreTrainedModel, other: PreTrainedModel) -> None:
    """Has the decoder of `model` begin as that of `other` does, whose vocabulary it shares."""
    start, prefix = decoder_start_id(other), decoder_prefix_ids(other)
    if start is not None:
        model.config.decoder_start_token_id = start
        model.generation_config.decoder_start_token_id = start
    if model.config.model_type == other.config.model_type == "whisper":
        for name in _WHISPER_PROMPT:
            if hasattr(other.generation_config, name):
                setattr(model.generation_config, name, getattr(other.generation_config, name))
        return
    model.generation_config.forced_bos_token_id = next(iter(prefix), None)


def positions_from_mask(mask: Bool[Tensor, "batch time"]) -> Int[Tensor, "batch time"]:
    """Position of each token among the real ones of its row, so that left padding moves nothing."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def head_of(model: PreTrainedModel) -> Head:
    """The head that turns the model's last hidden states into logits, sharing its live parameters.

    Raises ModelError for a model without an output layer.
    """
    projection = model.get_output_embeddings()
    if not isinstance(projection, nn.Linear):
        raise ModelError(
            "A model must end in a linear output layer over its vocabulary, but "
            f"{type(model).__name__} has {type(projection).__name__}; use a model for conditional "
            "generation or causal language modelling."
        )
    final: Any = getattr(model, "final_logits_bias", None)  # BART, Marian, mBART, Pegasus: a buffer
    has_final = isinstance(final, Tensor) and bool(final.any())
    bias = final.reshape(-1) if has_final else projection.bias
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return Head(projection.weight, bias, _scale(model), None if cap is None else float(cap))


def _scale(model: PreTrainedModel) -> float:
    config = model.config
    if config.model_type in {"t5", "umt5", "longt5", "switch_transformers"}:  # but not mt5
        scaled = getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)
        return float(config.d_model) ** -0.5 if scaled else 1.0
    if config.model_type in {"cohere", "cohere2"}:
        return float(config.logit_scale)
    if config.model_type.startswith("granite"):
        return 1.0 / float(config.logits_scaling)
    return 1.0


def _check_head(head: Head, hidden: Tensor, logits: Tensor, architecture: str) -> None:
    """Nothing, when `head.logits(hidden)` equals the model's own `logits`; else a ModelError.

    The tolerance is relative to the largest logit: a random model's are small, and a forgotten
    scale must show there too.
    """
    difference = (head.logits(hidden.float()) - logits.float()).abs().max().item()
    largest = logits.abs().max().item()
    tolerance = max(_TOLERANCE, _ROUNDINGS * torch.finfo(logits.dtype).eps)
    if not difference <= tolerance * largest:
        raise ModelError(
            f"The output head read from {architecture} must give the model's own logits, but they "
            f"differ by {difference:.3g} where the largest is {largest:.3g}: its forward pass does "
            "something that seqdistill does not know (a scale, cap or extra layer). Use another "
            "architecture."
        )


class SequenceModel(nn.Module):
    """A transformers model as (batch) -> hidden states + head; `module` is the model itself.

    Raises ModelError when the head that was read does not give the model's own logits.
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
            modality = modality_of(self.module)
            named |= modality.attended(*modality.encode(self.module, source))
        elif self._takes_positions:
            named["position_ids"] = positions_from_mask(decoder_mask)
        network = network_of(self.module, "decoder")
        hidden: Tensor = network(**named, use_cache=False).last_hidden_state
        return hidden

    def states(self, batch: SequenceBatch, wanted: Wanted = NO_LAYERS) -> StudentStates:
        """What the model says of the batch, and what those of its layers compute."""
        with tapped(self.module, wanted) as found:
            hidden = hidden_states(self, batch)
        return StudentStates(hidden, self.head, self._features(found, batch))

    def try_features(self, wanted: Wanted) -> Features:
        """Those of three tokens, dropout off, no gradient, on the CPU.

        Raises ModelError for what the architecture does not tell.
        """
        ids, source = self._tiny()
        mask = torch.ones_like(ids, dtype=torch.bool)
        batch = SequenceBatch(("tiny",), ids, mask, ids, mask, source)
        with torch.no_grad(), evaluation_mode(self):
            live = self.states(batch, wanted).features
        features = {layer: found.cpu() for layer, found in live.items()}
        for found in (each.attention for each in features.values() if "attention" in each.tensors):
            if not torch.allclose(found.sum(dim=-1).float(), torch.ones(()), atol=0.01):
                raise ModelError(
                    "Attention weights must sum to 1, but those that "
                    f"{type(self.module).__name__} tells do not; compare hidden states or "
                    "attention_relations, or use another architecture."
                )
        return features

    def _features(self, found: Found, batch: SequenceBatch) -> Features:
        features = {}
        for (stack, number), tensors in found.items():
            mask = batch.decoder_mask
            if stack == "encoder":
                assert batch.source is not None, "batches of kind seq2seq have sources"
                width = next(iter(tensors.values())).shape[-2]
                modality = modality_of(self.module)
                mask = modality.encoded_mask(self.module, batch.source, width)
            features[stack, number] = LayerFeatures(tensors, mask, is_causal=stack == "decoder")
        return features

    def _tiny(self) -> tuple[Tensor, SourceInputs | None]:
        """A short batch of one."""
        ids = tiny_ids(self.module)
        if self.kind == "causal":
            return ids, None
        modality = modality_of(self.module)
        return ids, modality.pad([modality.tiny(self.module)]).to(self.module.device)

    @torch.no_grad()
    def _check(self) -> None:
        ids, source = self._tiny()
        named = {"input_ids": ids}
        if source is not None:
            named = {**modality_of(self.module).arguments(source), "decoder_input_ids": ids}
        self.training = self.module.training
        with evaluation_mode(self):
            hidden = self.forward(ids, torch.ones_like(ids, dtype=torch.bool), source)
            # Near zero a soft cap is the identity: a random model hides that it has one.
            uncapped = dataclasses.replace(self.head, soft_cap=None).logits(hidden.float())
            widening = max(1.0, _WIDE_LOGIT / max(uncapped.abs().max().item(), 1e-6))
            for factor in (1.0, widening):
                with self.module.get_output_embeddings().register_forward_pre_hook(
                    lambda _layer, inputs, factor=factor: (inputs[0] * factor,)
                ):
                    logits = self.module(**named, use_cache=False).logits
                _check_head(self.head, hidden * factor, logits, type(self.module).__name__)


def hidden_states(model: nn.Module, batch: SequenceBatch) -> Float[Tensor, "batch time dim"]:
    """The model's hidden states; `model` may be a SequenceModel wrapped for several processes."""
    hidden: Tensor = model(batch.decoder_input_ids, batch.decoder_mask, batch.source)
    return hidden
