"""The claims, one by one, and the experiments that follow from them, as Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from experiments.harness.estimates import Quantity, average, estimate, gain
from experiments.harness.reading import Row, Runs, grouped, number
from experiments.harness.text import NOT_MEASURED, change, rate_name, score, table
from experiments.harness.verdicts import Part, Verdict, verdict_of
from experiments.kim_rush.page_cells import Students, students_of, varied_students_of
from experiments.kim_rush.page_claims import CLAIMS, Claim
from experiments.kim_rush.page_rows import TASKS, Results, Task, plain
from experiments.kim_rush.page_text import method_name, size_name, variant_name
from seqdistill.report.numbers import MISSING, fixed, percent


def claims(results: Results) -> str:
    """A table of verdicts, then for each claim the paper's figures, the rule and ours."""
    cells = [students for task in TASKS for students in students_of(results, task)]
    explanation = (
        "A rule looks at the 95 % interval of the figure: `holds` when all of it lies where the "
        "rule says, `does not hold` when all of it lies elsewhere, `undecided` when it lies on "
        "both sides or there is none. A rule of several parts holds when all do. The paper's "
        "figures are BLEU of English-German with a 2×500 student unless told otherwise; ° marks "
        "those not compared with the paper's own text. Ours are points of "
        + " and ".join(f"{task.measure.name} ({task.name})" for task in TASKS)
        + ", where positive is better."
    )
    if not cells:
        return f"{explanation}\n\n{NOT_MEASURED}"
    varied = [students for task in TASKS for students in varied_students_of(results, task)]
    places = [_place(students) for students in cells]
    decided = [[claim.parts(students) for students in cells] for claim in CLAIMS]
    lines = [
        [str(index), claim.title, *(verdict_of(parts).value for parts in found)]
        for index, (claim, found) in enumerate(zip(CLAIMS, decided, strict=True), start=1)
    ]
    blocks = [explanation, table(["", "claim", *places], lines, text_columns=len(places) + 2)]
    for index, (claim, found) in enumerate(zip(CLAIMS, decided, strict=True), start=1):
        blocks.append(f"### {index}. {claim.title}\n\nPaper: {claim.paper}. {claim.rule}")
        blocks.append(_figures(found, places))
        told = {
            _place(students): claim.parts(students)
            for students in varied
            if _says_more(claim, students)
        }
        if told:
            blocks.append("Looked into with students trained otherwise:")
            blocks.append(_figures(list(told.values()), list(told)))
    return "\n\n".join(blocks)


def _says_more(claim: Claim, students: Students) -> bool:
    """Whether a figure of theirs was measured and is not the main table's."""
    known = claim.parts(dataclasses.replace(students, variant=None))
    parts = claim.parts(students)
    return any(part.verdict is not Verdict.MISSING and part not in known for part in parts)


def _place(students: Students) -> str:
    variant = "" if students.variant is None else f", {variant_name(students.variant)}"
    return f"{students.task.name} {size_name(students.size)}{variant}"


def _figures(found: Sequence[tuple[Part, ...]], places: Sequence[str]) -> str:
    """A line for each part of a claim and one for the whole, a column for each student."""
    lines = []
    for row in zip(*found, strict=True):
        verdicts = [f": {part.verdict.value}" if len(found[0]) > 1 else "" for part in row]
        told = [part.figure + verdict for part, verdict in zip(row, verdicts, strict=True)]
        lines.append([row[0].label, *told])
    whole = [f"**{verdict_of(parts).value}**" for parts in found]
    lines.append(["claim", *whole])
    return table(["", *places], lines, text_columns=len(places) + 1)


def follow_ups(results: Results) -> str:
    """One table for each question that was asked after the claims."""
    blocks = []
    for task in TASKS:
        rows = plain(results.of(task, "follow_up"))
        for (question,), asked in grouped(rows, "question").items():
            blocks.append(f"### {task.name}: {question or 'no question given'}")
            blocks.append(_follow_up_table(task, (*asked, *_compared(results, task, asked))))
    return "\n\n".join(blocks) if blocks else "None yet."


def _compared(results: Results, task: Task, asked: Runs) -> Runs:
    """The rows of the main and the pruning table that rows of a question are compared with."""
    keys = ("size", "seed", "pruned_share")
    wanted = {(row.get("compared_with"), *map(row.get, keys)) for row in asked}
    return tuple(
        row
        for row in plain((*results.of(task, "main"), *results.of(task, "pruning")))
        if (row.get("method"), *map(row.get, keys)) in wanted
    )


def _follow_up_table(task: Task, rows: tuple[Row, ...]) -> str:
    measure = task.measure
    groups = grouped(rows, "size", "method", "variant", "updates", "learning_rate")
    lines = []
    for (size, method, variant, updates, rate), runs in groups.items():
        base = _baseline_like(rows, runs[0])
        gained = (
            None if method == "baseline" else gain(runs, base, measure.greedy, sign=measure.sign)
        )
        lines.append(
            [
                size_name(str(size)),
                method_name(str(method)),
                MISSING if variant is None else variant_name(str(variant)),
                MISSING if updates is None else f"{updates:,}",
                MISSING if rate is None else rate_name(rate),
                score(estimate(Quantity(runs, measure.greedy))),
                score(estimate(Quantity(runs, measure.beam))),
                change(gained),
                fixed(average(runs, "perplexity"), 2),
                percent(average(runs, "mode_share")),
                str(len(runs)),
            ]
        )
    headings = [
        *("student", "method", "variant", "updates", "rate"),
        *(f"{measure.name} greedy", f"{measure.name} beam", "gain greedy"),
        *("perplexity", "p(t=ŷ)", "seeds"),
    ]
    return table(headings, lines, text_columns=3)


def _baseline_like(rows: tuple[Row, ...], row: Row) -> Runs:
    """The undistilled students of the same question, size, variant and updates."""
    return tuple(
        other
        for other in rows
        if other.get("method") == "baseline"
        and other.get("size") == row.get("size")
        and other.get("variant") == row.get("variant")
        and number(other, "updates") == number(row, "updates")
    )
