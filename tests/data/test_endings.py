"""The set of end tokens: what a tokenizer, a generation config and a chat template say."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.tiny import EOS, character_tokenizer
from transformers import PreTrainedTokenizerFast

from seqdistill.core.errors import ModelError
from seqdistill.data.marks import end_ids, turn_end_id

MARKS = ["<|user|>", "<|assistant|>", "<|end|>", "<|sys|>"]
_TURNS = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"


def tokenizer_of(template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = character_tokenizer(closes=False)
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "turn_end"),
    [
        (None, None),
        (_TURNS + "<|end|>{% endfor %}", "<|end|>"),
        (_TURNS + "<|end|>\n{% endfor %}</s>", "<|end|>"),
        ("<|sys|>be kind<|end|>" + _TURNS + "<|end|>{% endfor %}<|assistant|>", "<|end|>"),
        (_TURNS + "{% if m['role'] == 'assistant' %}</s>{% endif %}{% endfor %}", "</s>"),
        (_TURNS + "\n{% endfor %}", None),
        (_TURNS + "\n{% endfor %}<|assistant|>", None),
        ("<|sys|>{{ messages[0]['content'] }}<|end|>", None),
        ("{{ raise_exception('no system turn') }}", None),
    ],
)
def test_the_turn_end_is_what_closes_an_answer(template: str | None, turn_end: str | None) -> None:
    tokenizer = tokenizer_of(template)
    expected = None if turn_end is None else tokenizer.convert_tokens_to_ids(turn_end)
    assert turn_end_id(tokenizer) == expected


@pytest.mark.parametrize(
    ("declared", "named"), [(None, ()), (7, (7,)), ([7, 5], (5, 7)), ((EOS, 9), (9,))]
)
def test_the_tokenizers_own_end_comes_first(
    declared: int | Sequence[int] | None, named: tuple[int, ...]
) -> None:
    tokenizer = tokenizer_of(_TURNS + "<|end|>{% endfor %}")
    turn_end = tokenizer.convert_tokens_to_ids("<|end|>")
    first, *others = end_ids(tokenizer, declared)
    assert first == EOS
    assert others == [*named, turn_end]
    tokenizer.chat_template = tokenizer.eos_token = None
    assert end_ids(tokenizer, [9, 8]) == (8, 9)
    with pytest.raises(ModelError, match="eos_token is None"):
        end_ids(tokenizer, None)
