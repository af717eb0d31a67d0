"""When may two models' token ids be compared? When the ids mean the same strings.

Works on tokenizers and row counts; changes no model.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from seqdistill.core.errors import ModelError


def _tokens_by_id(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {token_id: token for token, token_id in tokenizer.get_vocab().items()}


def num_known_ids(tokenizer: PreTrainedTokenizerBase) -> int:
    """Every id that the tokenizer gives a meaning to lies below this: rows beyond are padding."""
    return int(max(tokenizer.get_vocab().values())) + 1


def check_one_end(
    student: PreTrainedTokenizerBase,
    teacher: PreTrainedTokenizerBase,
    *,
    student_end_id: int,
    teacher_end_id: int,
) -> None:
    """Nothing for models that end their sequences alike; ModelError naming both end tokens else.

    The tokenizers map ids to the same strings (`shared_vocab_size`). A base model and an instruct
    model of one family differ in this alone: its teacher would never say the student's end.
    """
    if student_end_id == teacher_end_id:
        return
    said = [
        f"{tokenizer.convert_ids_to_tokens(end_id)!r} (id {end_id})"
        for tokenizer, end_id in ((student, student_end_id), (teacher, teacher_end_id))
    ]
    raise ModelError(
        "Teacher and student must end sequences with one token where they are compared token by "
        f"token, but the student ends with {said[0]} and the teacher with {said[1]}. Set "
        "eos_token in the student's tokenizer_config.json to the teacher's (and eos_token_id in "
        "its generation_config.json), or use method seq_kd, which compares texts."
    )


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
    num_tokens = num_known_ids(student)
    for whose, rows in (("student", student_rows), ("teacher", teacher_rows)):
        if rows < num_tokens:
            raise ModelError(
                f"The {whose}'s output head must have a row for each of its tokenizer's "
                f"{num_tokens} tokens, but it has {rows}; resize its embeddings."
            )
    return min(student_rows, teacher_rows)
