"""The page's tables of what was measured. A missing number is an en dash. Judges nothing."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.gkd.methods import BASELINES, DIVERGENCES, SHARES, GridPoint, grid_name
from experiments.gkd.page_rows import (
    INITIAL,
    ON_POLICY,
    TEMPERATURES,
    Results,
    Students,
    divergence_name,
    later_students,
    longer_students,
    method_name,
    of_the_same_seeds,
    self_bleu,
)
from experiments.gkd.plan import LENGTHENED, THRIFTY, TIMED
from experiments.harness.estimates import average
from experiments.harness.reading import TEACHER, Runs, distinct, grouped, number
from experiments.harness.text import basis, change, rate_name, score, share_name, table
from seqdistill.report.numbers import MISSING, duration, fixed, percent, times


def main_table(students: Students) -> str:
    """Scores and gains of the teacher, the initial student and every method; the best in bold."""
    shown = students.shown
    best = students.best(students.methods)
    base = students.best_baseline
    base_gain = None if base is None else students.gained(students.student(base))
    lines = []
    for method in (TEACHER, INITIAL, *students.methods):
        runs = students.student(method)
        if not runs:
            continue
        gained = None if method in (TEACHER, INITIAL) else students.gained(runs)
        ratio = (
            gained.value / base_gain.value
            if gained is not None and base_gain is not None and base_gain.value > 0.0
            else None
        )
        found = students.score(runs)
        name = method_name(method)
        lines.append(
            [
                f"**{name}**" if method == best else name,
                score(found),
                change(gained),
                MISSING
                if ratio is None
                else times(ratio)
                if ratio > 0.0
                else f"{ratio:.2f}×".replace("-", "−"),
                *(fixed(average(runs, key)) for _, key in shown.further),
                percent(average(runs, "agreement_top1")),
                _milliseconds(average(runs, "seconds_per_update")),
                MISSING if found is None else basis(found),
            ]
        )
    headings = [
        *("system", f"{shown.measure.name} greedy", "gain", "to best baseline's"),
        *(heading for heading, _ in shown.further),
        *("agrees with teacher", "ms/update", "interval"),
    ]
    return table(headings, lines, text_columns=1)


SUMMARIZED = (
    *BASELINES,
    grid_name(GridPoint("forward_kl", 0.5)),
    *(grid_name(GridPoint(divergence, 1.0)) for divergence in DIVERGENCES),
)
"""The baselines, then what the student writes half of, then what it writes alone."""


def summary_table(found: Sequence[Students]) -> str:
    """Scores and gains of the methods that most tasks have: two columns for each task."""
    headings = ["system"]
    for students in found:
        headings += [f"{students.shown.name}: {students.shown.measure.name}", "gain"]
    lines = []
    for method in (TEACHER, INITIAL, *SUMMARIZED):
        cells = []
        for students in found:
            runs = students.student(method)
            gained = None if method in (TEACHER, INITIAL) else students.gained(runs)
            cells += [score(students.score(runs)), change(gained)]
        lines.append([method_name(method), *cells])
    return table(headings, lines, text_columns=1)


def _milliseconds(seconds: float | None) -> str:
    return MISSING if seconds is None else fixed(1000.0 * seconds, 0)


def grid_table(students: Students) -> str:
    """Gains over the initial student: a line for each divergence, a column for each lambda."""
    lines = []
    for divergence in students.divergences:
        cells = [change(students.gained(students.point(divergence, share))) for share in SHARES]
        lines.append([divergence_name(divergence), *cells])
    headings = ["gain over the initial student", *(f"λ {share:g}" for share in SHARES)]
    return table(headings, lines, text_columns=1)


def sampled_table(students: Students) -> str:
    """Quality and self-BLEU of samples, at each temperature."""
    lines = []
    for method in sampled_methods(students):
        runs = students.student(method)
        cells = [
            score(students.score(runs, key))
            for temperature in students.temperatures
            for key in (students.shown.sampled(temperature), self_bleu(temperature))
        ]
        lines.append([method_name(method), *cells])
    headings = [
        heading
        for temperature in students.temperatures
        for heading in (
            f"{students.shown.measure.name}, T {temperature}",
            f"self-BLEU, T {temperature}",
        )
    ]
    return table(["system", *headings], lines, text_columns=1)


def sampled_methods(students: Students) -> list[str]:
    """The teacher, the start, the baselines and every divergence with lambda 1, where measured."""
    wanted = [TEACHER, INITIAL, *BASELINES]
    wanted += [m for m in students.methods if m == ON_POLICY or m.endswith("-1")]
    key = self_bleu(TEMPERATURES[-1])
    return [m for m in wanted if average(students.student(m), key) is not None]


def data_table(students: Students) -> str:
    """Scores over the part of the inputs: a line for each part, a column for each method."""
    lines = [
        [
            share_name(share),
            *(score(students.score(students.trained_on(method, share))) for method in THRIFTY),
        ]
        for share in students.data_shares
    ]
    return table(["inputs", *map(method_name, THRIFTY)], lines, text_columns=1)


def time_table(students: Students) -> str:
    """On-policy KD beside methods with as many updates, and with as much time; of equal seeds."""
    longer = tuple(row for method in LENGTHENED for row in students.in_equal_time(method))
    timed = of_the_same_seeds(students.student(TIMED), longer)
    lines = []
    systems = [(method_name(TIMED), timed)]
    for method in LENGTHENED:
        name = method_name(method)
        systems += [
            (name, of_the_same_seeds(students.student(method), longer)),
            (f"{name}, longer", students.in_equal_time(method)),
        ]
    for name, runs in systems:
        behind = None if runs is timed else students.better_by(timed, runs)
        lines.append(
            [
                name,
                " / ".join(f"{updates:,.0f}" for updates in distinct(runs, "updates")) or MISSING,
                duration(average(runs, "wall_s")),
                score(students.score(runs)),
                MISSING if runs is timed else change(behind),
            ]
        )
    headings = ["system", "updates", "training", students.shown.measure.name]
    return table([*headings, "On-policy KD is better by"], lines, text_columns=1)


def length_table(students: Students) -> str:
    """Scores and gains after the main table's updates and the follow-up's, of equal seeds."""
    longer = longer_students(students)
    lengths = [(found, _updates(found.trained)) for found in (students, longer)]
    lines = []
    for method in longer.methods:
        cells = []
        for found, _ in lengths:
            runs = of_the_same_seeds(found.student(method), longer.trained)
            cells += [score(found.score(runs)), change(found.gained(runs))]
        lines.append([method_name(method), *cells])
    headings = [
        heading
        for _, updates in lengths
        for heading in (f"{students.shown.measure.name} after {updates} updates", "gain")
    ]
    return table(["system", *headings], lines, text_columns=1)


def start_table(students: Students) -> str:
    """Scores and gains from the start of all other tables and from the later one, of equal seeds.

    All were trained equally long: what begins at the first start is the follow-up's.
    """
    first, later = longer_students(students), later_students(students)
    lines = []
    for method in (INITIAL, *later.methods):
        cells = []
        for found in (first, later):
            runs = of_the_same_seeds(found.student(method), later.trained)
            gained = None if method == INITIAL else found.gained(runs)
            cells += [score(found.score(runs)), change(gained)]
        lines.append([method_name(method), *cells])
    headings = [
        heading
        for found in (first, later)
        for heading in (
            f"{students.shown.measure.name}, start of {_updates(found.initial)} updates",
            "gain",
        )
    ]
    return table(["system", *headings], lines, text_columns=1)


REWARD_COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("ROUGE-L (rewarded)", "rouge_l_greedy", 1),
    ("ROUGE-2 (not rewarded)", "rouge_2_greedy", 1),
    ("agrees with teacher, %", "agreement_top1", 1),
    ("KL from teacher, nats", "last_teacher_reverse_kl", 3),
    ("entropy, nats", "last_student_entropy", 3),
    ("length / reference", "length_ratio_greedy", 2),
    ("repetition at T 1", "repetition_sample_t1", 3),
)
"""Heading, key and decimals: what is rewarded, what is held out, and signs of reward hacking."""


def reward_table(students: Students) -> str:
    """Rewarded students: a line for each alpha, the start before them."""
    lines = []
    systems = [("initial student", students.start_of_rewarded)]
    systems += [(f"α {weight:g}", students.rewarded(weight)) for weight in students.teacher_weights]
    for name, runs in systems:
        cells = []
        for _, key, places in REWARD_COLUMNS:
            scale = 100.0 if key == "agreement_top1" else 1.0
            found = students.score(in_units(runs, key, scale), key)
            cells.append(score(found, places))
        lines.append([name, *cells])
    return table(["", *(heading for heading, _, _ in REWARD_COLUMNS)], lines, text_columns=1)


def in_units(runs: Runs, key: str, scale: float) -> Runs:
    """The runs with the number under the key multiplied; those without it are left out."""
    found = []
    for row in runs:
        ends = {k: number(row, k) for k in (key, f"{key}_low", f"{key}_high")}
        if ends[key] is not None:
            found.append({**row, **{k: scale * v for k, v in ends.items() if v is not None}})
    return tuple(found)


def rates_table(students: Students) -> str:
    """Dev scores of the grid of learning rates; bold is the rate that was taken."""
    results, shown = students.results, students.shown
    is_later = students.experiment == "later"
    rows = results.of(shown, "later_rates" if is_later else "learning_rates")
    taken = results.of(shown, *(("later",) if is_later else ("main", "reward")))
    rates = distinct(rows, "learning_rate")
    lines = []
    for (method,), runs in grouped(rows, "method").items():
        own = tuple(row for row in taken if row.get("method") == method)
        used = distinct(own, "learning_rate")
        cells = []
        for rate in rates:
            at = tuple(row for row in runs if number(row, "learning_rate") == rate)
            text = fixed(average(at, shown.dev.key), 2)
            cells.append(f"**{text}**" if rate in used and at else text)
        lines.append([method_name(str(method)), *cells])
    headings = [f"{shown.dev.name} on dev", *map(rate_name, rates)]
    return table(headings, sorted(lines), text_columns=1)


def overview_table(results: Results, found: Sequence[Students]) -> str:
    """Tasks, data, models, budgets: a line for each task."""
    lines = []
    for students in found:
        facts = results.tasks.get(students.shown.name, {})
        main = results.of(students.shown, "main")
        every = tuple(row for row in results.rows if row.get("task") == students.shown.name)
        seconds = sum(value for row in every if (value := number(row, "seconds")) is not None)
        sizes = (facts.get(part) for part in ("train", "dev", "test"))
        lines.append(
            [
                students.shown.title,
                " / ".join(f"{size:,}" if isinstance(size, int) else MISSING for size in sizes),
                *(_millions(runs) for runs in (students.teacher, students.initial)),
                *(_updates(rows) for rows in (students.initial, main)),
                str(len(distinct(main, "seed"))),
                *(score(students.score(runs)) for runs in (students.teacher, students.initial)),
                duration(seconds) if seconds else MISSING,
            ]
        )
    headings = [
        *("task", "train / dev / test", "teacher", "student", "updates before", "updates"),
        *("seeds", "teacher's score", "initial score", "all cells took"),
    ]
    return table(headings, lines, text_columns=1)


def _millions(runs: Runs) -> str:
    found = average(runs, "parameters")
    return MISSING if found is None else f"{found / 1e6:.2f} M"


def _updates(rows: Runs) -> str:
    return " / ".join(f"{value:,.0f}" for value in distinct(rows, "updates")) or MISSING
