"""What a few real rows say before the first step, and what is refused or warned of then."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import pytest
import torch
from tests.chat_families import FAMILIES, family_tokenizer
from tests.tiny import character_tokenizer, tiny_model
from tokenizers import ByteLevelBPETokenizer, normalizers
from transformers import PreTrainedTokenizerFast

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


def chat_student(family: str) -> None:
    tokenizer = family_tokenizer(family)
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained("student")
    tokenizer.save_pretrained("student")


@pytest.mark.parametrize("family", ["llama-3", "qwen", "gemma", "phi-3", "mistral"])
def test_one_row_is_shown_as_the_student_sees_it(family: str) -> None:
    tokenizer = family_tokenizer(family)
    chat_student(family)
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


def test_letters_of_byte_level_tokens_are_shown_as_people_read_them() -> None:
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(["altı kişi şöför\n", "<s></s>"] * 20, 300, 2, False, ["</s>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, eos_token="</s>")
    tiny_model("llama", vocab_size=len(fast)).save_pretrained("student")
    fast.save_pretrained("student")
    row: dict[str, object] = {"prompt": "bir kişi\n", "completion": "altı kişi 好"}
    prepared = prepared_on([row], "student.model=student", method="baseline")
    lines = dict(shown_row(prepared, prepared.train))
    assert "kişi" in lines["reads"] and lines["reads"].endswith("Ċ")
    assert lines["learns"].startswith("altı Ġkişi Ġ")
    assert lines["learns"].endswith("å ¥ ½ </s>"), "a part of a letter is as the vocabulary has it"


def test_a_student_that_samples_is_not_said_to_learn_the_references() -> None:
    plain_student()
    short = "sequences.rollouts.max_new_tokens=8"
    models = ["student.model=student", "teacher.model=student", short]
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


def test_a_tokenizer_without_the_datas_script_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain_student()
    rows: list[dict[str, object]] = [{"prompt": "rot", "completion": " blau и"}] * 2
    prepared = prepared_on(rows, "student.model=student", method="baseline")
    assert preflight(prepared)["unknown_tokens"] == 4  # bytes
    assert "are unknown to the student's tokenizer" in caplog.text


def test_targets_that_come_back_as_other_texts_are_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain_student(lowercases=True)
    rows: list[dict[str, object]] = [{"prompt": "rot", "completion": " Blau"}]
    prepared = prepared_on(rows, "student.model=student", method="baseline")
    assert preflight(prepared)["texts_changed"] == 1
    assert "' Blau' comes back as ' blau'" in caplog.text


def test_what_a_template_writes_before_answers_is_said_with_the_remedy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    chat_student("qwen-thinking")
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
    chat_student("qwen")
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
    rows: list[dict[str, object]] = [{"prompt": "rot", "completion": " blau"}] * 3
    models = ("student.model=student", "teacher.model=teacher")
    prepared = prepared_on(rows, *models, method="word_kd")
    nats = preflight(prepared)["teacher_nats_per_token"]
    assert isinstance(nats, float)
    assert nats > 4.0
    assert "less than chance" in caplog.text


def test_an_ordinary_row_is_looked_at_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    plain_student()
    rows: list[dict[str, object]] = [{"prompt": "rot", "completion": " blau"}]
    prepared = prepared_on(rows, "student.model=student", method="baseline")
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        preflight(prepared)
    assert not caplog.records


def test_a_target_that_goes_on_behind_its_end_is_refused() -> None:
    plain_student()
    rows: list[dict[str, object]] = [{"prompt": "rot", "completion": " blau"}]
    prepared = prepared_on(rows, "student.model=student", method="baseline")
    (row,) = prepared.train
    twice = dataclasses.replace(row, target_ids=row.target_ids * 2)
    with pytest.raises(DataError, match="goes on behind '</s>'"):
        preflight(dataclasses.replace(prepared, train=EncodedDataset.of([twice])))


def test_targets_of_which_no_text_comes_back_are_refused() -> None:
    plain_student()
    rows: list[dict[str, object]] = [{"prompt": "rot", "completion": " blau"}]
    prepared = prepared_on(rows, "student.model=student", method="baseline")
    end = prepared.student.tokenizer.eos_token_id
    ended = EncodedExample("1", (5,), (int(end),))
    with pytest.raises(DataError, match="come back empty"):
        preflight(dataclasses.replace(prepared, train=EncodedDataset.of([ended])))
