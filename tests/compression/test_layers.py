"""A shortened model: the right layers, shared weights still shared, and it loads again."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from seqdistill.compression.layers import evenly_spaced, keep_layers, parameter_count
from seqdistill.core.errors import ModelError

_BART_LIKE = {
    "d_model": 16,
    "encoder_layers": 4,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 40,
    "decoder_start_token_id": 2,
}
_LLAMA_LIKE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
_T5 = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 4,
    "num_decoder_layers": 3,
    "num_heads": 2,
    "decoder_start_token_id": 1,
}
_SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}
_SETTINGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mbart": ("MBartConfig", "MBartForConditionalGeneration", _BART_LIKE),
    "bart": ("BartConfig", "BartForConditionalGeneration", _BART_LIKE),
    "marian": ("MarianConfig", "MarianMTModel", _BART_LIKE),
    "pegasus": ("PegasusConfig", "PegasusForConditionalGeneration", _BART_LIKE),
    "t5": ("T5Config", "T5ForConditionalGeneration", _T5),
    "t5-untied": ("T5Config", "T5ForConditionalGeneration", _T5),
    "mt5": ("MT5Config", "MT5ForConditionalGeneration", _T5),
    "llama": ("LlamaConfig", "LlamaForCausalLM", _LLAMA_LIKE),
    "llama-tied": ("LlamaConfig", "LlamaForCausalLM", {**_LLAMA_LIKE, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", _LLAMA_LIKE),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", _LLAMA_LIKE),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", _LLAMA_LIKE),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {**_LLAMA_LIKE, **_SLIDING}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"n_embd": 16, "n_layer": 4, "n_head": 2}),
}
SEQ2SEQ = ("mbart", "bart", "marian", "pegasus", "t5", "t5-untied", "mt5")
CAUSAL = tuple(name for name in _SETTINGS if name not in SEQ2SEQ)


def build(name: str) -> PreTrainedModel:
    config_name, model_name, settings = _SETTINGS[name]
    torch.manual_seed(3)
    specials = {"vocab_size": 24, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    config = getattr(transformers, config_name)(**{**specials, **settings})
    model: PreTrainedModel = getattr(transformers, model_name)(config).eval()
    if name == "t5-untied":
        model.lm_head.weight = nn.Parameter(torch.randn(24, 16))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # sinusoids are no weights and are not saved
                parameter.add_(0.2 * torch.randn(parameter.shape))
        if name in ("marian", "bart"):
            model.final_logits_bias.normal_()
    return model


def shortened(name: str, model: PreTrainedModel) -> PreTrainedModel:
    encoder_layers = 2 if name in SEQ2SEQ else None
    return keep_layers(model, encoder_layers=encoder_layers, decoder_layers=2)


def logits_of(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.tensor([[4, 5, 6, 7, 8, 9, 10, 11, 12, 13]])
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            logits: torch.Tensor = model(
                input_ids=ids, decoder_input_ids=ids, use_cache=False
            ).logits
        else:
            logits = model(input_ids=ids, use_cache=False).logits
    return logits


def stack(model: PreTrainedModel, side: str) -> nn.ModuleList:
    """The layers of one side, found by name here and not by the code under test."""
    base: Any = model.base_model
    if model.config.model_type == "gpt2":
        layers: nn.ModuleList = base.h
    elif not model.config.is_encoder_decoder:
        layers = base.layers
    elif model.config.model_type in ("t5", "mt5"):
        layers = getattr(base, side).block
    else:
        layers = getattr(base, side).layers
    return layers


def with_layers_removed(model: PreTrainedModel, side: str, kept: tuple[int, ...]) -> None:
    """The plain way to shorten: drops modules of a live model in place."""
    layers = stack(model, side)
    for index in reversed(range(len(layers))):
        if index not in kept:
            del layers[index]


@pytest.mark.parametrize("name", SEQ2SEQ + CAUSAL)
def test_the_shortened_model_computes_what_the_kept_layers_compute(name: str) -> None:
    model = build(name)
    smaller = shortened(name, model)
    plain = copy.deepcopy(model)
    if name in SEQ2SEQ:
        with_layers_removed(plain, "encoder", (0, 3))
        with_layers_removed(plain, "decoder", (0, 2))
    else:
        with_layers_removed(plain, "decoder", (0, 3))
        plain.config.num_hidden_layers = 2
        if name == "gemma2":  # what a layer attends to goes with it
            plain.config.layer_types = ["sliding_attention", "full_attention"]
    assert torch.equal(logits_of(smaller), logits_of(plain))
    assert not torch.allclose(logits_of(smaller), logits_of(model))


@pytest.mark.parametrize("name", SEQ2SEQ + CAUSAL)
def test_it_loads_again_shares_what_the_original_shares_and_leaves_that_alone(
    name: str, tmp_path: Path
) -> None:
    model = build(name)
    before, settings = copy.deepcopy(model.state_dict()), model.config.to_dict()
    state = torch.get_rng_state()
    smaller = shortened(name, model)
    assert torch.equal(torch.get_rng_state(), state)
    smaller.save_pretrained(tmp_path)
    loaded = type(smaller).from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert torch.equal(logits_of(loaded), logits_of(smaller))
    assert parameter_count(loaded) == parameter_count(smaller) < parameter_count(model)
    tied = [m.get_output_embeddings().weight is m.get_input_embeddings().weight
            for m in (model, smaller)]  # fmt: skip
    assert tied[0] == tied[1]
    with torch.no_grad():
        for parameter in smaller.parameters():
            parameter.fill_(7.0)
    assert all(torch.equal(before[key], now) for key, now in model.state_dict().items())
    assert model.config.to_dict() == settings


@pytest.mark.parametrize("name", ["mbart", "t5", "gemma2", "gpt2"])
def test_generation_with_a_cache_equals_generation_without(name: str) -> None:
    smaller, ids = shortened(name, build(name)), torch.tensor([[4, 5, 6, 7]])
    cached, plain = (
        smaller.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=6,
            do_sample=False,
            use_cache=cache,
        )
        for cache in (True, False)
    )
    assert torch.equal(cached, plain)


@pytest.mark.parametrize("name", ["mbart", "t5", "llama"])
def test_keeping_every_layer_is_a_copy(name: str) -> None:
    model = build(name)
    same = keep_layers(model, encoder_layers=None, decoder_layers=None)
    assert torch.equal(logits_of(same), logits_of(model))
    assert parameter_count(same) == parameter_count(model)


def test_the_copy_of_a_model_trained_with_layer_drop_drops_no_layers() -> None:
    model = build("mbart")
    for side in (model.config, model.base_model.encoder, model.base_model.decoder):
        for key in ("encoder_layerdrop", "decoder_layerdrop", "layerdrop"):
            if hasattr(side, key):
                setattr(side, key, 0.9)
    smaller = keep_layers(model, encoder_layers=None, decoder_layers=2)
    trained = smaller.train()
    assert trained.base_model.decoder.layerdrop == trained.base_model.encoder.layerdrop == 0.0
    assert model.config.decoder_layerdrop == 0.9


@pytest.mark.parametrize("total", range(1, 14))
def test_evenly_spaced_keeps_ends_and_leaves_gaps_that_differ_by_one_at_most(total: int) -> None:
    for keep in range(1, total + 1):
        chosen = evenly_spaced(total, keep)
        assert len(chosen) == keep
        assert list(chosen) == sorted(set(chosen))
        assert chosen[0] == 0
        if keep >= 2:
            assert chosen[-1] == total - 1
            gaps = {later - earlier for earlier, later in itertools.pairwise(chosen)}
            assert max(gaps) - min(gaps) <= 1
    assert evenly_spaced(total, total) == tuple(range(total))


def test_layers_that_do_not_exist_are_refused_by_name() -> None:
    seq2seq, causal = build("mbart"), build("llama")
    with pytest.raises(ModelError, match=r"from 1 to 4 .* but 5 were asked for.*encoder_layers"):
        keep_layers(seq2seq, encoder_layers=5, decoder_layers=1)
    with pytest.raises(ModelError, match="but 0 were asked for"):
        keep_layers(seq2seq, encoder_layers=1, decoder_layers=0)
    with pytest.raises(ModelError, match="llama has no encoder"):
        keep_layers(causal, encoder_layers=2, decoder_layers=2)
