"""The numbers in sentences: what the best student keeps, what is significant.

A sentence is a tuple of phrases so that the page can set the numbers apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from seqdistill.records.results import Metric, PairedTest, Results, System, number
from seqdistill.report import numbers

SIGNIFICANT_BELOW = 0.05
"""The usual level; stated on the page beside every use of the word."""

NOT_SIGNIFICANT = "no significant difference"

METHOD_TITLES = {
    "start": "student before training",
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


def quality(system: System, metric: Metric) -> float | None:
    """The metric by beam search, or by greedy decoding where beam search was not run."""
    found = system.score(metric.name)
    return system.score(metric.name, "greedy") if found is None else found


def speed(system: System) -> float | None:
    """Sentences per second by beam search."""
    return number(system.beam.sentences_per_second)


def best(results: Results) -> System | None:
    """The best student, as evaluation chose it."""
    return None if results.student is None else results.system(results.student)


def students(results: Results) -> list[System]:
    """The trained students that were scored."""
    return [
        system
        for system in results.systems
        if system.is_student and quality(system, results.metrics[0]) is not None
    ]


def signatures(results: Results) -> list[tuple[str, str]]:
    """(title, signature) of every metric as it was measured, each pair once."""
    found = [
        (metric.title, score.signature)
        for metric in results.metrics
        for system in (*results.systems, *results.exports)
        if (score := system.beam.scores.get(metric.name)) is not None and score.signature
    ]
    return list(dict.fromkeys(found))


def ratio(part: float | int | None, whole: float | int | None) -> float | None:
    """part / whole, or None when either is missing or the whole is zero."""
    return None if part is None or not whole else part / whole


def kept(own: float | None, its: float | None, metric: Metric) -> str:
    """The fraction of the teacher’s that is kept; of an error rate, where it means nothing, the
    rate itself."""
    return numbers.percent(ratio(own, its)) if metric.higher_is_better else numbers.fixed(own)


def speed_ratio(system: System, other: System) -> float | None:
    """How many times as many sentences per second, by beam search."""
    return ratio(speed(system), speed(other))


def headline(results: Results) -> tuple[Phrase, ...]:
    """One sentence: what of the teacher the best and the worst student keep, or what is broken."""
    student, teacher = best(results), results.teacher
    system = student or teacher
    if system is None:
        return (Phrase("Not evaluated yet: here is how the training went"),)
    if system.faults:
        return (Phrase(f"{system.name} is broken: "), Phrase(system.faults[0], strong=True))
    metric = results.metrics[0]
    if student is not None and teacher is not None and student is not teacher:
        return tuple(_against_teacher(results, student, teacher))
    if quality(system, metric) is None:
        return (Phrase(f"{system.name} was measured without {metric.title}: see the table"),)
    parts = [Phrase(f"{system.name} reaches "), Phrase(_scored(system, metric), strong=True)]
    if speed(system) is not None:
        rate = f"{numbers.rate(speed(system))} sentences per second"
        parts += [Phrase(" at "), Phrase(rate, strong=True)]
    if system.parameters is not None:
        size = f"{numbers.count(system.parameters)} parameters"
        parts += [Phrase(" with "), Phrase(size, strong=True)]
    return tuple(parts)


def _against_teacher(results: Results, student: System, teacher: System) -> list[Phrase]:
    metric, others = results.metrics[0], students(results)
    own, its = quality(student, metric), quality(teacher, metric)
    before, behind = " keeps ", f" of the teacher’s {metric.title}"
    if not metric.higher_is_better:
        before, behind = (
            f" has a {metric.title} of ",
            f" against the teacher’s {numbers.fixed(its)}",
        )
    parts = [
        Phrase(student.name + before),
        Phrase(kept(own, its, metric), strong=True),
        Phrase(behind),
    ]
    gains = [
        (_span([speed_ratio(s, teacher) for s in others]), "speed"),
        (_span([ratio(s.bytes, teacher.bytes) for s in others]), "size"),
    ]
    gains = [(factors, of) for factors, of in gains if factors]
    worst = min(
        reversed(others), key=lambda s: metric.score_key(quality(s, metric) or 0.0), default=student
    )
    if worst is not student:
        value = kept(quality(worst, metric), its, metric)
        name = f"{worst.name}, broken" if worst.faults else worst.name
        parts += [Phrase(f", the worst student ({name}) "), Phrase(value, strong=True)]
        parts += [Phrase(",")] if gains else []
    for joint, (factors, of) in zip((" at ", " and "), gains, strict=False):
        parts += [Phrase(joint), Phrase(factors, strong=True), Phrase(f" its {of}")]
    return parts


def _span(factors: Sequence[float | None]) -> str:
    """`5.1×`, or `4.9× to 5.1×` where they differ as shown; nothing where one is missing."""
    known = [factor for factor in factors if factor is not None]
    if not known or len(known) < len(factors):
        return ""
    low, high = numbers.times(min(known)), numbers.times(max(known))
    return high if low == high else f"{low} to {high}"


def _scored(system: System, metric: Metric) -> str:
    """`31.6 BLEU`, `a token error rate of 4.2`."""
    value = numbers.fixed(quality(system, metric))
    return f"{value} {metric.title}" if metric.higher_is_better else f"a {metric.title} of {value}"


def explanation(results: Results) -> str:
    """Which decoding the headline compares, and what greedy decoding would give."""
    student, teacher = best(results), results.teacher
    if student is None or teacher is None or student is teacher:
        return ""
    if student.faults:
        return "No student is sound, so none is recommended."
    metric = results.metrics[0]
    score, its = student.beam.scores.get(metric.name), teacher.score(metric.name)
    if score is None or its is None:
        return ""
    found = numbers.with_interval(score)
    sentence = (
        f"Its {metric.title} is {found} against the teacher’s {numbers.fixed(its)}; quality and "
        "speed are those of beam search."
    )
    greedy = student.score(metric.name, "greedy")
    faster = ratio(number(student.greedy.sentences_per_second), speed(teacher))
    if greedy is None or faster is None:
        return sentence
    verb = "keeps" if metric.higher_is_better else f"has a {metric.title} of"
    found = f"{verb} {kept(greedy, its, metric)} at {numbers.times(faster)} the speed"
    return f"{sentence} With greedy decoding it {found}."


def main_test(system: System, results: Results) -> PairedTest | None:
    """The system's paired test on the main metric, if one was made; beam search comes first."""
    tests = (test for test in results.paired_tests if test.system == system.name)
    return next((test for test in tests if test.metric == results.metrics[0].name), None)


def verdict(test: PairedTest, results: Results) -> str:
    """The paired test in plain words: `better than baseline (p = 0.010)`."""
    found, chance = significance(test, results), numbers.p_value(test.p_value)
    joint = "from" if found == NOT_SIGNIFICANT else "than"
    return f"{found} {joint} {test.versus} ({chance})"


def significance(test: PairedTest, results: Results) -> str:
    """`better`, `worse`, or that the difference is not significant."""
    if test.p_value >= SIGNIFICANT_BELOW or test.delta == 0.0:
        return NOT_SIGNIFICANT
    metric = next((m for m in results.metrics if m.name == test.metric), results.metrics[0])
    return "better" if metric.score_key(test.delta) > 0.0 else "worse"
