"""The page's sections as Markdown: headings, explanations, tables, pictures, in reading order.

Says how numbers were made and never what they are: that is for tables, findings and claims.
"""

from __future__ import annotations

from collections.abc import Callable

from experiments.harness.estimates import average
from experiments.harness.pages import Pictures
from experiments.harness.reading import Row, distinct
from experiments.harness.text import NOT_MEASURED, grouped_thousands, picture, table
from experiments.kim_rush.page_cells import Students, students_of
from experiments.kim_rush.page_cost_tables import pruning_table, speed_table
from experiments.kim_rush.page_rows import TASKS, Results, Task
from experiments.kim_rush.page_tables import (
    behaviour_table,
    curve_table,
    dev_measure,
    main_table,
    rates_table,
)
from experiments.kim_rush.page_text import size_name
from seqdistill.report.numbers import MISSING, count, duration, times


def what_was_run(results: Results) -> str:
    """Tasks, data, teacher, students, updates, seeds, machine."""
    lines = []
    for task in TASKS:
        facts = results.tasks.get(task.name, {})
        main = results.of(task, "main")
        found = students_of(results, task)
        teacher = average(found[0].teacher(), "parameters") if found else None
        students = [_student_with_size(students, teacher) for students in found]
        rows = [row for row in results.rows if row.get("task") == task.name]
        trained = [float(row["seconds_training"]) for row in rows if row.get("seconds_training")]
        lines.append(
            [
                task.title,
                " / ".join(_whole(facts.get(part)) for part in ("train", "dev", "test")),
                count(teacher),
                "; ".join(students) or MISSING,
                grouped_thousands(distinct(_students_only(main), "updates")),
                f"{len(distinct(_students_only(main), 'seed'))}",
                duration(sum(trained)) if trained else MISSING,
            ]
        )
    headings = [
        *("task", "train / dev / test", "teacher", "students", "updates", "seeds"),
        "training, all rows",
    ]
    return (
        "Students start from random weights and are named width × encoder + decoder layers. All "
        "students of a size and stage get the same updates; each method has the learning rate that "
        "was best for it on dev. Parameters count tied weights once.\n\n"
        + table(headings, lines, text_columns=1)
        + "\n\n"
        + _machine(results)
    )


def _student_with_size(students: Students, teacher: float | None) -> str:
    of_size = tuple(row for row in students.main if row.get("size") == students.size)
    parameters = average(of_size, "parameters")
    smaller = times(teacher / parameters) if teacher and parameters else MISSING
    return f"{size_name(students.size)}: {count(parameters)}, {smaller} smaller"


def _students_only(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    return tuple(row for row in rows if row.get("size") != "teacher")


def _whole(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else MISSING


def _machine(results: Results) -> str:
    machine, versions = results.machine, results.versions
    cores = f"{machine['cpu_cores']} cores" if "cpu_cores" in machine else "cores unknown"
    named = [
        f"{name} {versions[name]}"
        for name in ("seqdistill", "torch", "transformers", "ctranslate2", "sacrebleu")
        if name in versions
    ]
    made_of = f"{machine.get('cpu_model', 'CPU unknown')}, {cores}"
    return f"Machine: {made_of}. Versions: {', '.join(named) or 'unknown'}."


def main_results(results: Results, pictures: Pictures) -> str:
    """The scores of every method, for each task and student size."""
    blocks = [
        "`a ± b`: mean and 95 % t interval over seeds, on one test set. `a [b, c]`: one seed, with "
        "the 95 % interval of resampling the test set. A gain is the difference from the "
        "undistilled student of the same seed (of the teacher, for the teacher), and **positive is "
        "better** on both tasks; of one seed, its interval is of both systems on the same "
        "resampled test sets, where the outputs of both were kept. p(t=ŷ) is the mean probability "
        "that a system gives its own beam output. In bold: the best student by greedy and by beam "
        "search."
    ]
    for task in TASKS:
        blocks.append(f"### {task.title}")
        found = students_of(results, task)
        if not found:
            blocks.append(NOT_MEASURED)
            continue
        blocks.append(_shown(pictures, task, "main", f"{task.measure.name} of every system"))
        blocks += [
            f"Student {size_name(students.size)}:\n\n{main_table(students)}" for students in found
        ]
    return "\n\n".join(block for block in blocks if block)


def speed(results: Results) -> str:
    """Words per second."""
    intro = (
        "Words a second of one test set and one thread count, all models of a task in one run; "
        "compare ratios. Beam search is of size 5."
    )
    return f"{intro}\n\n" + _of_each_task(results, "speed", speed_table, {})


def pruning(results: Results, pictures: Pictures) -> str:
    """Weights left, scores, bytes."""
    intro = (
        "Class-blind magnitude pruning of all weights, embeddings included, then training on with "
        "the zeros kept. Bytes are of what is stored; sparse forms load back to the same model."
    )
    return f"{intro}\n\n" + _of_each_task(results, "pruning", pruning_table, pictures)


def curves(results: Results, pictures: Pictures) -> str:
    """Scores over the size of the student and over the length of training."""
    blocks = []
    for task in TASKS:
        parts = [
            f"{task.measure.name}, greedy, {what}:\n\n"
            + curve_table(results, task, experiment, task.measure.greedy)
            for experiment, what in (
                ("size_curve", "over the size of the student"),
                ("length_curve", "over the length of training"),
            )
            if results.of(task, experiment)
        ]
        if parts:
            shown = _shown(pictures, task, "curves", "Scores over size and training length")
            blocks += [f"### {task.title}", shown, *parts]
    return "\n\n".join(block for block in blocks if block) or NOT_MEASURED


def learning_rates(results: Results) -> str:
    """The grid, and who got which rate."""
    blocks = [
        "Each method chooses its rate on dev. In bold: the rate of the main table. The rate of a "
        "chain is that of its last stage."
    ]
    for task in TASKS:
        blocks.append(f"### {task.title}")
        rows = results.of(task, "learning_rates")
        if not rows:
            blocks.append(NOT_MEASURED)
            continue
        dev = dev_measure(rows, task)
        told = "less is better" if dev.sign < 0 else "more is better"
        length = grouped_thousands(distinct(rows, "updates"))
        told += f"; after {length} updates"
        blocks.append(f"Dev {dev.name}, greedy ({told}):\n\n{rates_table(results, task)}")
    return "\n\n".join(blocks)


def likelihood(results: Results, pictures: Pictures) -> str:
    """Perplexity, mode share and how the systems decode."""
    blocks = []
    for task in TASKS:
        found = students_of(results, task)
        blocks.append(f"### {task.title}")
        what = f"{task.measure.name} and mode share over perplexity"
        blocks.append(_shown(pictures, task, "likelihood", what))
        blocks.append(behaviour_table(found) if found else NOT_MEASURED)
    return "\n\n".join(block for block in blocks if block)


def _of_each_task(
    results: Results,
    experiment: str,
    made: Callable[[Results, Task], str],
    pictures: Pictures,
) -> str:
    blocks = []
    for task in TASKS:
        blocks.append(f"### {task.title}")
        if not results.of(task, experiment):
            blocks.append(NOT_MEASURED)
            continue
        blocks.append(_shown(pictures, task, experiment, f"{task.measure.name} and {experiment}"))
        blocks.append(made(results, task))
    return "\n\n".join(block for block in blocks if block)


def _shown(pictures: Pictures, task: Task, plot: str, description: str) -> str:
    path = pictures.get((task.name, plot))
    return "" if path is None else picture(path, f"{description}, {task.name}")
