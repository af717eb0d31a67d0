"""The results in words, as the page and the screen have them: headline, tests, cards, columns.

A sentence is a tuple of phrases so that the page can set the numbers apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from seqdistill.records.results import Metric, PairedTest, Results, System, Value, number
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
    "tip": "on the telling tokens of its own sequences",
    "opsd": "on its own sequences, by itself with a context",
    "paced_self": "on its own sequences, by itself with a context",
    "context_distill": "by itself with a context",
    "gkd_rl": "on its own sequences, with a reward",
}


@dataclasses.dataclass(frozen=True)
class Phrase:
    """A part of a sentence; `strong` when it is one of the numbers to look at."""

    text: str
    strong: bool = False


def capital(text: str) -> str:
    """With a capital first letter, unless it has capitals of its own, such as chrF."""
    return text[:1].upper() + text[1:] if text.islower() else text


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


def shipped(results: Results) -> System | None:
    """The sound copy of the best student that was measured greedily, faster than the teacher's beam
    search or not; None where there is none, or the teacher was not decoded by beam search."""
    metric, teacher = results.metrics[0] if results.metrics else None, results.teacher
    if metric is None or teacher is None or teacher.score(metric.name) is None:
        return None
    for copy in results.exports:
        measured = copy.score(metric.name, "greedy"), number(copy.greedy.sentences_per_second)
        if copy.copy_of == results.student and not copy.faults and None not in measured:
            return copy
    return None


def headline(results: Results) -> tuple[Phrase, ...]:
    """One sentence: what is kept of the teacher's beam search by the copy that ships, or of the
    teacher by the best and the worst student, or what is broken."""
    student, teacher = best(results), results.teacher
    system = student or teacher
    if system is None:
        return (Phrase("Not evaluated yet: here is how the training went"),)
    if system.faults:
        return (Phrase(f"{system.name} is broken: "), Phrase(system.faults[0], strong=True))
    metric = results.metrics[0]
    if student is not None and teacher is not None and student is not teacher:
        copy = shipped(results)
        if copy is not None:
            return tuple(_against_beam(copy, teacher, metric))
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


def _against_beam(copy: System, teacher: System, metric: Metric) -> list[Phrase]:
    own, its = copy.score(metric.name, "greedy"), teacher.score(metric.name)
    before, behind = "keeps ", f" of the {metric.title} of the teacher’s beam search"
    if not metric.higher_is_better:
        before = f"has a {metric.title} of "
        behind = f" against {numbers.fixed(its)} of the teacher’s beam search"
    parts = [
        Phrase(f"{copy.name}, decoded greedily, {before}"),
        Phrase(kept(own, its, metric), strong=True),
        Phrase(behind),
    ]
    faster = ratio(number(copy.greedy.sentences_per_second), speed(teacher))
    gains = [(faster, "speed"), (ratio(copy.bytes, teacher.bytes), "size")]
    known = [(factor, of) for factor, of in gains if factor is not None]
    for joint, (factor, of) in zip((" at ", " and "), known, strict=False):
        parts += [Phrase(joint), Phrase(numbers.times(factor), strong=True), Phrase(f" its {of}")]
    return parts


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
    """The best student against the teacher, both by beam search, and what greedy decoding gives."""
    student, teacher = best(results), results.teacher
    if student is None or teacher is None or student is teacher:
        return ""
    if student.faults:
        return "No student is sound, so none is recommended."
    metric = results.metrics[0]
    score, its = student.beam.scores.get(metric.name), teacher.score(metric.name)
    if score is None or its is None:
        return ""
    faster = speed_ratio(student, teacher)
    sentence = (
        f"By beam search {student.name} has a {metric.title} of {numbers.with_interval(score)} "
        f"against the teacher’s {numbers.fixed(its)}"
        + ("." if faster is None else f", at {numbers.times(faster)} the speed.")
    )
    greedy = student.score(metric.name, "greedy")
    faster = ratio(number(student.greedy.sentences_per_second), speed(teacher))
    if greedy is None or faster is None:
        return sentence
    verb = "keeps" if metric.higher_is_better else f"has a {metric.title} of"
    found = f"{verb} {kept(greedy, its, metric)} at {numbers.times(faster)} the speed"
    return f"{sentence} With greedy decoding it {found} of the teacher’s beam search."


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
    student, teacher = best(results), results.teacher
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
    test = None if student is None else main_test(student, results)
    if student is not None and teacher is not None and test is not None and not student.faults:
        distilled = test.versus == results.baseline == "baseline"
        found.append(
            Figure(
                "Gain from distillation" if distilled else f"Against {test.versus}",
                numbers.signed(test.delta),
                f"{metric.title}: {verdict(test, results)}",
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
    value = kept(own, its, metric)
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


@dataclasses.dataclass(frozen=True)
class Column:
    """What stands at its head, and the text of a system's cell."""

    head: str
    mode: str
    """`beam`, `greedy`, or nothing where both are the same."""
    show: Callable[[System], str]


def columns_of(metrics: Sequence[Metric], systems: Sequence[System]) -> list[Column]:
    """The columns in which anything was measured, of the second metric by beam search alone."""
    if not metrics:
        return []
    main, *others = metrics
    found = [Column(main.title, "greedy", _fixed(lambda s: s.score(main.name, "greedy")))]
    if others:
        second = others[0].name
        found.append(Column(others[0].title, "beam", _fixed(lambda s: s.score(second))))
    found += [
        Column("perplexity", "", _fixed(lambda s: number(s.perplexity), places=2)),
        Column("sentences/s", "beam", _rate(lambda s: s.beam.sentences_per_second)),
        Column("sentences/s", "greedy", _rate(lambda s: s.greedy.sentences_per_second)),
        Column("words/s", "beam", _rate(lambda s: s.beam.words_per_second)),
        Column("size", "", lambda s: numbers.size(s.bytes)),
        Column("parameters", "", lambda s: numbers.count(s.parameters)),
    ]
    return [
        column
        for column in found
        if any(column.show(system) != numbers.MISSING for system in systems)
    ]


def _fixed(value: Callable[[System], float | None], places: int = 1) -> Callable[[System], str]:
    return lambda system: numbers.fixed(value(system), places)


def _rate(value: Callable[[System], Value | None]) -> Callable[[System], str]:
    return lambda system: numbers.rate(number(value(system)))
