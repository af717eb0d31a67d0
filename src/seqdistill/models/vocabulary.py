"""When may two models' token ids be compared? When the ids mean the same strings."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from seqdistill.core.errors import ModelError


def num_known_ids(tokenizer: PreTrainedTokenizerBase) -> int:
    """Every id that the tokenizer gives a meaning to lies below this: rows beyond are padding."""
    return int(max(tokenizer.get_vocab().values())) + 1


def check_ends(
    student: PreTrainedTokenizerBase,
    teacher: PreTrainedTokenizerBase,
    *,
    student_end_ids: Sequence[int],
    teacher_end_ids: Sequence[int],
) -> None:
    """Raises ModelError, naming both sets, for models that end their sequences differently.

    A base model and an instruct model of one family often differ in this alone: the student goes
    on where the teacher ends, or the other way round. The order does not count: each may close its
    own targets with another of the set.
    """
    if set(student_end_ids) == set(teacher_end_ids):
        return
    raise ModelError(
        "Teacher and student must end sequences with the same tokens where they are compared token "
        f"by token, but the student ends with {named_tokens(student, student_end_ids)} and the "
        f"teacher with {named_tokens(teacher, teacher_end_ids)}. "
        "Set eos_token in the student's tokenizer_config.json and eos_token_id in its "
        "generation_config.json, where a list names several, to what the teacher's are, or use "
        "method seq_kd, which compares texts. (What a chat template closes turns with is an end, "
        "too.)"
    )


def named_tokens(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """The tokens for a message: `'</s>' (id 2), '<|im_end|>' (id 5)`."""
    return ", ".join(f"{tokenizer.convert_ids_to_tokens(i)!r} (id {i})" for i in token_ids)


def check_starts(
    student: PreTrainedTokenizerBase,
    teacher: PreTrainedTokenizerBase,
    *,
    student_start: Sequence[int | None],
    teacher_start: Sequence[int | None],
) -> None:
    """Raises ModelError, naming both, for decoders that begin with different tokens.

    A batch begins in one way for both: to the other's start token a model answers anything.
    """
    if list(student_start) == list(teacher_start):
        return
    said = [
        named_tokens(tokenizer, [i for i in start if i is not None]) or "nothing of its own"
        for tokenizer, start in ((student, student_start), (teacher, teacher_start))
    ]
    raise ModelError(
        "The decoders of teacher and student must begin alike where they are compared token by "
        f"token, but the student's begins with {said[0]} and the teacher's with {said[1]}. Set "
        "decoder_start_token_id and forced_bos_token_id of the student's config.json and "
        "generation_config.json to the teacher's, or use method seq_kd, which compares texts."
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
    student_tokens, teacher_tokens = (
        {token_id: token for token, token_id in tokenizer.get_vocab().items()}
        for tokenizer in (student, teacher)
    )
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
