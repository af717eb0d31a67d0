"""The example's prompts and recipe; its weights are not downloaded here."""

from __future__ import annotations

from pathlib import Path

from examples.smollm2.prepare import chat

from seqdistill.data.examples import Example
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.stages import stage_recipe

RECIPE = str(Path(__file__).parents[2] / "examples" / "smollm2" / "recipe.yaml")


def test_training_prompts_have_no_answer_and_the_others_end_with_one() -> None:
    example = Example("debian/hello", "It greets.", "friendly greeter")
    roles = [
        [turn["role"] for turn in chat(example, answered=answered)["messages"]]  # type: ignore[attr-defined]
        for answered in (False, True)
    ]
    assert roles == [["user"], ["user", "assistant"]]


def test_the_recipe_is_on_policy_after_a_stage_on_the_teachers_answers() -> None:
    recipe = load_recipe(RECIPE, [])
    first = stage_recipe(recipe, 0, start_from=None)
    second = stage_recipe(recipe, 1, start_from="trained")
    assert first.sequences.origin == "teacher"
    assert (first.student.init, first.student.decoder_layers) == ("teacher_layers", 15)
    assert second.sequences.origin == "mixture"
    share = second.sequences.mixture.student_fraction
    assert share is not None and share.ends == (0.5,)
    assert second.sequences.mixture.others == "teacher"
    assert [term.divergence for term in second.objective.terms] == ["forward_kl"]
