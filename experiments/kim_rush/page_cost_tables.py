"""Tables of what a system costs: words per second, and weights and bytes after pruning."""

from __future__ import annotations

from experiments.harness.estimates import Quantity, average, estimate, gain, gain_over_teacher
from experiments.harness.reading import TEACHER, Row, Runs, distinct, number
from experiments.harness.text import change, score, share_name, table
from experiments.kim_rush.page_rows import (
    FLOAT32,
    INT8,
    Results,
    Task,
    methods_among,
    plain,
    runs_of,
    student_sizes,
)
from experiments.kim_rush.page_text import method_name, size_name
from seqdistill.report.numbers import count, fixed, rate, size, times

# The stored forms of a pruned student: (heading, key).
_FORMS = (
    ("fp16", "bytes_fp16"),
    ("fp16 sparse", "bytes_fp16_sparse"),
    ("int8", "bytes_int8"),
    ("int8 sparse", "bytes_int8_sparse"),
)


def speed_table(results: Results, task: Task) -> str:
    """Words per second of each model and engine, and ratios to the teacher's beam search."""
    rows, main = results.of(task, "speed"), results.of(task, "main")
    teacher = {
        engine: average(_on_engine(rows, TEACHER, TEACHER, engine), "words_per_second_beam")
        for engine in (FLOAT32, INT8)
    }
    lines = []
    sizes = [TEACHER, *student_sizes(rows)]
    for model in sizes:
        of_size = [row for row in rows if row.get("size") == model]
        for method in methods_among(of_size):
            for engine in (FLOAT32, INT8):
                runs = _on_engine(rows, model, method, engine)
                if runs:
                    quality = average(runs, task.measure.greedy)
                    if quality is None and engine == FLOAT32:
                        quality = average(runs_of(main, model, method), task.measure.greedy)
                    lines.append(_speed_line(runs, quality, teacher, engine))
    headings = [
        "model",
        "method",
        "engine",
        f"{task.measure.name} greedy",
        "words/s greedy",
        "words/s beam",
        "greedy / teacher's beam, fp32",
        "greedy / teacher's beam, same engine",
        "beam / teacher's beam, same engine",
    ]
    return table(headings, lines, text_columns=3)


def _speed_line(
    runs: Runs, quality: float | None, teacher: dict[str, float | None], engine: str
) -> list[str]:
    greedy, beam = (average(runs, f"words_per_second_{how}") for how in ("greedy", "beam"))
    return [
        size_name(str(runs[0].get("size"))),
        method_name(str(runs[0].get("method"))),
        engine.removeprefix("ctranslate2 "),
        fixed(quality),
        rate(greedy),
        rate(beam),
        times(_ratio(greedy, teacher[FLOAT32])),
        times(_ratio(greedy, teacher[engine])),
        times(_ratio(beam, teacher[engine])),
    ]


def _on_engine(rows: tuple[Row, ...], model: str, method: str, engine: str) -> Runs:
    return tuple(
        row
        for row in rows
        if (row.get("size"), row.get("method")) == (model, method)
        and row.get("engine", FLOAT32) == engine
    )


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def pruning_table(results: Results, task: Task) -> str:
    """Every pruned student: its weights, its scores beside the teacher's, and its stored forms."""
    measure = task.measure
    teacher = runs_of(results.of(task, "main"), TEACHER, TEACHER)
    whole = average(teacher, "parameters")
    lines = []
    groups = pruned_systems(results, task)
    for (model, method, share), runs in groups.items():
        left = average(runs, "nonzero")
        over_teacher = gain_over_teacher(
            Quantity(runs, measure.beam), Quantity(teacher, measure.beam), measure=measure
        )
        unpruned = groups.get((model, method, 0.0), ())
        from_unpruned = gain(runs, unpruned, measure.beam, sign=measure.sign) if share else None
        lines.append(
            [
                size_name(model),
                method_name(method),
                share_name(share),
                count(left),
                times(_ratio(whole, left)),
                score(estimate(Quantity(runs, measure.greedy))),
                score(estimate(Quantity(runs, measure.beam))),
                score(estimate(Quantity(_int8_copies(results, task, runs), measure.beam))),
                change(over_teacher),
                change(from_unpruned),
                *(size(average(runs, key)) for _, key in _FORMS),
            ]
        )
    headings = [
        "student",
        "method",
        "pruned",
        "weights left",
        "fewer than the teacher",
        f"{measure.name} greedy",
        f"{measure.name} beam",
        f"{measure.name} beam, int8",
        "gain over teacher's beam",
        "gain over 0 % pruned",
        *(heading for heading, _ in _FORMS),
    ]
    return table(headings, lines, text_columns=2)


def _int8_copies(results: Results, task: Task, runs: Runs) -> Runs:
    """The rows of the int8 copies of these students."""
    keys = ("size", "method", "pruned_share", "seed")
    wanted = {tuple(row.get(key) for key in keys) for row in runs}
    return tuple(
        row
        for row in results.of(task, "pruning")
        if row.get("engine") == INT8 and tuple(row.get(key) for key in keys) in wanted
    )


def pruned_systems(results: Results, task: Task) -> dict[tuple[str, str, float], Runs]:
    """Runs by student size, method and pruned share; the unpruned share is 0.

    The student at 0 % bears the name of the chain that prunes it, so that a line starts with it:
    `seq_kd` becomes `seq_kd+prune` where the rows have such a chain.
    """
    rows = plain(results.of(task, "pruning"))
    found: dict[tuple[str, str, float], Runs] = {}
    for model in student_sizes(rows):
        of_size = [row for row in rows if row.get("size") == model]
        for method in methods_among([row for row in of_size if number(row, "pruned_share")]):
            family = {method, method.replace("+prune", "")}
            for share in distinct(of_size, "pruned_share"):
                runs = tuple(
                    row
                    for row in of_size
                    if number(row, "pruned_share") == share
                    and (row["method"] == method or (share == 0.0 and row["method"] in family))
                )
                if runs:
                    found[model, method, share] = runs
    return found
