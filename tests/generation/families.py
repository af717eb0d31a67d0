"""Tiny random models of the families that users bring, with what makes each one special."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch
import transformers
from tests.tiny import T5
from tokenizers import Tokenizer, models
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from seqdistill.core.batch import Kind
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator, CTranslate2Sampler
from seqdistill.generation.decoding import SequenceGenerator
from seqdistill.generation.sampling import Sampler, TransformersSampler
from seqdistill.generation.transformers_engine import TransformersGenerator
from seqdistill.recipe.sequences_schema import Decoding

BOS, PAD, END, UNK = 0, 1, 2, 3
VOCAB, POSITIONS, WINDOW = 24, 96, 16
_Family = tuple[str, str, Kind, dict[str, Any]]

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
_BART: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": POSITIONS,
    "init_std": 0.4,
    "decoder_start_token_id": END,
}
_FALCON = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_BLOOM = {"hidden_size": 16, "n_layer": 2, "n_head": 2}
_MPT = {"d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": POSITIONS}
_OPT = {**_FALCON, "ffn_dim": 32, "word_embed_proj_dim": 16, "init_std": 0.4}
_GPT_NEO = {"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}
_MAMBA = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
_RWKV = {"hidden_size": 16, "num_hidden_layers": 2, "context_length": POSITIONS}
_JAMBA = {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 4}
_GATED = {"feed_forward_proj": "gated-gelu"}
_QWEN: dict[str, Any] = {"use_sliding_window": True, "max_window_layers": 1}
_LLAMA3: dict[str, Any] = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
_FACTORS = {"short_factor": [1.0, 1.0, 1.1, 1.2], "long_factor": [1.0, 2.0, 3.0, 4.0]}


def _llm(name: str, base: dict[str, Any] = _LLAMA, *, model: str = "", **more: Any) -> _Family:
    return f"{name}Config", model or f"{name}ForCausalLM", "causal", {**base, **more}


def _pairs(name: str, base: dict[str, Any] = _BART, *, model: str = "", **more: Any) -> _Family:
    model = model or f"{name}ForConditionalGeneration"
    return f"{name}Config", model, "seq2seq", {**base, **more}


def _rope(kind: str = "default", **more: Any) -> dict[str, Any]:
    return {"rope_theta": 5000.0, "rope_type": kind, **more}


CONVERTED: dict[str, _Family] = {
    "llama": _llm("Llama", rope_parameters=_rope()),
    "llama-biases": _llm("Llama", attention_bias=True, mlp_bias=True),
    "llama-linear": _llm("Llama", rope_parameters=_rope("linear", factor=4.0)),
    "mistral": _llm("Mistral", sliding_window=None),
    "qwen2": _llm("Qwen2", rope_parameters=_rope()),
    "qwen3": _llm("Qwen3"),
    "gemma": _llm("Gemma", rope_parameters=_rope()),
    "gpt2": _llm("GPT2", _GPT, model="GPT2LMHeadModel"),
    "gptj": _llm("GPTJ", _GPT, rotary_dim=4),
    "gpt-bigcode": _llm("GPTBigCode", _GPT),
    "gpt-neox": _llm(
        "GPTNeoX",
        rope_parameters={
            "rope_theta": 10000.0,
            "rope_type": "default",
            "partial_rotary_factor": 0.5,
        },
    ),
    "falcon": _llm("Falcon", _FALCON),
    "bloom": _llm("Bloom", _BLOOM),
    "opt": _llm("OPT", _OPT),
    "t5": _pairs("T5", T5),
    "t5-gated": _pairs("T5", T5, **_GATED),
    "t5-untied-gated": _pairs("T5", T5, **_GATED, tie_word_embeddings=False),
    "mt5": _pairs("MT5", T5, **_GATED),
    "umt5": _pairs("UMT5", T5, **_GATED),
    "bart": _pairs("Bart"),
    "bart-scaled": _pairs("Bart", scale_embedding=True),
    "pegasus": _pairs("Pegasus"),
    "marian": _pairs("Marian", model="MarianMTModel"),
    "marian-mute-pad": _pairs("Marian", model="MarianMTModel"),
    "m2m": _pairs("M2M100"),
    "mbart": _pairs("MBart"),
}
REFUSED: dict[str, _Family] = {
    "llama-wide-heads": _llm("Llama", head_dim=12),
    "llama-llama3": _llm(
        "Llama",
        rope_parameters=_rope("llama3", factor=4.0, **_LLAMA3, original_max_position_embeddings=24),
    ),
    "llama-3.1": _llm(
        "Llama",
        rope_parameters=_rope(
            "llama3", factor=8.0, **_LLAMA3, original_max_position_embeddings=8192
        ),
    ),
    "phi3-longrope": _llm(
        "Phi3",
        rope_parameters=_rope("longrope", **_FACTORS, original_max_position_embeddings=24),
        original_max_position_embeddings=24,
    ),
    "mistral-window": _llm("Mistral", sliding_window=WINDOW),
    "mixtral": _llm("Mixtral", num_local_experts=2),
    "qwen3-mixed": _llm("Qwen3", sliding_window=WINDOW, **_QWEN),
    "gemma2": _llm("Gemma2", sliding_window=WINDOW, query_pre_attn_scalar=8),
    "gemma3": _llm(
        "Gemma3Text",
        model="Gemma3ForCausalLM",
        sliding_window=WINDOW,
        query_pre_attn_scalar=8,
        layer_types=["full_attention", "sliding_attention"],
    ),
    "gpt2-scaled": _llm(
        "GPT2", _GPT, model="GPT2LMHeadModel", scale_attn_by_inverse_layer_idx=True
    ),
    "gpt-neo-local": _llm("GPTNeo", {**_LLAMA, **_GPT_NEO}, window_size=WINDOW),
    "gpt-neox-theta": _llm("GPTNeoX", rope_parameters=_rope(partial_rotary_factor=0.5)),
    "mpt": _llm("Mpt", _MPT),
    "starcoder2": _llm("Starcoder2", sliding_window=WINDOW),
    "led": _pairs("LED", attention_window=WINDOW),
}
"""What CTranslate2 4.8 computes otherwise than transformers 5, or not at all."""
STATEFUL: dict[str, _Family] = {
    "mamba": _llm("Mamba", _MAMBA),
    "rwkv": _llm("Rwkv", _RWKV),
    "recurrent-gemma": _llm(
        "RecurrentGemma",
        lru_width=16,
        attention_window_size=16,
        block_types=["recurrent", "attention"],
    ),
    "jamba": _llm("Jamba", {**_LLAMA, **_JAMBA}, use_mamba_kernels=False),
    "lfm2": _llm("Lfm2", layer_types=["conv", "full_attention"]),
}
_FAMILIES = CONVERTED | REFUSED | STATEFUL
_QUIET = ("Mpt", "Bloom", "Falcon", "GPTNeoX", *(family[0][:-6] for family in STATEFUL.values()))
"""Those whose own start leaves all symbols nearly as likely."""

every_model = pytest.mark.parametrize(
    "name",
    [
        "mbart",
        "bart",
        "marian",
        "marian-mute-pad",
        "t5",
        "t5-untied-gated",
        "llama",
        "gemma",
        "gpt2",
    ],
)
one_of_each_kind = pytest.mark.parametrize("name", ["mbart", "llama"])
both_engines = pytest.mark.parametrize("engine", ["transformers", "ctranslate2"])


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A random model in evaluation mode with what is needed to decode from it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kind: Kind
    sources: list[list[int]]
    verify_on: list[tuple[list[int], list[int]]]

    def plain(self, **more: Any) -> TransformersGenerator:
        return TransformersGenerator(self.model, self.tokenizer, kind=self.kind, **more)

    def fast(self, **more: Any) -> CTranslate2Generator:
        settings = {"verify_on": self.verify_on, "threads": 1, **more}
        return CTranslate2Generator(self.model, self.tokenizer, kind=self.kind, **settings)

    def generator(self, engine: str, **more: Any) -> SequenceGenerator:
        return self.plain(**more) if engine == "transformers" else self.fast(**more)

    def sampler(self, engine: str, decoding: Decoding, **more: Any) -> Sampler:
        if engine == "ctranslate2":
            return CTranslate2Sampler(self.model, self.fast(**more), decoding)
        return TransformersSampler(
            self.model, self.tokenizer, kind=self.kind, decoding=decoding, **more
        )


def build_tiny(name: str, *, vocab_size: int = VOCAB, num_names: int | None = None) -> Tiny:
    """A fresh model, the same at every call; `num_names` below vocab_size pads the vocabulary."""
    config_name, model_name, kind, settings = _FAMILIES[name]
    torch.manual_seed(7)
    ids = {"vocab_size": vocab_size, "bos_token_id": BOS, "pad_token_id": PAD, "eos_token_id": END}
    if name == "marian-mute-pad":
        ids["pad_token_id"] = vocab_size - 1
        settings = {**settings, "decoder_start_token_id": vocab_size - 1}
    config = getattr(transformers, config_name)(**{**ids, **settings})
    model = getattr(transformers, model_name)(config).eval()
    if name == "t5-untied-gated":
        model.lm_head.weight = torch.nn.Parameter(torch.randn(vocab_size, 16))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases at their start hide mistakes
                parameter.add_(0.1 * torch.randn(parameter.shape))
            elif config_name.removesuffix("Config") in _QUIET:
                parameter.normal_(std=0.3)
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


def small(name: str, *, rows: int = 5) -> Tiny:
    """A model of so many rows and five symbols, with sentences of these in two lengths."""
    tiny = build_tiny(name, vocab_size=rows, num_names=5)
    end = [END] if tiny.kind == "seq2seq" else []
    sources, pairs = [[4, 3, 3, *end], [3, *end]], [([4, 3, END], [4, 3, END])]
    return dataclasses.replace(tiny, sources=sources, verify_on=pairs)


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
