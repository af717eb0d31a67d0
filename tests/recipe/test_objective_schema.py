"""What a recipe may say of a term is what the objectives know, and no more."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from seqdistill.assembly.objective import build_objective
from seqdistill.core.errors import RecipeError
from seqdistill.objectives import term as objectives
from seqdistill.recipe.checks import contradictions
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.objective_checks import objective_findings
from seqdistill.recipe.objective_schema import Divergence, ObjectiveSection, RewardSection, Term
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.sequences_schema import SequencesSection

NAMES = get_args(Divergence)
SET: dict[str, Any] = {
    "head_mass": 0.7,
    "start_fraction": 0.3,
    "importance_weighted": True,
    "clip": 0.2,
}
"""Parameters of one divergence each, with a value that is not the default."""


def test_a_recipe_names_every_term_there_is() -> None:
    assert set(NAMES) == set(objectives.TERM_NAMES)


@pytest.mark.parametrize("parameter", SET)
def test_recipe_and_objectives_agree_on_whose_a_parameter_is(parameter: str) -> None:
    assert _refused_by_recipes(parameter) == _refused_by_objectives(parameter)
    assert len(_refused_by_recipes(parameter)) == len(NAMES) - 1


def _refused_by_recipes(parameter: str) -> set[str]:
    refused = set()
    for name in NAMES:
        term = Term(divergence=name, **{parameter: SET[parameter]})
        sequences = SequencesSection(origin="student")
        recipe = Recipe(objective=ObjectiveSection(terms=(term,)), sequences=sequences)
        keys = [key for key, _ in objective_findings(recipe)]
        refused |= {name} if f"objective.terms.0.{parameter}" in keys else set()
    return refused


def _refused_by_objectives(parameter: str) -> set[str]:
    refused = set()
    for name in NAMES:
        shares: dict[str, Any] = {
            "beta": 0.5 if name == "jensen_shannon" else None,
            "alpha": 0.1 if name.startswith("skew_") else None,
        }
        objectives.check_term(objectives.Term(name, **shares))
        try:
            objectives.check_term(objectives.Term(name, **shares, **{parameter: SET[parameter]}))
        except RecipeError:
            refused.add(name)
    return refused


def test_a_reward_that_is_no_name_and_no_function_is_refused_by_the_recipe() -> None:
    terms = (Term(divergence="reward"),)
    reward = RewardSection(function="exact_anser")
    objective = ObjectiveSection(terms=terms, reward=reward, reduction="sequence")
    found = dict(objective_findings(Recipe(objective=objective)))
    assert "got 'exact_anser'. Did you mean 'exact_answer'?" in found["objective.reward.function"]


def test_a_parameter_that_a_preset_gives_can_be_set_to_null() -> None:
    yours = ["data.train=train.tsv", "student.model=small", "teacher.model=large"]
    change = "objective.terms.0.divergence=reverse_kl"
    with pytest.raises(RecipeError, match=r"terms\.0\.beta .* remove it, or set it to null"):
        load_recipe("gkd", [*yours, change])
    (term,) = load_recipe("gkd", [*yours, change, "objective.terms.0.beta=null"]).objective.terms
    assert term == Term(divergence="reverse_kl")


SCHEDULES = st.floats(-0.5, 1.5) | st.builds(
    lambda start, end, shape: {"start": start, "end": end, "shape": shape},
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([0.0, 0.7, 1.0]),
    st.sampled_from(["linear", "exponential", "complement_exponential"]),
)
ANY_TERM = st.fixed_dictionaries(
    {"divergence": st.sampled_from(NAMES)},
    optional={
        "weight": SCHEDULES,
        "beta": st.sampled_from([0.0, 0.5, 1.0]),
        "alpha": SCHEDULES,
        "head_mass": st.sampled_from([0.0, 0.5, 1.0]),
        "start_fraction": st.sampled_from([0.0, 0.4, 1.0]),
        "discount": st.sampled_from([0.0, 0.95, 1.0]),
        "clip": st.sampled_from([0.0, 0.2, 1.0, 1.5]),
        "origin": st.sampled_from([[], ["student"], ["reference"]]),
        "estimator": st.sampled_from(["paper", "released"]),
    },
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    terms=st.lists(ANY_TERM, min_size=1, max_size=2),
    reduction=st.sampled_from(["token", "sequence", "sum"]),
    temperature=st.sampled_from([1.0, 2.0]),
    origin=st.sampled_from(["reference", "student"]),
)
def test_whatever_a_check_passes_builds_an_objective(
    terms: list[dict[str, object]], reduction: str, temperature: float, origin: str
) -> None:
    values = {
        "data": {"train": "a.tsv"},
        "student": {"model": "s"},
        "teacher": {"model": "t", "scores": "dense"},
        "sequences": {"origin": origin},
        "objective": {
            "terms": terms,
            "reduction": reduction,
            "loss_temperature": temperature,
        },
    }
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError:
        return
    if not contradictions(recipe):
        build_objective(recipe)


@pytest.mark.parametrize(
    "setting", ["clip: 1.5", "clip: 1", "head_mass: 0", "head_mass: 1", "origin: []"]
)
def test_a_parameter_out_of_its_range_is_refused_by_the_recipe(setting: str) -> None:
    owner = {"clip": "sequence_reverse_kl", "head_mass": "adaptive_kl"}
    name = owner.get(setting.partition(":")[0], "forward_kl")
    with pytest.raises(RecipeError, match=r"terms\.0"):
        load_recipe("word_kd", [f"objective.terms=[{{divergence: {name}, {setting}}}]"])
