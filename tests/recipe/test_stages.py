"""A stage of a chain is the recipe that one would have written by hand; a wrong chain is told."""

from __future__ import annotations

import pathlib

import pytest

from seqdistill.core.errors import RecipeError
from seqdistill.core.schedules import Schedule
from seqdistill.recipe import load_recipe, read_recipe, write_recipe
from seqdistill.recipe.schema import PruningSection, Recipe, Stage
from seqdistill.recipe.stages import stage_recipe

YOURS = ["data.train=a.tsv", "data.dev=b.tsv", "student.model=small", "teacher.model=large"]
CHAINS = {
    "baseline_seq_inter": ("baseline", "seq_inter"),
    "word_kd_seq_inter": ("word_kd", "seq_inter"),
    "seq_kd_seq_inter": ("seq_kd", "seq_inter"),
    "seq_kd_word_kd_seq_inter": ("seq_kd_word_kd", "seq_inter"),
    "seq_kd_prune": ("seq_kd", "prune"),
    "seq_kd_prune_seq_inter": ("seq_kd", "prune", "seq_inter"),
}
"""The combinations with fine-tuning of Kim and Rush 2016, table 1, and with pruning, sec. 4.4."""

HALF_NLL = {"divergence": "negative_log_likelihood", "weight": 0.5}


def chain(*overrides: str) -> Recipe:
    return load_recipe("seq_kd_seq_inter", [*YOURS, *overrides])


def refusal(*overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        chain(*overrides)
    return str(caught.value)


@pytest.mark.parametrize("name", CHAINS)
def test_each_stage_is_the_recipe_of_its_preset_by_hand(name: str) -> None:
    common = ["training.batch_tokens=77", "seed=3", "sequences.decoding.max_new_tokens=9"]
    recipe = load_recipe(name, [*YOURS, *common])
    assert recipe.method == "+".join(CHAINS[name])
    assert tuple(stage.preset for stage in recipe.stages) == CHAINS[name]
    for index, preset in enumerate(CHAINS[name]):
        start = [] if index == 0 else ["student.model=trained"]
        if "prune" in CHAINS[name][:index]:
            start.append("pruning.sparsity=0.8")
        by_hand = load_recipe(preset, [*YOURS, *common, *start])
        made = stage_recipe(recipe, index, start_from="trained" if index else None)
        assert made == by_hand


def test_the_teachers_states_are_kept_where_a_stage_reads_them() -> None:
    kept = ["teacher.cache_hidden_states=fp32", "teacher.kept_scores=here"]
    recipe = load_recipe("seq_kd_word_kd_seq_inter", [*YOURS, *kept])
    made = [stage_recipe(recipe, index, start_from="x").teacher for index in (0, 1)]
    assert [(teacher.cache_hidden_states, teacher.kept_scores) for teacher in made] == [
        ("fp32", "here"),
        ("none", None),
    ]
    both = "stages=[{preset: word_kd}, {preset: seq_kd_word_kd}]"
    assert "teacher.kept_scores must be another folder" in refusal(both, *kept)
    chain(both, kept[0])
    chain("stages=[{preset: word_kd}, {preset: word_kd}]", *kept)


def test_pruning_is_handed_on_until_a_stage_ends_it() -> None:
    stages = [{"preset": name} for name in ("seq_kd", "prune", "baseline", "word_kd", "baseline")]
    uniform = {"pruning.scheme": "class_uniform", "pruning.exclude": ["a*"]}
    stages[1]["settings"] = {**uniform, "pruning": {"sparsity": 0.5}}  # type: ignore[assignment]
    stages[3]["settings"] = {"pruning.sparsity": None}  # type: ignore[assignment]
    recipe = load_recipe("seq_kd_prune", [*YOURS, f"stages={stages}".replace("None", "null")])
    made = [stage_recipe(recipe, index, start_from="x").pruning for index in range(5)]
    assert [pruning.sparsity for pruning in made] == [None, 0.5, 0.5, None, None]
    assert [pruning.scheme for pruning in made[1:3]] == ["class_uniform"] * 2
    assert [pruning.exclude for pruning in made[1:3]] == [("a*",)] * 2
    assert made[0] == made[3] == made[4] == PruningSection()


def test_the_recipes_own_pruning_starts_with_the_first_stage() -> None:
    recipe = chain("pruning={sparsity: 0.3, scheme: class_distribution}")
    made = [stage_recipe(recipe, index, start_from="x").pruning for index in (0, 1)]
    assert made == [recipe.pruning] * 2
    gradual = chain("stages=[{preset: seq_kd, settings: {pruning.sparsity: 0.5}}, {preset: prune}]")
    made = [stage_recipe(gradual, index, start_from="x").pruning for index in (0, 1)]
    assert [pruning.sparsity for pruning in made] == [0.5, 0.8]
    told = refusal("stages=[{preset: seq_kd}, {preset: prune}]", "pruning.sparsity=0.9")
    assert "pruning.sparsity must be left to the stages" in told


def test_a_stages_settings_win_over_its_preset_and_that_over_the_recipe() -> None:
    recipe = chain("training.steps=800", "stages.1.settings.training.learning_rate=0.5")
    first, second = (stage_recipe(recipe, index, start_from=None) for index in (0, 1))
    preset = read_recipe("seq_inter").training
    assert (first.training.steps, first.training.learning_rate) == (800, 5e-4)
    assert (second.training.steps, second.training.learning_rate) == (preset.steps, 0.5)


@pytest.mark.parametrize(
    "settings",
    [
        {"training.steps": 40, "objective.terms.0.weight": 0.5, "data.dev": None},
        {"training": {"steps": 40}, "objective.terms": [HALF_NLL], "data": {"dev": None}},
    ],
)
def test_settings_may_be_dotted_or_nested_and_read_back(
    settings: dict[str, object], tmp_path: pathlib.Path
) -> None:
    stages = (Stage(preset="seq_kd"), Stage(preset="seq_inter", settings=settings))
    recipe = chain().model_copy(update={"stages": stages})
    made = stage_recipe(recipe, 1, start_from="trained")
    assert made.training.steps == 40
    assert made.objective.terms[0].weight == Schedule.constant(0.5)
    assert made.data.dev is None
    assert stage_recipe(recipe, 0, start_from=None).data.dev == "b.tsv"
    assert recipe.stages == stages
    (path := tmp_path / "recipe.yaml").write_text(write_recipe(recipe), encoding="utf-8")
    assert load_recipe(str(path)) == recipe


def test_a_line_of_a_file_is_named_with_the_key_that_mends_it(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "preset: seq_kd_seq_inter\n"
        "data: {train: a.tsv}\nteacher: {model: large}\nstudent: {model: small}\n"
        "stages:\n- preset: seq_kd\n- preset: seq_inter\n  settings: {training.stesp: 3}\n"
    )
    with pytest.raises(RecipeError, match=r"line 8: stages\.1\.settings\.training\.stesp is an un"):
        load_recipe(str(path))


def test_fine_tuning_may_follow_a_random_student_but_not_start_from_it() -> None:
    scratch = "student={model: null, init: scratch, architecture: {model_type: t5}}"
    chain(scratch)
    turned = "stages=[{preset: seq_inter}, {preset: seq_kd}]"
    assert "student.init in stages.0 must start from a trained student" in refusal(scratch, turned)


def test_a_mistake_that_all_stages_share_is_told_once() -> None:
    told = refusal("data.target_column=x", "data.source_column=x")
    assert told.count("data.target_column must be another column") == 1
    assert "stages." not in told
    pruned = "{preset: prune, settings: {pruning.sparsity: 2}}"
    told = refusal(f"stages=[{{preset: seq_kd}}, {pruned}, {{preset: seq_inter}}]")
    assert "errors:" not in told and "stages.2" not in told, "the stage after is not at fault"
    # Settings that one stage reads are right.
    chain("training.steps=500", "sequences.decoding.compute_type=int8")
    chain("sequences.corpus=a", "stages.1.settings.sequences.corpus=b")
    later = "stages=[{preset: baseline}, {preset: word_kd}]"
    load_recipe("baseline", [*YOURS, later, "sequences.decoding.max_new_tokens=9"])


def test_a_later_stage_forgets_how_the_first_student_was_made() -> None:
    scratch = (
        "student={model: null, init: scratch, architecture: {model_type: t5}, save_dtype: fp16}"
    )
    student = stage_recipe(chain(scratch), 1, start_from="trained").student
    assert (student.init, student.model, student.save_dtype) == ("pretrained", "trained", "fp16")
    assert student.architecture is None and student.vocab_size is None
    layers = ["student.init=teacher_layers", "student.decoder_layers=1", "student.model=null"]
    student = stage_recipe(chain(*layers), 1, start_from="trained").student
    assert (student.init, student.model, student.decoder_layers) == ("pretrained", "trained", None)
