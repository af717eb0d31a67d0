"""The page's tables of what was measured. A missing number is an en dash. Judges nothing."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.harness.estimates import Quantity, average, estimate, gain, gap
from experiments.harness.reading import TEACHER, Measure, Row, Runs, distinct, grouped, number
from experiments.harness.text import basis, change, rate_name, score, share_name, table
from experiments.kim_rush.page_cells import Students
from experiments.kim_rush.page_rows import Results, Task, methods_among, plain, runs_of
from experiments.kim_rush.page_text import method_name, size_name
from seqdistill.report.numbers import MISSING, count, duration, fixed, percent


def main_table(students: Students) -> str:
    """Scores and gains of the teacher and of one student size; the best students in bold."""
    measure, further = students.task.measure, students.task.further
    best = {students.best(measure.greedy), students.best(measure.beam)}
    rows = []
    for method, runs, base in _systems(students):
        scores = [estimate(Quantity(runs, key)) for key in (measure.greedy, measure.beam)]
        gains = [
            None if runs == base else gain(runs, base, key, sign=measure.sign)
            for key in (measure.greedy, measure.beam)
        ]
        name = method_name(method)
        found = scores[0] or scores[1]
        rows.append(
            [
                f"**{name}**" if method in best else name,
                *(score(value) for value in scores),
                *(change(value) for value in gains),
                *(score(estimate(Quantity(runs, key))) for _, key in further),
                fixed(average(runs, "perplexity"), 2),
                percent(average(runs, "mode_share")),
                MISSING if found is None else basis(found),
            ]
        )
    headings = [
        "system",
        f"{measure.name} greedy",
        f"{measure.name} beam",
        "gain greedy",
        "gain beam",
        *(heading for heading, _ in further),
        "perplexity",
        "p(t=ŷ)",
        "interval",
    ]
    return table(headings, rows, text_columns=1)


def behaviour_table(students: Sequence[Students]) -> str:
    """How all systems decode: gain of beam search, agreement, outputs without an end, time."""
    rows = []
    for place, of_size in enumerate(students):
        for method, runs, _ in _systems(of_size):
            model = str(runs[0]["size"])
            if place and model == TEACHER:
                continue
            rows.append(
                [
                    size_name(model),
                    method_name(method),
                    change(gap(runs, of_size.task.measure)),
                    percent(average(runs, "agreement_top1")),
                    fixed(average(runs, "unfinished")),
                    duration(average(runs, "seconds_training")),
                ]
            )
    headings = ["model", "method", "beam over greedy", "top-1 agreement", "unfinished", "training"]
    return table(headings, rows, text_columns=2)


def _systems(students: Students) -> list[tuple[str, Runs, Runs]]:
    """Method, its runs, and the runs that it is compared with: the teacher's or the baseline's."""
    systems = [
        (method, students.teacher(method), students.teacher())
        for method in (TEACHER, "teacher+seq_inter")
    ] + [
        (method, students.student(method), students.student("baseline"))
        for method in students.methods
    ]
    return [system for system in systems if system[1]]


def rates_table(results: Results, task: Task) -> str:
    """Dev scores of the grid of learning rates; bold is the rate that the main table uses."""
    rows = results.of(task, "learning_rates")
    rates = distinct(rows, "learning_rate")
    dev = dev_measure(rows, task)
    lines = []
    groups = grouped(rows, "size", "method", "pruned_share")
    for (model, method, share), runs in groups.items():
        used = used_rates(results, task, model, method, share)
        cells = []
        for value in rates:
            at = tuple(row for row in runs if number(row, "learning_rate") == value)
            text = fixed(average(at, dev.key), 2)
            cells.append(f"**{text}**" if value in used and at else text)
        remark = _remark(runs, dev, used)
        name = method_name(str(method)) + (f", {share_name(share)}" if share is not None else "")
        lines.append([size_name(str(model)), name, *cells, remark])
    headings = ["model", "method", *(rate_name(value) for value in rates), "remark"]
    return table(headings, lines, text_columns=2)


def used_rates(
    results: Results, task: Task, model: str, method: str, share: float | None = None
) -> list[float]:
    """The learning rates of a system's rows in the main table; of a pruned one's in that."""
    if share is None:
        return distinct(runs_of(results.of(task, "main"), model, method), "learning_rate")
    pruned = runs_of(results.of(task, "pruning"), model, f"{method}+seq_inter")
    return sorted({float(r["learning_rates"][-2]) for r in pruned if r["pruned_share"] == share})


def dev_measure(rows: Sequence[Row], task: Task) -> Measure:
    """What chose the rates: the first of the task's dev scores that a row has."""
    present = (dev for dev in task.dev if any(number(row, dev.key) is not None for row in rows))
    return next(present, task.dev[0])


def _remark(runs: Runs, dev: Measure, used: list[float]) -> str:
    """What a reader should know of the choice: not the best on dev, or at an end of the grid."""
    scores: dict[float, float] = {}
    for value in distinct(runs, "learning_rate"):
        at = tuple(row for row in runs if number(row, "learning_rate") == value)
        found = average(at, dev.key)
        if found is not None:
            scores[value] = dev.sign * found
    if not scores:
        return MISSING
    best = max(scores, key=lambda value: scores[value])
    if used and best not in used:
        return f"the best on dev is {rate_name(best)}"
    if not used:
        return "not in the main table"
    return "at the end of the grid" if best in (min(scores), max(scores)) else ""


def curve_table(results: Results, task: Task, experiment: str, key: str) -> str:
    """Greedy scores of one curve: a line for each point of it, a column for each method."""
    rows = plain(results.curve(task, experiment))
    methods = methods_among(rows)
    lines = []
    for (model, updates), at in grouped(sorted(rows, key=_point), "size", "updates").items():
        cells = [
            score(estimate(Quantity(tuple(r for r in at if r["method"] == method), key)))
            for method in methods
        ]
        lines.append(
            [
                size_name(str(model)),
                count(average(at, "parameters")),
                MISSING if updates is None else f"{updates:,}",
                *cells,
            ]
        )
    headings = ["student", "parameters", "updates", *(method_name(method) for method in methods)]
    return table(headings, lines, text_columns=1)


def _point(row: Row) -> tuple[float, str, float]:
    return number(row, "parameters") or 0.0, str(row.get("size")), number(row, "updates") or 0.0
