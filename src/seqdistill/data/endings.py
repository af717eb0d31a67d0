"""Where a sequence ends: the one owner of the set of end tokens.

A model may end a sequence with its tokenizer's eos, with any token that its generation config
lists, or with what its chat template closes an assistant's turn with. Whatever learns from, writes,
decodes or scores sequences asks here, so that all of it stops at the same place.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

from seqdistill.core.errors import ModelError
from seqdistill.data.templates import TemplateFailure, render

_LOG = logging.getLogger(__name__)
_QUESTION, _ANSWER = "question", "xanswerx"


def end_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The end-of-sequence id. Raises ModelError when the tokenizer has none."""
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "The tokenizer must name an end-of-sequence token, but its eos_token is None; set it "
            "in tokenizer_config.json."
        )
    return int(tokenizer.eos_token_id)


def turn_end_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the chat template closes an assistant's turn with.

    None without a template, and for one that closes turns with plain text, or with what opens the
    next one. It is found by rendering a probe: `<|im_end|>` for Qwen, `<|eot_id|>` for Llama 3,
    `<end_of_turn>` for Gemma, `<|end|>` for Phi 3, the eos token for Llama 2.
    """
    if tokenizer.chat_template is None:
        return None
    turns = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = render(tokenizer, turns, opens_answer=False).text
    except TemplateFailure as error:  # whoever needs the template says what is wrong
        _LOG.info("the chat template renders no probe of two turns: it %s", error)
        return None
    opening, answer, closing = text.rpartition(_ANSWER)
    if not answer:
        return None
    marks = _marks(tokenizer, closing)
    openers = {_marks(tokenizer, before)[-1:] for before in opening.split(_QUESTION)}
    return None if not marks or marks[:1] in openers else marks[0]


def _marks(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """The special tokens of a text, in order."""
    special = special_ids(tokenizer)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return tuple(int(token_id) for token_id in ids if token_id in special)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of tokens that are marks and not text: named ones and added ones that say so."""
    added = tokenizer.added_tokens_decoder
    return frozenset(tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}


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
    first = tokenizer.eos_token_id
    if first is None and not found:
        return (end_token_id(tokenizer),)  # raises
    first = min(found) if first is None else int(first)
    return (first, *sorted(found - {first}))
