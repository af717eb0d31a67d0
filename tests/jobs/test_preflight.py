"""What a few real rows say before the first step, and what is refused or warned of then."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from pathlib import Path

import pytest
import torch
from tests.chat_families import FAMILIES
from tests.jobs.runs import save_chat_model
from tests.tiny import character_tokenizer, tiny_model
from tokenizers import normalizers

from seqdistill.assembly.preparing import Prepared, prepare
from seqdistill.core.errors import DataError
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.encoding import EncodedExample
from seqdistill.jobs.preflight import preflight, shown_row
from seqdistill.recipe.loading import load_recipe

CHAT = [
    {"role": "user", "content": "Name a fruit"},
    {"role": "assistant", "content": "apple"},
    {"role": "user", "content": "And another?"},
    {"role": "assistant", "content": "pear"},
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepared_on(rows: list[dict[str, object]], *overrides: str, method: str) -> Prepared:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    Path("train.jsonl").write_text(lines, encoding="utf-8")
    return prepare(load_recipe(method, ["data.train=train.jsonl", "output_dir=run", *overrides]))


@pytest.mark.parametrize("family", ["llama-3", "qwen", "gemma", "phi-3", "mistral"])
def test_one_row_is_shown_as_the_student_sees_it(family: str) -> None:
    tokenizer = save_chat_model(Path("student"), family)
    prepared = prepared_on([{"messages": CHAT}], "student.model=student", method="baseline")
    found, shown = preflight(prepared), shown_row(prepared, prepared.train)
    lines = dict(shown)
    (row,) = prepared.train
    end = FAMILIES[family].turn_end
    assert lines["learns"].split() == tokenizer.convert_ids_to_tokens(list(row.target_ids))
    assert lines["learns"].endswith(end)
    assert f"{end!r} (id {tokenizer.convert_tokens_to_ids(end)})" in lines["stops at"]
    assert lines["first row"].endswith("earlier turns ⟦in brackets⟧ among them: 1")
    learned = lines["reads"].partition("⟦")[2]
    assert "⟧" in learned
    assert end in learned.partition("⟧")[0], "the earlier turn counts up to its end"
    assert found["texts_changed"] == found["unknown_tokens"] == 0


def test_a_student_that_samples_is_not_said_to_learn_the_references() -> None:
    plain_student()
    short = "sequences.rollouts.max_new_tokens=8"
    models = ["student.model=student", "teacher.model=./student", short]
    row: dict[str, object] = {"prompt": "a b ", "completion": "c d"}
    sampling = prepared_on([row], *models, method="on_policy_kd")
    lines = dict(shown_row(sampling, sampling.train))
    assert (lines["first row"], lines["learns"]) == ("1: 5 tokens read", "what it samples")
    mixing = prepared_on([row], *models, method="gkd")
    assert dict(shown_row(mixing, mixing.train))["learns"] == "c Ġ d </s>"


def plain_student(*, lowercases: bool = False) -> None:
    tokenizer = character_tokenizer(closes=False)
    if lowercases:
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    tiny_model("llama").save_pretrained("student")
    tokenizer.save_pretrained("student")


def plain(completion: str, *overrides: str, method: str = "baseline") -> Prepared:
    rows: list[dict[str, object]] = [{"prompt": "rot", "completion": completion}] * 2
    return prepared_on(rows, "student.model=student", *overrides, method=method)


@pytest.mark.parametrize(
    ("completion", "lowercases", "name", "found", "said"),
    [
        (" blau и", False, "unknown_tokens", 4, "are unknown to the student's tokenizer"),  # bytes
        (" Blau", True, "texts_changed", 2, "' Blau' comes back as ' blau'"),
        (" blau", False, "texts_changed", 0, ""),
    ],
)
def test_a_tokenizer_that_does_not_fit_the_texts_is_warned_of(
    completion: str,
    lowercases: bool,
    name: str,
    found: int,
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain_student(lowercases=lowercases)
    prepared = plain(completion)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        looked_at = preflight(prepared)
    assert looked_at[name] == found
    assert said in caplog.text if said else not caplog.records


def test_what_a_template_writes_before_answers_is_said_with_the_remedy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    save_chat_model(Path("student"), "qwen-thinking")
    prepared = prepared_on([{"messages": CHAT[:2]}], "student.model=student", method="baseline")
    assert preflight(prepared)["texts_changed"] == 1
    assert r"writes '<think>\n\n</think>\n\n' before the answers of 1 of" in caplog.text
    remedy = "data.template_options={enable_thinking: false}"
    assert remedy in caplog.text
    caplog.clear()
    models = ("student.model=student", remedy)
    assert preflight(prepared_on([{"messages": CHAT[:2]}], *models, method="baseline"))
    assert "before the answers" not in caplog.text


def test_plain_rows_for_a_chat_model_are_said_to_skip_its_template(
    caplog: pytest.LogCaptureFixture,
) -> None:
    save_chat_model(Path("student"), "qwen")
    rows: list[dict[str, object]] = [{"instruction": "Name a fruit", "output": "pear"}]
    preflight(prepared_on(rows, "student.model=student", method="baseline"))
    assert "has a chat template, but the rows of data.train are plain" in caplog.text


def test_a_teacher_of_other_texts_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    plain_student()
    teacher = tiny_model("llama", seed=1)
    with torch.no_grad():
        teacher.lm_head.weight.mul_(20)  # sure of itself, and of nothing in these data
    teacher.save_pretrained("teacher")
    character_tokenizer(closes=False).save_pretrained("teacher")
    nats = preflight(plain(" blau", "teacher.model=teacher", method="word_kd"))
    assert isinstance(found := nats["teacher_nats_per_token"], float) and found > 4.0
    assert "less likely than chance" in caplog.text


def test_each_of_several_teachers_is_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    plain_student()
    for name, scale in (("calm", 0.0), ("sure", 20.0)):
        model = tiny_model("llama", seed=1)
        with torch.no_grad():
            model.lm_head.weight.mul_(scale)
        model.save_pretrained(name)
        character_tokenizer(closes=False).save_pretrained(name)
    teachers = "teacher.model=[{model: calm}, {model: sure}]"
    nats = preflight(plain(" blau", teachers, method="word_kd"))
    assert nats["teacher_nats_per_token of calm"] == pytest.approx(math.log(40))
    assert "to the teacher sure the first references are" in caplog.text


def test_targets_without_text_or_that_go_on_behind_their_end_are_refused() -> None:
    plain_student()
    prepared = plain(" blau")
    row, _ = prepared.train
    twice = dataclasses.replace(row, target_ids=row.target_ids * 2)
    for wrong, said in (
        (twice, "goes on behind '</s>'"),
        (EncodedExample("1", (5,), row.target_ids[-1:]), "come back empty"),
    ):
        with pytest.raises(DataError, match=said):
            preflight(dataclasses.replace(prepared, train=EncodedDataset.of([wrong])))
