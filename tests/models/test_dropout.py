"""Every rate of an architecture is set and seen: held against passes in training mode."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.tiny import BOS, EOS, PAD, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from seqdistill.models.dropout import has_dropout, set_dropout
from seqdistill.models.lora import LoraAdapter

_BART = {
    **{"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2},
    **{"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
    **{"max_position_embeddings": 40, "decoder_start_token_id": EOS},
}
_LLAMA = {
    **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 40},
}
_T5 = {
    **{"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2},
    "decoder_start_token_id": PAD,
}
_EXPERTS = {"num_experts": 2, "expert_capacity": 64, "num_sparse_encoder_layers": 1}
_OPT = {"ffn_dim": 32, "word_embed_proj_dim": 16, "do_layer_norm_before": True}
_ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "Bart": ("ForConditionalGeneration", _BART),
    "Marian": ("MTModel", _BART),
    "T5": ("ForConditionalGeneration", _T5),
    "SwitchTransformers": ("ForConditionalGeneration", {**_T5, **_EXPERTS}),
    "GPT2": ("LMHeadModel", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40}),
    "Llama": ("ForCausalLM", _LLAMA),
    "Gemma2": ("ForCausalLM", {**_LLAMA, "head_dim": 8}),
    "Falcon": ("ForCausalLM", _LLAMA),
    "Mixtral": ("ForCausalLM", {**_LLAMA, "num_local_experts": 2}),
    "OPT": ("ForCausalLM", {**_LLAMA, **_OPT}),
}
# Its layer exists, so the rate counts, but Falcon's attention passes it by.
_IDLE = ("Falcon", "attention_dropout")


def with_rates(name: str, rates: dict[str, float]) -> PreTrainedModel:
    """A tiny model whose configuration gives these rates, and 0 to every other."""
    head, settings = _ARCHITECTURES[name]
    ids = {"vocab_size": 40, "bos_token_id": BOS, "pad_token_id": PAD, "eos_token_id": EOS}
    quiet = dict.fromkeys(rate_names(name), 0.0)
    config = getattr(transformers, f"{name}Config")(**{**ids, **settings, **quiet, **rates})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model: PreTrainedModel = getattr(transformers, name + head)(config)
    return model


@functools.cache
def rate_names(name: str) -> tuple[str, ...]:
    """Every key of the configuration that is a share dropped, or of noise."""
    known = getattr(transformers, f"{name}Config")().to_dict()
    return tuple(key for key in known if "drop" in key or "jitter" in key)


def logits(model: PreTrainedModel, *, training: bool, seed: int = 0) -> Tensor:
    ids = torch.tensor([[4, 5, 6, 7, 8, 9, 10, 11], [12, 4, 9, 30, 31, 32, 33, 34]])
    named = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    model.train(training)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        found: Tensor = model(input_ids=ids, use_cache=False, **named).logits
    return found


def passes_differ(model: PreTrainedModel) -> bool:
    """Whether any of some passes in training mode differs from the one in evaluation mode."""
    quiet = logits(model, training=False)
    return any(not torch.equal(logits(model, training=True, seed=i), quiet) for i in range(8))


@pytest.mark.parametrize("name", _ARCHITECTURES)
def test_every_rate_is_seen_where_it_is_drawn_with_set_and_saved(name: str, tmp_path: Path) -> None:
    model = with_rates(name, dict.fromkeys(rate_names(name), 0.3))
    assert passes_differ(model)
    for rate in (0.5, 0.0):
        set_dropout(model, rate)
        assert passes_differ(model) == has_dropout(model) == (rate > 0)
        for key in rate_names(name):
            is_dropout = "layerdrop" not in key and "jitter" not in key
            assert getattr(model.config, key) == (rate if is_dropout or not rate else 0.3), key
        model.save_pretrained(tmp_path)
        loaded = type(model).from_pretrained(tmp_path)
        assert has_dropout(loaded) == (rate > 0)
        for seed in range(4):
            expected = logits(model, training=True, seed=seed)
            assert torch.equal(logits(loaded, training=True, seed=seed), expected)
    for key in rate_names(name):
        model = with_rates(name, {key: 0.6})
        assert has_dropout(model) == (passes_differ(model) or (name, key) == _IDLE), key


def test_a_configuration_inside_another_is_set_and_saved_too(tmp_path: Path) -> None:
    """An encoder-decoder made of two models keeps the rates of each in its own configuration."""
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    part = {**sizes, **rates, "intermediate_size": 16, "vocab_size": 40}
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.BertConfig(**part), transformers.BertConfig(**part)
    )
    model = transformers.EncoderDecoderModel(config=config)
    assert not has_dropout(model)
    set_dropout(model, 0.3)
    model.save_pretrained(tmp_path)
    loaded = transformers.EncoderDecoderModel.from_pretrained(tmp_path)
    for inner in (loaded.config.encoder, loaded.config.decoder):
        assert inner.attention_probs_dropout_prob == inner.hidden_dropout_prob == 0.3
    assert loaded.decoder.bert.encoder.layer[0].attention.self.dropout.p == 0.3


def test_dropout_is_seen_in_layers_added_later() -> None:
    model = tiny_model("llama")
    assert not has_dropout(model)
    LoraAdapter(model, rank=2, alpha=4.0, dropout=0.1, targets="all-linear", seed=0)
    assert has_dropout(model)
