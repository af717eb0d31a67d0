"""Sentences for a reader in a hurry: which method, how fast, what longer training leaves of it, and
what became of the claims.

Every word that says more, less or as much is chosen by the numbers. Sentences speak of the largest
student of each task; that of longer training, of the students that were trained longer. Lays out
nothing.
"""

from __future__ import annotations

from experiments.harness.estimates import Quantity, average, gain_over_teacher, gap
from experiments.harness.reading import TEACHER, Runs
from experiments.harness.statistics import Estimate, negated
from experiments.harness.text import NOT_MEASURED, change, enumeration, score
from experiments.harness.verdicts import Verdict, above, verdict_of
from experiments.kim_rush.page_cells import Students, students_of, varied_students_of
from experiments.kim_rush.page_claims import CLAIMS
from experiments.kim_rush.page_rows import FLOAT32, INT8, TASKS, Results
from experiments.kim_rush.page_text import method_name, size_name, variant_name
from seqdistill.report.numbers import times


def findings(results: Results) -> tuple[str, ...]:
    """The method to take, what it costs and saves, what longer training leaves, the claims."""
    largest = [found[0] for task in TASKS if (found := students_of(results, task))]
    if not largest:
        return (NOT_MEASURED,)
    sentences = (
        "; ".join(_method_to_take(students) for students in largest),
        "; ".join(_cost_and_speed(students) for students in largest),
        longer_training(results),
        "; ".join(_claims(students) for students in largest),
    )
    return tuple(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences if sentence)


def longer_training(results: Results) -> str:
    """What Seq-KD gains over undistilled students trained as long, at each length; may be empty."""
    told = []
    for task in TASKS:
        for longer in varied_students_of(results, task):
            shorter = Students(results, task, longer.size)
            gains = [
                students.gain("seq_kd", "baseline", task.measure.greedy)
                for students in (shorter, longer)
            ]
            if longer.variant is not None and None not in gains:
                told.append(
                    f"on {task.name} ({size_name(longer.size)}) {change(gains[0])} greedy, and "
                    f"with {variant_name(longer.variant)} {change(gains[1])}"
                )
    start = "Seq-KD gains over an undistilled student that was trained as long: "
    return start + "; ".join(told) if told else ""


def _method_to_take(students: Students) -> str:
    measure = students.task.measure
    place = f"on {students.task.name} ({size_name(students.size)})"
    best = students.best(measure.greedy)
    if best is None:
        return f"{place} no student was scored yet"
    reached = f"{measure.name} {score(students.score(best, measure.greedy))}"
    if best == "baseline":
        others = [method for method in students.methods if method != "baseline"]
        told = "no method of distillation does better" if others else "nothing else was measured"
        return f"{place} the undistilled student leads with {reached}, greedy: {told}"
    over = students.gain(best, "baseline", measure.greedy)
    told = {
        Verdict.HOLDS: f"{change(over)} over the undistilled student",
        Verdict.FAILS: f"{change(over)} against the undistilled student",
        Verdict.OPEN: f"{change(over)} over the undistilled student, which may be chance",
        Verdict.MISSING: "with no undistilled student of the same seed to compare with",
    }[above(over, 0.0)]
    sentence = f"{place} **{method_name(best)}** is best, {reached}, greedy: {told}"
    rivals = [method_name(rival) for rival in _rivals(students, best)]
    return f"{sentence} (not told apart from it: {enumeration(rivals)})" if rivals else sentence


def _rivals(students: Students, best: str) -> list[str]:
    """Methods whose difference from the best may be chance; `best` itself is not among them."""
    differences = {
        method: students.gain(best, method, students.task.measure.greedy)
        for method in students.methods
        if method != best
    }
    return [method for method, found in differences.items() if above(found, 0.0) is Verdict.OPEN]


def _cost_and_speed(students: Students) -> str:
    measure = students.task.measure
    best = students.best(measure.greedy)
    if best is None:
        return f"on {students.task.name} nothing is known of cost and speed yet"
    runs = students.student(best)
    teacher = Quantity(students.teacher(), measure.beam)
    cost = gain_over_teacher(Quantity(runs, measure.greedy), teacher, measure=measure)
    parts = [f"on {students.task.name}, decoded greedily, it"]
    parts.append("was not compared yet" if cost is None else _against_teacher(cost))
    speeds = [
        f"{times(found)} ({name})"
        for engine, name in ((FLOAT32, "float32"), (INT8, "int8"))
        if (found := _speed(students, engine)) is not None
    ]
    if speeds:
        parts.append(f"and writes {enumeration(speeds)} the words a second of that in float32")
    beam = gap(runs, measure)
    if beam is not None:
        parts.append(f"(its own beam search: {change(beam)})")
    return " ".join(parts)


def _against_teacher(cost: Estimate) -> str:
    """Worse, better or level; `level` when the interval of the difference reaches zero."""
    if above(cost, 0.0) is Verdict.OPEN:
        return f"cannot be told from the teacher's beam search ({change(cost)} points)"
    if cost.value > 0.0:
        return f"is {score(cost)} points better than the teacher's beam search"
    return f"is {score(negated(cost))} points worse than the teacher's beam search"


def _speed(students: Students, engine: str) -> float | None:
    """The student's greedy words per second over the teacher's beam in float32."""
    rows = students.results.of(students.task, "speed")
    timed: Runs = tuple(
        row for row in rows if row.get("size") == students.size and row.get("engine") == engine
    )
    whole: Runs = tuple(
        row for row in rows if row.get("method") == TEACHER and row.get("engine") == FLOAT32
    )
    student = average(timed, "words_per_second_greedy")
    teacher = average(whole, "words_per_second_beam")
    return student / teacher if student and teacher else None


def _claims(students: Students) -> str:
    found: dict[Verdict, list[str]] = {verdict: [] for verdict in Verdict}
    for number, claim in enumerate(CLAIMS, start=1):
        found[verdict_of(claim.parts(students))].append(str(number))
    if len(found[Verdict.HOLDS]) == len(CLAIMS):
        return f"on {students.task.name} all {len(CLAIMS)} of the paper's claims hold"
    parts = [
        f"{verdict.told(len(numbers))} ({', '.join(numbers)})"
        for verdict, numbers in found.items()
        if numbers
    ]
    return f"on {students.task.name} of the paper's {len(CLAIMS)} claims {enumeration(parts)}"
