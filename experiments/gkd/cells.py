"""The cells of the experiment: one student each, with all its settings, and who it starts from.

`plan` lists every cell that the rows measured so far allow to be stated: first the teacher and the
supervised students that all others of their seed start from, then the rates, chosen on dev for each
method, then what the tables show. Trains nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from experiments.gkd.methods import (
    KEY_GRID,
    PLAIN,
    Method,
    methods_of,
    rewarded_method,
)
from experiments.gkd.tasks import Task
from experiments.harness.rates import chosen_rate, rates_to_try

Experiment = Literal[
    "teacher", "initial", "learning_rates", "main", "data", "wall_clock", "reward", "follow_up"
]
Row = Mapping[str, Any]

THRIFTY = ("supervised_kd", "imitkd", "on_policy_kd")
"""Methods that are trained on parts of the inputs, too; the last of them reads no references."""
LENGTHENED = ("supervised_kd", "seq_kd")
"""Methods that get as many updates as the seconds of on-policy KD buy."""
TIMED = "on_policy_kd"
FOLLOWED = ("supervised_ft", "seq_kd", "supervised_kd", "imitkd", "on_policy_kd")
"""Methods that are trained for longer, too: whether gains last, or are made sooner only."""
FOLLOW_UP_FACTOR = 4
"""How many times the updates they then get, at the same rate."""
_MIDDLE_WEIGHT = 0.5
"""Alpha of the students that choose the rate of all rewarded ones."""
_ROUNDED_UPDATES = 50
_DEV_SCORES = 3
"""How often a student is scored on dev; the best of these checkpoints is kept."""
_NO_METHOD = Method("teacher", "teacher", "none", 0.0)
INITIAL = dataclasses.replace(PLAIN["supervised_ft"], name="initial")
"""How the students are trained that all others start from."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One student to train and measure; or the teacher, to measure."""

    task: Task
    experiment: Experiment
    method: Method
    seed: int
    updates: int
    learning_rate: float
    start: str | None = None
    """The digest of the training of the supervised student that it starts from; None where from
    random weights."""
    data_share: float = 1.0
    """Of the training inputs."""
    teacher_weight: float | None = None
    """Alpha, where it is rewarded."""

    @property
    def measured(self) -> bool:
        """Whether the test set is decoded; cells that choose a rate are scored on dev alone."""
        return self.experiment != "learning_rates"

    @property
    def name(self) -> str:
        """What finds its row again."""
        parts = [self.experiment, self.method.name, f"seed{self.seed}"]
        if self.experiment == "learning_rates":
            parts.append(f"rate{self.learning_rate:g}")
        if self.data_share < 1.0:
            parts.append(f"data{self.data_share:g}")
        if self.teacher_weight is not None and self.measured:
            parts.append(f"alpha{self.teacher_weight:g}")
        return "/".join(parts)

    @property
    def settings(self) -> dict[str, object]:
        """Keys of the recipe and their values, but for where it is written and starts from."""
        task, updates = self.task, self.updates
        settings = {**task.settings, **self.method.settings}
        if not self.method.reads_teacher_corpus:
            decoding = "sequences.decoding."
            settings = {k: v for k, v in settings.items() if not k.startswith(decoding)}
        else:
            settings["sequences.corpus"] = str(task.teacher_corpus)
            settings["data.train"] = task.labelled_inputs
        if self.method.writes:
            settings |= task.rollouts
        settings |= self._length(updates)
        if self.data_share < 1.0:
            settings["data.max_train_examples"] = round(self.data_share * task.num_train)
        if self.experiment == "initial":
            settings |= task.student
        return {
            **settings,
            "method": self.method.name,
            "seed": self.seed,
            "teacher.model": task.teacher,
            "training.threads": 1,
            "training.updates": updates,
            "training.learning_rate": self.learning_rate,
        }

    def _length(self, updates: int) -> dict[str, object]:
        """A supervised student warms up as its task says; what follows it, for a tenth."""
        if self.experiment == "initial":
            return {}
        return {
            "training.warmup_updates": max(1, updates // 10),
            "training.eval_every": math.ceil(updates / _DEV_SCORES),
        }

    @property
    def trained(self) -> tuple[str, ...]:
        """What it trains: two cells with the same may not run at once."""
        rate = f"{self.learning_rate:g}"
        what = (self.method.name, self.seed, self.updates, rate, self.data_share)
        return (" ".join(str(part) for part in (*what, self.teacher_weight)),)


def run_folder(task: Task, method: str, seed: int, training: str) -> Path:
    """The run directory of the training with that digest; cells that train the same share it."""
    return task.folder / "cells" / f"{method}-seed{seed}-{training}"


def plan(task: Task, rows: Sequence[Row]) -> list[Cell]:
    """The cells that can be stated with what `rows` tell, in the order of running."""
    return list(_Plan(task, rows).cells())


class _Plan:
    def __init__(self, task: Task, rows: Sequence[Row]) -> None:
        self._task = task
        self._rows = [row for row in rows if row["task"] == task.name]
        self._methods = methods_of(task.grid)
        self._starts = {
            row["seed"]: str(row["training"])
            for row in self._rows
            if row["experiment"] == "initial"
        }

    def cells(self) -> Iterator[Cell]:
        task, budget = self._task, self._task.budget
        yield Cell(task, "teacher", _NO_METHOD, task.seeds[0], 0, 0.0)
        for seed in task.seeds:
            rate, updates = budget.initial_rate, budget.initial_updates
            yield Cell(task, "initial", INITIAL, seed, updates, rate)
        yield from self._choosing()
        first, *later = task.seeds
        key = methods_of(KEY_GRID)
        for seed in task.seeds:
            for method in self._methods.values():
                if seed == first or method.name in key:
                    yield from self._student("main", method, seed)
            if seed in task.further_seeds:
                yield from self._further(seed)
        # What claims rest on least comes last: the rest of the grid with later seeds.
        for seed in later:
            for method in self._methods.values():
                if method.name not in key:
                    yield from self._student("main", method, seed)
        for seed in task.follow_up_seeds:
            for name in FOLLOWED:
                updates = FOLLOW_UP_FACTOR * budget.updates
                yield from self._student("follow_up", self._methods[name], seed, updates=updates)

    def _further(self, seed: int) -> Iterator[Cell]:
        for share in self._task.data_shares:
            for name in THRIFTY:
                yield from self._student("data", self._methods[name], seed, data_share=share)
        for name in LENGTHENED:
            updates = self._updates_in_equal_time(name)
            if updates is not None:
                method = self._methods[name]
                yield from self._student("wall_clock", method, seed, updates=updates)
        for weight in self._task.teacher_weights:
            method = rewarded_method(weight)
            yield from self._student("reward", method, seed, teacher_weight=weight)

    # Rates.

    def _choosing(self) -> Iterator[Cell]:
        seed, budget = self._task.seeds[0], self._task.budget
        start = self._starts.get(seed)
        if start is None:
            return
        methods: list[tuple[Method, float | None]] = [(m, None) for m in self._methods.values()]
        if self._task.teacher_weights:
            methods.append((rewarded_method(_MIDDLE_WEIGHT), _MIDDLE_WEIGHT))
        tried = {method.name: self._tried(method.name) for method, _ in methods}
        # Rate by rate, so that every method has its first results early.
        for rate in sorted({rate for rates in tried.values() for rate in rates}):
            for method, weight in methods:
                if rate in tried[method.name]:
                    yield Cell(
                        *(self._task, "learning_rates", method, seed, budget.updates, rate, start),
                        teacher_weight=weight,
                    )

    def _dev_scores(self, method: str) -> dict[float, float]:
        """The dev score of each rate that was tried with the student as it now starts."""
        seed = self._task.seeds[0]
        return {
            row["learning_rate"]: row[f"dev_{self._task.dev_score}"]
            for row in self._rows
            if (row["experiment"], row["method"]) == ("learning_rates", method)
            and row["start"] == self._starts.get(seed)
        }

    def _tried(self, method: str) -> list[float]:
        task = self._task
        return rates_to_try(
            self._dev_scores(method),
            task.budget.rates,
            lower_is_better=task.lower_is_better,
            factor=task.budget.rate_factor,
            most_more=task.budget.more_rates,
        )

    def _rate(self, method: str) -> float | None:
        task = self._task
        return chosen_rate(
            self._dev_scores(method),
            task.budget.rates,
            lower_is_better=task.lower_is_better,
            factor=task.budget.rate_factor,
            most_more=task.budget.more_rates,
        )

    # Students.

    def _student(
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
        rate, start = self._rate(method.name), self._starts.get(seed)
        if rate is not None and start is not None:
            length = self._task.budget.updates if updates is None else updates
            yield Cell(
                *(self._task, experiment, method, seed, length, rate, start),
                data_share=data_share,
                teacher_weight=teacher_weight,
            )

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
