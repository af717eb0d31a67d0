"""What the numbers say, in sentences: which student to take, what it keeps, what is significant.

Chooses and compares; does not read files or lay out the page. A sentence is a tuple of phrases so
that the page can set the numbers apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from seqdistill.report import numbers
from seqdistill.report.contents import Comparison, System

SIGNIFICANT_BELOW = 0.05
"""The usual level; stated on the page beside every use of the word."""

METHOD_TITLES = {
    "teacher": "teacher",
    "baseline": "student without distillation",
    "word_kd": "word-level distillation",
    "seq_kd": "sequence-level distillation",
    "supervised_kd": "word-level, on given sequences",
    "on_policy_kd": "on the student’s own sequences",
    "gkd": "on given and own sequences",
    "gkd_rl": "on its own sequences, with a reward",
}


@dataclasses.dataclass(frozen=True)
class Phrase:
    """A part of a sentence; `strong` when it is one of the numbers to look at."""

    text: str
    strong: bool = False


def quality(system: System) -> float | None:
    """The main metric of beam search, or of greedy decoding where beam search was not run."""
    return system.greedy if system.beam is None else system.beam


def teacher_of(systems: Sequence[System]) -> System | None:
    """The teacher's row, if there is one."""
    return next((system for system in systems if system.is_teacher), None)


def recommended(systems: Sequence[System]) -> System | None:
    """The student best by the main metric (beam search); of equals the first in the table."""
    students = [s for s in systems if not s.is_teacher and quality(s) is not None]
    return max(students, key=lambda s: s.metric.worth(quality(s) or 0.0), default=None)


def ratio(part: float | None, whole: float | None) -> float | None:
    """part / whole, or None when either is missing or the whole is zero."""
    return None if part is None or not whole else part / whole


def headline(systems: Sequence[System]) -> tuple[Phrase, ...]:
    """One sentence: who is recommended and what of the teacher it keeps."""
    student, teacher = recommended(systems), teacher_of(systems)
    if student is not None and teacher is not None and ratio(quality(student), quality(teacher)):
        return _against_teacher(student, teacher)
    system = student or teacher
    if system is None:
        return (Phrase("Not evaluated yet: here is how the training went"),)
    if quality(system) is None:
        return (Phrase(f"{system.name} was measured without {system.metric.title}: see the table"),)
    parts = [
        Phrase(f"{system.name} reaches "),
        Phrase(scored(system), strong=True),
    ]
    if system.words_per_second_beam is not None:
        parts += [
            Phrase(" at "),
            Phrase(f"{numbers.rate(system.words_per_second_beam)} words per second", strong=True),
        ]
    if system.parameters is not None:
        parts += [
            Phrase(" with "),
            Phrase(f"{numbers.count(system.parameters)} parameters", strong=True),
        ]
    return tuple(parts)


def _against_teacher(student: System, teacher: System) -> tuple[Phrase, ...]:
    if student.metric.higher_is_better:
        parts = [
            Phrase(f"{student.name} keeps "),
            Phrase(numbers.percent(ratio(quality(student), quality(teacher))), strong=True),
            Phrase(f" of the teacher’s {student.metric.title}"),
        ]
    else:
        parts = [
            Phrase(f"{student.name} has a {student.metric.title} of "),
            Phrase(numbers.fixed(quality(student)), strong=True),
            Phrase(f" against the teacher’s {numbers.fixed(quality(teacher))}"),
        ]
    gains = [
        (ratio(student.words_per_second_beam, teacher.words_per_second_beam), "speed"),
        (ratio(student.size_bytes, teacher.size_bytes), "size"),
    ]
    joint = " at "
    for factor, of in gains:
        if factor is not None:
            parts += [
                Phrase(joint),
                Phrase(numbers.times(factor), strong=True),
                Phrase(f" its {of}"),
            ]
            joint = " and "
    return tuple(parts)


def scored(system: System) -> str:
    """`31.6 BLEU`, `a token error rate of 4.2`."""
    value = numbers.fixed(quality(system))
    if system.metric.higher_is_better:
        return f"{value} {system.metric.title}"
    return f"a {system.metric.title} of {value}"


def _best(system: System) -> str:
    return "highest" if system.metric.higher_is_better else "lowest"


def explanation(systems: Sequence[System]) -> str:
    """Which modes the headline compares, and what greedy decoding would give."""
    student, teacher = recommended(systems), teacher_of(systems)
    if student is None or teacher is None or student.beam is None or teacher.beam is None:
        return ""
    span = numbers.interval(student.beam_low, student.beam_high)
    sentences = [
        f"The student with the {_best(student)} {student.metric.title}: "
        + numbers.fixed(student.beam)
        + (f" ({span})" if span else "")
        + f" against the teacher’s {numbers.fixed(teacher.beam)}. "
        "Quality and speed compare beam search with beam search."
    ]
    faster = ratio(student.words_per_second_greedy, teacher.words_per_second_beam)
    if student.greedy is not None and faster is not None:
        kept = (
            f"keeps {numbers.percent(ratio(student.greedy, teacher.beam))} of the teacher’s "
            f"beam-search {student.metric.title}"
            if student.metric.higher_is_better
            else f"has a {student.metric.title} of {numbers.fixed(student.greedy)}"
        )
        sentences.append(
            f"Decoding greedily, the student {kept} at {numbers.times(faster)} the speed of the "
            "teacher’s beam search."
        )
    return " ".join(sentences)


def main_comparison(system: System, comparisons: Sequence[Comparison]) -> Comparison | None:
    """The system's paired test on the main metric, if one was made; beam search comes first."""
    of_system = [test for test in comparisons if test.system == system.name]
    return next((test for test in of_system if test.metric.startswith(system.metric.name)), None)


def verdict(test: Comparison, baseline: str | None) -> str:
    """The paired test in plain words: `better than the undistilled student (p = 0.010)`."""
    other = "the undistilled student" if test.versus == baseline == "baseline" else test.versus
    chance = numbers.p_value(test.p_value)
    if test.p_value >= SIGNIFICANT_BELOW or test.delta == 0.0:
        return f"no significant difference from {other} ({chance})"
    better = (test.delta > 0.0) == test.higher_is_better
    return f"{'better' if better else 'worse'} than {other} ({chance})"
