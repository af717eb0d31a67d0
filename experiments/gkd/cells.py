"""The cells of the experiment: a supervised student, then a method that starts from it.

First the supervised students, then the rates, chosen on dev for each method, then what the tables
show. Last, the same again from students that were supervised for longer. Trains nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Iterator, Sequence

from experiments.gkd.methods import (
    FOLLOWED,
    LENGTHENED,
    THRIFTY,
    Method,
    methods_of,
    rewarded_method,
)
from experiments.gkd.tasks import Task
from experiments.running import Found, Stage, chain, chosen_rate
from seqdistill.jobs.cells import Cell

INITIAL = dataclasses.replace(methods_of("key")["supervised_ft"], name="initial")
"""How the students are trained that all others start from."""
TIMED = "on_policy_kd"
FOLLOW_UP_FACTOR = 4
"""How many times the updates they then get, at the same rate."""
LATER = (*FOLLOWED, "gkd-jsd_0.1-1")
"""Methods that are trained from a later start, too: those, and the on-policy divergence that did
best on dev of the task that has such starts."""
LATER_FACTOR = 8
"""How many times the updates a later start has had; what begins there is trained as long as what is
followed up, at rates of its own."""
_MIDDLE_WEIGHT = 0.5
"""Alpha of the students that choose the rate of all rewarded ones."""
_ROUNDED_UPDATES = 50
_DEV_SCORES = 3
"""How often a student is scored on dev; the best of these checkpoints is kept."""


@dataclasses.dataclass(frozen=True)
class Beginnings:
    """Students that start alike: what their starts and the choice of their rates are called, and
    how long both are trained."""

    task: Task
    found: Found
    start: str
    rates: str
    start_updates: int
    updates: int

    def starts(self, seeds: Sequence[int]) -> Iterator[Cell]:
        """The supervised students."""
        rate = self.task.budget.initial_rate
        for seed in seeds:
            facts = _facts(self.start, INITIAL, seed, self.start_updates, rate)
            yield chain(self.task, (self._first(),), facts)

    def students(
        self,
        experiment: str,
        method: Method,
        seed: int,
        *,
        updates: int | None = None,
        data_share: float = 1.0,
        alpha: float | None = None,
    ) -> Iterator[Cell]:
        """The pilots that choose the method's rate and, once it is known, the student."""
        task, budget, length = self.task, self.task.budget, updates or self.updates

        def pilot(rate: float) -> Cell:
            of = method if alpha is None else rewarded_method(_MIDDLE_WEIGHT)
            weight = _MIDDLE_WEIGHT if of.preset == "gkd_rl" else None
            facts = _facts(self.rates, of, task.seeds[0], self.updates, rate, alpha=weight)
            facts["name"] = f"{self.rates}/{of.name}/seed{task.seeds[0]}/rate{rate:g}"
            stages = (self._first(), _stage(task, of, self.updates, rate))
            return chain(task, stages, facts, tested=False)

        rate = yield from chosen_rate(
            *(budget.rates, pilot, self.found, f"dev_{task.dev_score}"),
            lower_is_better=task.lower_is_better,
            factor=budget.rate_factor,
            most_more=budget.more_rates,
        )
        if rate is not None:
            facts = _facts(experiment, method, seed, length, rate, data_share, alpha)
            stage = _stage(task, method, length, rate, data_share)
            yield chain(task, (self._first(), stage), facts)

    def _first(self) -> Stage:
        task, rate = self.task, self.task.budget.initial_rate
        preset, settings = _stage(task, INITIAL, self.start_updates, rate, is_start=True)
        return preset, {**settings, **task.first_weights}


def plan(task: Task, found: Found) -> Iterator[Cell]:
    """Every cell that the rows so far allow to be stated, in the order of running."""
    budget, (first, *later) = task.budget, task.seeds
    lengths = (budget.initial_updates, budget.updates)
    begun = Beginnings(task, found, "initial", "learning_rates", *lengths)
    yield from begun.starts(task.seeds)
    methods, key = methods_of(task.grid), methods_of("key")
    for seed in task.seeds:
        for method in methods.values():
            if seed == first or method.name in key:
                yield from begun.students("main", method, seed)
        if seed in task.further_seeds:
            yield from _further(task, begun, seed)
    # What claims rest on least comes last: the rest of the grid with later seeds.
    for seed in later:
        for method in methods.values():
            if method.name not in key:
                yield from begun.students("main", method, seed)
    longer = FOLLOW_UP_FACTOR * budget.updates
    for seed in task.follow_up_seeds:
        for name in FOLLOWED:
            yield from begun.students("follow_up", methods[name], seed, updates=longer)
    if task.later_seeds:
        updates = LATER_FACTOR * budget.initial_updates
        late = Beginnings(task, found, "later_initial", "later_rates", updates, longer)
        yield from late.starts(task.later_seeds)
        for seed in task.later_seeds:
            for name in LATER:
                yield from late.students("later", methods[name], seed)


def _further(task: Task, begun: Beginnings, seed: int) -> Iterator[Cell]:
    methods = methods_of(task.grid)
    for share in task.data_shares:
        for name in THRIFTY:
            yield from begun.students("data", methods[name], seed, data_share=share)
    for name in LENGTHENED:
        updates = yield from _updates_in_equal_time(task, begun, name)
        if updates is not None:
            yield from begun.students("wall_clock", methods[name], seed, updates=updates)
    for alpha in task.teacher_weights:
        yield from begun.students("reward", rewarded_method(alpha), seed, alpha=alpha)


def _updates_in_equal_time(
    task: Task, begun: Beginnings, method: str
) -> Generator[Cell, None, int | None]:
    """How many updates of a method take as long as on-policy KD's.

    By the rows of the first seed that is lengthened. Seconds of another machine do not compare:
    then it cannot be stated. Never fewer than the others have.
    """
    methods, rows = methods_of(task.grid), []
    for name in (TIMED, method):
        cells = list(begun.students("main", methods[name], task.further_seeds[0]))
        yield from cells
        rows.append(begun.found(cells[-1]) or {})
    seconds = [float(row.get("typical_seconds_per_update", 0.0)) for row in rows]
    if not all(seconds) or rows[0]["machine"] != rows[1]["machine"]:
        return None
    bought = task.budget.updates * seconds[0] / seconds[1]
    return max(task.budget.updates, _ROUNDED_UPDATES * round(bought / _ROUNDED_UPDATES))


def _stage(
    task: Task,
    method: Method,
    updates: int,
    rate: float,
    data_share: float = 1.0,
    *,
    is_start: bool = False,
) -> Stage:
    settings = {**task.settings, **method.settings}
    if method.preset == "seq_kd":
        settings["sequences.corpus"] = str(task.teacher_corpus)
        settings["data.train"] = task.labelled_inputs
    else:
        decoding = "sequences.decoding."
        settings = {k: v for k, v in settings.items() if not k.startswith(decoding)}
    if method.student_fraction != 0.0:
        settings |= task.rollouts
    if not is_start:  # a supervised student warms up as its task says; what follows it, for a tenth
        settings["training.warmup_steps"] = max(1, updates // 10)
        settings["training.eval_every"] = math.ceil(updates / _DEV_SCORES)
    if data_share < 1.0:
        settings["data.max_train_examples"] = round(data_share * task.num_train)
    settings |= {"training.steps": updates, "training.learning_rate": rate}
    return method.preset, settings


def _facts(
    experiment: str,
    method: Method,
    seed: int,
    updates: int,
    rate: float,
    data_share: float = 1.0,
    alpha: float | None = None,
) -> dict[str, object]:
    parts = [experiment, method.name, f"seed{seed}"]
    parts += [f"data{data_share:g}"] if data_share < 1.0 else []
    parts += [f"alpha{alpha:g}"] if alpha is not None else []
    return {
        **{"experiment": experiment, "preset": method.preset, "method": method.name},
        **{"divergence": method.divergence, "lambda": method.student_fraction, "alpha": alpha},
        **{"data_share": data_share, "seed": seed, "updates": updates, "learning_rate": rate},
        "name": "/".join(parts),
    }
