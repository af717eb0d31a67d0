"""The plan of the on-policy experiment: from nothing to every cell, on all four tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from experiments.gkd.cells import Cell
from experiments.gkd.methods import (
    DIVERGENCES,
    KEY_GRID,
    SHARES,
    GridPoint,
    grid_method,
    methods_of,
    rewarded_method,
)
from experiments.gkd.plan import (
    FOLLOW_UP_FACTOR,
    FOLLOWED,
    LATER,
    LATER_FACTOR,
    LENGTHENED,
    THRIFTY,
    plan,
)
from experiments.gkd.prepare import prepare
from experiments.gkd.tasks import ARITHMETIC, EN_DE, G2P, SUMMARIES, TASKS, Task
from experiments.gkd.teachers import TEACHERS, vocabulary
from experiments.harness.rates import RateGrid
from experiments.harness.recipes import recipe_of
from experiments.harness.runner import unmeasured

from seqdistill.core.errors import UserError
from seqdistill.core.progress import NoProgress
from seqdistill.data.examples import Example


def row_of(cell: Cell, *, score: float = 50.0, seconds_per_update: float = 0.2) -> dict[str, Any]:
    """A row as measuring would make it, as far as plans read it."""
    task = cell.task
    row: dict[str, Any] = {
        "task": task.name,
        "experiment": cell.experiment,
        "method": cell.method.name,
        "seed": cell.seed,
        "learning_rate": cell.learning_rate,
        "updates": cell.updates,
        "start": cell.start,
        "name": cell.name,
        "digest": "d",
        "training": f"later{cell.seed}" if cell.experiment == "later_initial" else f"t{cell.seed}",
        "machine": "a CPU",
        f"dev_{task.dev_score}": score,
    }
    if cell.experiment != "teacher":
        row["typical_seconds_per_update"] = seconds_per_update
    return row


def second_rate_is_best(cell: Cell) -> float:
    """A dev score that is best at the second rate of the grid, so that none lies at its end."""
    distance = abs(cell.learning_rate - cell.task.budget.rates[1])
    return distance if cell.task.lower_is_better else -distance


def rows_until_nothing_is_left(
    task: Task, score: Callable[[Cell], float] = second_rate_is_best
) -> tuple[list[dict[str, Any]], list[Cell]]:
    rows: list[dict[str, Any]] = []
    cells: list[Cell] = []
    while waiting := unmeasured(plan(task, rows), rows, lambda _: "d"):
        rows += [row_of(cell, score=score(cell)) for cell in waiting]
        cells += waiting
    return rows, cells


def test_teacher_and_starts_come_before_anything_else() -> None:
    cells = plan(G2P, [])
    first, later = len(G2P.seeds), len(G2P.later_seeds)
    expected = ["teacher", *["initial"] * first, *["later_initial"] * later]
    assert [cell.experiment for cell in cells] == expected


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_every_method_chooses_its_rate_before_it_is_measured(task: Task) -> None:
    starts = [cell for cell in plan(task, []) if cell.experiment != "later_initial"]
    rows = [row_of(cell) for cell in starts]
    cells = unmeasured(plan(task, rows), rows, lambda _: "d")
    cells = [cell for cell in cells if cell.experiment != "later_initial"]
    assert {cell.experiment for cell in cells} == {"learning_rates"}
    assert not any(cell.measured for cell in cells)
    wanted = set(methods_of(task.grid)) | ({"gkd_rl"} if task.teacher_weights else set())
    assert {cell.method.name for cell in cells} == wanted
    for name in wanted:
        rates = {cell.learning_rate for cell in cells if cell.method.name == name}
        assert rates == set(task.budget.rates)


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_all_cells_but_the_start_begin_from_their_seeds_start_with_equal_updates(
    task: Task,
) -> None:
    _, cells = rows_until_nothing_is_left(task)
    for cell in cells:
        if cell.experiment in ("teacher", "initial", "later_initial"):
            assert cell.start is None
            continue
        is_later = cell.experiment in ("later_rates", "later")
        assert cell.start == (f"later{cell.seed}" if is_later else f"t{cell.seed}")
        if is_later or cell.experiment == "follow_up":
            assert cell.updates == FOLLOW_UP_FACTOR * task.budget.updates
        elif cell.experiment != "wall_clock":
            assert cell.updates == task.budget.updates


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_the_whole_plan_has_every_cell_of_the_task_once(task: Task) -> None:
    _, cells = rows_until_nothing_is_left(task)
    assert len({cell.name for cell in cells}) == len(cells)
    main = {(c.method.name, c.seed) for c in cells if c.experiment == "main"}
    assert main == {(name, seed) for name in methods_of(task.grid) for seed in task.seeds}
    data = {(c.method.name, c.data_share, c.seed) for c in cells if c.experiment == "data"}
    assert data == {
        (name, share, seed)
        for name in THRIFTY
        for share in task.data_shares
        for seed in task.further_seeds
    }
    longer = {(c.method.name, c.seed) for c in cells if c.experiment == "wall_clock"}
    assert longer == {(name, seed) for name in LENGTHENED for seed in task.further_seeds}
    followed = {(c.method.name, c.seed) for c in cells if c.experiment == "follow_up"}
    assert followed == {(name, seed) for name in FOLLOWED for seed in task.follow_up_seeds}
    later = {(c.method.name, c.seed) for c in cells if c.experiment == "later"}
    assert later == {(name, seed) for name in LATER for seed in task.later_seeds}
    weights = {(c.teacher_weight, c.seed) for c in cells if c.experiment == "reward"}
    assert weights == {(a, seed) for a in task.teacher_weights for seed in task.further_seeds}


def test_students_of_a_later_start_choose_their_rates_there() -> None:
    def first_rate_is_best_later(cell: Cell) -> float:
        rate = cell.task.budget.rates[0 if cell.experiment == "later_rates" else 1]
        return abs(cell.learning_rate - rate)

    rows, cells = rows_until_nothing_is_left(G2P, score=first_rate_is_best_later)
    rates = {cell.experiment: cell.learning_rate for cell in cells}
    assert rates["follow_up"] == G2P.budget.rates[1] and rates["later"] == G2P.budget.rates[0]
    starts = [cell for cell in cells if cell.experiment == "later_initial"]
    assert [cell.seed for cell in starts] == list(G2P.later_seeds)
    for cell in starts:
        assert cell.updates == LATER_FACTOR * G2P.budget.initial_updates
        (first,) = (c for c in cells if (c.experiment, c.seed) == ("initial", cell.seed))
        assert cell.settings == {**first.settings, "training.steps": cell.updates}
    # A start that was trained anew has its students choose anew, and only they.
    moved = [
        {**row, "training": "anew"} if row["experiment"] == "later_initial" else row for row in rows
    ]
    anew = [cell for cell in plan(G2P, moved) if cell.start == "anew"]
    assert {cell.experiment for cell in anew} == {"later_rates"}
    assert {cell.method.name for cell in anew} == set(LATER)
    assert not any(cell.experiment == "later" for cell in plan(G2P, moved))


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_every_cell_is_a_recipe_that_can_be_trained(task: Task) -> None:
    _, cells = rows_until_nothing_is_left(task)
    for cell in {cell.trained: cell for cell in cells if cell.experiment != "teacher"}.values():
        start = {} if cell.start is None else {"student.model": "student"}
        recipe = recipe_of({**cell.settings, **start}, preset=cell.method.preset)
        assert recipe.seed == cell.seed and recipe.training.steps == cell.updates
        assert recipe.training.learning_rate == cell.learning_rate
        assert recipe.sequences.rollouts.sampling_temperature == 1.0
        if cell.data_share < 1.0:
            assert recipe.data.max_train_examples == round(cell.data_share * task.num_train)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("share", SHARES)
def test_a_point_of_the_grid_is_its_divergence_and_its_writer(
    divergence: str, share: float
) -> None:
    method = next(
        grid_method(point)
        for point in G2P.grid
        if (point.divergence, point.student_fraction) == (divergence, share)
    )
    cell = Cell(G2P, "main", method, 1, 10, 1e-3, "t1")
    recipe = recipe_of({**cell.settings, "student.model": "s"}, preset=method.preset)
    (term,) = recipe.objective.terms
    origin = {0.0: "reference", 0.5: "mixture", 1.0: "student"}[share]
    assert recipe.sequences.origin == origin
    assert recipe.objective.reduction == "sequence"
    if divergence.startswith("jsd"):
        assert (term.divergence, term.model_dump()["beta"], term.model_dump()["scale"]) == (
            "jensen_shannon",
            float(divergence.removeprefix("jsd_")),
            "raw",
        )
    else:
        assert term.divergence == divergence
    if share == 0.5:
        mixture = recipe.sequences.mixture
        assert mixture.student_fraction is not None and mixture.student_fraction.start == 0.5
        assert mixture.coin == "batch" and mixture.others == "reference"


def test_two_points_of_the_grid_are_the_papers_baselines_and_trained_once() -> None:
    names = list(methods_of(G2P.grid))
    assert len(names) == len(set(names)) == 3 + 15
    assert grid_method(GridPoint("forward_kl", 0.0)).name == "supervised_kd"
    assert grid_method(GridPoint("forward_kl", 1.0)).name == "on_policy_kd"


@pytest.mark.parametrize("weight", SUMMARIES.teacher_weights)
def test_alpha_weighs_the_teacher_and_the_rest_the_reward(weight: float) -> None:
    method = rewarded_method(weight)
    cell = Cell(SUMMARIES, "reward", method, 1, 10, 1e-3, "t1", teacher_weight=weight)
    recipe = recipe_of({**cell.settings, "student.model": "s"}, preset=method.preset)
    weights = {term.built().name: term.weight.start for term in recipe.objective.terms}
    assert weights.get("reverse_kl", 0.0) == weight
    assert weights.get("advantages", 0.0) == 1.0 - weight
    assert recipe.sequences.rollouts.samples_per_prompt == 4


def test_equal_time_counts_updates_by_the_seconds_of_the_first_seed_on_one_machine() -> None:
    rows, _ = rows_until_nothing_is_left(G2P)
    rows = [row for row in rows if row["experiment"] != "wall_clock"]
    for row in rows:
        if row["method"] == "on_policy_kd" and row["experiment"] == "main":
            row["typical_seconds_per_update"] = 0.5 if row["seed"] == 1 else 3.0
    longer = {cell.updates for cell in plan(G2P, rows) if cell.experiment == "wall_clock"}
    bought = G2P.budget.updates * 0.5 / 0.2
    assert longer == {50 * round(bought / 50)}
    elsewhere = [
        row | ({"machine": "another"} if row["method"] == "on_policy_kd" else {}) for row in rows
    ]
    assert not [cell for cell in plan(G2P, elsewhere) if cell.experiment == "wall_clock"]


def test_what_claims_rest_on_comes_before_the_rest_of_the_grid() -> None:
    rows, _ = rows_until_nothing_is_left(ARITHMETIC)
    main = [cell for cell in plan(ARITHMETIC, rows) if cell.experiment == "main"]
    key = set(methods_of(KEY_GRID))
    first = len(methods_of(ARITHMETIC.grid))
    assert {cell.seed for cell in main[:first]} == {ARITHMETIC.seeds[0]}
    later = [cell.method.name in key for cell in main[first:]]
    assert later == sorted(later, reverse=True) and any(later) and not all(later)


def test_a_new_start_sends_everything_after_it_back() -> None:
    rows, _ = rows_until_nothing_is_left(EN_DE)
    for row in rows:
        if row["experiment"] == "initial" and row["seed"] == EN_DE.seeds[0]:
            row["training"] = "another"
    cells = plan(EN_DE, rows)
    assert {cell.experiment for cell in cells} == {"teacher", "initial", "learning_rates"}


@pytest.mark.parametrize(
    ("scores", "tried", "chosen"),
    [
        ({}, [1.0, 4.0], None),
        ({1.0: 5.0, 4.0: 6.0}, [1.0, 4.0, 8.0], None),
        ({1.0: 6.0, 4.0: 5.0}, [0.5, 1.0, 4.0], None),
        ({1.0: 5.0, 4.0: 6.0, 8.0: 5.5}, [1.0, 4.0, 8.0], 4.0),
        ({1.0: 5.0, 4.0: 6.0, 8.0: 7.0, 16.0: 8.0}, [1.0, 4.0, 8.0, 16.0], 16.0),
        ({1.0: 5.0, 4.0: 5.0, 0.5: 5.0}, [0.5, 1.0, 4.0, 0.25], None),
    ],
)
def test_a_grid_grows_where_the_best_rate_lies_at_its_end(
    scores: dict[float, float], tried: list[float], chosen: float | None
) -> None:
    grid = RateGrid((1.0, 4.0), lower_is_better=False)
    assert sorted(grid.to_try(scores)) == sorted(tried)
    assert grid.chosen(scores) == chosen


def test_a_task_without_its_teacher_says_how_to_train_it(tmp_path: Path) -> None:
    task = dataclasses.replace(ARITHMETIC, teacher=str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"experiments\.gkd\.teachers arithmetic"):
        prepare(task, progress=NoProgress())


def test_teachers_are_within_the_sizes_and_students_share_their_vocabulary() -> None:
    assert set(TEACHERS) == {"arithmetic", "summaries"}
    for name, (task, _, vocab_size, _) in TEACHERS.items():
        assert task is TASKS[name] and vocab_size >= 1000


def test_every_digit_of_the_arithmetic_vocabulary_is_a_token_of_its_own() -> None:
    texts = [
        Example(str(i), f"add {i} {i} to 1{i}23", f"<<{i}{i}+1{i}23=7777>>") for i in range(50)
    ]
    tokenizer = vocabulary(texts, vocab_size=300)
    ids = tokenizer("<<1234567+890=1>>").input_ids
    tokens = tokenizer.convert_ids_to_tokens(ids)
    digits = [token for token in tokens if any(c.isdigit() for c in token)]
    assert len(digits) == len("12345678901") and all(len(token) == 1 for token in digits)
