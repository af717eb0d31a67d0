"""Runs the experiment, or goes on with it: `python -m experiments.gkd.run [TASK ...]`.

Makes what the tasks need (data, the teacher's outputs), then trains and measures cells side by side
until none is left. What was measured with the same settings and teacher is not run again.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from statistics import median
from typing import Any

from experiments.gkd.cells import plan
from experiments.gkd.methods import BASELINES
from experiments.gkd.page import RESULTS, write_page
from experiments.gkd.tasks import G2P, TASKS, Task
from experiments.pages import exits
from experiments.preparing import label, make_g2p_data, split_sizes, write_dev, write_subset
from experiments.running import add_rows, run_experiment, tested, trained, write_differences
from seqdistill.core.errors import UserError
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.cells import Cell
from seqdistill.jobs.evaluate import evaluate_run
from seqdistill.jobs.sweep import systems_of_results
from seqdistill.records.run_directory import RunDirectory
from seqdistill.records.tables import Row, read_rows

HELD_AGAINST = ("teacher", "initial", *BASELINES, "on_policy_kd")
STARTS = ("initial", "later_initial")


def prepare(task: Task) -> Mapping[str, int]:
    """How many examples each split has. Makes what is missing of data and the teacher's outputs.

    Raises UserError for another number of training examples than the task says.
    """
    if task is G2P:
        make_g2p_data(task.folder / "data")
    write_dev(task.folder, task.name, task.settings)
    if task.num_labelled is not None:
        path, data = task.folder / "data" / "labelled.jsonl", str(task.settings["data.train"])
        write_subset(path, data, "train", task.num_labelled, seed_name=f"{task.name} train")
    inputs = {**task.settings, "data.train": task.labelled_inputs}
    label("seq_kd", inputs, task.teacher_corpus, task.teacher)
    sizes = split_sizes(task.settings, task.teacher)
    if sizes["train"] != task.num_train:
        raise UserError(
            f"the training examples of {task.name} must be {task.num_train}, found "
            f"{sizes['train']}; correct num_train, by which parts of the data are taken"
        )
    return sizes


def measure(cell: Cell) -> list[Row]:
    """Trains and measures a cell: one row, and the teacher's beside the first initial student's."""
    task = TASKS[cell.facts["task"]]
    runs, row = trained(cell)
    row |= _of_training(runs[-1])
    row |= {"training": cell.key, "start": runs[0].path.name if len(runs) > 1 else None}
    if not cell.tested:
        return [row]
    # First, since what is measured last is what the run directory holds.
    further = [_on_further_test(runs[-1], task, *test) for test in task.further_tests.items()]
    found = tested(cell, runs[-1])
    for of in further:
        found = {role: columns | of[role] for role, columns in found.items()}
    rows = [row | found["student"] | _main_score(task, found["student"])]
    if (row["experiment"], row["seed"]) == ("initial", task.seeds[0]):
        own = {**cell.facts, "experiment": "teacher", "preset": "teacher", "method": "teacher"}
        own |= {"divergence": "none", "updates": 0, "learning_rate": 0.0}
        own |= {"name": f"teacher/teacher/seed{row['seed']}", "machine": row["machine"]}
        rows.append(own | found["teacher"] | _main_score(task, found["teacher"]))
    return rows


def _main_score(task: Task, columns: Row) -> Row:
    key = f"{task.metric}_greedy"
    ends = {end: columns[f"{key}_{end}"] for end in ("low", "high")}
    return {"metric": key, "value": columns[key], **ends}


def _on_further_test(run: RunDirectory, task: Task, name: str, test: str) -> dict[str, Row]:
    """The task's metric by greedy decoding of another test set, with its interval, by system."""
    overrides = ["evaluation.include_start=false", "evaluation.sampling_temperatures=[]"]
    evaluate_run(run, [*overrides, f"data.test={test}"], progress=NoProgress())
    key, ends = task.metric, ("", "_low", "_high")
    return {
        role: {f"{key}_{name}{end}": columns[f"{key}_greedy{end}"] for end in ends}
        for role, columns in systems_of_results(run).items()
    }


def _of_training(run: RunDirectory) -> Row:
    """Seconds of the last training, and what was last logged of its completions."""
    training: Any = run.read_manifest()["training"]
    metrics: list[Row] = run.read_metrics()
    timed = [(0, 0.0), *((int(r["step"]), float(r["seconds"])) for r in metrics if "seconds" in r)]
    # The median: what else the machine did meanwhile hardly counts.
    typical = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(timed)]
    row: Row = {
        "wall_s": round(training["seconds"], 1),
        "seconds_per_update": training["seconds"] / training["updates"],
        "typical_seconds_per_update": median(typical),
    }
    for name in ("completion_length", "student_entropy", "teacher_reverse_kl", "reward"):
        logged = [found[name] for found in metrics if isinstance(found.get(name), float)]
        row |= {f"last_{name}": logged[-1]} if logged else {}
    return row


def finish(task: Task, cells: Mapping[str, Cell]) -> None:
    """Adds to every measured row its start's and the teacher's score, and its gain; and the
    intervals of differences where a system was trained with one seed."""
    rows = [row for row in read_rows(RESULTS) if row["task"] == task.name and "value" in row]
    starts = {(r["experiment"], r["seed"]): r["value"] for r in rows if r["experiment"] in STARTS}
    teachers = [row["value"] for row in rows if row["experiment"] == "teacher"]
    for row in rows:
        late = row["experiment"] in ("later", "later_initial")
        start = starts.get((STARTS[late], row["seed"]))
        if teachers:
            row["teacher_value"] = teachers[0]
        if start is not None and row["experiment"] not in (*STARTS, "teacher"):
            sign = -1 if task.lower_is_better else 1
            row |= {"initial_value": start, "gain": sign * (row["value"] - start)}
    add_rows(RESULTS, rows)

    def held_against(row: Row, base: Row) -> bool:
        known = ("teacher", "initial", "main", row["experiment"])
        return base["method"] in HELD_AGAINST and base["experiment"] in known

    tested_cells = {name: cell for name, cell in cells.items() if cell.tested}
    keys = ("experiment", "method", "data_share", "alpha", "updates")
    write_differences(RESULTS, tested_cells, keys, held_against, [("greedy", "greedy")])


def main() -> None:
    """The command line."""
    steps = (plan, prepare, measure, finish, write_page)
    run_experiment((__doc__ or "").splitlines()[0], TASKS, RESULTS, *steps)


if __name__ == "__main__":
    exits(main)
