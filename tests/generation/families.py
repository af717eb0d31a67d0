"""Tiny random models of the families that users bring, with what makes each one special."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from seqdistill.core.batch import Kind

from .conftest import BART_LIKE, BOS, END, PAD, T5_LIKE, Tiny, word_tokenizer

VOCAB = 24
POSITIONS = 96
WINDOW = 16

_LLAMA: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.4,
}
_GPT: dict[str, Any] = {
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": POSITIONS,
    "initializer_range": 0.4,
}
_FALCON: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.4,
    "max_position_embeddings": POSITIONS,
}
_OPT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "ffn_dim": 32,
    "num_attention_heads": 2,
    "max_position_embeddings": POSITIONS,
    "word_embed_proj_dim": 16,
    "init_std": 0.4,
}
_BART: dict[str, Any] = {**BART_LIKE, "max_position_embeddings": POSITIONS}
_MIXED = ["full_attention", "sliding_attention"]


def _rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 5000.0, "rope_type": kind, **more}}


_FACTORS = {"short_factor": [1.0, 1.0, 1.1, 1.2], "long_factor": [1.0, 2.0, 3.0, 4.0]}
_ORIGINAL = {"original_max_position_embeddings": 24}
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
_QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": WINDOW}

# name -> (configuration, model, settings)
CAUSAL: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("Llama", "ForCausalLM", _LLAMA),
    "llama-biases": ("Llama", "ForCausalLM", {**_LLAMA, "attention_bias": True, "mlp_bias": True}),
    "llama-narrow-heads": ("Llama", "ForCausalLM", {**_LLAMA, "head_dim": 4}),
    "llama-wide-heads": ("Llama", "ForCausalLM", {**_LLAMA, "head_dim": 12}),
    "llama-linear": ("Llama", "ForCausalLM", {**_LLAMA, **_rope("linear", factor=4.0)}),
    "llama-dynamic": ("Llama", "ForCausalLM", {**_LLAMA, **_rope("dynamic", factor=4.0)}),
    "llama-yarn": ("Llama", "ForCausalLM", {**_LLAMA, **_rope("yarn", factor=4.0, **_ORIGINAL)}),
    "llama-llama3": (
        "Llama",
        "ForCausalLM",
        {**_LLAMA, **_rope("llama3", factor=4.0, **_LLAMA3, **_ORIGINAL)},
    ),
    "llama-3.1": (
        "Llama",
        "ForCausalLM",
        {
            **_LLAMA,
            **_rope("llama3", factor=8.0, **_LLAMA3, original_max_position_embeddings=8192),
        },
    ),
    "llama-longrope": (
        "Llama",
        "ForCausalLM",
        {**_LLAMA, **_rope("longrope", factor=4.0, **_FACTORS, **_ORIGINAL)},
    ),
    "mistral": ("Mistral", "ForCausalLM", {**_LLAMA, "sliding_window": None}),
    "mistral-window": ("Mistral", "ForCausalLM", {**_LLAMA, "sliding_window": WINDOW}),
    "mistral-wide-heads": (
        "Mistral",
        "ForCausalLM",
        {**_LLAMA, "head_dim": 12, "sliding_window": None},
    ),
    "mixtral": ("Mixtral", "ForCausalLM", {**_LLAMA, "num_local_experts": 2}),
    "qwen2": ("Qwen2", "ForCausalLM", _LLAMA),
    "qwen2-window": ("Qwen2", "ForCausalLM", {**_LLAMA, **_QWEN_WINDOW, "max_window_layers": 0}),
    "qwen2-mixed": ("Qwen2", "ForCausalLM", {**_LLAMA, **_QWEN_WINDOW, "max_window_layers": 1}),
    "qwen3": ("Qwen3", "ForCausalLM", _LLAMA),
    "qwen3-wide-heads": ("Qwen3", "ForCausalLM", {**_LLAMA, "head_dim": 12}),
    "qwen3-mixed": ("Qwen3", "ForCausalLM", {**_LLAMA, **_QWEN_WINDOW, "max_window_layers": 1}),
    "gemma": ("Gemma", "ForCausalLM", _LLAMA),
    "gemma2": (
        "Gemma2",
        "ForCausalLM",
        {**_LLAMA, "sliding_window": WINDOW, "query_pre_attn_scalar": 8},
    ),
    "gemma2-scalar": (
        "Gemma2",
        "ForCausalLM",
        {**_LLAMA, "query_pre_attn_scalar": 5, "attn_logit_softcapping": None},
    ),
    "gemma3": (
        "Gemma3Text",
        "Gemma3ForCausalLM",
        {
            **_LLAMA,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 8,
            "layer_types": _MIXED,
        },
    ),
    "phi3": ("Phi3", "ForCausalLM", {**_LLAMA, "sliding_window": None}),
    "phi3-window": ("Phi3", "ForCausalLM", {**_LLAMA, "sliding_window": WINDOW}),
    "phi3-partial": (
        "Phi3",
        "ForCausalLM",
        {**_LLAMA, **_rope("default", partial_rotary_factor=0.5)},
    ),
    "phi3-longrope": (
        "Phi3",
        "ForCausalLM",
        {**_LLAMA, **_rope("longrope", **_FACTORS, **_ORIGINAL), **_ORIGINAL},
    ),
    "gpt2": ("GPT2", "LMHeadModel", _GPT),
    "gpt2-scaled": ("GPT2", "LMHeadModel", {**_GPT, "scale_attn_by_inverse_layer_idx": True}),
    "gptj": ("GPTJ", "ForCausalLM", {**_GPT, "rotary_dim": 4}),
    "codegen": ("CodeGen", "ForCausalLM", {**_GPT, "n_head": 4, "rotary_dim": 4}),
    "gpt-bigcode": ("GPTBigCode", "ForCausalLM", _GPT),
    "gpt-bigcode-heads": ("GPTBigCode", "ForCausalLM", {**_GPT, "multi_query": False}),
    "gpt-neo-local": (
        "GPTNeo",
        "ForCausalLM",
        {
            "hidden_size": 16,
            "num_layers": 2,
            "num_heads": 2,
            "max_position_embeddings": POSITIONS,
            "attention_types": [[["global", "local"], 1]],
            "window_size": WINDOW,
            "initializer_range": 0.4,
        },
    ),
    "gpt-neox": (
        "GPTNeoX",
        "ForCausalLM",
        {
            **_LLAMA,
            "rope_parameters": {
                "rope_theta": 10000.0,
                "rope_type": "default",
                "partial_rotary_factor": 0.5,
            },
        },
    ),
    "gpt-neox-theta": (
        "GPTNeoX",
        "ForCausalLM",
        {**_LLAMA, **_rope("default", partial_rotary_factor=0.5)},
    ),
    "falcon": ("Falcon", "ForCausalLM", _FALCON),
    "falcon-new": (
        "Falcon",
        "ForCausalLM",
        {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 1},
    ),
    "falcon-alibi": (
        "Falcon",
        "ForCausalLM",
        {**_FALCON, "alibi": True, "bias": True, "parallel_attn": False, "multi_query": False},
    ),
    "mpt": (
        "Mpt",
        "ForCausalLM",
        {"d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": POSITIONS},
    ),
    "bloom": (
        "Bloom",
        "ForCausalLM",
        {"hidden_size": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.4},
    ),
    "opt": ("OPT", "ForCausalLM", _OPT),
    "opt-projected": (
        "OPT",
        "ForCausalLM",
        {**_OPT, "word_embed_proj_dim": 8, "do_layer_norm_before": False},
    ),
    "starcoder2": ("Starcoder2", "ForCausalLM", {**_LLAMA, "sliding_window": WINDOW}),
}
STATEFUL: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mamba": ("Mamba", "ForCausalLM", {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}),
    "jamba": (
        "Jamba",
        "ForCausalLM",
        {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "num_experts": 2,
            "use_mamba_kernels": False,
            "mamba_d_state": 4,
        },
    ),
    "lfm2": (
        "Lfm2",
        "ForCausalLM",
        {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "layer_types": ["conv", "full_attention"],
        },
    ),
}
_T5_GATED = {**T5_LIKE, "feed_forward_proj": "gated-gelu"}
SEQ2SEQ: dict[str, tuple[str, str, dict[str, Any]]] = {
    "t5": ("T5", "ForConditionalGeneration", T5_LIKE),
    "t5-gated": ("T5", "ForConditionalGeneration", _T5_GATED),
    "t5-narrow-heads": ("T5", "ForConditionalGeneration", {**T5_LIKE, "d_kv": 4}),
    "mt5": ("MT5", "ForConditionalGeneration", _T5_GATED),
    "umt5": ("UMT5", "ForConditionalGeneration", _T5_GATED),
    "bart": ("Bart", "ForConditionalGeneration", _BART),
    "bart-scaled": ("Bart", "ForConditionalGeneration", {**_BART, "scale_embedding": True}),
    "pegasus": ("Pegasus", "ForConditionalGeneration", _BART),
    "marian": ("Marian", "MarianMTModel", _BART),
    "m2m": ("M2M100", "ForConditionalGeneration", _BART),
    "mbart": ("MBart", "ForConditionalGeneration", _BART),
    "led": ("LED", "ForConditionalGeneration", {**_BART, "attention_window": 16}),
}


def family(name: str) -> Tiny:
    """A fresh model, the same at every call; nothing in it is at its start or zero."""
    config_name, model_name, settings = {**CAUSAL, **SEQ2SEQ, **STATEFUL}[name]
    ids = {"vocab_size": VOCAB, "bos_token_id": BOS, "pad_token_id": PAD, "eos_token_id": END}
    torch.manual_seed(7)
    config = getattr(transformers, f"{config_name}Config")(**{**ids, **settings})
    if not hasattr(transformers, model_name):
        model_name = config_name + model_name
    model = getattr(transformers, model_name)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape))
            elif name in STATEFUL or config_name in ("Mpt", "Bloom", "Falcon", "GPTNeoX"):
                parameter.normal_(std=0.3)
    kind: Kind = "seq2seq" if name in SEQ2SEQ else "causal"
    end = [END] if kind == "seq2seq" else []
    verify_on = [([5, 6, 7, *end], [4, 7, 8, END]), ([4, 8, 9, 10, 11, *end], [12, 7, 8, 5, END])]
    return Tiny(model, word_tokenizer(VOCAB), kind, [row for row, _ in verify_on], verify_on)
