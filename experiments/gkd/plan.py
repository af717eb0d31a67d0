"""Which cells there are, and in what order: every one that the rows measured so far can state.

First the teacher and the supervised students that all others of their seed start from, then the
rates, chosen on dev for each method, then what the tables show. Last, the same again from students
that were supervised for longer. Trains nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.gkd.cells import INITIAL, Cell, Experiment
from experiments.gkd.methods import (
    KEY_GRID,
    GridPoint,
    Method,
    grid_name,
    methods_of,
    rewarded_method,
)
from experiments.gkd.tasks import Task
from experiments.harness.rates import RateGrid

Row = Mapping[str, Any]
Weighted = tuple[Method, float | None]
"""A method, and alpha where it is rewarded."""

THRIFTY = ("supervised_kd", "imitkd", "on_policy_kd")
"""Methods that are trained on parts of the inputs, too; the last of them reads no references."""
LENGTHENED = ("supervised_kd", "seq_kd")
"""Methods that get as many updates as the seconds of on-policy KD buy."""
TIMED = "on_policy_kd"
FOLLOWED = ("supervised_ft", "seq_kd", "supervised_kd", "imitkd", "on_policy_kd")
"""Methods that are trained for longer, too: whether gains last, or are made sooner only."""
FOLLOW_UP_FACTOR = 4
"""How many times the updates they then get, at the same rate."""
LATER = (*FOLLOWED, grid_name(GridPoint("jsd_0.1", 1.0)))
"""Methods that are trained from a later start, too: those, and the on-policy divergence that did
best on dev of the task that has such starts."""
LATER_FACTOR = 8
"""How many times the updates a later start has had; what begins there is trained as long as what is
followed up, at rates of its own."""
_MIDDLE_WEIGHT = 0.5
"""Alpha of the students that choose the rate of all rewarded ones."""
_ROUNDED_UPDATES = 50
_NO_METHOD = Method("teacher", "teacher", "none", 0.0)


def plan(task: Task, rows: Sequence[Row]) -> list[Cell]:
    """The cells that can be stated with what `rows` tell, in the order of running."""
    return list(_Plan(task, [row for row in rows if row["task"] == task.name]).cells())


class _Beginnings:
    """Supervised students of each seed, and the rates that methods prefer from there."""

    def __init__(
        self, task: Task, rows: Sequence[Row], *, start: Experiment, rates: Experiment, updates: int
    ) -> None:
        self._task = task
        self._updates = updates
        self._experiments = start, rates
        self._starts = {
            row["seed"]: str(row["training"]) for row in rows if row["experiment"] == start
        }
        self._tries = [row for row in rows if row["experiment"] == rates]
        budget = task.budget
        self._grid = RateGrid(
            budget.rates, task.lower_is_better, budget.rate_factor, budget.more_rates
        )

    def starts(self, seeds: Sequence[int], updates: int) -> Iterator[Cell]:
        """The supervised students."""
        rate = self._task.budget.initial_rate
        for seed in seeds:
            yield Cell(self._task, self._experiments[0], INITIAL, seed, updates, rate)

    def choosing(self, methods: Sequence[Weighted]) -> Iterator[Cell]:
        """The students of the first seed that choose the rate of each method."""
        seed = self._task.seeds[0]
        start = self._starts.get(seed)
        if start is None:
            return
        tried = {m.name: self._grid.to_try(self._dev_scores(m.name)) for m, _ in methods}
        # Rate by rate, so that every method has its first results early.
        for rate in sorted({rate for rates in tried.values() for rate in rates}):
            for method, weight in methods:
                if rate in tried[method.name]:
                    yield Cell(
                        *(self._task, self._experiments[1], method, seed, self._updates),
                        *(rate, start),
                        teacher_weight=weight,
                    )

    def student(
        self,
        experiment: Experiment,
        method: Method,
        seed: int,
        *,
        updates: int | None = None,
        data_share: float = 1.0,
        teacher_weight: float | None = None,
    ) -> Iterator[Cell]:
        """The student, once its start and its rate are known."""
        rate, start = self._grid.chosen(self._dev_scores(method.name)), self._starts.get(seed)
        if rate is not None and start is not None:
            length = self._updates if updates is None else updates
            yield Cell(
                *(self._task, experiment, method, seed, length, rate, start),
                data_share=data_share,
                teacher_weight=teacher_weight,
            )

    def _dev_scores(self, method: str) -> dict[float, float]:
        """The dev score of each rate that was tried with the student as it now starts."""
        start = self._starts.get(self._task.seeds[0])
        return {
            row["learning_rate"]: row[f"dev_{self._task.dev_score}"]
            for row in self._tries
            if (row["method"], row["start"]) == (method, start)
        }


class _Plan:
    def __init__(self, task: Task, rows: Sequence[Row]) -> None:
        self._task = task
        self._rows = rows
        self._methods = methods_of(task.grid)
        budget = task.budget
        self._first = _Beginnings(
            task, rows, start="initial", rates="learning_rates", updates=budget.updates
        )
        self._later = _Beginnings(
            *(task, rows),
            start="later_initial",
            rates="later_rates",
            updates=FOLLOW_UP_FACTOR * budget.updates,
        )

    def cells(self) -> Iterator[Cell]:
        task, budget, begun = self._task, self._task.budget, self._first
        yield Cell(task, "teacher", _NO_METHOD, task.seeds[0], 0, 0.0)
        yield from begun.starts(task.seeds, budget.initial_updates)
        methods: list[Weighted] = [(method, None) for method in self._methods.values()]
        if task.teacher_weights:
            methods.append((rewarded_method(_MIDDLE_WEIGHT), _MIDDLE_WEIGHT))
        yield from begun.choosing(methods)
        first, *later = task.seeds
        key = methods_of(KEY_GRID)
        for seed in task.seeds:
            for method in self._methods.values():
                if seed == first or method.name in key:
                    yield from begun.student("main", method, seed)
            if seed in task.further_seeds:
                yield from self._further(seed)
        # What claims rest on least comes last: the rest of the grid with later seeds.
        for seed in later:
            for method in self._methods.values():
                if method.name not in key:
                    yield from begun.student("main", method, seed)
        for seed in task.follow_up_seeds:
            for name in FOLLOWED:
                updates = FOLLOW_UP_FACTOR * budget.updates
                yield from begun.student("follow_up", self._methods[name], seed, updates=updates)
        if task.later_seeds:
            yield from self._from_later_starts()

    def _further(self, seed: int) -> Iterator[Cell]:
        for share in self._task.data_shares:
            for name in THRIFTY:
                method = self._methods[name]
                yield from self._first.student("data", method, seed, data_share=share)
        for name in LENGTHENED:
            updates = self._updates_in_equal_time(name)
            if updates is not None:
                method = self._methods[name]
                yield from self._first.student("wall_clock", method, seed, updates=updates)
        for weight in self._task.teacher_weights:
            method = rewarded_method(weight)
            yield from self._first.student("reward", method, seed, teacher_weight=weight)

    def _from_later_starts(self) -> Iterator[Cell]:
        task, begun = self._task, self._later
        yield from begun.starts(task.later_seeds, LATER_FACTOR * task.budget.initial_updates)
        methods = [self._methods[name] for name in LATER]
        yield from begun.choosing([(method, None) for method in methods])
        for seed in task.later_seeds:
            for method in methods:
                yield from begun.student("later", method, seed)

    def _updates_in_equal_time(self, method: str) -> int | None:
        """How many updates of a method take as long as on-policy KD's.

        By the rows of the first seed that is lengthened. Seconds of another machine do not compare:
        then it cannot be stated. Never fewer than the others have.
        """
        rows = {
            row["method"]: row
            for row in self._rows
            if (row["experiment"], row["seed"]) == ("main", self._task.further_seeds[0])
        }
        timed, own = rows.get(TIMED), rows.get(method)
        if timed is None or own is None or timed["machine"] != own["machine"]:
            return None
        seconds = [float(row["typical_seconds_per_update"]) for row in (timed, own)]
        bought = self._task.budget.updates * seconds[0] / seconds[1]
        rounded = _ROUNDED_UPDATES * round(bought / _ROUNDED_UPDATES)
        return max(self._task.budget.updates, rounded)
