"""What the numbers say, in sentences: which student to take, what it keeps, what is significant.

Chooses and compares; does not read files or lay out the page. A sentence is a tuple of phrases so
that the page can set the numbers apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from seqdistill.report import numbers
from seqdistill.report.contents import Comparison, Metric, System

SIGNIFICANT_BELOW = 0.05
"""The usual level; stated on the page beside every use of the word."""

METHOD_TITLES = {
    "teacher": "teacher",
    "start": "the student before its first update",
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


def start_of(systems: Sequence[System]) -> System | None:
    """The row of the student before its first update, if there is one."""
    return next((system for system in systems if system.is_start), None)


def students_of(systems: Sequence[System]) -> list[System]:
    """The trained students that were scored."""
    return [s for s in systems if not (s.is_teacher or s.is_start) and quality(s) is not None]


def best(systems: Sequence[System]) -> System | None:
    """The sound student best by the main metric (beam search); of equals the first in the table.

    Where none is sound, the best of the broken ones.
    """
    students = students_of(systems)
    sound = [s for s in students if not s.faults] or students
    return max(sound, key=_worth, default=None)


def worst(systems: Sequence[System]) -> System | None:
    """The student that is worst by the main metric; of equals the last in the table."""
    return min(reversed(students_of(systems)), key=_worth, default=None)


def recommended(systems: Sequence[System]) -> System | None:
    """The best student where there is a choice between several and it is sound; else None."""
    found = best(systems)
    if found is None or found.faults or len(students_of(systems)) < 2:
        return None
    return found


def broken(systems: Sequence[System]) -> list[System]:
    """The systems that something is wrong with."""
    return [system for system in systems if system.faults]


def signatures(systems: Sequence[System], metrics: Sequence[Metric]) -> list[tuple[str, str]]:
    """(title, signature) of every metric as it was measured, each pair once."""
    found = [
        (metric.title, system.signatures[metric.name])
        for metric in metrics
        for system in systems
        if metric.name in system.signatures
    ]
    return list(dict.fromkeys(found))


def _worth(system: System) -> float:
    return system.metric.score_key(quality(system) or 0.0)


def ratio(part: float | None, whole: float | None) -> float | None:
    """part / whole, or None when either is missing or the whole is zero."""
    return None if part is None or not whole else part / whole


def headline(systems: Sequence[System]) -> tuple[Phrase, ...]:
    """One sentence that holds for every student: what of the teacher the best and the worst keep.

    It says first what is broken where that is the best student.
    """
    student, teacher = best(systems), teacher_of(systems)
    if student is not None and student.faults:
        return (Phrase(f"{student.name} is broken: "), Phrase(student.faults[0], strong=True))
    if student is not None and teacher is not None and ratio(quality(student), quality(teacher)):
        return _against_teacher(students_of(systems), student, teacher)
    system = student or teacher
    if system is None:
        return (Phrase("Not evaluated yet: here is how the training went"),)
    if quality(system) is None:
        return (Phrase(f"{system.name} was measured without {system.metric.title}: see the table"),)
    parts = [
        Phrase(f"{system.name} reaches "),
        Phrase(scored(system), strong=True),
    ]
    if system.sentences_per_second_beam is not None:
        rate = numbers.rate(system.sentences_per_second_beam)
        parts += [Phrase(" at "), Phrase(f"{rate} sentences per second", strong=True)]
    if system.parameters is not None:
        parts += [
            Phrase(" with "),
            Phrase(f"{numbers.count(system.parameters)} parameters", strong=True),
        ]
    return tuple(parts)


def _against_teacher(
    students: Sequence[System], student: System, teacher: System
) -> tuple[Phrase, ...]:
    parts = _scores_against(student, teacher)
    last = worst(students)
    if last is not None and last is not student:
        value = (
            numbers.percent(ratio(quality(last), quality(teacher)))
            if last.metric.higher_is_better
            else numbers.fixed(quality(last))
        )
        name = f"{last.name}, broken" if last.faults else last.name
        parts += [
            Phrase(f", the worst student ({name}) "),
            Phrase(value, strong=True),
            Phrase(","),
        ]
    gains = [
        (_span([speed_ratio(s, teacher) for s in students]), "speed"),
        (_span([ratio(s.size_bytes, teacher.size_bytes) for s in students]), "size"),
    ]
    joint = " at "
    for factors, of in gains:
        if factors:
            parts += [Phrase(joint), Phrase(factors, strong=True), Phrase(f" its {of}")]
            joint = " and "
    if joint == " at " and parts[-1].text == ",":
        parts.pop()
    return tuple(parts)


def _scores_against(student: System, teacher: System) -> list[Phrase]:
    if student.metric.higher_is_better:
        return [
            Phrase(f"{student.name} keeps "),
            Phrase(numbers.percent(ratio(quality(student), quality(teacher))), strong=True),
            Phrase(f" of the teacher’s {student.metric.title}"),
        ]
    return [
        Phrase(f"{student.name} has a {student.metric.title} of "),
        Phrase(numbers.fixed(quality(student)), strong=True),
        Phrase(f" against the teacher’s {numbers.fixed(quality(teacher))}"),
    ]


def speed_ratio(system: System, other: System) -> float | None:
    """How many times as many sentences a second, by beam search."""
    return ratio(system.sentences_per_second_beam, other.sentences_per_second_beam)


def _span(factors: Sequence[float | None]) -> str:
    """`5.1×`, or `4.9× to 5.1×` where they differ as shown; nothing where one is missing."""
    known = [factor for factor in factors if factor is not None]
    if not known or len(known) < len(factors):
        return ""
    low, high = numbers.times(min(known)), numbers.times(max(known))
    return high if low == high else f"{low} to {high}"


def scored(system: System) -> str:
    """`31.6 BLEU`, `a token error rate of 4.2`."""
    value = numbers.fixed(quality(system))
    if system.metric.higher_is_better:
        return f"{value} {system.metric.title}"
    return f"a {system.metric.title} of {value}"


def _extreme(system: System) -> str:
    return "highest" if system.metric.higher_is_better else "lowest"


def explanation(systems: Sequence[System]) -> str:
    """Which modes the headline compares, and what greedy decoding would give."""
    student, teacher = best(systems), teacher_of(systems)
    if student is None or teacher is None or student.beam is None or teacher.beam is None:
        return ""
    if student.faults:
        return "No student is sound, so none is recommended."
    span = numbers.interval(student.beam_low, student.beam_high)
    sentences = [
        (
            f"The student’s {student.metric.title}: "
            if len(students_of(systems)) == 1
            else f"The student with the {_extreme(student)} {student.metric.title}: "
        )
        + numbers.fixed(student.beam)
        + (f" ({span})" if span else "")
        + f" against the teacher’s {numbers.fixed(teacher.beam)}. "
        "Quality and speed, in sentences a second, compare beam search with beam search."
    ]
    faster = ratio(student.sentences_per_second_greedy, teacher.sentences_per_second_beam)
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
