"""The columns of the table of systems, beside the main score: in the page and on the screen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from seqdistill.records.results import Metric, System, Value, number
from seqdistill.report import numbers


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
