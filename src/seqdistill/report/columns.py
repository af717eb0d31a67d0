"""The columns of the table of systems, beside the main score: in the page and on the screen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from seqdistill.records.results import Metric, System, number
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
    found = [Column(main.title, "greedy", lambda s: numbers.fixed(s.score(main.name, "greedy")))]
    if others:
        found.append(
            Column(others[0].title, "beam", lambda s: numbers.fixed(s.score(others[0].name)))
        )
    found += [
        Column("perplexity", "", lambda s: numbers.fixed(number(s.perplexity), 2)),
        Column("sentences/s", "beam", lambda s: numbers.rate(number(s.beam.sentences_per_second))),
        Column(
            "sentences/s", "greedy", lambda s: numbers.rate(number(s.greedy.sentences_per_second))
        ),
        Column("words/s", "beam", lambda s: numbers.rate(number(s.beam.words_per_second))),
        Column("size", "", lambda s: numbers.size(s.bytes)),
        Column("parameters", "", lambda s: numbers.count(s.parameters)),
    ]
    return [
        column
        for column in found
        if any(column.show(system) != numbers.MISSING for system in systems)
    ]
