"""A race of tiny models: who goes on, for how long, what is recommended, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.jobs.runs import folder_for, settings_in, texts

from seqdistill.core.errors import RecipeError, UserError
from seqdistill.jobs import cells, race, race_plan
from seqdistill.jobs.cells import Cell
from seqdistill.jobs.race import run_race, survivors
from seqdistill.jobs.race_plan import Race, RacePlan, plan_race
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.racing import (
    METHODS,
    RATE,
    Rung,
    counts_of,
    num_updates,
    raced_methods,
    rungs_of,
)
from seqdistill.recipe.schema import Recipe
from seqdistill.records.run_directory import RunDirectory
from seqdistill.records.tables import Row, read_rows
from seqdistill.report.recommendation import Finalist, in_words, recommended


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data and models; candidates train in this process, since a fresh one would mostly import."""
    for module in (cells, race_plan):
        monkeypatch.setattr(module, "pool_of", lambda jobs, threads=None: ThreadPoolExecutor(jobs))
    return folder_for(tmp_path, "mbart")


def recipe_in(place: Path, *overrides: str, method: str = "baseline") -> Recipe:
    given = {
        **settings_in(place),
        "data.dev": str(place / "dev.tsv"),
        "evaluation.metrics": ["chrf"],
        "evaluation.engine": "transformers",
        "sequences.rollouts.max_new_tokens": 8,
        "sequences.decoding.engine": "transformers",
    }
    return load_recipe(method, [*texts(given), *overrides], purpose="race")


def planned(methods: Sequence[str], rates: Sequence[float], first: int) -> RacePlan:
    counts = counts_of(len(methods) * len(rates), len(methods))
    rungs = tuple(rungs_of(counts, first))
    return RacePlan(tuple(methods), tuple(rates), {}, rungs, 0.0, "chrf")


def by_rung(rows: Sequence[Row]) -> dict[int, list[tuple[str, float]]]:
    found: dict[int, list[tuple[str, float]]] = {}
    for row in rows:
        if "rung" in row:
            found.setdefault(row["rung"], []).append((row["method"], row[RATE]))
    return found


WORTH = {
    ("baseline", 1.0): 3.0,
    ("baseline", 2.0): 2.0,
    ("baseline", 3.0): 1.0,
    ("word_kd", 1.0): 9.0,
    ("word_kd", 2.0): 8.0,
    ("word_kd", 3.0): 7.0,
    ("gkd", 1.0): 4.0,
    ("gkd", 2.0): 6.0,
    ("gkd", 3.0): 5.0,
    ("imitkd", 1.0): 8.5,
    ("imitkd", 2.0): 0.0,
    ("imitkd", 3.0): 0.5,
}


def scripted(trained: list[tuple[str, float, int]]) -> Any:
    def measured(cell: Cell) -> list[Row]:
        method, rate = cell.facts["method"], cell.facts[RATE]
        assert cell.until is not None
        trained.append((method, rate, cell.until))
        worth = WORTH[method, rate]
        return [{"cell": cell.key, **cell.facts, "steps": cell.until, "worth": worth}]

    return measured


def test_halving_keeps_the_best_third_the_baseline_and_at_last_one_of_each_method(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[str, float, int]] = []
    methods = ("baseline", "word_kd", "gkd", "imitkd")
    about = Race(recipe_in(place), methods)
    plan = planned(methods, (1.0, 2.0, 3.0), first=5)
    assert plan.rungs == (Rung(12, 5), Rung(4, 15), Rung(3, 45))
    measure = scripted(trained)

    class Reached(Exception):
        """The test set's turn has come."""

    def then_stop(cell: Cell) -> list[Row]:
        if cell.tested:
            raise Reached
        return list(measure(cell))

    monkeypatch.setattr(race, "_measured", then_stop)
    with pytest.raises(UserError, match="all failed"):
        run_race(about, plan)
    rows = read_rows(about.folder / "rows.parquet")
    second = {("word_kd", 1.0), ("imitkd", 1.0), ("word_kd", 2.0), ("baseline", 1.0)}
    third = {("word_kd", 1.0), ("imitkd", 1.0), ("baseline", 1.0)}
    found = by_rung(rows)
    assert set(found[1]) == set(WORTH) and set(found[2]) == second and set(found[3]) == third
    tested = {(row["method"], row[RATE]) for row in rows if row["split"] == "test"}
    assert tested == third
    # What is trained is the plan: each goes on from where it paused.
    last: dict[tuple[str, float], int] = {}
    for method, rate, until in trained:
        last[method, rate] = until
    assert sum(last.values()) == num_updates(plan.rungs) == 12 * 5 + 4 * 10 + 3 * 30
    assert len(trained) == 12 + 4 + 3

    # Gone on with, nothing is trained twice; what failed at the end is tried again.
    with pytest.raises(UserError, match="all failed"):
        run_race(about, plan)
    assert len(trained) == 12 + 4 + 3


def test_survivors_are_the_first_with_the_baseline_among_them() -> None:
    ranked = [
        Cell(f"{name}{n}", name, (), {"method": name})
        for n, name in enumerate(["a", "a", "b", "c", "baseline", "baseline"])
    ]

    def kept(count: int, **one_each: bool) -> list[str]:
        return [cell.key for cell in survivors(ranked, count, **one_each)]

    assert kept(3, one_each=False) == ["a0", "a1", "baseline4"]
    assert kept(3, one_each=True) == ["a0", "b2", "baseline4"]
    assert kept(9, one_each=True) == ["a0", "b2", "c3", "baseline4"]


@pytest.mark.parametrize("num_methods", [1, 2, 3, 6, 10])
def test_rungs_grow_threefold_and_cost_a_third_of_the_grid_when_many_race(
    num_methods: int,
) -> None:
    counts = counts_of(3 * num_methods, num_methods)
    rungs = rungs_of(counts, 7)
    assert counts == sorted(counts, reverse=True) and counts[-1] <= 3
    assert all(b.until == 3 * a.until for a, b in itertools.pairwise(rungs))
    if num_methods >= 6:
        assert num_updates(rungs) <= rungs[0].count * rungs[-1].until / 3


def test_a_race_is_run_and_a_killed_one_ends_with_the_same_rows(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = Race(recipe_in(place), ("baseline", "word_kd"), updates=20)
    plan = plan_race(about)
    assert plan.rungs == (Rung(6, 2), Rung(2, 6)) and plan.seconds > 0.0
    assert num_updates(plan.rungs) == 20
    done = run_race(about, plan)
    assert not done.failed
    rows = read_rows(done.rows)
    spent = {row["cell"].partition("@")[0]: row["steps"] for row in rows if "rung" in row}
    assert sum(spent.values()) == num_updates(plan.rungs)
    assert {row["system"] for row in rows if row["split"] == "test"} == {
        "teacher",
        "start",
        "student",
    }
    compared = read_rows(about.folder / "differences.parquet")
    assert {(row["method"], row["baseline"]) for row in compared} == {
        ("baseline", "start"),
        ("word_kd", "start"),
        ("word_kd", "baseline"),
    }
    page = done.page.read_text("utf-8")
    assert all(sentence.replace("'", "&#39;") in page for sentence in done.words)
    goes_on = load_recipe(str(done.recipe))
    assert (
        f"Go on with {goes_on.method}," in done.words[1]
        and (done.student / "config.json").is_file()
    )

    # Killed within the last rung: a half-trained candidate goes on, and all is as before.
    def shown(rows: Sequence[Row]) -> list[Row]:
        timed = ("seconds", "tokens_per_second", "sentences_per_second")
        return [
            {k: v for k, v in row.items() if k not in timed}
            for row in rows
            if "per_second" not in str(row.get("metric"))
        ]

    before, last = shown(rows), [c for c in (about.folder / "cells").iterdir() if c.is_dir()]
    for folder in last:
        if RunDirectory(folder).is_finished:
            folder.rename(place / folder.name)
    done.rows.unlink()
    again = run_race(about, plan)
    assert shown(read_rows(again.rows)) == before
    said = [of.words[0].partition("cheapest")[0] for of in (done, again)]  # who is is measured
    assert said[0] == said[1]

    with pytest.raises(UserError, match="this very race"):
        plan_race(dataclasses.replace(about, updates=99))


def test_a_candidate_that_fails_drops_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = Race(recipe_in(place), ("baseline", "word_kd"))
    real = race._measured

    def failing(cell: Cell) -> list[Row]:
        if cell.facts["method"] == "word_kd":
            raise RuntimeError("out of memory")
        return real(cell)

    monkeypatch.setattr(race, "_measured", failing)
    done = run_race(about, planned(about.names, (1e-3,), first=2))
    assert list(done.failed) == ["rung 1, word_kd, training.learning_rate=0.001"]
    assert done.words[0] == "Only baseline came to the end."
    assert "out of memory" in done.page.read_text("utf-8")


def test_methods_take_what_they_read_of_one_recipe_and_its_own_method_races(place: Path) -> None:
    recipe = recipe_in(place, "objective.terms.0.weight=0.3", method="word_kd")
    found = raced_methods(recipe)
    assert list(found) == list(METHODS)
    assert found["word_kd"].objective == recipe.objective
    assert found["baseline"].sequences.rollouts.max_new_tokens == 128
    assert found["gkd"].sequences.rollouts.max_new_tokens == 8
    terms = [found[f"on_policy_{name}"].objective.terms[0] for name in ("jsd", "reverse_kl")]
    assert [term.divergence for term in terms] == ["jensen_shannon", "reverse_kl"]
    with pytest.raises(RecipeError, match="Did you mean 'gkd'"):
        raced_methods(recipe, ["gdk"])


def test_what_a_recipe_does_not_allow_is_left_out_and_told(place: Path) -> None:
    about = Race(recipe_in(place, "teacher.model=null"), ("baseline", "gkd"))
    plan = plan_race(about)
    assert plan.methods == ("baseline",) and "teacher.model" in plan.left_out["gkd"]
    assert plan.rungs == (Rung(3, 4),) and not about.folder.exists()


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("data.dev=null", r"data\.dev must name"),
        ("data.test=null", r"data\.test must name"),
        ("stages=[{preset: word_kd}]", "stages must be left out"),
    ],
)
def test_what_no_race_can_be_about_is_refused(place: Path, given: str, word: str) -> None:
    with pytest.raises(RecipeError, match=word):
        recipe_in(place, given)


def test_a_budget_that_does_not_reach_the_first_rung_is_refused(place: Path) -> None:
    for given in ({"updates": 9}, {"minutes": 1e-6}):
        with pytest.raises(RecipeError, match=r"budget must allow each of 6 candidates 2 updates"):
            plan_race(Race(recipe_in(place), ("baseline", "word_kd"), **given))


def test_the_cheapest_of_equals_is_recommended() -> None:
    gains = {"baseline": {"gain": 2.0, "low": 1.0, "high": 3.0}}
    best = Finalist("gkd", "r=1", 30.0, 50.0, gains, is_equal=True)
    near = Finalist("word_kd", "r=2", 29.9, 20.0, gains, is_equal=True)
    base = Finalist("baseline", "r=1", 28.0, 10.0, {}, is_equal=False)
    assert recommended([best, near, base]) is near
    said = " ".join(in_words("chrf_beam", [best, near, base], "baseline"))
    assert "No clear winner" in said and "+2.00 [1.00, 3.00] over baseline" in said
    assert "2.0 times" in said
    alone = [best, dataclasses.replace(near, is_equal=False), base]
    assert recommended(alone) is best and "The winner is gkd" in in_words("x", alone, "baseline")[0]
