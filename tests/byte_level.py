"""Decoder-only models with byte-level BPE tokenizers that cut texts as real families do."""

from __future__ import annotations

from typing import Any

import torch
from tests.tiny import tiny_model
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from seqdistill.generation import gguf_file
from seqdistill.models.loading import LoadedModel

TEXTS = ["the cat sat on a mat in 2026", "Grüße aus Köln! we'll see 12345", "a = b + c;  # ok"] * 4
TEMPLATE = "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
SPLITS = {name: pattern for pattern, name in gguf_file._SPLITS.items()}
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}


def byte_level(cut: str, *, prefix: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer trained here that cuts as the families do, with marks and a word of its own."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=cut == "llama-bpe"))
    by_words = cut in ("gpt-2", "smollm")
    steps: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=by_words)]
    if cut == "smollm":
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    if cut in SPLITS:
        steps.insert(0, pre_tokenizers.Split(Regex(SPLITS[cut]), "isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.normalizer = normalizers.NFC() if cut == "qwen2" else None
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|bos|>", "<|end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if cut == "llama-bpe":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|bos|> $A", special_tokens=[("<|bos|>", 0)]
        )
    found = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token="<|end|>"
    )
    found.add_tokens(["<think>"])
    found.chat_template = TEMPLATE
    return found


def model_of(name: str, size: int) -> PreTrainedModel:
    ends = {"vocab_size": size, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    if name in ("mistral", "qwen3"):
        # transformers' reader takes the width of Qwen3's heads for granted.
        more = {"sliding_window": None} if name == "mistral" else {"head_dim": 128}
        config, model = {
            "mistral": (MistralConfig, MistralForCausalLM),
            "qwen3": (Qwen3Config, Qwen3ForCausalLM),
        }[name]
        torch.manual_seed(0)
        made: PreTrainedModel = model(config(**SHAPE, **ends, **more)).eval()
        return made
    shape = {key: value for key, value in SHAPE.items() if key != "initializer_range"}
    made = tiny_model(name, vocab_size=size, **shape, head_dim=16)
    made.config.bos_token_id, made.config.eos_token_id = 0, 1
    made.generation_config.eos_token_id = 1
    return made


def pair_of(name: str, cut: str) -> LoadedModel:
    tokenizer = byte_level(cut)
    # A few rows of padding, as families have them.
    return LoadedModel(model_of(name, len(tokenizer) + 5), tokenizer, name)
