"""Where sequences start and end, for both kinds of model and for chats."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
from tests.tiny import BOS, EOS, PAD, character_tokenizer
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from seqdistill.core.batch import Kind
from seqdistill.core.errors import DataError, ModelError
from seqdistill.data.dataset import cut_long_sources, leave_out_long
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example, Turn
from seqdistill.data.text_encoding import encode
from seqdistill.data.tokenizing import MARK, TextTokenizer

KINDS: tuple[Kind, ...] = ("seq2seq", "causal")
PAIRS = [Example("1", "a cat", "eine katze"), Example("2", "dog", "hund"), Example("3", "x", None)]
PLAIN_CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def letters(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


def chat_tokenizer(template: str) -> PreTrainedTokenizerFast:
    tokenizer = character_tokenizer(closes=False)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("pad", ["<pad>", "</s>"])
@pytest.mark.parametrize("closes", [True, False])
def test_a_tokenizer_that_does_not_close_texts_has_them_closed(closes: bool, pad: str) -> None:
    tokenizer = character_tokenizer(closes=closes, pad=pad)
    start = () if closes else (BOS,)
    first, second, prompt = encode(PAIRS, tokenizer, "seq2seq")
    assert first.source_ids == (*start, *letters(tokenizer, "a cat"), EOS)
    assert first.target_ids == (*start, *letters(tokenizer, "eine katze"), EOS)
    assert (second.id, prompt.id, prompt.target_ids) == ("2", "3", ())


def test_a_language_code_after_the_end_gets_no_second_end() -> None:
    tokenizer = character_tokenizer(extra=["en_XX"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["en_XX"]})
    code = tokenizer.convert_tokens_to_ids("en_XX")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s> en_XX", special_tokens=[("</s>", EOS), ("en_XX", code)]
    )
    first = encode(PAIRS, tokenizer, "seq2seq")[0]
    assert first.source_ids == (*letters(tokenizer, "a cat"), EOS, code)
    assert first.target_ids == (*letters(tokenizer, "eine katze"), EOS, code)


def test_a_target_loses_the_prefix_that_its_decoder_is_given_and_nothing_else() -> None:
    tokenizer = character_tokenizer(closes=False)
    for prefix, start in (([BOS], ()), ([PAD], (BOS,)), ([BOS, PAD], (BOS,))):
        first = encode(PAIRS, tokenizer, "seq2seq", prefix_ids=prefix)[0]
        assert first.target_ids == (*start, *letters(tokenizer, "eine katze"), EOS)


def test_a_mark_that_begins_with_another_is_found_whole() -> None:
    tokenizer = character_tokenizer(extra=["</s>>"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["</s>>"]})
    longer = tokenizer.convert_tokens_to_ids("</s>>")
    noted: Counter[str] = Counter()
    TextTokenizer(tokenizer, noted, [longer]).note(["a </s> b", "c </s>> d"])
    assert noted == {f"{MARK}</s>": 1, f"{MARK}</s>>": 1}


@pytest.mark.parametrize("closes", [True, False])
def test_a_prompt_stays_open_and_a_completion_ends_once(closes: bool) -> None:
    tokenizer = character_tokenizer(closes=closes)
    first, _, prompt = encode(PAIRS, tokenizer, "causal")
    start = () if closes else (BOS,)
    assert first.source_ids == (*start, *letters(tokenizer, "a cat"))
    assert first.target_ids == (*letters(tokenizer, "eine katze"), EOS)
    assert prompt.source_ids == (*start, *letters(tokenizer, "x"))
    assert prompt.target_ids == ()


def test_encoding_together_equals_encoding_one_by_one() -> None:
    tokenizer = chat_tokenizer(PLAIN_CHAT)
    mixed = [PAIRS[0], Example("c", "", "hi", (Turn("user", "hello"),)), *PAIRS[1:]]
    assert encode(mixed, tokenizer, "causal") == [
        encode([example], tokenizer, "causal")[0] for example in mixed
    ]
    for kind in KINDS:
        assert encode([], tokenizer, kind) == []


@pytest.mark.parametrize(("end", "opening"), [("", ""), ("</s>", ""), ("", "thought: ")])
def test_a_chats_answer_starts_where_its_prompt_stops(end: str, opening: str) -> None:
    """And is generated as the template opens it."""
    template = PLAIN_CHAT.replace("{{ m['content'] }}", "{{ m['content'] }}" + end)
    tokenizer = chat_tokenizer(template.replace("assistant: ", f"assistant: {opening}"))
    chat = Example("c", "", "meow", (Turn("system", "be a cat"), Turn("user", "hello")))
    (found,) = encode([chat], tokenizer, "causal")
    prompt = f"system: be a cat{end}\nuser: hello{end}\nassistant: "
    assert list(found.source_ids) == letters(tokenizer, prompt)
    assert list(found.prompt_ids) == letters(tokenizer, prompt + opening)
    assert found.target_ids == (*letters(tokenizer, "meow"), EOS)


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{% include 'x' %}", "fails on them with TypeError"),
        ("{{ 1/0 }}", "fails on them with ZeroDivisionError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails on them with RecursionError"),
        ("{{ raise_exception('roles must alternate') }}", "refuses them: roles must alternate"),
        ("{{ messages.__class__.__mro__ }}", "refuses them: .*unsafe"),
    ],
)
def test_chats_that_cannot_be_encoded_are_refused(template: str, found: str) -> None:
    chat = Example("row 7", "", "meow", (Turn("user", "hello"),))
    with pytest.raises(DataError, match=f"'row 7' .* {found}"):
        encode([chat], chat_tokenizer(template), "causal")
    with pytest.raises(ModelError, match="chat template"):
        encode([chat], character_tokenizer(), "causal")
    with pytest.raises(DataError, match="for decoder-only models"):
        encode([chat], character_tokenizer(), "seq2seq")


LONG = [
    EncodedExample("both fit", (4, 5, EOS), (6, EOS)),
    EncodedExample("long source", (4, 5, 6, EOS), (6, EOS)),
    EncodedExample("long target", (4, EOS), (6, 7, EOS)),
]


def test_long_examples_are_left_out_of_training_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        kept = leave_out_long(LONG, max_source_tokens=3, max_target_tokens=2)
    assert [example.id for example in kept.examples] == ["both fit"]
    assert kept.num_too_long == 2
    assert "left out 2 examples" in caplog.text
    with pytest.raises(DataError, match="all 3 are longer"):
        leave_out_long(LONG, max_source_tokens=1, max_target_tokens=1)
    assert leave_out_long([], max_source_tokens=1, max_target_tokens=1).examples == ()


def test_evaluation_keeps_every_example_and_cuts_long_sources(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        encoder = cut_long_sources(LONG, max_source_tokens=3, kind="seq2seq")
    assert "cut 1 sources to 3 tokens" in caplog.text
    cut = [example.source_ids for example in encoder.examples]
    assert cut == [(4, 5, EOS), (4, 5, EOS), (4, EOS)] and encoder.num_too_long == 1
    causal = cut_long_sources(LONG, max_source_tokens=2, kind="causal")
    assert causal.examples[1].source_ids == (6, EOS), "a prompt keeps what leads into the answer"
    assert [example.target_ids for example in causal.examples] == [e.target_ids for e in LONG]
