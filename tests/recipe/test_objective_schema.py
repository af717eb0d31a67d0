"""What a recipe may say of a term is what the registries have, and no more."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.objectives.worlds import PARAMETERS

from seqdistill.assembly.preparing import build_objective
from seqdistill.core.families import DIVERGENCES, TOKEN_WEIGHTS
from seqdistill.recipe.checks import contradictions
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.objective_schema import read_term
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.writing import json_schema
from seqdistill.testing.world import rollouts

YOURS = ["data.train=train.tsv", "student.model=small", "teacher.model=large"]


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_term_has_the_parameters_of_its_divergence_and_no_others(name: str) -> None:
    own = PARAMETERS.get(name, {})
    term = read_term({"divergence": name, **own})
    assert term.built().divergence == DIVERGENCES.choose(name, **own)
    every = {key for m in DIVERGENCES.values() for key in m.parameters.__pydantic_fields__}
    for foreign in every - set(DIVERGENCES[name].parameters.__pydantic_fields__):
        with pytest.raises(ValidationError, match=foreign):
            read_term({"divergence": name, **own, foreign: 0.5})


def test_a_parameter_that_a_preset_gives_can_be_set_to_null() -> None:
    away = [
        f"objective.terms.0.{key}" for key in ("divergence=reverse_kl", "beta=null", "scale=null")
    ]
    (term,) = load_recipe("gkd", [*YOURS, *away]).objective.terms
    assert term == read_term({"divergence": "reverse_kl"})


def test_the_json_schema_has_every_member_with_its_parameters() -> None:
    sections = json_schema()["$defs"]
    assert isinstance(sections, dict)
    for base, family in (("Term", DIVERGENCES), ("Weighing", TOKEN_WEIGHTS)):
        for name, member in family.items():
            own = sections[f"{base}_{name}"]
            assert own["description"] and own["additionalProperties"] is False
            for parameter in member.parameters.__pydantic_fields__:
                assert own["properties"][parameter]["description"], f"{name}: {parameter}"
    assert json.dumps(json_schema())


SCHEDULES = st.floats(-0.5, 1.5) | st.builds(
    lambda start, end, shape: {"start": start, "end": end, "shape": shape},
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([0.0, 0.7, 1.0]),
    st.sampled_from(["linear", "exponential", "complement_exponential"]),
)
WEIGHTS = st.one_of(
    st.sampled_from(["uniform", "importance", "advantages", "origin"]),
    st.builds(
        lambda **given: {"kind": "sequence_reverse_kl", **given},
        estimator=st.sampled_from(["paper", "released"]),
        discount=st.sampled_from([0.0, 0.95, 1.0]),
        clip=st.sampled_from([None, 0.0, 0.2, 1.0, 1.5]),
    ),
    st.builds(
        lambda origins: {"kind": "origin", "origins": origins},
        st.sampled_from([[], ["student"], ["reference"], ["teacher_mixed"]]),
    ),
)
OF_DIVERGENCES: dict[str, dict[str, Any]] = {
    "jensen_shannon": {"beta": st.sampled_from([0.0, 0.5, 1.0, 1.5])},
    "skew_forward_kl": {"alpha": SCHEDULES},
    "adaptive_kl": {"head_mass": st.sampled_from([0.0, 0.5, 1.0])},
    "interpolated_forward_kl": {"start_fraction": st.sampled_from([0.0, 0.4, 1.0])},
}
ANY_TERM = st.sampled_from(list(DIVERGENCES)).flatmap(
    lambda name: st.fixed_dictionaries(
        {"divergence": st.just(name), **OF_DIVERGENCES.get(name, {})},
        optional={"weight": SCHEDULES, "token_weights": st.lists(WEIGHTS, max_size=2)},
    )
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    terms=st.lists(ANY_TERM, min_size=1, max_size=2),
    reduction=st.sampled_from(["token", "sequence", "sum"]),
    temperature=st.sampled_from([1.0, 2.0]),
    origin=st.sampled_from(["reference", "student"]),
)
def test_what_a_check_passes_has_a_loss(
    terms: list[dict[str, object]], reduction: str, temperature: float, origin: str
) -> None:
    values = {
        "data": {"train": "a.tsv"},
        "student": {"model": "s"},
        "teacher": {"model": "t", "scores": "dense"},
        "sequences": {"origin": origin},
        "objective": {"terms": terms, "reduction": reduction, "loss_temperature": temperature},
    }
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError:
        return
    if [key for key, _ in contradictions(recipe) if key != "objective.reward.function"]:
        return
    objective, here = build_objective(recipe), rollouts()
    total, _ = objective(here.states, here.scores, here.batch)
    assert total.total.isfinite()
