"""Runs the experiment, or goes on with it: `python -m experiments.kim_rush.run [TASK ...]`.

Makes what the tasks need (data, the teacher's corpora), then trains and measures cells side by
side until none is left. What was measured with the same settings and teacher is not run again.
"""

from __future__ import annotations

from collections.abc import Mapping

from experiments.kim_rush.cells import plan
from experiments.kim_rush.page import INT8, RESULTS, write_page
from experiments.kim_rush.tasks import G2P, TASKS, Task
from experiments.pages import exits
from experiments.preparing import (
    label,
    make_g2p_data,
    split_sizes,
    write_dev,
    write_subset,
)
from experiments.running import (
    add_rows,
    run_experiment,
    tested,
    trained,
    write_differences,
)
from experiments.students import stored_sizes
from experiments.timing import columns, timed
from seqdistill.jobs.cells import Cell
from seqdistill.jobs.export import INT8_FOLDER
from seqdistill.records.tables import Row, read_rows

TIMED = "seq_kd+seq_inter"
"""The students whose speed is told: the paper's best."""
MODES = tuple((own, other) for own in ("greedy", "beam") for other in ("greedy", "beam"))


def prepare(task: Task) -> Mapping[str, int]:
    """How many examples each split has. Makes what is missing of data and corpora."""
    if task is G2P:
        make_g2p_data(task.folder / "data")
    data, subset = str(task.settings["data.train"]), task.interpolation_sources
    count = task.interpolation_examples
    write_subset(subset, data, "train", count, seed_name=f"{task.name} interpolation")
    write_dev(task.folder, task.name, task.settings)
    label("seq_kd", task.settings, task.corpus("beam-5"), task.teacher)
    inputs = {**task.settings, "data.train": str(subset)}
    label("seq_inter", inputs, task.corpus("best-35"), task.teacher)
    return split_sizes(task.settings, task.teacher)


def measure(cell: Cell) -> list[Row]:
    """Trains and measures a cell. Its row comes first; an int8 copy's and the teacher's follow."""
    runs, row = trained(cell)
    if "interpolation" in (manifest := runs[-1].read_manifest()):
        row["interpolation"] = manifest["interpolation"]
    if not cell.tested:
        return [row]
    found = tested(cell, runs[-1], export=row["experiment"] == "pruning")
    teacher = found["teacher"]
    row |= found["student"]
    row |= {f"teacher_{k}": v for k, v in teacher.items() if k.startswith("words_per_second")}
    rows = [row]
    if "copy" in found:
        sizes = stored_sizes(runs[-1].student_path, runs[-1].path / INT8_FOLDER)
        row |= {f"bytes_{form}": size for form, size in sizes.items()}
        copy = {key: value for key, value in found["copy"].items() if key != "system"}
        rows.append({**row, **copy, "engine": INT8, "name": f"{row['name']}/int8"})
    if row["size"] == "teacher" and row["experiment"] == "main":
        own = {**cell.facts, "method": "teacher", "stages": [], "learning_rates": []}
        own |= {"updates": None, "learning_rate": None, "name": "main/teacher/teacher"}
        rows.append({**own, **teacher})
    return rows


def finish(task: Task, cells: Mapping[str, Cell]) -> None:
    """Adds intervals of differences and, once every student is there, the speeds."""

    def held_against(row: Row, base: Row) -> bool:
        known = ("main", "pruning", "follow_up")
        return (
            base["size"] in (row["size"], "teacher")
            and base["experiment"] in known
            and row["experiment"] in known
        )

    keys = ("experiment", "size", "method", "variant", "pruned_share", "engine")
    write_differences(RESULTS, cells, keys, held_against, MODES)
    measured = {f"{row['task']}/{row['name']}" for row in read_rows(RESULTS)}
    if cells.keys() <= measured:
        add_rows(RESULTS, speed_rows(task, cells))


def speed_rows(task: Task, cells: Mapping[str, Cell]) -> list[Row]:
    """How fast teacher and students decode, in fp32 and int8, one engine, in turns in one process.

    Quality is measured again, since int8 has its own.
    """
    students = {
        cell.facts["size"]: cell
        for cell in cells.values()
        if (cell.facts["experiment"], cell.facts["method"], cell.facts["seed"])
        == ("main", TIMED, task.seeds[0])
        and cell.run.student_path.is_dir()
    }
    if not students:
        return []
    models = {"teacher": task.teacher}
    models |= {size: str(cell.run.student_path) for size, cell in students.items()}
    any_student = next(iter(students.values()))
    rows = []
    for (size, compute_type), found in timed(models, task.settings, task.teacher).items():
        row: Row = {**students.get(size, any_student).facts, "experiment": "speed", "size": size}
        row |= {"method": TIMED, "engine": f"ctranslate2 {compute_type}"}
        if size == "teacher":
            row |= {"method": "teacher", "stages": []}
        row["name"] = f"speed/{size}/{row['method'].replace('+', '-')}/{compute_type}"
        rows.append(row | columns(found))
    return rows


def main() -> None:
    """The command line."""
    steps = (plan, prepare, measure, finish, write_page)
    run_experiment((__doc__ or "").splitlines()[0], TASKS, RESULTS, *steps)


if __name__ == "__main__":
    exits(main)
