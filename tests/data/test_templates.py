"""A chat template is a stranger's program: whatever it does ends in one sentence, and soon."""

from __future__ import annotations

import time

import pytest
from tests.tiny import character_tokenizer
from transformers import PreTrainedTokenizerFast

from seqdistill.core.errors import UserError
from seqdistill.data import templates
from seqdistill.data.examples import Example, Turn
from seqdistill.data.text_encoding import encode

CHAT = [Example("row 7", "", "meow", (Turn("user", "hello"),))]
LOOP = "{% for i in range(99999) %}"
ENDLESS = LOOP * 3 + "{% endfor %}" * 3


def with_template(template: str) -> PreTrainedTokenizerFast:
    tokenizer = character_tokenizer(closes=False)
    tokenizer.chat_template = template
    return tokenizer


def test_a_template_has_a_limit_of_time_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "MAX_SECONDS", 0.2)
    started = time.perf_counter()
    with pytest.raises(UserError, match=r"within 0\.2 seconds"):
        encode(CHAT, with_template(ENDLESS), "causal")
    assert time.perf_counter() - started < 3
    monkeypatch.setattr(templates, "MAX_CHARACTERS", 1000)
    with pytest.raises(UserError, match=r"in 1,000 characters, but wrote 2,000"):
        encode(CHAT, with_template("{{ 'a' * 2000 }}"), "causal")
