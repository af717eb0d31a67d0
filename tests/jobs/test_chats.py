"""Chat models from rows to answers: what they read, learn, are rewarded by, show and generate."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.chat_families import family_tokenizer
from tests.jobs.runs import recipe_in, save_chat_model, trained
from tests.tiny import character_tokenizer, tiny_model
from transformers import PreTrainedTokenizerFast

from seqdistill.assembly.models import build_student, build_teacher
from seqdistill.assembly.preparing import prepare
from seqdistill.assembly.teacher_outputs import _encoded, teacher_outputs
from seqdistill.core.errors import DataError, UserError
from seqdistill.core.progress import NoProgress
from seqdistill.data.conversations import prompt_text
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example, Turn
from seqdistill.data.text_encoding import encode
from seqdistill.evaluation.dev import best_of, texts_of
from seqdistill.generation.decoding import Hypothesis
from seqdistill.jobs.evaluate import evaluate_run
from seqdistill.jobs.generate import generate_texts, read_rows
from seqdistill.jobs.plan import plan
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.sources.shards import TeacherOutput

REWARD = """
asked = []

def one(prompts, completions, references):
    asked.extend(prompts)
    return [1.0] * len(prompts)
"""
FRUIT = {"role": "user", "content": "Name a fruit, number 0."}


def chat(number: int) -> dict[str, Any]:
    turns = [
        {"role": "user", "content": f"Name a fruit, number {number}."},
        {"role": "assistant", "content": "apple"},
        {"role": "user", "content": "And another?"},
        {"role": "assistant", "content": "pear"},
    ]
    return {"id": f"c{number}", "messages": turns}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    save_chat_model(tmp_path / "student", "qwen")
    save_chat_model(tmp_path / "teacher", "qwen")
    for name, numbers in (("train", range(4)), ("dev", range(4, 6)), ("test", range(6, 8))):
        rows = "".join(json.dumps(chat(number)) + "\n" for number in numbers)
        (tmp_path / f"{name}.jsonl").write_text(rows, encoding="utf-8")
    return tmp_path


def of_chats(place: Path, method: str, *overrides: str) -> Recipe:
    data = [f"data.{name}={place / name}.jsonl" for name in ("train", "dev", "test")]
    return recipe_in(place, method, *data, "training.steps=2", *overrides)


def rendered(tokenizer: PreTrainedTokenizerFast, number: int, **options: Any) -> str:
    text: str = tokenizer.apply_chat_template(
        chat(number)["messages"][:-1], add_generation_prompt=True, tokenize=False, **options
    )
    return text


def test_conversations_are_learned_scored_and_shown_whole(place: Path) -> None:
    recipe = of_chats(place, "baseline", "evaluation.max_new_tokens=4", "evaluation.beam_size=2")
    prepared = prepare(recipe)
    assert [len(example.counted_spans) for example in prepared.train] == [1] * 4
    last = prepare(of_chats(place, "baseline", "data.assistant_turns=last"))
    assert [example.counted_spans for example in last.train] == [()] * 4
    planned = plan(recipe)
    assert planned.target_tokens == sum(example.num_counted for example in prepared.train)
    run = trained(recipe)
    evaluate_run(run, progress=NoProgress())
    tokenizer = prepared.student.tokenizer
    shown = [json.loads(line) for line in (run.path / "samples.jsonl").read_text().splitlines()]
    assert [row["source"] for row in shown] == [rendered(tokenizer, n) for n in (6, 7)]


def test_rewards_and_rollouts_see_the_whole_prompt(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "chat_rewards.py").write_text(REWARD, encoding="utf-8")
    monkeypatch.syspath_prepend(str(place))
    recipe = of_chats(
        place,
        "gkd_rl",
        "objective.reward.function=chat_rewards:one",
        "sequences.rollouts.samples_every=1",
    )
    rows = trained(recipe).read_rollouts()
    tokenizer = family_tokenizer("qwen")
    whole = {rendered(tokenizer, number) for number in range(4)}
    assert rows and {row["prompt"] for row in rows} <= whole
    assert set(sys.modules.pop("chat_rewards").asked) <= whole


def test_chats_without_an_answer_are_prompts(place: Path) -> None:
    asked = [[{"role": "user", "content": word}] for word in ("rot", "blau", "zwei")]
    rows = "".join(json.dumps({"messages": turns}) + "\n" for turns in asked)
    (place / "chats.jsonl").write_text(rows, encoding="utf-8")
    given = (f"data.train={place / 'chats.jsonl'}", "sequences.rollouts.samples_every=1")
    kept = trained(of_chats(place, "on_policy_kd", *given)).read_rollouts()
    template = family_tokenizer("qwen").apply_chat_template
    whole = {template(turns, add_generation_prompt=True, tokenize=False) for turns in asked}
    assert kept and {row["prompt"] for row in kept} <= whole
    assert all(row["reference"] is None for row in kept)


def test_a_teachers_answers_are_one_text_with_the_students_prompt(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = save_chat_model(place / "student", "gemma")
    recipe = of_chats(place, "seq_kd", "data.dev=null")
    teacher = build_teacher(recipe)
    examples = prepare(recipe).train_examples
    student = build_student(recipe, teacher, examples)
    texts = ["pear", "It is so.", "It is so. pear", "apple pear"]
    answers = [
        (example.id, [TeacherOutput(example.id, 0, (), text, 0.0)])
        for example, text in zip(examples, texts, strict=True)
    ]
    best = lambda outputs, _count: outputs  # noqa: E731
    corpus = SimpleNamespace(by_example=lambda: answers, best=best, folder=Path())
    monkeypatch.setattr("seqdistill.assembly.teacher_outputs.label_with_teacher", lambda *_: corpus)
    found, _ = teacher_outputs(recipe, teacher, student, examples, NoProgress())
    outputs = dict(found)
    for example, text in zip(examples, texts, strict=True):
        turns = [turn.as_dict() for turn in example.messages or ()]
        answered = [*turns, {"role": "assistant", "content": text}]
        whole = tokenizer.apply_chat_template(answered, return_dict=False)[:-1]  # a line break
        (ids,) = outputs[example.id]
        assert tuple(whole[-len(ids) :]) == ids
        assert tokenizer.decode(list(ids)) == f"{text}<end_of_turn>"


def test_an_llms_output_keeps_its_first_blank_for_another_tokenizer() -> None:
    teacher, student = (
        LoadedModel(tiny_model("llama", vocab_size=len(tokenizer)), tokenizer, "model")
        for tokenizer in map(family_tokenizer, ("llama-3", "gemma"))
    )
    for prompt, answer in (("the cat", " sat on a mat"), ("the cat\n", "sat"), ("the ca", "t")):
        ids = teacher.tokenizer(answer, add_special_tokens=False).input_ids
        end = teacher.tokenizer.eos_token_id
        output = TeacherOutput("a", 0, (*ids, end), answer.strip(), -1.0)
        asked = [Example("a", prompt, None)]
        [(_, [found])] = _encoded([("a", [output])], Recipe(), teacher, student, asked)
        [expected] = encode([Example("a", prompt, answer)], student.tokenizer, "causal")
        assert found == expected.target_ids


def test_an_end_that_only_the_model_declares_is_no_text_of_an_output() -> None:
    tokenizer = character_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|call|>"]})
    end = tokenizer.convert_tokens_to_ids("<|call|>")
    ids = (*tokenizer("ab", add_special_tokens=False).input_ids, end)
    written = [[Hypothesis(ids, -1.0, finished)] for finished in (True, False)]

    class Writes:
        def generate(self, *_: Any, **__: Any) -> list[list[Hypothesis]]:
            return written

    examples = [EncodedExample("1", (5,), ())] * 2
    found = texts_of(best_of(Writes(), examples, Decoding(max_new_tokens=9)), tokenizer)
    assert [text.replace(" ", "") for text in found] == ["ab", "ab<|call|>"]


def test_generate_reads_what_the_template_makes_of_a_prompt(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    tokenizer = save_chat_model(place / "thinking", "qwen-thinking")
    letter = tokenizer("c").input_ids[0]

    class Spy:
        def generate(self, sources: Any, *_: Any, **__: Any) -> list[list[Any]]:
            asked.extend(list(source) for source in sources)
            return [[Hypothesis((letter,), -1.0, False)] for _ in sources]

    monkeypatch.setattr("seqdistill.jobs.generate.build_generator", lambda *_, **__: Spy())

    def read(prompts: Any, **settings: Any) -> list[str]:
        asked.clear()
        model = str(place / "thinking")
        outputs = generate_texts(model, prompts, progress=NoProgress(), **settings)
        assert outputs == ["c" if isinstance(p, Example) or p.strip() else "" for p in prompts]
        return [tokenizer.decode(ids) for ids in asked]

    template = tokenizer.apply_chat_template
    for options in ({}, {"enable_thinking": False}):
        expected = template([FRUIT], add_generation_prompt=True, tokenize=False, **options)
        assert read([FRUIT["content"]], template_options=options) == [expected]
        rows = read_rows(str(place / "test.jsonl"))
        assert read(rows, template_options=options) == [
            rendered(tokenizer, number, **options) for number in (6, 7)
        ]
    assert read(["a cat\nsat", " "], raw=True) == ["a cat\nsat"]
    with pytest.raises(UserError, match="must name what the model's chat template reads, got 'x'"):
        read(["a cat"], template_options={"x": 1})


def test_a_last_turn_without_content_is_nothing_to_compare_with(place: Path) -> None:
    calls = [{"function": {"name": "weather", "arguments": {"city": "Paris"}}}]
    row = {"messages": [FRUIT, {"role": "assistant", "content": "", "tool_calls": calls}]}
    (place / "dev.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"data.dev must have content .* ends with a call"):
        prepare(of_chats(place, "baseline"))
    prepared = prepare(
        of_chats(place, "baseline", f"data.train={place / 'dev.jsonl'}", "data.dev=null")
    )
    (example,) = prepared.train_examples
    assert example.messages == (Turn(**FRUIT),)
    assert "<tool_call>" in prepared.student.tokenizer.decode(list(prepared.train[0].target_ids))
    assert prompt_text(example, prepared.student.tokenizer).endswith("<|im_start|>assistant\n")
