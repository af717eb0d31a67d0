"""When token ids may be compared: equal strings, and padded tails cut on both sides."""

from __future__ import annotations

import pytest
from tests.tiny import character_tokenizer

from seqdistill.core.errors import ModelError
from seqdistill.models.vocabulary import shared_vocab_size

SIZE = len(character_tokenizer())


@pytest.mark.parametrize(
    ("student_rows", "teacher_rows"), [(SIZE, SIZE), (SIZE + 5, SIZE + 9), (SIZE + 9, SIZE + 5)]
)
def test_padded_tails_are_cut_to_the_smaller_head(student_rows: int, teacher_rows: int) -> None:
    student, teacher = character_tokenizer(closes=True), character_tokenizer(closes=False)
    size = shared_vocab_size(student, teacher, student_rows=student_rows, teacher_rows=teacher_rows)
    assert size == min(student_rows, teacher_rows)


@pytest.mark.parametrize(
    ("ours", "theirs", "first"),
    [
        (["x1", "same", "only"], ["y1", "same"], "'x1' for the student and 'y1' for the teacher"),
        ([], ["<tool>"], "None for the student and '<tool>' for the teacher"),
    ],
)
def test_another_string_for_an_id_is_refused_naming_both_sizes_and_the_token(
    ours: list[str], theirs: list[str], first: str
) -> None:
    student, teacher = character_tokenizer(extra=ours), character_tokenizer(extra=theirs)
    sizes = f"student has {SIZE + len(ours)} tokens and the teacher {SIZE + len(theirs)}"
    with pytest.raises(ModelError, match=f"{sizes}, and id {SIZE} is {first}.*seq_kd"):
        shared_vocab_size(student, teacher, student_rows=64, teacher_rows=64)


@pytest.mark.parametrize("short", ["student", "teacher"])
def test_a_head_smaller_than_its_tokenizer_is_refused(short: str) -> None:
    tokenizer = character_tokenizer()
    rows = {"student": SIZE, "teacher": SIZE, short: SIZE - 1}
    with pytest.raises(ModelError, match=f"The {short}'s output head .* it has {SIZE - 1}"):
        shared_vocab_size(
            tokenizer, tokenizer, student_rows=rows["student"], teacher_rows=rows["teacher"]
        )
