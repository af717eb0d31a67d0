"""Which tokens are marks of the model's form and not text, and which of them end a sequence.

Spelled in the data, a mark is text. A user's own special tokens (`<sep>`, `<2de>`) are no marks.
Whatever learns from, writes, decodes or scores sequences asks here, so that all stop alike: at the
tokenizer's eos, at what the generation config lists, at what the chat template closes a turn with.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

from seqdistill.core.errors import ModelError
from seqdistill.core.language_codes import language_codes
from seqdistill.data.templates import TemplateFailure, render

_LOG = logging.getLogger(__name__)
_QUESTION, _ANSWER = "question", "xanswerx"
_PROBE = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]


def marks(tokenizer: PreTrainedTokenizerBase, ends: Iterable[int] = ()) -> dict[str, int]:
    """Spelling -> id of the tokens that only say where things start, end and belong.

    Begin, end, padding, the unknown, what the tokenizer itself puts around a text, what the chat
    template writes, the language codes of multilingual tokenizers, and those special tokens among
    `ends` that a model says its sequences end with.
    """
    named = (
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
        tokenizer.unk_token_id,
        turn_end_id(tokenizer),
    )
    found = {int(token_id) for token_id in named if token_id is not None}
    special = _special_ids(tokenizer)
    found |= special & {*ends, *tokenizer("").input_ids}
    if tokenizer.chat_template is not None:
        template, added = str(tokenizer.chat_template), tokenizer.added_tokens_decoder
        found |= special & {i for i, token in added.items() if token.content in template}
        for turns, opens_answer in ((_PROBE, False), (_PROBE[:1], True)):
            text = _probed(tokenizer, turns, opens_answer) or ""
            form = text.replace(_QUESTION, "").replace(_ANSWER, "")
            found |= {*_special_in(tokenizer, form)}
    if getattr(tokenizer, "src_lang", None) is not None:
        found |= set(language_codes(tokenizer).values())
    return {str(tokenizer.convert_ids_to_tokens(token_id)): token_id for token_id in sorted(found)}


def end_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The end-of-sequence id. Raises ModelError when the tokenizer has none."""
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "The tokenizer must name an end-of-sequence token, but its eos_token is None; set it "
            "in tokenizer_config.json."
        )
    return int(tokenizer.eos_token_id)


def end_ids(
    tokenizer: PreTrainedTokenizerBase, declared: int | Iterable[int] | None = None
) -> tuple[int, ...]:
    """Every id that ends a sequence, the tokenizer's eos first, then in ascending order.

    `declared` is what the model's generation config (or configuration) says: an id, a list or
    nothing. Raises ModelError when there is no end token at all.
    """
    declared = () if declared is None else (declared,) if isinstance(declared, int) else declared
    turn = turn_end_id(tokenizer)
    found = {int(token_id) for token_id in declared} | ({turn} if turn is not None else set())
    if tokenizer.eos_token_id is None and found:
        return tuple(sorted(found))
    first = end_token_id(tokenizer)
    return (first, *sorted(found - {first}))


def turn_end_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the chat template closes an assistant's turn with.

    None without a template, and for one that closes turns with plain text, or with what opens the
    next one. It is found by rendering a probe: `<|im_end|>` for Qwen, `<|eot_id|>` for Llama 3,
    `<end_of_turn>` for Gemma, `<|end|>` for Phi 3, the eos token for Llama 2.
    """
    text = _probed(tokenizer, _PROBE, opens_answer=False) or ""
    opening, answer, closing = text.rpartition(_ANSWER)
    if not answer:
        return None
    found = _special_in(tokenizer, closing)
    openers = {_special_in(tokenizer, before)[-1:] for before in opening.split(_QUESTION)}
    return None if not found or found[:1] in openers else found[0]


def _probed(
    tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], opens_answer: bool
) -> str | None:
    """The turns in the chat template; None where there is none, or it refuses them."""
    if tokenizer.chat_template is None:
        return None
    try:
        return render(tokenizer, turns, opens_answer=opens_answer).text
    except TemplateFailure as error:  # told where conversations are rendered
        _LOG.info("the chat template renders no probe: it %s", error)
        return None


def _special_in(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """The special tokens of a text, in order."""
    special = _special_ids(tokenizer)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return tuple(int(token_id) for token_id in ids if token_id in special)


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of tokens that are marks and not text: named ones and added ones that say so."""
    added = tokenizer.added_tokens_decoder
    return frozenset(tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}
