"""Chat models' families in small: real tokenizer classes, trained here, with templates as theirs.

Each is the least that shows what its family does between text and tokens: byte-level or metaspace,
what the template writes before, around and after an answer, and what it drops or strips.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

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
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "system user assistant tool function name",
    "Answer with one word. Name a fruit, number 0. And another? apple pear",
    "Weather in Paris? It is 18 degrees and sunny. 18 C, sunny",
    "I think it is so. thought think the cat sat on a mat <think> </think> \n\n",
    '{"type": "function", "name": "weather", "arguments": {"city": "Paris"}}',
    " [INST] [/INST] <<SYS>> <</SYS>> ",
] * 3


@dataclasses.dataclass(frozen=True)
class Family:
    """A way to tokenize, special tokens in the order of their ids, and a template."""

    style: Literal["byte-level", "metaspace", "legacy metaspace"]
    bos: str | None
    eos: str
    turn_end: str
    special: str
    template: str


_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Source: the pre-tokenizer of Llama 3; Qwen's differs in the digits."""
_CHATML = """{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"""
_CALLS = """{%- for call in m.tool_calls or [] %}<tool_call>
{{ call.function | tojson }}
</tool_call>{% endfor %}"""
_OPENS = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
_THINKS = """{%- set content = m.content %}{%- set thought = m.reasoning_content or '' %}
{%- if m.role == 'assistant' and '</think>' in content %}
{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}
{%- if m.role == 'assistant' and loop.last %}{{ '<think>\n' + thought + '\n</think>\n\n' }}
{%- endif %}{{ content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}
{%- endif %}{%- endif %}"""
_IM = ("<|im_end|>", "<|im_end|>", "<|endoftext|> <|im_start|> <|im_end|>")
_LLAMA_2 = ("<s>", "</s>", "</s>", "<unk> <s> </s>")
FAMILIES = {
    "llama-3": Family(
        "byte-level",
        *("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
        "<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|>",
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + "
        "'<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
        "{% endif %}",
    ),
    "qwen": Family(
        "byte-level",
        None,
        *_IM,
        _CHATML + "{{ m.content }}" + _CALLS + "<|im_end|>\n{% endfor %}" + _OPENS,
    ),
    # Earlier thoughts are dropped, the last answer always has one, and it may be left out.
    "qwen-thinking": Family("byte-level", None, *_IM, _CHATML + _THINKS),
    "gemma": Family(
        "metaspace",
        *("<bos>", "<eos>", "<end_of_turn>"),
        "<pad> <eos> <bos> <unk> <start_of_turn> <end_of_turn>",
        "{{ bos_token }}{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' "
        "else m['role'] %}{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + "
        "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<start_of_turn>model\n' }}{% endif %}",
    ),
    "phi-3": Family(
        "legacy metaspace",
        *("<s>", "<|endoftext|>", "<|end|>"),
        "<unk> <s> </s> <|endoftext|> <|system|> <|user|> <|assistant|> <|end|>",
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    ),
    "llama-2": Family(
        "legacy metaspace",
        *_LLAMA_2,
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + "
        "m['content'] | trim + ' [/INST]' }}{% elif m['role'] == 'system' %}{{ '<<SYS>>\n' + "
        "m['content'] + '\n<</SYS>>\n\n' }}{% else %}{{ ' ' + m['content'] | trim + ' ' "
        "+ eos_token }}{% endif %}{% endfor %}",
    ),
    "mistral": Family(
        "metaspace",
        *_LLAMA_2,
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] + "
        "eos_token }}{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}{% endfor %}",
    ),
    # The thought is opened by the template, and gone from finished turns.
    "r1": Family(
        "byte-level",
        *("<|bos|>", "<|eos|>", "<|eos|>"),
        "<|bos|> <|eos|> <|User|> <|Assistant|>",
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|Assistant|>' + "
        "m.content.split('</think>')[-1] + eos_token }}{% else %}{{ '<|User|>' + m.content }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}"
        "{% endif %}",
    ),
    "generation-mask": Family(
        "byte-level",
        None,
        *("<|endoftext|>", "<|im_end|>", _IM[2]),
        _CHATML
        + "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        + _CALLS
        + "<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}"
        + "\n{% endfor %}"
        + _OPENS,
    ),
}


@functools.cache
def _trained(name: str) -> str:
    family = FAMILIES[name]
    tokenizer = Tokenizer(
        models.BPE()
        if family.style == "byte-level"
        else models.BPE(byte_fallback=True, unk_token="<unk>")
    )
    special = family.special.split()
    if family.style == "byte-level":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_PATTERN), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        alphabet = []
        special += [f"<0x{byte:02X}>" for byte in range(256)]
        if family.style == "legacy metaspace":
            tokenizer.normalizer = normalizers.Sequence(
                [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
            )
        else:
            tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + 420,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    text: str = tokenizer.to_str()
    return text


def family_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A fresh tokenizer of the family, with its template and marks."""
    family = FAMILIES[name]
    backend = Tokenizer.from_str(_trained(name))
    if family.style != "byte-level":  # bytes are pieces and no marks
        backend.pre_tokenizer = None
    if family.bos is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A",
            special_tokens=[(family.bos, backend.token_to_id(family.bos))],
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=family.bos,
        eos_token=family.eos,
        unk_token=None if family.style == "byte-level" else "<unk>",
        extra_special_tokens=family.special.split(),
    )
    tokenizer.chat_template = family.template
    return tokenizer
