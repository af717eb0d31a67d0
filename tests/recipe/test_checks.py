"""Each contradiction is found, by its key, with what to do; what is right passes."""

from __future__ import annotations

import pathlib
import re

import pytest

from seqdistill.recipe import load_recipe, preset_names, read_recipe
from seqdistill.recipe.checks import contradictions
from seqdistill.recipe.schema import Recipe, TrainingSection
from seqdistill.recipe.systems import all_contradictions
from seqdistill.training.optimization import learning_rate


def recipes() -> list[tuple[str, str, list[str]]]:
    """Key, line and overrides of each recipe in `contradictions.txt`."""
    named: dict[str, list[str]] = {}
    found, key = [], ""
    for line in pathlib.Path(__file__).with_name("contradictions.txt").read_text().splitlines():
        name, equals, words = line.partition(" = ")
        is_name = bool(equals) and name.isupper()
        given = [
            word
            for part in (words if is_name else line).strip().split(" | ")
            for word in named.get(part, [part])
        ]
        if is_name:
            named[name] = given
        elif line.startswith("  "):
            found.append((key, line.strip(), given))
        else:
            key = line.removesuffix(":")
    return found


RECIPES = recipes()
REFUSED = [pytest.param(k, o, id=f"{k}: {line}") for k, line, o in RECIPES if k != "passes"]
RIGHT = [pytest.param(o, id=line) for k, line, o in RECIPES if k == "passes"]


@pytest.fixture(scope="module")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("recipes") / "empty.yaml"
    path.write_text("")
    return str(path)


@pytest.mark.parametrize(("key", "overrides"), REFUSED)
def test_a_contradiction_is_found_alone_with_finding_and_remedy(
    empty_file: str, key: str, overrides: list[str]
) -> None:
    ((found, sentence),) = all_contradictions(read_recipe(empty_file, overrides))
    assert found == key
    assert re.fullmatch(r"must .+[,:] got .+[;.] ?.+", sentence), sentence


def test_origins_that_nobody_writes_are_told_of_a_policy_gradient(empty_file: str) -> None:
    weights = "[sequence_reverse_kl, {kind: origin, origins: [teacher_mixed]}]"
    terms = f"objective.terms=[{{divergence: negative_log_likelihood, token_weights: {weights}}}]"
    given = ["data.train=a.tsv", "student.model=s", "objective.reduction=sum", terms]
    found = [sentence for _, sentence in all_contradictions(read_recipe(empty_file, given))]
    assert any("must name origins that there are here (reference)" in told for told in found)


@pytest.mark.parametrize("overrides", RIGHT)
def test_what_goes_together_passes(empty_file: str, overrides: list[str]) -> None:
    assert load_recipe(empty_file, overrides)


def test_an_empty_recipe_lacks_data_and_student_only() -> None:
    assert [key for key, _ in contradictions(Recipe())] == ["data.train", "student.model"]


@pytest.mark.parametrize("final_share", [0.0, 0.5])
@pytest.mark.parametrize("schedule", ["inverse_sqrt", "linear", "cosine", "constant"])
def test_exactly_the_schedules_whose_every_rate_is_zero_are_refused(
    schedule: str, final_share: float
) -> None:
    share = 0.0 if schedule in ("inverse_sqrt", "constant") else final_share
    given = {"schedule": schedule, "final_rate_fraction": share}
    for steps in (1, 2, 3):
        for warmup in range(steps + 1):
            values = {"steps": steps, "warmup_steps": warmup, **given}
            training = TrainingSection.model_validate(values)
            learns = any(learning_rate(training, update) > 0.0 for update in range(1, steps + 1))
            found = [key for key, _ in contradictions(Recipe(training=training))]
            assert ("training.steps" not in found) == learns, (steps, warmup)


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_contradicts_nothing_once_its_models_and_data_are_given(name: str) -> None:
    missing = {"data.train", "student.model", "teacher.model"}
    if name == "distillm":
        missing.add("data.dev")  # its share of the student follows the dev loss
    if name == "self_distill":
        # Until student.model names the shape, it might be an architecture or a vocabulary instead.
        missing |= {"student.architecture", "student.vocab_size"}
    if name in ("opsd", "paced_self", "context_distill"):
        missing.add("teacher.prompt_column")
    assert {key for key, _ in all_contradictions(read_recipe(name))} <= missing
