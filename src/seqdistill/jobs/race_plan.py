"""The plan of a race, before anything is trained: who takes part, how long, what it costs at most.

Every method is tried for some batches: what its recipe does not allow is found, and its seconds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from seqdistill.core.errors import RecipeError, UserError
from seqdistill.jobs.cells import pool_of, recipe_hash
from seqdistill.jobs.plan import plan
from seqdistill.recipe.loading import check_recipe
from seqdistill.recipe.racing import (
    RATE,
    Rung,
    candidate,
    counts_of,
    num_updates,
    raced_methods,
    rates_of,
    rungs_of,
    shares,
)
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.systems import output_folder
from seqdistill.records import atomic
from seqdistill.records.run_directory import RunDirectory

PLAN = "race.json"


@dataclasses.dataclass(frozen=True)
class Race:
    """A recipe, who takes part, and the budget: minutes, updates in all, or, with neither,
    `training.steps` of each that comes to the end."""

    recipe: Recipe
    names: tuple[str, ...] = ()
    """Of methods; by default all of `racing.METHODS` and the recipe's own."""
    minutes: float | None = None
    updates: int | None = None

    @property
    def folder(self) -> Path:
        """Where runs, rows and page go."""
        return output_folder(self.recipe)

    @property
    def digest(self) -> str:
        """What must be the same for it to be gone on with."""
        return recipe_hash(self.recipe, self.names, self.minutes, self.updates)


@dataclasses.dataclass(frozen=True)
class RacePlan:
    """Who takes part and how long, decided before anything is trained."""

    methods: tuple[str, ...]
    rates: tuple[float, ...]
    left_out: Mapping[str, str]
    """Methods that this recipe does not allow, and why."""
    rungs: tuple[Rung, ...]
    seconds: float
    """At most, if the most expensive go on; without labelling and the test set."""
    eval_metric: str
    """What dev chooses by: the recipe's; of `auto` the first metric of outputs, since the loss on
    references favours methods that learn them."""

    def lines(self) -> list[tuple[str, str]]:
        """(label, text) pairs for display."""
        total, whole = num_updates(self.rungs), self.rungs[0].count * self.rungs[-1].until
        rates = ", ".join(f"{rate:g}" for rate in self.rates)
        return [
            ("methods", ", ".join(self.methods)),
            *((f"without {name}", why) for name, why in self.left_out.items()),
            (RATE, rates),
            *(
                (f"rung {number}", f"{rung.count} candidates until update {rung.until:,}")
                for number, rung in enumerate(self.rungs, start=1)
            ),
            ("chosen by", f"{self.eval_metric} on dev"),
            (
                "updates",
                f"{total:,} in all, {total / whole:.0%} of the {whole:,} of all candidates in full",
            ),
            (
                "time",
                f"at most about {self.seconds / 60:.1f} minutes on this machine, from timed "
                "batches; without labelling and the test set",
            ),
        ]


def plan_race(race: Race, *, jobs: int = 1) -> RacePlan:
    """The plan of a race that was begun, else a new one, for which every method is tried for some
    batches. Writes nothing.

    Raises UserError where output_dir holds another race, and RecipeError where no method can be
    trained and for a budget that does not reach the first rung.
    """
    path = race.folder / PLAN
    if path.is_file():
        stored = json.loads(path.read_text("utf-8"))
        if stored.pop("of") != race.digest:
            raise UserError(
                f"output_dir must be new or hold this very race, got {str(race.folder)!r}, which "
                "holds one of another recipe, budget or methods; give another output_dir=..."
            )
        return TypeAdapter(RacePlan).validate_python(stored)
    RunDirectory(race.folder).check_free()
    tried: dict[str, _Tried] = {}
    left_out: dict[str, str] = {}
    recipes = raced_methods(race.recipe, race.names)
    with pool_of(jobs) as pool:
        trials = {
            name: pool.submit(_try, recipe.model_copy(update={"output_dir": str(race.folder)}))
            for name, recipe in recipes.items()
        }
        for name, trial in trials.items():
            try:
                tried[name] = trial.result()
            except UserError as error:
                left_out[name] = str(error)
    if not tried:
        sentences = dict.fromkeys(left_out.values())
        raise RecipeError(f"no method can be raced: {'; '.join(sentences)}")
    rates, chosen = rates_of(race.recipe), race.recipe.training.eval_metric
    counts = counts_of(len(tried) * len(rates), len(tried))
    slowest = sorted((one.update for one in tried.values() for _ in rates), reverse=True)
    first, seconds = _first_rung(
        race, counts, slowest, max(one.dev for one in tried.values()), jobs
    )
    return RacePlan(
        tuple(tried),
        tuple(rates),
        left_out,
        tuple(rungs_of(counts, first)),
        seconds,
        next(iter(tried.values())).main_metric if chosen == "auto" else chosen,
    )


@dataclasses.dataclass(frozen=True)
class _Tried:
    """What some batches of a method said: seconds of an update and of a score on dev."""

    update: float
    dev: float
    main_metric: str


def _try(recipe: Recipe) -> _Tried:
    own = recipe.training
    alone = candidate(recipe, own.learning_rate, [Rung(1, own.steps)], own.eval_metric)
    check_recipe(alone)
    found = plan(alone, evaluated=False)
    return _Tried(found.update_seconds, found.dev_seconds, found.main_metric)


def _first_rung(
    race: Race, counts: Sequence[int], slowest: Sequence[float], dev: float, jobs: int
) -> tuple[int, float]:
    """The updates of the first rung, and the seconds of the race at most.

    `slowest` are the candidates' seconds of an update, the largest first.
    """
    training, parts = race.recipe.training, shares(counts)
    each = sum(n * part for n, part in zip(counts, parts, strict=True))
    seconds = sum(sum(slowest[:n]) * part for n, part in zip(counts, parts, strict=True))
    scores = each * dev  # one whenever another first rung is over
    unit = training.eval_every or 1
    if training.eval_every is not None:
        seconds, scores = seconds + each * dev / unit, 0.0
    if race.updates is not None:
        first, given = race.updates // each, f"--updates {race.updates}"
    elif race.minutes is not None:
        first = int(max(0.0, race.minutes * 60 * jobs - scores) / seconds)
        given = f"--minutes {race.minutes:g}"
    else:
        last = sum(parts)
        first, given = training.steps // last, f"training.steps {training.steps}"
    first = first // unit * unit
    least = max(unit, (training.warmup_steps or 0) + 1)
    if first < least:
        raise RecipeError(
            f"the budget must allow each of {counts[0]} candidates {least} updates in the first of "
            f"{len(counts)} rungs (training.eval_every, and more than warmup_steps), so "
            f"{least * each:,} in all and {least * sum(parts):,} of those that come to the end, "
            f"got {given}; raise it, or race fewer --methods"
        )
    return first, (first * seconds + scores) / jobs


def write_plan(race: Race, plan: RacePlan) -> None:
    """Keeps the plan for when the race is gone on with."""
    atomic.write_json(race.folder / PLAN, {"of": race.digest, **dataclasses.asdict(plan)})
