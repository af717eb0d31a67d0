"""When token ids may be compared: equal strings, and padded tails cut on both sides."""

from __future__ import annotations

import pytest
import torch
from tests.tiny import character_tokenizer

from seqdistill.core.errors import ModelError
from seqdistill.core.head import Head
from seqdistill.models.vocabulary import shared_vocab_size

SIZE = len(character_tokenizer())


@pytest.mark.parametrize(
    ("student_rows", "teacher_rows"), [(SIZE, SIZE), (SIZE + 5, SIZE + 9), (SIZE + 9, SIZE + 5)]
)
def test_padded_tails_are_cut_to_the_smaller_head(student_rows: int, teacher_rows: int) -> None:
    tokenizer = character_tokenizer()
    size = shared_vocab_size(
        tokenizer, tokenizer, student_rows=student_rows, teacher_rows=teacher_rows
    )
    assert size == min(student_rows, teacher_rows)
    for rows in (student_rows, teacher_rows):
        assert Head(torch.zeros(rows, 2)).cut(size).vocab_size == size


def test_how_texts_are_closed_does_not_matter() -> None:
    size = shared_vocab_size(
        character_tokenizer(closes=True),
        character_tokenizer(closes=False),
        student_rows=SIZE,
        teacher_rows=SIZE,
    )
    assert size == SIZE


def test_another_string_for_an_id_is_refused_naming_both_sizes_and_the_token() -> None:
    student = character_tokenizer(extra=["x1", "same", "only"])
    teacher = character_tokenizer(extra=["y1", "same"])
    with pytest.raises(ModelError) as refused:
        shared_vocab_size(student, teacher, student_rows=64, teacher_rows=64)
    message = str(refused.value)
    for named in (
        f"student has {SIZE + 3} tokens",
        f"teacher {SIZE + 2}",
        f"id {SIZE} is 'x1' for the student and 'y1' for the teacher",
        "seq_kd",
    ):
        assert named in message


def test_real_tokens_past_the_others_end_are_refused_and_not_cut() -> None:
    student, teacher = character_tokenizer(), character_tokenizer(extra=["<tool>"])
    with pytest.raises(ModelError, match=f"id {SIZE} is None for the student and '<tool>'"):
        shared_vocab_size(student, teacher, student_rows=64, teacher_rows=64)


@pytest.mark.parametrize("short", ["student", "teacher"])
def test_a_head_smaller_than_its_tokenizer_is_refused(short: str) -> None:
    tokenizer = character_tokenizer()
    rows = {"student": SIZE, "teacher": SIZE, short: SIZE - 1}
    with pytest.raises(ModelError, match=f"The {short}'s output head .* it has {SIZE - 1}"):
        shared_vocab_size(
            tokenizer, tokenizer, student_rows=rows["student"], teacher_rows=rows["teacher"]
        )
