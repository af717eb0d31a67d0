"""A compared system is the comparing recipe with another method, and nothing else."""

from __future__ import annotations

import pathlib

import pytest

from seqdistill.recipe import check_recipe, compare_member, load_recipe, output_folder, read_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.stages import stage_recipe
from seqdistill.recipe.systems import comparable_presets

# Those of clusters are for launchers.
EXAMPLES = sorted((pathlib.Path(__file__).parents[2] / "examples").glob("[!c]*/*.yaml"))
CHANGED = {"preset", "method", "output_dir", "compare", "teacher", "sequences", "objective"}


@pytest.mark.parametrize("name", comparable_presets())
def test_a_member_differs_from_the_comparison_by_its_method_alone(name: str) -> None:
    demo = load_recipe("demo", ["training.steps=77", "seed=5", "sequences.decoding.beam_size=3"])
    member, preset = compare_member(demo, name), read_recipe(name)
    assert member.method == member.preset == name
    assert member.objective == preset.objective
    assert member.teacher.scores == preset.teacher.scores
    assert member.sequences.origin == preset.sequences.origin
    assert member.teacher.model == demo.teacher.model
    if preset.sequences.decoding.mode != "sample":
        assert member.sequences.decoding == demo.sequences.decoding
    for field in set(Recipe.model_fields) - CHANGED:
        assert getattr(member, field) == getattr(demo, field)
    check_recipe(member)


@pytest.mark.parametrize(("name", "temperature"), [("f_distill", 1.0), ("distillm_2", 0.8)])
def test_a_member_that_samples_the_teacher_still_does(name: str, temperature: float) -> None:
    given = ["sequences.decoding.beam_size=3", "sequences.decoding.max_new_tokens=33"]
    decoding = compare_member(load_recipe("demo", given), name).sequences.decoding
    assert (decoding.mode, decoding.sampling_temperature) == ("sample", temperature)
    assert decoding.max_new_tokens == 33


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_has_no_mistakes_and_its_student_learns_from_its_own_sequences(
    path: pathlib.Path,
) -> None:
    recipe = load_recipe(str(path))
    assert recipe.data.train and recipe.data.dev and recipe.data.test
    first = stage_recipe(recipe, 0, start_from=None)
    last = stage_recipe(recipe, len(recipe.stages) - 1, start_from="a-student")
    assert not first.sequences.rolls_out and last.sequences.rolls_out
    assert last.sequences.rollouts.engine == "ctranslate2"


def test_members_are_written_below_the_comparison_each_by_itself() -> None:
    demo = load_recipe("demo", ["output_dir='runs/{method}-{seed}'", "seed=5"])
    folders = [output_folder(compare_member(demo, name)) for name in demo.compare]
    assert output_folder(demo) == pathlib.Path("runs/demo-5")
    assert folders == [output_folder(demo) / name for name in ("baseline", "word_kd", "seq_kd")]
