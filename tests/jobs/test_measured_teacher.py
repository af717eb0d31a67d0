"""A teacher that was measured before is not decoded again, and the results are the same."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from tests.jobs.runs import start

from seqdistill.assembly.data import read_split
from seqdistill.core.progress import NoProgress
from seqdistill.evaluation import speed
from seqdistill.evaluation.systems import SystemResult, SystemUnderTest, evaluate_system
from seqdistill.jobs import evaluate as evaluation
from seqdistill.jobs import systems
from seqdistill.jobs.evaluate import evaluate_run, evaluation_settings
from seqdistill.jobs.systems import system_under_test
from seqdistill.recipe.loading import load_recipe

TEST_SET = ["data.test=test.tsv"]


def test_a_measured_teacher_gives_the_same_results(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start("teacher.model=bart")
    expected = evaluate_run(run, TEST_SET, progress=NoProgress())
    recipe = load_recipe(str(run.recipe_path), TEST_SET)
    examples = read_split(recipe, "test")
    known = evaluate_system(
        system_under_test("teacher", "bart", "trained", recipe, examples),
        [example.target or "" for example in examples],
        evaluation_settings(recipe, examples, "seq2seq"),
        teacher=None,
    )
    before = known.row
    evaluated: list[str] = []

    def watched(system: SystemUnderTest, *given: Any, **named: Any) -> SystemResult:
        evaluated.append(system.name)
        return evaluate_system(system, *given, **named)

    monkeypatch.setattr(evaluation, "evaluate_system", watched)
    found = evaluate_run(run, TEST_SET, progress=NoProgress(), measured_teacher=known)
    assert evaluated == ["baseline"]
    assert known.row == before
    for own, other in zip(found.systems, expected.systems, strict=True):
        columns, others = own.columns(), other.columns()
        assert columns.keys() == others.keys()
        assert {k: v for k, v in columns.items() if "_per_second_" not in k} == {
            k: v for k, v in others.items() if "_per_second_" not in k
        }
    assert found.paired_tests == expected.paired_tests
    assert found.entropy_by_position == expected.entropy_by_position


@pytest.mark.parametrize("kept", [True, False])
def test_one_system_at_a_time_is_in_memory_unless_all_are_small(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    if not kept:
        monkeypatch.setattr(speed, "KEPT_PARAMETERS", 0)
    run = start("teacher.model=bart")
    loaded: list[weakref.ref[Any]] = []

    def load(*given: Any, **named: Any) -> SystemUnderTest:
        gc.collect()
        assert all(model() is None for model in loaded), "the one before is still there"
        system = system_under_test(*given, **named)
        loaded.append(weakref.ref(system.model.module))
        return system

    monkeypatch.setattr(systems, "system_under_test", load)
    found = evaluate_run(run, TEST_SET, progress=NoProgress(), export=True)
    assert (len(found.systems), len(found.exports)) == (2, 1)
    # Once to measure, the student once more for its copy, then all three for the rounds of speed.
    assert len(loaded) == 2 + 1 + 3 * (1 if kept else 3)
