"""A chat template is a stranger's program: whatever it raises is one sentence."""

from __future__ import annotations

import pytest
from tests.tiny import character_tokenizer
from transformers import PreTrainedTokenizerFast

from seqdistill.core.errors import UserError
from seqdistill.data.examples import Example, Turn
from seqdistill.data.text_encoding import encode

CHAT = [Example("row 7", "", "meow", (Turn("user", "hello"),))]


def with_template(template: str) -> PreTrainedTokenizerFast:
    tokenizer = character_tokenizer(closes=False)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{% include 'x' %}", "'row 7' .* fails on them with TypeError"),
        ("{{ 1/0 }}", "fails on them with ZeroDivisionError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails on them with RecursionError"),
        ("{{ raise_exception('no') }}", "refuses them: no; fix its roles"),
        ("{{ messages.__class__.__mro__ }}", "refuses them: .*unsafe"),
    ],
)
def test_whatever_a_template_raises_is_a_sentence(template: str, found: str) -> None:
    with pytest.raises(UserError, match=found):
        encode(CHAT, with_template(template), "causal")
