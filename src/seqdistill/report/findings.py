"""What the numbers say, in sentences: which student to take, what it keeps, what is significant.

Chooses and compares; does not read files or lay out the page. A sentence is a tuple of phrases so
that the page can set the numbers apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from seqdistill.report import numbers
from seqdistill.report.inputs import Comparison, System

SIGNIFICANT_BELOW = 0.05
"""The usual level; stated on the page beside every use of the word."""

METHOD_TITLES = {
    "teacher": "teacher",
    "baseline": "student without distillation",
    "word_kd": "word-level distillation",
    "seq_kd": "sequence-level distillation",
}


@dataclasses.dataclass(frozen=True)
class Phrase:
    """A part of a sentence; `strong` when it is one of the numbers to look at."""

    text: str
    strong: bool = False


@dataclasses.dataclass(frozen=True)
class Figure:
    """A key figure: a large number, what it is, and the numbers behind it.

    `share` in [0, 1] is drawn as a bar, the whole being the teacher; None draws nothing.
    """

    title: str
    value: str
    detail: str
    share: float | None = None


def quality(system: System) -> float | None:
    """BLEU of beam search, or of greedy decoding where beam search was not run."""
    return system.bleu_greedy if system.bleu_beam is None else system.bleu_beam


def teacher_of(systems: Sequence[System]) -> System | None:
    """The teacher's row, if there is one."""
    return next((system for system in systems if system.is_teacher), None)


def recommended(systems: Sequence[System]) -> System | None:
    """The student with the highest BLEU (beam search); on equal BLEU the first in the table."""
    students = [s for s in systems if not s.is_teacher and quality(s) is not None]
    return max(students, key=lambda s: quality(s) or 0.0, default=None)


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
        return (Phrase(f"{system.name} was measured without BLEU: see the table"),)
    parts = [
        Phrase(f"{system.name} reaches "),
        Phrase(f"{numbers.fixed(quality(system))} BLEU", strong=True),
    ]
    if system.words_per_second_beam is not None:
        parts += [
            Phrase(" at "),
            Phrase(f"{numbers.rate(system.words_per_second_beam)} words a second", strong=True),
        ]
    if system.parameters is not None:
        parts += [
            Phrase(" with "),
            Phrase(f"{numbers.count(system.parameters)} parameters", strong=True),
        ]
    return tuple(parts)


def _against_teacher(student: System, teacher: System) -> tuple[Phrase, ...]:
    parts = [
        Phrase(f"{student.name} keeps "),
        Phrase(numbers.percent(ratio(quality(student), quality(teacher))), strong=True),
        Phrase(" of the teacher’s BLEU"),
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


def explanation(systems: Sequence[System]) -> str:
    """Which modes the headline compares, and what greedy decoding would give."""
    student, teacher = recommended(systems), teacher_of(systems)
    if student is None or teacher is None or student.bleu_beam is None or teacher.bleu_beam is None:
        return ""
    span = numbers.interval(student.bleu_beam_low, student.bleu_beam_high)
    sentences = [
        f"The student with the highest BLEU: {numbers.fixed(student.bleu_beam)}"
        + (f" ({span})" if span else "")
        + f" against the teacher’s {numbers.fixed(teacher.bleu_beam)}. "
        "Quality and speed compare beam search with beam search."
    ]
    kept = ratio(student.bleu_greedy, teacher.bleu_beam)
    faster = ratio(student.words_per_second_greedy, teacher.words_per_second_beam)
    if kept is not None and faster is not None:
        sentences.append(
            f"Decoding greedily, the student keeps {numbers.percent(kept)} of the teacher’s "
            f"beam-search BLEU at {numbers.times(faster)} its speed."
        )
    return " ".join(sentences)


def figures(
    systems: Sequence[System],
    comparisons: Sequence[Comparison],
    baseline: str | None,
    copies: Sequence[System] = (),
) -> tuple[Figure, ...]:
    """The cards under the headline: quality, speed, size, copies, gain over the baseline."""
    student, teacher = recommended(systems), teacher_of(systems)
    if student is None or teacher is None:
        return _alone(student or teacher)
    kept = ratio(quality(student), quality(teacher))
    faster = ratio(student.words_per_second_beam, teacher.words_per_second_beam)
    slower = ratio(teacher.words_per_second_beam, student.words_per_second_beam)
    smaller = ratio(student.size_bytes, teacher.size_bytes)
    found = [
        Figure(
            "Quality kept",
            numbers.percent(kept),
            f"BLEU {numbers.fixed(quality(student))} of {numbers.fixed(quality(teacher))}",
            kept,
        ),
        Figure(
            "Speed, beam search",
            numbers.times(faster),
            f"{numbers.rate(student.words_per_second_beam)} against "
            f"{numbers.rate(teacher.words_per_second_beam)} words/s: "
            f"{numbers.percent(slower)} of the time",
            slower,
        ),
        Figure(
            "Size on disk",
            numbers.times(smaller),
            f"{numbers.size(student.size_bytes)} of {numbers.size(teacher.size_bytes)}, "
            f"{numbers.count(student.parameters)} parameters",
            smaller,
        ),
    ]
    found += [_of_copy(copy, teacher) for copy in copies]
    test = bleu_comparison(student, comparisons)
    if test is not None:
        found.append(
            Figure(
                "Gained by distillation" if test.versus == baseline else f"Against {test.versus}",
                f"{numbers.signed(test.delta)} BLEU",
                verdict(test, baseline),
            )
        )
    return tuple(figure for figure in found if figure.value != numbers.MISSING)


def _of_copy(copy: System, teacher: System) -> Figure:
    slower = ratio(teacher.words_per_second_beam, copy.words_per_second_beam)
    return Figure(
        f"Speed of {copy.name}",
        numbers.times(ratio(copy.words_per_second_beam, teacher.words_per_second_beam)),
        f"{numbers.percent(ratio(quality(copy), quality(teacher)))} of the BLEU in "
        f"{numbers.percent(slower)} of the time, {numbers.size(copy.size_bytes)}; beam search",
        slower,
    )


def _alone(system: System | None) -> tuple[Figure, ...]:
    if system is None:
        return ()
    span = numbers.interval(system.bleu_beam_low, system.bleu_beam_high)
    found = [
        Figure("BLEU", numbers.fixed(quality(system)), span or "no interval was measured"),
        Figure("chrF", numbers.fixed(system.chrf), "character n-grams, 0 to 100"),
        Figure(
            "Words per second",
            numbers.rate(system.words_per_second_beam),
            f"beam search; {numbers.rate(system.words_per_second_greedy)} greedily",
        ),
        Figure(
            "Size on disk",
            numbers.size(system.size_bytes),
            f"{numbers.count(system.parameters)} parameters",
        ),
        Figure("Perplexity", numbers.fixed(system.perplexity, 2), "of the references"),
        Figure("Mode share", numbers.percent(system.mode_share), "p(t = ŷ), by beam search"),
    ]
    return tuple(figure for figure in found if figure.value != numbers.MISSING)


def bleu_comparison(system: System, comparisons: Sequence[Comparison]) -> Comparison | None:
    """The system's paired test on BLEU, if one was made."""
    of_system = [test for test in comparisons if test.system == system.name]
    return next((test for test in of_system if test.metric.startswith("bleu")), None)


def verdict(test: Comparison, baseline: str | None) -> str:
    """The paired test in plain words: `better than the undistilled student (p = 0.010)`."""
    other = "the undistilled student" if test.versus == baseline == "baseline" else test.versus
    chance = numbers.p_value(test.p_value)
    if test.p_value >= SIGNIFICANT_BELOW or test.delta == 0.0:
        return f"no significant difference from {other} ({chance})"
    return f"{'better' if test.delta > 0 else 'worse'} than {other} ({chance})"
