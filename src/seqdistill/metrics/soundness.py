"""Signs that a system is broken, whatever it scores: never to be recommended.

Plain numbers in, sentences out; loads nothing, so that a report can ask. Chooses no system.
"""

from __future__ import annotations

MAX_UNFINISHED_SHARE = 0.1
"""More outputs than this without an end: the system runs into the limit of length."""
MAX_EMPTY_SHARE = 0.1
"""More outputs than this without any text."""
MAX_REPETITION_RISE = 0.2
"""Repeated 4-grams, as a fraction of an output's, beyond the references' own."""
MIN_TEACHER_SHARE = 0.5
"""A student that keeps less of its teacher's score is no smaller teacher."""
RULE = (
    f"A system is called broken when more than {MAX_UNFINISHED_SHARE:.0%} of its beam outputs have "
    f"no end, more than {MAX_EMPTY_SHARE:.0%} are empty, its outputs repeat their own 4-grams "
    f"by {100 * MAX_REPETITION_RISE:.0f} points more than the references do, or it keeps "
    f"less than {MIN_TEACHER_SHARE:.0%} of the teacher’s score."
)


def faults_of(
    *,
    outputs: int,
    unfinished: int,
    empty: int,
    repetition: float,
    repetition_references: float,
    kept: float | None,
) -> list[str]:
    """What is wrong with a system, each a few words; nothing of a sound one.

    `unfinished` and `empty` count outputs, the repetitions are fractions of 4-grams, and `kept` is
    `fraction_kept` of the teacher's score, where there is a teacher.
    """
    found = []
    for number, words, limit in (
        (unfinished, "have no end", MAX_UNFINISHED_SHARE),
        (empty, "are empty", MAX_EMPTY_SHARE),
    ):
        if number > limit * outputs:
            found.append(f"{number} of {outputs} outputs {words}")
    if repetition - repetition_references > MAX_REPETITION_RISE:
        found.append(
            f"{repetition:.0%} of an output’s 4-grams repeat earlier ones, "
            f"{repetition_references:.0%} of a reference’s do"
        )
    if kept is not None and kept < MIN_TEACHER_SHARE:
        found.append(f"it keeps {kept:.0%} of the teacher’s score")
    return found


def fraction_kept(own: float, teacher: float, *, higher_is_better: bool) -> float | None:
    """own / teacher; of error rates what is right, 100 less the rate, is compared."""
    if not higher_is_better:
        own, teacher = max(0.0, 100.0 - own), max(0.0, 100.0 - teacher)
    return own / teacher if teacher > 0.0 else None
