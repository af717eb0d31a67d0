"""The results of a run as a table and sentences that fit into 100 columns.

Columns, numbers and the sentences of tests are those of the report. Import it inside a command: the
report takes a moment to start.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from seqdistill.records.results import PairedTest, Results, System
from seqdistill.report import headlines, numbers

if TYPE_CHECKING:
    from seqdistill.jobs.bench import Comparison

# Two lines a head, so that ten columns fit.
_HEADS = {
    "token error rate": "token err.",
    "sequence error rate": "seq. err.",
    "exact match": "exact",
    "answer accuracy": "accuracy",
    "perplexity": "perplex-\nity",
    "sentences/s": "sent./s",
    "parameters": "para-\nmeters",
}
_MODES = {"beam": "beam search", "greedy": "greedy"}
# Below this width the table needs every column that it can save.
_WIDE = 94


def results_table(results: Results, console: Console) -> Table:
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
    systems = (*results.systems, *results.exports)
    columns = headlines.columns_of(results.metrics, systems)
    table.add_column("\nsystem", overflow="fold")
    table.add_column(f"{_head(results.metrics[0].title)} beam\n[low, high]", justify="right")
    for column in columns:
        table.add_column(f"{_head(column.head)}\n{column.mode}".rstrip(), justify="right")
    for system in systems:
        cells = [system.name, _with_interval(system, results.metrics[0].name)]
        cells += [_spaced(column.show(system)) for column in columns]
        if not wide:
            cells = [cell.replace(" [", "\n[") for cell in cells]
            cells[0] = cells[0].replace(" ", "\n")
        best = system.name == results.recommended
        style = "bold red" if system.faults else "bold" if best else ""
        table.add_row(*(Text(cell) for cell in cells), style=style)
    return table


def _head(title: str) -> str:
    return _HEADS.get(title, title)


def _test_line(test: PairedTest, results: Results) -> str:
    """One paired test as a sentence; points of an error rate need no unit."""
    metric = next((m for m in results.metrics if m.name == test.metric), results.metrics[0])
    unit = f" {metric.title}" if metric.higher_is_better else ""
    span = ""
    if test.low is not None and test.high is not None:
        span = f" ({numbers.signed(test.low)} to {numbers.signed(test.high)})"
    return (
        f"{test.system}, {_MODES[test.mode]}: {numbers.signed(test.delta)}{unit}{span}, "
        f"{headlines.verdict(test, results)}"
    )


def show_results(results: Results, console: Console) -> None:
    """Prints the table, the headline, what is broken, the tests, and how all was measured."""
    console.print(results_table(results, console))
    student = headlines.best(results)
    if student is not None and not student.faults:
        said = "".join(phrase.text for phrase in headlines.headline(results))
        wrapped = textwrap.fill(_spaced(f"{said}."), console.width)
        console.print(Text(f"\n{wrapped}", style="bold"), soft_wrap=True)
    for system in (*results.systems, *results.exports):
        if system.faults:
            line = _spaced(f"{system.name} is broken: {'; '.join(system.faults)}")
            wrapped = textwrap.fill(line, console.width, subsequent_indent="  ")
            console.print(Text(wrapped, style="bold red"), soft_wrap=True)
    if results.paired_tests:
        console.print("\nPaired tests:")
    for test in results.paired_tests:
        line = _spaced(_test_line(test, results))
        wrapped = textwrap.fill(line, console.width, initial_indent="  ", subsequent_indent="    ")
        console.print(wrapped, soft_wrap=True)
    notes = list(dict.fromkeys(test.test for test in results.paired_tests))
    notes += [f"{title}: {signature}" for title, signature in headlines.signatures(results)]
    if notes:
        console.print()
    for note in notes:
        console.print(note, style="dim", soft_wrap=True)


def _with_interval(system: System, metric: str) -> str:
    score = system.beam.scores.get(metric)
    if score is None or score.low is None or score.high is None:
        return numbers.fixed(None if score is None else score.value)
    low, high = numbers.fixed(score.low), numbers.fixed(score.high)
    return f"{numbers.fixed(score.value)} [{low}, {high}]"


def _spaced(text: str) -> str:
    """With plain spaces: not every terminal's font has the narrow and no-break ones."""
    return text.replace(numbers.THIN, " ").replace(numbers.HARD, " ")


def comparisons_table(found: Sequence[Comparison]) -> Table:
    """A row a comparison: ours, the other, and the ratio with the lowest and highest of a round."""
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("measured")
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column("against")
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column("ratio [low, high]", no_wrap=True)
    for each in found:
        show, of_what = _QUANTITIES[each.unit]
        ratio = f"{each.ratio.median:.2f}× the {of_what}"
        if each.rounds > 1:
            ratio += f" [{each.ratio.low:.2f}, {each.ratio.high:.2f}]"
        cells = (each.name, show(each.ours.median), each.against, show(each.theirs.median), ratio)
        table.add_row(*(Text(_spaced(cell)) for cell in cells))
    return table


_QUANTITIES: dict[str, tuple[Callable[[float], str], str]] = {
    "s": (lambda seconds: f"{numbers.significant(1000.0 * seconds)} ms", "time"),
    "tokens/s": (lambda rate: f"{numbers.rate(rate)} tokens/s", "speed"),
    "sentences/s": (lambda rate: f"{numbers.rate(rate)} sent./s", "speed"),
    "bytes": (numbers.size, "memory"),
}
