"""The harness on a tiny task: from nothing to rows, resumed, and planned from what was measured."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
from experiments.harness.apart import train_apart
from experiments.harness.recipes import recipe_of
from experiments.harness.rows import add_rows, read_rows
from experiments.harness.runner import next_cell
from experiments.harness.shapes import Size
from experiments.kim_rush import cells as cells_module
from experiments.kim_rush import run as runner
from experiments.kim_rush import tasks
from experiments.kim_rush.cells import Cell, plan
from experiments.kim_rush.measure import digest, rows_of
from experiments.kim_rush.paired import rows_with_intervals
from experiments.kim_rush.prepare import prepare
from experiments.kim_rush.tasks import G2P, Budget, Task
from tests.experiments.tiny import save_tiny_teacher, tiny_settings, write_tiny_data

from seqdistill.core.progress import NoProgress
from seqdistill.jobs.train import train

TINY = Size(16, 1, 1)
SMALLER = Size(8, 1, 1)
CURVED = Size(12, 1, 1)


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    """A task of a few words and updates, its folders and rows under tmp_path."""
    monkeypatch.setattr(tasks, "ROOT", tmp_path)
    data = tmp_path / "tiny" / "data"
    write_tiny_data(data, num_dev=6, num_test=10)
    teacher = tmp_path / "tiny" / "teacher"
    save_tiny_teacher(teacher, TINY, tokenizer=data / "tokenizer")
    budget = Budget(
        updates=4,
        grid_updates=4,
        rates=(1e-3, 1e-2),
        fine_tuning_updates=2,
        fine_tuning_rates=(1e-3,),
        retraining_updates=2,
        retraining_rates=(1e-3,),
    )
    return dataclasses.replace(
        G2P,
        name="tiny",
        teacher=str(teacher),
        settings=tiny_settings(G2P.settings, data),
        large=TINY,
        small=SMALLER,
        budgets={TINY.name: budget, SMALLER.name: budget, CURVED.name: budget},
        interpolation_examples=20,
        seeds=(1, 2),
        all_rows_everywhere=False,
        curve_sizes=(CURVED,),
        curve_updates=(2,),
        trained_longer=SMALLER,
    )


def finish(task: Task) -> list[dict[str, Any]]:
    """All rows, measured in this process."""
    rows: list[dict[str, Any]] = []
    while True:
        waiting = runner.pending([task], rows)
        if not waiting:
            return rows
        rows += rows_of(waiting[0])


def names(cells: list[Cell]) -> list[str]:
    return [cell.name for cell in cells]


def test_rates_are_chosen_before_anything_is_measured(task: Task) -> None:
    cells = plan(task, [])
    assert {cell.experiment for cell in cells} == {"learning_rates"}
    assert not any(cell.measured for cell in cells)
    assert {cell.method for cell in cells if cell.size == SMALLER} == {
        "baseline",
        "word_kd",
        "seq_kd",
    }


def scored(scores: dict[float, float]) -> list[dict[str, object]]:
    """Rows that say how well each rate did on dev for the large student's seq_kd."""
    return [
        {
            "task": "tiny",
            "experiment": "learning_rates",
            "size": TINY.name,
            "method": "seq_kd",
            "learning_rate": rate,
            "dev_token_error_rate": score,
        }
        for rate, score in scores.items()
    ]


def test_the_rate_with_the_best_dev_score_trains_the_rows(task: Task) -> None:
    rows = scored({1e-3: 40.0, 1e-2: 30.0, 2e-2: 35.0})  # an error rate: less is better
    assert [c for c in plan(task, rows[:1]) if c.measured] == []
    measured = [cell for cell in plan(task, rows) if cell.measured and cell.method == "seq_kd"]
    main = [cell for cell in measured if cell.experiment == "main"]
    assert {cell.learning_rate for cell in main} == {1e-2}
    assert {cell.seed for cell in main} == {1, 2}
    fine_tuned = [cell for cell in plan(task, rows) if cell.method == "seq_kd+seq_inter"]
    assert fine_tuned[0].stages[0] == main[0].stages[0]


@pytest.mark.parametrize(
    ("scores", "next_rate"),
    [
        ({1e-3: 40.0, 1e-2: 30.0}, 2e-2),
        ({1e-3: 30.0, 1e-2: 40.0}, 5e-4),
        ({1e-3: 40.0, 1e-2: 30.0, 2e-2: 20.0}, 4e-2),
        ({1e-3: 40.0, 1e-2: 30.0, 2e-2: 30.0}, None),
        ({1e-3: 40.0, 1e-2: 30.0, 2e-2: 20.0, 4e-2: 10.0}, None),  # two more, and no further
    ],
)
def test_a_rate_at_the_end_of_the_grid_is_not_taken_before_the_next_was_tried(
    task: Task, scores: dict[float, float], next_rate: float | None
) -> None:
    cells = [c for c in plan(task, scored(scores)) if (c.size, c.method) == (TINY, "seq_kd")]
    tried = {c.learning_rate for c in cells if c.experiment == "learning_rates"}
    assert tried - set(scores) == ({next_rate} if next_rate else set())
    assert any(cell.measured for cell in cells) == (next_rate is None)


def test_a_training_apart_gives_the_student_that_one_here_gives(task: Task, tmp_path: Path) -> None:
    settings = plan(task, [])[0].settings
    students = [
        trained(recipe_of({**settings, "output_dir": str(tmp_path / name)}))
        for name, trained in (
            ("apart", train_apart),
            ("here", functools.partial(train, progress=NoProgress())),
        )
    ]
    weights = [(run.student_path / "model.safetensors").read_bytes() for run in students]
    assert weights[0] == weights[1]


def test_only_rates_chosen_by_short_runs_are_asked_about_again(task: Task) -> None:
    best = {1e-3: 40.0, 1e-2: 30.0, 2e-2: 35.0}
    rows = [row | {"method": "baseline"} for row in scored(best)]

    def asked(task: Task) -> set[float]:
        cells = [c for c in plan(task, rows) if str(c.facts.get("variant", "")).endswith("_rate")]
        assert {(c.method, c.stages[0].settings["training.steps"]) for c in cells} <= {
            ("baseline", task.budgets[TINY.name].updates)
        }
        return {cell.learning_rate for cell in cells}

    assert asked(task) == set()
    short = dataclasses.replace(task.budgets[TINY.name], grid_updates=1)
    assert asked(dataclasses.replace(task, budgets={**task.budgets, TINY.name: short})) == {
        5e-3,
        2e-2,
    }


def test_a_cell_that_shares_a_stage_with_a_running_one_waits(task: Task) -> None:
    cells = plan(task, [])
    other = dataclasses.replace(cells[0], method="another name")
    assert next_cell([other, cells[1]], [cells[0]]) == cells[1]
    assert next_cell([other], [cells[0]]) is None
    assert next_cell([other], []) == other


def test_cells_run_side_by_side_once_their_common_stage_is_trained(task: Task) -> None:
    scores = {1e-3: 40.0, 1e-2: 30.0, 2e-2: 35.0}
    rows = scored(scores)
    for row, before in zip(rows, (0, 0, 2), strict=True):
        grid = (c for c in plan(task, rows[:before]) if (c.size, c.method) == (TINY, "seq_kd"))
        cell = next(cell for cell in grid if cell.learning_rate == row["learning_rate"])
        row |= {"name": cell.name, "digest": digest(cell)}

    def of_chosen_rate(cells: list[Cell]) -> list[Cell]:
        found = [c for c in cells if (c.size, c.seed) == (TINY, 1)]
        return [c for c in found if c.method in ("seq_kd", "seq_kd+seq_inter")]

    main, fine_tuned, *_ = of_chosen_rate(runner.pending([task], rows))
    assert {main.method, fine_tuned.method} == {"seq_kd", "seq_kd+seq_inter"}
    assert next_cell([fine_tuned], [main]) == fine_tuned
    one, other = (c for c in of_chosen_rate(plan(task, rows)) if c in (main, fine_tuned))
    assert next_cell([one], [other]) is None, "the plan alone does not know what was trained"


def test_the_whole_table_is_measured_once_and_then_found(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells_module, "PRUNED_SHARES", (0.8,))
    monkeypatch.setattr(cells_module, "_MORE_RATES", 0)
    one_rate = {
        size: dataclasses.replace(budget, rates=(1e-2,)) for size, budget in task.budgets.items()
    }
    task = dataclasses.replace(task, budgets=one_rate, seeds=(1,))
    prepare(task, progress=NoProgress())
    rows = finish(task)
    main = {
        (row["size"], row["method"], row["seed"]) for row in rows if row["experiment"] == "main"
    }
    assert {("teacher", "teacher", 1), ("teacher", "teacher+seq_inter", 1)} <= main
    assert {method for size, method, seed in main if (size, seed) == (TINY.name, 1)} == {
        *("baseline", "word_kd", "seq_kd", "seq_kd+word_kd"),
        *("baseline+seq_inter", "word_kd+seq_inter", "seq_kd+seq_inter"),
        "seq_kd+word_kd+seq_inter",
    }
    assert {method for size, method, _ in main if size == SMALLER.name} == {
        *("baseline", "word_kd", "seq_kd", "seq_kd+seq_inter"),
    }
    retrained = [row for row in rows if row["method"] == "seq_kd+prune"]
    assert {(row["size"], row["pruned_share"]) for row in retrained} == {
        (TINY.name, 0.0),
        (TINY.name, 0.8),
    }
    pruned = {row["pruned_share"]: row for row in rows if row["experiment"] == "pruning"}
    assert set(pruned) == {0.0, 0.8}
    dense = pruned[0.0]["density"]  # a row of the embeddings is of padding, and biases are few
    assert isinstance(dense, float) and dense > 0.9
    density = pruned[0.8]["density"]
    assert isinstance(density, float) and 0.2 <= density < 0.4
    curves = {(r["size"], r["updates"]) for r in rows if str(r["experiment"]).endswith("_curve")}
    assert curves == {("12x1+1", 4), (SMALLER.name, 2)}
    further = {
        (r["size"], r["method"], r.get("variant")): r["updates"]
        for r in rows
        if r["experiment"] == "follow_up"
    }
    assert further == {
        (TINY.name, "baseline+baseline", None): 6,
        (TINY.name, "seq_kd+seq_kd", None): 6,
        (SMALLER.name, "baseline", "4x_updates"): 16,
        (SMALLER.name, "seq_kd", "4x_updates"): 16,
        (TINY.name, "seq_kd+prune+seq_inter", "4x_retraining_updates"): 14,
    }
    for row in rows:
        assert isinstance(row["digest"], str)
        if row["experiment"] == "main":
            assert {"sequence_error_rate_beam", "token_error_rate_greedy", "perplexity"} <= set(row)
    with_intervals = rows_with_intervals(task, rows, num_resamples=20)
    assert {row["name"] for row in with_intervals} == {
        row["name"]
        for row in rows
        if row["experiment"] in ("main", "pruning", "follow_up") and "int8" not in row["engine"]
    }
    scores = {str(row["name"]): row for row in rows}
    for row in with_intervals:
        assert {"main/teacher/teacher"} <= row["versus"].keys() | {row["name"]}
        for other, intervals in row["versus"].items():
            assert len(intervals) == 4
            for keys, (low, high) in intervals.items():
                own_key, other_key = keys.split(" - ")
                difference = row[own_key] - scores[other][other_key]
                assert low - 15 <= difference <= high + 15  # 20 resamples of ten words
                assert low <= high
    store = tmp_path / "rows.json"
    add_rows(store, rows)
    add_rows(store, rows[:1])
    found = read_rows(store)
    assert len(found) == len(rows)
    assert runner.pending([task], found) == []
    longer = dataclasses.replace(
        task,
        budgets={
            **task.budgets,
            SMALLER.name: dataclasses.replace(task.budgets[SMALLER.name], fine_tuning_updates=3),
        },
    )
    again = runner.pending([longer], found)
    assert {cell.method for cell in again} == {"seq_kd+seq_inter"}
    assert {cell.size for cell in again} == {SMALLER}
    assert again[0].name in {row["name"] for row in rows}, "its folder is there, of other settings"
    (row, *_) = rows_of(again[0])
    assert row["digest"] == digest(again[0])
