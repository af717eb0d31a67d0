"""The results of a run as a table and sentences that fit into 100 columns.

Numbers become text in `report.numbers`; the sentences of tests are those of the report. Reads no
file and chooses no system. Import it inside a command: the report takes a moment to start.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from seqdistill.report import headlines, numbers
from seqdistill.report.contents import Comparison, Metric, RunContents, System

# Two lines a head, so that ten columns fit.
_HEADS = {
    "bleu": "BLEU",
    "chrf": "chrF",
    "token_error_rate": "token err.",
    "sequence_error_rate": "seq. err.",
    "exact_match": "exact",
    "answer_accuracy": "accuracy",
}
_MODES = {"beam": "beam search", "greedy": "greedy"}
# Below this width the table needs every column that it can save.
_WIDE = 94


def _columns(metrics: Sequence[Metric]) -> list[tuple[str, Callable[[System], str]]]:
    """The heads after the name and what stands under them; a second metric has one column."""
    main, *others = [_HEADS.get(metric.name, metric.title) for metric in metrics]
    second = [(f"\n{others[0]}", lambda s: numbers.fixed(s.second))] if others else []
    return [
        ("para-\nmeters", lambda s: numbers.count(s.parameters)),
        ("size", lambda s: numbers.size(s.size_bytes)),
        (f"{main}\ngreedy", lambda s: numbers.fixed(s.greedy)),
        (f"{main} beam\n[low, high]", _with_interval),
        *second,
        ("perplex-\nity", lambda s: numbers.fixed(s.perplexity, 2)),
        ("sent./s\ngreedy", lambda s: numbers.rate(s.sentences_per_second_greedy)),
        ("sent./s\nbeam", lambda s: numbers.rate(s.sentences_per_second_beam)),
        ("words/s\nbeam", lambda s: numbers.rate(s.words_per_second_beam)),
    ]


def results_table(contents: RunContents, console: Console) -> Table:
    """A row a system, then a row a copy; a line under the heads on a terminal that is wide enough.

    On a narrow one the intervals stand under their values, and names break at spaces.
    """
    wide = console.width >= _WIDE
    table = Table(
        box=box.SIMPLE_HEAD if wide and console.is_terminal else None,
        pad_edge=False,
        padding=(0, 1),
        collapse_padding=True,
        header_style="bold",
    )
    table.add_column("\nsystem", overflow="fold")
    columns = _columns(contents.metrics)
    for head, _ in columns:
        table.add_column(head, justify="right")
    best = headlines.recommended(contents.systems)
    for system in (*contents.systems, *contents.copies):
        cells = [system.name, *(_spaced(value(system)) for _, value in columns)]
        if not wide:
            cells = [cell.replace(" [", "\n[") for cell in cells]
            cells[0] = cells[0].replace(" ", "\n")
        style = "bold red" if system.faults else "bold" if system is best else ""
        table.add_row(*(Text(cell) for cell in cells), style=style)
    return table


def test_lines(
    comparisons: Sequence[Comparison], metric: Metric, baseline: str | None
) -> list[str]:
    """The paired tests, one sentence each; points of an error rate need no unit."""
    unit = f" {metric.title}" if metric.higher_is_better else ""
    return [
        _spaced(
            f"{test.system}, {_mode(test, metric)}: {numbers.signed(test.delta)}{unit}"
            f"{_span(test)}, {headlines.verdict(test, baseline)}"
        )
        for test in comparisons
    ]


def _mode(test: Comparison, metric: Metric) -> str:
    return _MODES.get(test.metric.removeprefix(f"{metric.name}_"), test.metric)


def show_results(contents: RunContents, console: Console) -> None:
    """Prints the table, what is broken, the tests, and how all was measured."""
    console.print(results_table(contents, console))
    for system in headlines.broken((*contents.systems, *contents.copies)):
        line = _spaced(f"{system.name} is broken: {'; '.join(system.faults)}")
        wrapped = textwrap.fill(line, console.width, subsequent_indent="  ")
        console.print(Text(wrapped, style="bold red"), soft_wrap=True)
    lines = test_lines(contents.comparisons, contents.metrics[0], contents.baseline)
    if lines:
        console.print("\nPaired tests:")
    for line in lines:
        wrapped = textwrap.fill(line, console.width, initial_indent="  ", subsequent_indent="    ")
        console.print(wrapped, soft_wrap=True)
    notes = list(dict.fromkeys(test.test for test in contents.comparisons))
    signatures = headlines.signatures(contents.systems, contents.metrics)
    notes += [f"{title}: {signature}" for title, signature in signatures]
    if notes:
        console.print()
    for note in notes:
        console.print(note, style="dim", soft_wrap=True)


def _with_interval(system: System) -> str:
    value = numbers.fixed(system.beam)
    if system.beam_low is None or system.beam_high is None:
        return value
    low, high = numbers.fixed(system.beam_low), numbers.fixed(system.beam_high)
    return f"{value} [{low}, {high}]"


def _span(test: Comparison) -> str:
    if test.low is None or test.high is None:
        return ""
    return f" ({numbers.signed(test.low)} to {numbers.signed(test.high)})"


def _spaced(text: str) -> str:
    """With plain spaces: not every terminal's font has the narrow and no-break ones."""
    return text.replace(numbers.THIN, " ").replace(numbers.HARD, " ")
