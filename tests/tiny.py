"""Tiny random models of many architectures and tokenizers with a token a character.

Width 16, one or two layers, 40 symbols. Weights are large, so that logits spread over several nats
and a forgotten scale, cap or bias shows. Nothing is read from disk or network.
"""

from __future__ import annotations

import copy
import dataclasses
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from seqdistill.core.batch import Kind
from seqdistill.data.collating import Collator
from seqdistill.data.encoding import EncodedExample
from seqdistill.models.adapters import SequenceModel

BOS, PAD, EOS, UNK = 0, 1, 2, 3
VOCAB = 40

_BART_LIKE: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 40,
    "init_std": 0.4,
    "decoder_start_token_id": EOS,
}
T5: dict[str, Any] = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "initializer_factor": 1.5,
    "decoder_start_token_id": PAD,
}
_LLAMA_LIKE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 40,
    "initializer_range": 0.4,
}


@dataclasses.dataclass(frozen=True)
class _Architecture:
    kind: Kind
    config: str
    model: str
    settings: Mapping[str, Any]


def _seq2seq(config: str, model: str, settings: dict[str, Any], **more: Any) -> _Architecture:
    return _Architecture("seq2seq", config, model, {**settings, **more})


def _causal(name: str, settings: dict[str, Any], **more: Any) -> _Architecture:
    head = "LMHeadModel" if name == "GPT2" else "ForCausalLM"
    return _Architecture("causal", f"{name}Config", f"{name}{head}", {**settings, **more})


_BART = ("BartConfig", "BartForConditionalGeneration", _BART_LIKE)
_MBART = ("MBartConfig", "MBartForConditionalGeneration", _BART_LIKE)
_MARIAN = ("MarianConfig", "MarianMTModel", _BART_LIKE)
_ARCHITECTURES: dict[str, _Architecture] = {
    "t5": _seq2seq("T5Config", "T5ForConditionalGeneration", T5),
    "t5-untied": _seq2seq("T5Config", "T5ForConditionalGeneration", T5, tie_word_embeddings=False),
    "mt5": _seq2seq("MT5Config", "MT5ForConditionalGeneration", T5),
    "bart": _seq2seq(*_BART),
    "mbart": _seq2seq(*_MBART),
    "marian": _seq2seq(*_MARIAN),
    "marian-untied": _seq2seq(*_MARIAN, tie_word_embeddings=False),
    "llama": _causal("Llama", _LLAMA_LIKE),
    "llama-tied": _causal("Llama", _LLAMA_LIKE, tie_word_embeddings=True),
    "qwen2": _causal("Qwen2", _LLAMA_LIKE, tie_word_embeddings=True),
    "gemma": _causal("Gemma", _LLAMA_LIKE),
    "gemma2": _causal("Gemma2", _LLAMA_LIKE, final_logit_softcapping=2.0),
    "gpt2": _causal(
        "GPT2",
        {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "initializer_range": 0.4},
    ),
}
SEQ2SEQ = tuple(name for name, found in _ARCHITECTURES.items() if found.kind == "seq2seq")
CAUSAL = tuple(name for name, found in _ARCHITECTURES.items() if found.kind == "causal")


def tiny_model(
    name: str, *, seed: int = 0, vocab_size: int = VOCAB, dropout: float = 0.0, **settings: Any
) -> PreTrainedModel:
    """A model in evaluation mode, the same at every call with equal arguments.

    `settings` are of the configuration, where the architecture has them.

    Norms, biases and `final_logits_bias` are moved away from where they start, which would hide
    that one is forgotten.
    """
    given = repr((name, seed, vocab_size, dropout, sorted(settings.items())))
    if given not in _MADE:
        _MADE[given] = _made(name, seed, vocab_size, dropout, settings)
    return copy.deepcopy(_MADE[given])


_MADE: dict[str, PreTrainedModel] = {}
"""A copy takes half of what making one does."""


def _made(
    name: str, seed: int, vocab_size: int, dropout: float, settings: Mapping[str, Any]
) -> PreTrainedModel:
    found = _ARCHITECTURES[name]
    ids = {
        "vocab_size": vocab_size,
        "bos_token_id": BOS,
        "pad_token_id": PAD,
        "eos_token_id": EOS,
        "dropout": dropout,
        "resid_pdrop": dropout,
        "embd_pdrop": dropout,
        "attn_pdrop": dropout,
        "dropout_rate": dropout,
    }
    config_class = getattr(transformers, found.config)
    known = config_class().to_dict().keys() | {"tie_word_embeddings"}
    config = config_class(
        **{k: value for k, value in {**ids, **found.settings, **settings}.items() if k in known}
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = getattr(transformers, found.model)(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
            for buffer_name, buffer in model.named_buffers():
                if buffer_name == "final_logits_bias":
                    buffer.normal_()
            if name == "t5-untied":  # transformers 5 ties T5 whatever the configuration says
                model.lm_head.weight = torch.nn.Parameter(torch.randn(vocab_size, 16))
    return model


def tiny_adapter(name: str, *, seed: int = 0, dropout: float = 0.0) -> SequenceModel:
    """The same model behind its adapter."""
    return SequenceModel(tiny_model(name, seed=seed, dropout=dropout))


def character_tokenizer(
    *, closes: bool = True, extra: Sequence[str] = (), pad: str = "<pad>"
) -> PreTrainedTokenizerFast:
    """Four special tokens, a token for each lower-case letter, space, and a few signs.

    `closes` adds </s> to every text, as tokenizers of encoder-decoders do; else <s> is put in
    front, as tokenizers of decoder-only models do.
    """
    signs = ["Ġ", *string.ascii_lowercase, ".", ",", ":", "Ċ", *extra]
    names = ["<s>", "<pad>", "</s>", "<unk>", *signs]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>" if closes else "<s> $A",
        special_tokens=[("<s>", BOS), ("</s>", EOS)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token=pad,
        unk_token="<unk>",
    )


def random_examples(count: int, *, seed: int = 0, vocab_size: int = VOCAB) -> list[EncodedExample]:
    """Examples of 1 to 9 source and 1 to 8 target tokens, both closed by the end token."""
    generator = torch.Generator().manual_seed(seed)

    def ids(longest: int) -> tuple[int, ...]:
        length = int(torch.randint(1, longest + 1, (), generator=generator))
        body = torch.randint(UNK + 1, vocab_size, (length - 1,), generator=generator)
        return (*body.tolist(), EOS)

    return [EncodedExample(f"e{i}", (4 + i % 7, *ids(8)), ids(8)) for i in range(count)]


def collator(kind: Kind, *, pad_id: int = PAD) -> Collator:
    """Batches as the models of `tiny_model` expect them."""
    return Collator(kind, pad_id=pad_id, start_id=EOS if kind == "seq2seq" else None)


def save_unlisted(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """A model folder as other programs write it, without checksums: its files may change."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
