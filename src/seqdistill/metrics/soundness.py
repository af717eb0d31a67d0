"""Signs that a system is broken, whatever it scores: what is never to be recommended.

Plain numbers in, sentences out; loads nothing, so that a report can ask. Chooses no system.
"""

from __future__ import annotations

from collections.abc import Mapping

MAX_UNFINISHED_SHARE = 0.1
"""More outputs than this without an end: the system runs into the limit of length."""
MAX_EMPTY_SHARE = 0.1
"""More outputs than this without any text."""
MAX_REPETITION_RISE = 0.2
"""Repeated runs of four words, as a share of an output's, beyond the references' own."""
MIN_TEACHER_SHARE = 0.5
"""A student that keeps less of its teacher's score is no smaller teacher."""
RULE = (
    f"A system is called broken when more than {MAX_UNFINISHED_SHARE:.0%} of its beam outputs have "
    f"no end, more than {MAX_EMPTY_SHARE:.0%} are empty, its outputs repeat their own runs of four "
    f"words by {100 * MAX_REPETITION_RISE:.0f} points more than the references do, or it keeps "
    f"less than {MIN_TEACHER_SHARE:.0%} of the teacher’s score."
)


def faults_of(
    row: Mapping[str, object],
    *,
    metric: str,
    higher_is_better: bool,
    teacher: Mapping[str, object] | None,
) -> list[str]:
    """What is wrong with a system, each a few words; nothing of a sound one.

    `row` and `teacher` are rows of results; what a row lacks is not judged. Of an error rate the
    share that is kept is that of what is right, 100 less the rate.
    """
    found = []
    for key, words, limit in (
        ("unfinished", "have no end", MAX_UNFINISHED_SHARE),
        ("empty", "are empty", MAX_EMPTY_SHARE),
    ):
        number, outputs = _number(row, key), _number(row, "outputs")
        if number is not None and outputs and number > limit * outputs:
            found.append(f"{number:.0f} of {outputs:.0f} outputs {words}")
    own, theirs = _number(row, "repetition"), _number(row, "repetition_references")
    if own is not None and theirs is not None and own - theirs > MAX_REPETITION_RISE:
        found.append(
            f"{own:.0%} of an output’s runs of four words repeat earlier ones, "
            f"{theirs:.0%} of a reference’s do"
        )
    share = None if teacher is None else _share_kept(row, teacher, metric, higher_is_better)
    if share is not None and share < MIN_TEACHER_SHARE:
        found.append(f"it keeps {share:.0%} of the teacher’s score")
    return found


def _share_kept(
    row: Mapping[str, object], teacher: Mapping[str, object], metric: str, higher_is_better: bool
) -> float | None:
    own, theirs = (_number(of, f"{metric}_beam") for of in (row, teacher))
    if own is None or theirs is None:
        return None
    if not higher_is_better:
        own, theirs = max(0.0, 100.0 - own), max(0.0, 100.0 - theirs)
    return own / theirs if theirs > 0.0 else None


def _number(row: Mapping[str, object], key: str) -> float | None:
    value = row.get(key)
    return float(value) if isinstance(value, (int, float)) else None
