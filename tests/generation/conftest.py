"""Tiny random models of many architectures, and a tokenizer with a token per id."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from seqdistill.core.batch import Kind

BOS, PAD, END, UNK = 0, 1, 2, 3

BART_LIKE: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 40,
    "init_std": 0.4,
    "decoder_start_token_id": END,
}
T5_LIKE: dict[str, Any] = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "initializer_factor": 1.5,
    "decoder_start_token_id": PAD,
}
_LLAMA_LIKE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 40,
    "initializer_range": 0.4,
    "rope_parameters": {"rope_theta": 5000.0, "rope_type": "default"},
}
_SETTINGS: dict[str, tuple[str, str, Kind, dict[str, Any]]] = {
    "mbart": ("MBartConfig", "MBartForConditionalGeneration", "seq2seq", BART_LIKE),
    "bart": ("BartConfig", "BartForConditionalGeneration", "seq2seq", BART_LIKE),
    "pegasus": ("PegasusConfig", "PegasusForConditionalGeneration", "seq2seq", BART_LIKE),
    "marian": ("MarianConfig", "MarianMTModel", "seq2seq", BART_LIKE),
    "marian-mute-pad": ("MarianConfig", "MarianMTModel", "seq2seq", BART_LIKE),
    "t5": ("T5Config", "T5ForConditionalGeneration", "seq2seq", T5_LIKE),
    "t5-untied-gated": (
        "T5Config",
        "T5ForConditionalGeneration",
        "seq2seq",
        {**T5_LIKE, "tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"},
    ),
    "llama": ("LlamaConfig", "LlamaForCausalLM", "causal", _LLAMA_LIKE),
    "mistral": ("MistralConfig", "MistralForCausalLM", "causal", _LLAMA_LIKE),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", "causal", _LLAMA_LIKE),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", "causal", _LLAMA_LIKE),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", "causal", _LLAMA_LIKE),
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        "causal",
        {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "initializer_range": 0.4},
    ),
}
SEQ2SEQ = tuple(name for name, settings in _SETTINGS.items() if settings[2] == "seq2seq")
CAUSAL = tuple(name for name, settings in _SETTINGS.items() if settings[2] == "causal")


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A random model in evaluation mode with what is needed to decode from it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kind: Kind
    sources: list[list[int]]
    verify_on: list[tuple[list[int], list[int]]]


def build_tiny(name: str, *, vocab_size: int = 24, num_names: int | None = None) -> Tiny:
    """A fresh model, the same at every call; `num_names` below vocab_size pads the vocabulary."""
    config_name, model_name, kind, settings = _SETTINGS[name]
    torch.manual_seed(7)
    specials: dict[str, Any] = {
        "vocab_size": vocab_size,
        "bos_token_id": BOS,
        "pad_token_id": PAD,
        "eos_token_id": END,
    }
    if name == "marian-mute-pad":
        last = vocab_size - 1
        specials |= {"pad_token_id": last}
        settings = {**settings, "decoder_start_token_id": last}
    config = getattr(transformers, config_name)(**{**specials, **settings})
    model = getattr(transformers, model_name)(config).eval()
    if name == "t5-untied-gated":
        model.lm_head.weight = torch.nn.Parameter(torch.randn(vocab_size, 16))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases at their start hide mistakes
                parameter.add_(0.1 * torch.randn(parameter.shape))
        if name.startswith("marian"):
            model.final_logits_bias.normal_(std=0.3)
            row = model.get_input_embeddings().weight[config.pad_token_id]
            row.zero_() if name == "marian-mute-pad" else row.normal_(std=0.4)
            if name == "marian-mute-pad":
                model.final_logits_bias[0, -1] = 0.0
    end = [END] if kind == "seq2seq" else []
    sources = [[5, 6, 7, *end], [4, 8, 9, 10, 11, *end], [3, *end], [4, 12, 9, 10, 5, *end]]
    verify_on = [(source, [4, 7, 8, 5, END]) for source in sources]
    return Tiny(model, word_tokenizer(num_names or vocab_size), kind, sources, verify_on)


@functools.cache
def word_tokenizer(num_names: int) -> PreTrainedTokenizerBase:
    names = ["<s>", "<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(4, num_names))]
    vocabulary = {name: number for number, name in enumerate(names[:num_names])}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>")),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tiny models run fastest on one thread."""
    torch.set_num_threads(1)
