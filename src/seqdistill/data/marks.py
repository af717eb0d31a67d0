"""Which tokens are marks of the model's form and not text: the one owner of that question.

Where such a mark is spelled in the data it is text, and where a model writes one it is no part of
the text. A user's own special tokens (`<sep>`, `<2de>`) are no marks: they are read as tokens and
stay in what is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from transformers import PreTrainedTokenizerBase

from seqdistill.core.errors import ModelError
from seqdistill.core.language_codes import language_codes
from seqdistill.data.endings import special_ids, turn_end_id
from seqdistill.data.templates import render

_PROBE = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


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
    special = special_ids(tokenizer)
    found = {int(token_id) for token_id in named if token_id is not None}
    found |= special & {*ends, *tokenizer("").input_ids}
    found |= special & set(_written_by_template(tokenizer))
    if getattr(tokenizer, "src_lang", None) is not None:
        found |= set(language_codes(tokenizer).values())
    return {str(tokenizer.convert_ids_to_tokens(token_id)): token_id for token_id in sorted(found)}


def _written_by_template(tokenizer: PreTrainedTokenizerBase) -> Iterator[int]:
    """Special tokens that stand in the template's text, or that it builds for two turns."""
    if tokenizer.chat_template is None:
        return
    text = str(tokenizer.chat_template)
    for token_id, token in tokenizer.added_tokens_decoder.items():
        if token.content in text:
            yield token_id
    for turns in (_PROBE, _PROBE[:1]):
        try:
            rendered = render(tokenizer, turns, opens_answer=turns is not _PROBE)
        except ModelError:
            continue  # told where conversations are rendered
        yield from tokenizer(rendered.text, add_special_tokens=False).input_ids
