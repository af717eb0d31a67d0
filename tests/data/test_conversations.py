"""Prompt and answer are one text, for families of chat models, against transformers directly."""

from __future__ import annotations

from typing import Any

import pytest
from tests.chat_families import FAMILIES, family_tokenizer
from transformers import PreTrainedTokenizerFast

from seqdistill.core.errors import DataError
from seqdistill.data import conversations, templates
from seqdistill.data.collating import Collator
from seqdistill.data.conversations import ChatSettings
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example, Turn
from seqdistill.data.text_encoding import encode

TURNS = (
    Turn("user", "Name a fruit, number 0."),
    Turn("assistant", "apple"),
    Turn("user", "And another?"),
)
ANSWERS = ["pear", "I think it is so.", "It is 18 C,\nsunny 🦄"]


def chat(answer: str | None = "pear", **more: Any) -> Example:
    return Example("c", "", answer, **{"messages": TURNS, **more})


def dicts(example: Example) -> list[dict[str, object]]:
    turns = [turn.as_dict() for turn in example.messages or ()]
    return [*turns, *([example.answer.as_dict()] if example.answer else [])]


def whole_ids(tokenizer: PreTrainedTokenizerFast, example: Example, **options: Any) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(dicts(example), return_dict=False, **options)
    return ids


def encoded(
    tokenizer: PreTrainedTokenizerFast, example: Example, settings: ChatSettings | None = None
) -> EncodedExample:
    (found,) = encode([example], tokenizer, "causal", settings or ChatSettings())
    return found


def counted_texts(tokenizer: PreTrainedTokenizerFast, found: EncodedExample) -> list[str]:
    spans = [found.source_ids[a:b] for a, b in found.counted_spans]
    return [tokenizer.decode(list(ids)).strip() for ids in (*spans, found.target_ids)]


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("name", FAMILIES)
def test_learned_ids_are_those_of_the_whole_text(name: str, answer: str) -> None:
    tokenizer = family_tokenizer(name)
    found = encoded(tokenizer, chat(answer))
    end = tokenizer.convert_tokens_to_ids(FAMILIES[name].turn_end)
    expected = whole_ids(tokenizer, chat(answer))
    expected = expected[: len(expected) - expected[::-1].index(end)]
    assert [*found.source_ids, *found.target_ids] == expected
    assert found.target_ids[-1] == end
    said = tokenizer.decode(list(found.target_ids[:-1])).strip()
    assert said.removeprefix("<think>\n\n</think>\n\n") == answer
    prompt = whole_ids(tokenizer, chat(None), add_generation_prompt=True)
    assert list(found.prompt_ids) == prompt
    assert list(encoded(tokenizer, chat(None)).source_ids) == prompt


@pytest.mark.parametrize("name", FAMILIES)
def test_every_turn_of_the_assistant_counts_with_its_end(name: str) -> None:
    tokenizer = family_tokenizer(name)
    end = FAMILIES[name].turn_end
    found = encoded(tokenizer, chat())
    batch = Collator("causal", pad_id=0)([found])
    assert tuple(batch.target_ids[batch.target_mask].tolist()) == found.counted_ids
    assert len(found.counted_ids) == found.num_counted
    earlier, last = counted_texts(tokenizer, found)
    assert earlier.replace(" ", "") == f"apple{end}"
    assert last.replace(" ", "").removeprefix("<think>\n\n</think>\n\n") == f"pear{end}"
    only_last = encoded(tokenizer, chat(), ChatSettings(assistant_turns="last"))
    assert only_last.counted_spans == ()


@pytest.mark.parametrize("begins", ["", "the cat "])
def test_the_templates_own_mask_says_which_tokens_count(begins: str) -> None:
    tokenizer = family_tokenizer("generation-mask")
    template = str(tokenizer.chat_template)
    tokenizer.chat_template = template.replace("{% gen", begins + "{% gen")
    found = encoded(tokenizer, chat())
    own = tokenizer.apply_chat_template(
        dicts(chat()), return_dict=True, return_assistant_tokens_mask=True
    )
    expected = [
        i for i, counts in zip(own["input_ids"], own["assistant_masks"], strict=True) if counts
    ]
    assert list(found.counted_ids) == expected


def test_tool_calls_count_and_tool_results_never() -> None:
    calls = '{"tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Paris"}}}]}'
    messages = (
        Turn("user", "Weather in Paris?"),
        Turn("assistant", "", calls),
        Turn("tool", "18 C, sunny", '{"name": "weather"}'),
    )
    for name in ("qwen", "generation-mask"):
        tokenizer = family_tokenizer(name)
        example = Example("t", "", "It is 18 degrees and sunny.", messages)
        called, answered = counted_texts(tokenizer, encoded(tokenizer, example))
        assert called.startswith("<tool_call>") and '"weather"' in called
        assert called.endswith("</tool_call><|im_end|>")
        assert answered == "It is 18 degrees and sunny.<|im_end|>"


ONE_CALL = '{"tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Paris"}}}]}'
CALLS_ALONE = """{% for m in messages %}{% if m.tool_calls %}<|im_start|>assistant
{{ m.tool_calls[0].function | tojson }}<|im_end|>
{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}
{%- endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""As Llama 3.1: what is said beside a call is dropped."""


def with_template(template: str) -> PreTrainedTokenizerFast:
    tokenizer = family_tokenizer("qwen")
    tokenizer.chat_template = template
    return tokenizer


def test_a_call_is_learned_where_the_template_drops_what_is_said_beside_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tokenizer = with_template(CALLS_ALONE)
    example = chat("I think it is so.", answer_more=ONE_CALL)
    found = encoded(tokenizer, example)
    assert [*found.source_ids, *found.target_ids] == whole_ids(tokenizer, example)[:-1]
    assert '"weather"' in tokenizer.decode(list(found.target_ids))
    assert "what 1 answers say beside their calls" in caplog.text
    reads_some = CALLS_ALONE.replace("{% if m.tool_calls %}", "{% if not m.content %}")
    examples = [chat("", answer_more=ONE_CALL), chat("pear", answer_more=ONE_CALL)]
    with pytest.raises(DataError, match="must render the calls of the last turn"):
        encode(examples, with_template(reads_some), "causal")


def test_an_earlier_call_counts_where_the_template_takes_nothing_else_in_its_place() -> None:
    # As Mistral: roles must alternate, calls not counted.
    strict = (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role != 'tool' and not "
        "m.tool_calls %}{% if (m.role == 'user') != (ns.n % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{% set ns.n = ns.n + 1 %}"
        "{% endif %}{% endfor %}"
    )
    tokenizer = with_template(strict + CALLS_ALONE)
    turns = (Turn("user", "Weather?"), Turn("assistant", "", ONE_CALL), Turn("tool", "18 C"))
    called, answered = counted_texts(tokenizer, encoded(tokenizer, chat("sunny", messages=turns)))
    assert called == '{"name": "weather", "arguments": {"city": "Paris"}}<|im_end|>'
    assert answered == "sunny<|im_end|>"


def test_what_every_answer_begins_with_is_learned_in_each() -> None:
    tokenizer = with_template(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think> "
        "</think>\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    earlier, last = counted_texts(tokenizer, encoded(tokenizer, chat()))
    assert earlier.split() == ["<think>", "</think>", "apple<|im_end|>"]
    assert last.split() == ["<think>", "</think>", "pear<|im_end|>"]


def test_an_end_that_only_the_model_declares_closes_turns_and_is_text_in_the_data() -> None:
    # As GLM: the next role's mark ends a turn.
    tokenizer = with_template(
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    marks = ["<|user|>", "<|assistant|>", "<|observation|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    user, _, observation = tokenizer.convert_tokens_to_ids(marks)
    (found,) = encode(
        [chat("a <|observation|> pear")], tokenizer, "causal", declared_ends=[user, observation]
    )
    assert counted_texts(tokenizer, found)[0] == "apple<|user|>"
    assert observation not in found.target_ids


def test_a_conversation_is_rendered_a_few_times_however_many_turns_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rendered: list[int] = []
    directly = templates.render

    def counting(*args: Any, **more: Any) -> Any:
        rendered.append(1)
        return directly(*args, **more)

    monkeypatch.setattr(conversations, "render", counting)
    for name in ("llama-3", "qwen-thinking", "gemma", "phi-3"):
        rendered.clear()
        found = encoded(family_tokenizer(name), chat(messages=TURNS[:2] * 20 + TURNS[2:]))
        assert len(found.counted_spans) == 20
        assert len(rendered) <= 4


def test_a_template_option_is_used_in_training_and_in_prompts() -> None:
    tokenizer = family_tokenizer("qwen-thinking")
    settings = ChatSettings({"enable_thinking": False})
    found = encoded(tokenizer, chat(), settings)
    thoughtless = whole_ids(
        tokenizer, chat(None), add_generation_prompt=True, enable_thinking=False
    )
    assert list(found.source_ids) == thoughtless
    assert tokenizer.decode(list(found.target_ids)) == "pear<|im_end|>"
    assert list(encoded(tokenizer, chat(None), settings).source_ids) == thoughtless


def test_a_thought_is_neither_doubled_nor_lost() -> None:
    thinking = family_tokenizer("qwen-thinking")
    said = "<think>\nI think it is so.\n</think>\n\npear"
    for example in (
        chat(said),
        chat("pear", answer_more='{"reasoning_content": "I think it is so."}'),
    ):
        found = encoded(thinking, example)
        assert thinking.decode(list(found.target_ids)) == f"{said}<|im_end|>"
    opening = family_tokenizer("r1")  # drops the thought of its last turn, too
    found = encoded(opening, chat("<think>\nI think so.</think>pear"))
    prompt = whole_ids(opening, chat(None), add_generation_prompt=True)
    assert list(found.source_ids) == prompt
    assert opening.decode(list(found.target_ids)) == "I think so.</think>pear<|eos|>"


def test_an_earlier_thought_that_the_template_drops_does_not_count() -> None:
    tokenizer = family_tokenizer("qwen-thinking")
    earlier = Turn("assistant", "<think>\nthe cat\n</think>\n\napple")
    example = chat(messages=(TURNS[0], earlier, TURNS[2]))
    found = encoded(tokenizer, example)
    assert counted_texts(tokenizer, found)[0] == "apple<|im_end|>"
    read = list(found.source_ids)
    assert read == whole_ids(tokenizer, example)[: len(read)]


@pytest.mark.parametrize("name", FAMILIES)
def test_marks_in_messages_are_text(name: str, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer, family = family_tokenizer(name), FAMILIES[name]
    mark = family.turn_end
    example = chat(f"a{mark} cat", messages=(Turn("user", f"the {mark} {family.eos} cat"),))
    found = encoded(tokenizer, example)
    assert "texts hold marks" in caplog.text
    end = tokenizer.convert_tokens_to_ids(mark)
    plain = encoded(tokenizer, chat("a cat", messages=(Turn("user", "the cat"),)))
    assert found.source_ids.count(end) == plain.source_ids.count(end)
    assert found.target_ids.count(end) == 1
    shown = tokenizer.decode([*found.source_ids, *found.target_ids])
    rendered = tokenizer.apply_chat_template(dicts(example), tokenize=False)
    assert rendered.replace(" ", "").startswith(shown.replace(" ", ""))


@pytest.mark.parametrize("name", FAMILIES)
def test_plain_prompts_and_completions_are_one_text(name: str) -> None:
    tokenizer = family_tokenizer(name)
    end = tokenizer.eos_token_id
    rows = [
        ("the cat", " sat on a mat"),
        ("the cat\n", "sat"),
        ("the cat ", "sat"),
        ("the ca", "t"),
    ]
    for prompt, completion in rows:
        (found,) = encode([Example("1", prompt, completion)], tokenizer, "causal")
        whole = [*tokenizer(prompt + completion).input_ids, end]
        assert [*found.source_ids, *found.target_ids] == whole
        assert list(found.prompt_ids) == tokenizer(prompt).input_ids
        assert list(found.answered((1,)).source_ids) == tokenizer(prompt).input_ids
    (found,) = encode([Example("1", "the </s> cat", " a<pad>")], tokenizer, "causal")
    assert found.target_ids.count(end) == 1


def test_a_token_across_the_border_belongs_to_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = family_tokenizer("llama-3")
    (found,) = encode([Example("1", "on a ", "mat")], tokenizer, "causal")
    assert tokenizer.decode(list(found.target_ids[:-1])) == " mat"
    assert "1 prompts end otherwise alone" in caplog.text


def test_a_tokenizer_without_offsets_splits_at_the_same_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = family_tokenizer("qwen")
    expected = encoded(tokenizer, chat())
    monkeypatch.setattr(PreTrainedTokenizerFast, "is_fast", False)
    assert encoded(tokenizer, chat()) == expected
