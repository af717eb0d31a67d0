"""The cards under the headline: one key figure each, and the numbers behind it."""

from __future__ import annotations

import dataclasses

from seqdistill.records.results import Metric, Results, System, number
from seqdistill.report import headlines, numbers
from seqdistill.report.charts import capital
from seqdistill.report.headlines import quality, ratio, speed, speed_ratio


@dataclasses.dataclass(frozen=True)
class Figure:
    """A key figure: a large number, what it is, and the numbers behind it.

    `fraction` in [0, 1] is drawn as a bar, the whole being the teacher; None draws nothing.
    """

    title: str
    value: str
    detail: str
    fraction: float | None = None


def figures(results: Results) -> tuple[Figure, ...]:
    """Quality, speed, size, copies, gains over start and baseline of the best student.

    Of one that is broken, quality alone. What was not measured has no card.
    """
    student, teacher = headlines.best(results), results.teacher
    if not results.metrics or (student is None and teacher is None):
        return ()
    metric = results.metrics[0]
    if student is None or teacher is None or student is teacher:
        found = _alone(student or teacher or results.systems[0], metric)
    else:
        found = [_quality(student, teacher, metric)]
        if not student.faults:
            found += [_speed(student, teacher), _size(student, teacher)]
            found += [_copy(each, teacher, metric) for each in results.exports if not each.faults]
    found += _since_start(student, results.start, metric)
    test = None if student is None else headlines.main_test(student, results)
    if student is not None and teacher is not None and test is not None and not student.faults:
        distilled = test.versus == results.baseline == "baseline"
        found.append(
            Figure(
                "Gain from distillation" if distilled else f"Against {test.versus}",
                numbers.signed(test.delta),
                f"{metric.title}: {headlines.verdict(test, results)}",
            )
        )
    return tuple(figure for figure in found if figure.value != numbers.MISSING)


def _quality(student: System, teacher: System, metric: Metric) -> Figure:
    own, its = quality(student, metric), quality(teacher, metric)
    if not metric.higher_is_better:  # a fraction of errors kept means nothing
        detail = f"the teacher’s is {numbers.fixed(its)}"
        return Figure(capital(metric.title), numbers.fixed(own), detail)
    kept = ratio(own, its)
    detail = f"{metric.title} {numbers.fixed(own)} of {numbers.fixed(its)}"
    return Figure("Quality kept", numbers.percent(kept), detail, kept)


def _speed(student: System, teacher: System) -> Figure:
    rates = f"{numbers.rate(speed(student))} against {numbers.rate(speed(teacher))} sentences/s"
    fraction = speed_ratio(teacher, student)
    return Figure(
        "Speed, beam search", numbers.times(speed_ratio(student, teacher)), rates, fraction
    )


def _size(student: System, teacher: System) -> Figure:
    smaller = ratio(student.bytes, teacher.bytes)
    sizes = f"{numbers.size(student.bytes)} of {numbers.size(teacher.bytes)}"
    detail = f"{sizes}, {numbers.count(student.parameters)} parameters"
    return Figure("Size on disk", numbers.times(smaller), detail, smaller)


def _copy(copy: System, teacher: System, metric: Metric) -> Figure:
    own, its = quality(copy, metric), quality(teacher, metric)
    value = headlines.kept(own, its, metric)
    named = (
        f"{value} of the {metric.title}" if metric.higher_is_better else f"{metric.title} {value}"
    )
    return Figure(
        f"Speed of {copy.name}",
        numbers.times(speed_ratio(copy, teacher)),
        f"{named}, {numbers.size(copy.bytes)}",
        speed_ratio(teacher, copy),
    )


def _since_start(student: System | None, start: System | None, metric: Metric) -> list[Figure]:
    """What the student learned: its score minus that of its first weights."""
    own = None if student is None else quality(student, metric)
    first = None if start is None else quality(start, metric)
    if own is None or first is None:
        return []
    detail = f"{metric.title} {numbers.fixed(own)}, before training {numbers.fixed(first)}"
    return [Figure("Gain from training", numbers.signed(own - first), detail)]


def _alone(system: System, metric: Metric) -> list[Figure]:
    score, rate = system.beam.scores.get(metric.name), number(system.greedy.sentences_per_second)
    span = "" if score is None else numbers.interval(score.low, score.high)
    return [
        Figure(capital(metric.title), numbers.fixed(quality(system, metric)), span),
        Figure(
            "Sentences per second",
            numbers.rate(speed(system)),
            f"beam search; {numbers.rate(rate)} greedy",
        ),
        Figure(
            "Size on disk",
            numbers.size(system.bytes),
            f"{numbers.count(system.parameters)} parameters",
        ),
        Figure("Perplexity", numbers.fixed(number(system.perplexity), 2), "of the references"),
        Figure("Mode share", numbers.percent(number(system.mode_share)), "of its own beam output"),
    ]
