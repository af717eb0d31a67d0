"""The claims, one by one, and the experiments that follow from them, as Markdown."""

from __future__ import annotations

from experiments.kim_rush.page_cells import Students, students_of
from experiments.kim_rush.page_claims import CLAIMS, Claim
from experiments.kim_rush.page_estimates import Quantity, average, estimate, gain
from experiments.kim_rush.page_rows import TASKS, Results, Row, Runs, Task, grouped, number, plain
from experiments.kim_rush.page_text import (
    NOT_MEASURED,
    change,
    method_name,
    rate_name,
    score,
    size_name,
    table,
)
from experiments.kim_rush.page_verdicts import verdict_of
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
    headings = ["", "claim", *(f"{c.task.name} {size_name(c.size)}" for c in cells)]
    lines = [
        [
            str(index),
            claim.title,
            *(_shown_verdict(claim, students) for students in cells),
        ]
        for index, claim in enumerate(CLAIMS, start=1)
    ]
    blocks = [explanation, table(headings, lines, text_columns=len(headings))]
    blocks += [_claim(index, claim, cells) for index, claim in enumerate(CLAIMS, start=1)]
    return "\n\n".join(blocks)


def _shown_verdict(claim: Claim, students: Students) -> str:
    return verdict_of(claim.parts(students)).value


def _claim(index: int, claim: Claim, cells: list[Students]) -> str:
    lines = [
        f"### {index}. {claim.title}",
        "",
        f"Paper: {claim.paper}. {claim.rule}",
        "",
    ]
    for students in cells:
        parts = claim.parts(students)
        verdict = verdict_of(parts).value
        lines.append(f"- **{students.task.name} {size_name(students.size)}: {verdict}**")
        told = [f"  - {part.text}" + _own(part.verdict.value, len(parts)) for part in parts]
        lines += told
    return "\n".join(lines)


def _own(verdict: str, num_parts: int) -> str:
    """The part's own verdict, where there are others beside it."""
    return f": {verdict}" if num_parts > 1 else ""


def follow_ups(results: Results) -> str:
    """One table for each question that was asked after the claims."""
    blocks = []
    for task in TASKS:
        rows = plain(results.of(task, "follow_up"))
        for (question,), asked in grouped(rows, "question").items():
            blocks.append(f"### {task.name}: {question or 'no question given'}")
            blocks.append(_follow_up_table(task, asked))
    return "\n\n".join(blocks) if blocks else "None yet."


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
                MISSING if variant is None else str(variant),
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
