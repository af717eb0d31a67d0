"""The cards under the headline: one key figure each, and the numbers behind it.

Chooses which figures a run has; the sentences that judge are those of `findings`. Lays nothing out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from seqdistill.report import headlines, numbers
from seqdistill.report.contents import Comparison, System


@dataclasses.dataclass(frozen=True)
class Figure:
    """A key figure: a large number, what it is, and the numbers behind it.

    `share` in [0, 1] is drawn as a bar, the whole being the teacher; None draws nothing.
    """

    title: str
    value: str
    detail: str
    share: float | None = None


def figures(
    systems: Sequence[System],
    comparisons: Sequence[Comparison],
    baseline: str | None,
    copies: Sequence[System] = (),
) -> tuple[Figure, ...]:
    """The cards under the headline: quality, speed, size, copies, gains over start and baseline.

    Of the best student; of one that is broken, quality alone.
    """
    student, teacher = headlines.best(systems), headlines.teacher_of(systems)
    start = headlines.start_of(systems)
    if student is None or teacher is None:
        return _shown([*_alone(student or teacher), *_since_start(student, start)])
    if student.faults:
        return _shown([_quality_figure(student, teacher), *_since_start(student, start)])
    faster = headlines.speed_ratio(student, teacher)
    slower = headlines.speed_ratio(teacher, student)
    smaller = headlines.ratio(student.size_bytes, teacher.size_bytes)
    found = [
        _quality_figure(student, teacher),
        Figure(
            "Speed, beam search",
            numbers.times(faster),
            f"{numbers.rate(student.sentences_per_second_beam)} against "
            f"{numbers.rate(teacher.sentences_per_second_beam)} sentences/s: "
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
    found += [_of_copy(copy, teacher) for copy in copies if not copy.faults]
    found += _since_start(student, start)
    test = headlines.main_comparison(student, comparisons)
    if test is not None:
        found.append(
            Figure(
                "Gained by distillation"
                if test.versus == baseline == "baseline"
                else f"Against {test.versus}",
                f"{numbers.signed(test.delta)} {student.metric.title}"
                if student.metric.higher_is_better
                else numbers.signed(test.delta),
                headlines.verdict(test, baseline),
            )
        )
    return _shown(found)


def _shown(figures: Sequence[Figure]) -> tuple[Figure, ...]:
    return tuple(figure for figure in figures if figure.value != numbers.MISSING)


def _since_start(student: System | None, start: System | None) -> list[Figure]:
    """What the student learned: its score less that of its first weights."""
    if student is None or start is None:
        return []
    own, first = headlines.quality(student), headlines.quality(start)
    if own is None or first is None:
        return []
    detail = (
        f"{student.metric.title} {numbers.fixed(own)}, before its first update "
        f"{numbers.fixed(first)}"
    )
    return [Figure("Since its start", numbers.signed(own - first), detail)]


def _of_copy(copy: System, teacher: System) -> Figure:
    slower = headlines.speed_ratio(teacher, copy)
    return Figure(
        f"Speed of {copy.name}",
        numbers.times(headlines.speed_ratio(copy, teacher)),
        f"{_kept(copy, teacher)} in {numbers.percent(slower)} of the time, "
        f"{numbers.size(copy.size_bytes)}; beam search",
        slower,
    )


def _kept(copy: System, teacher: System) -> str:
    if copy.metric.higher_is_better:
        kept = numbers.percent(headlines.ratio(headlines.quality(copy), headlines.quality(teacher)))
        return f"{kept} of the {copy.metric.title}"
    return f"{copy.metric.title} {numbers.fixed(headlines.quality(copy))}"


def _quality_figure(student: System, teacher: System) -> Figure:
    own, other = (
        numbers.fixed(headlines.quality(student)),
        numbers.fixed(headlines.quality(teacher)),
    )
    title = student.metric.title
    if not student.metric.higher_is_better:  # a share of errors kept says nothing
        return Figure(_capital(title), own, f"the teacher’s is {other}")
    kept = headlines.ratio(headlines.quality(student), headlines.quality(teacher))
    return Figure("Quality kept", numbers.percent(kept), f"{title} {own} of {other}", kept)


def _capital(title: str) -> str:
    return title[:1].upper() + title[1:]


def _alone(system: System | None) -> tuple[Figure, ...]:
    if system is None:
        return ()
    span = numbers.interval(system.beam_low, system.beam_high)
    found = [
        Figure(
            _capital(system.metric.title),
            numbers.fixed(headlines.quality(system)),
            span or "no interval was measured",
        ),
        Figure(
            "Sentences per second",
            numbers.rate(system.sentences_per_second_beam),
            f"beam search; {numbers.rate(system.sentences_per_second_greedy)} greedy",
        ),
        Figure(
            "Size on disk",
            numbers.size(system.size_bytes),
            f"{numbers.count(system.parameters)} parameters",
        ),
        Figure("Perplexity", numbers.fixed(system.perplexity, 2), "of the references"),
        Figure("Mode share", numbers.percent(system.mode_share), "p(t = ŷ), by beam search"),
    ]
    return _shown(found)
