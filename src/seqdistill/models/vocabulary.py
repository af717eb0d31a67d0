"""When may two models' token ids be compared? When the ids mean the same strings.

Works on tokenizers and row counts; changes no model.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from seqdistill.core.errors import ModelError


def _tokens_by_id(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {token_id: token for token, token_id in tokenizer.get_vocab().items()}


def shared_vocab_size(
    student: PreTrainedTokenizerBase,
    teacher: PreTrainedTokenizerBase,
    *,
    student_rows: int,
    teacher_rows: int,
) -> int:
    """How many leading ids both models score with the same meaning: what both heads are cut to.

    Both tokenizers must map every id to the same string. Rows past the last real token are
    padding, which families size differently (151,936 against 152,064): the larger is cut to the
    smaller. Raises ModelError naming both sizes and the first differing token, or the head that
    is too small for its own tokenizer.
    """
    student_tokens, teacher_tokens = _tokens_by_id(student), _tokens_by_id(teacher)
    if student_tokens != teacher_tokens:
        every_id = sorted(student_tokens.keys() | teacher_tokens.keys())
        first = next(i for i in every_id if student_tokens.get(i) != teacher_tokens.get(i))
        raise ModelError(
            "Teacher and student must share one vocabulary where token ids are compared, but the "
            f"student has {len(student_tokens)} tokens and the teacher {len(teacher_tokens)}, and "
            f"id {first} is {student_tokens.get(first)!r} for the student and "
            f"{teacher_tokens.get(first)!r} for the teacher. Give the student the teacher's "
            "tokenizer, or use sequence-level distillation (method seq_kd), which compares texts."
        )
    num_tokens = max(student_tokens) + 1
    for whose, rows in (("student", student_rows), ("teacher", teacher_rows)):
        if rows < num_tokens:
            raise ModelError(
                f"The {whose}'s output head must have a row for each of its tokenizer's "
                f"{num_tokens} tokens, but it has {rows}; resize its embeddings."
            )
    return min(student_rows, teacher_rows)
