"""What a check passes can be prepared, and what it refuses is not trained: generated recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.jobs.runs import folder_for, recipe_in

from seqdistill.assembly.preparing import build_objective, prepare
from seqdistill.assembly.sequences import build_source
from seqdistill.core.errors import RecipeError
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.train import train
from seqdistill.recipe.checks import contradictions
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.systems import output_folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    place: Path = folder_for(tmp_path_factory.mktemp("checked"), "mbart")
    # Batches of one prompt: how many sequences one has is then known without the data.
    return recipe_in(place, "on_policy_kd", "training.batch_tokens=1")


ONLY = [{"kind": "origin", "origins": [name]} for name in ("student", "teacher_mixed", "reference")]
PULLS = st.fixed_dictionaries(
    {
        "divergence": st.sampled_from(["reverse_kl", "forward_kl", "total_variation"]),
        "token_weights": st.lists(st.sampled_from(["importance", *ONLY]), max_size=2),
    }
)
LIKELIHOODS = st.fixed_dictionaries(
    {
        "divergence": st.just("negative_log_likelihood"),
        "token_weights": st.lists(
            st.sampled_from(["advantages", "sequence_reverse_kl", *ONLY]), max_size=2
        ),
    }
)
SEQUENCES = st.fixed_dictionaries(
    {
        "origin": st.sampled_from(["student", "mixture", "replay", "reference"]),
        "rollouts": st.fixed_dictionaries(
            {"max_new_tokens": st.just(6), "samples_per_prompt": st.sampled_from([1, 2])},
            optional={
                "mode": st.just("greedy"),
                "top_k": st.just(5),
                "teacher_fraction": st.just(0.2),
            },
        ),
    },
    optional={
        "mixture": st.fixed_dictionaries(
            {"student_fraction": st.sampled_from([0.0, 0.5, 1.0])},
            optional={"coin": st.sampled_from(["batch", "example"])},
        ),
        "replay": st.fixed_dictionaries({"capacity": st.sampled_from([1, 1000])}),
    },
)
REWARDS = st.sampled_from([{}, {"function": "rouge_l"}, {"function": "rouge_3"}])


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    terms=st.lists(PULLS | LIKELIHOODS, min_size=1, max_size=2),
    sequences=SEQUENCES,
    reward=REWARDS,
    reduction=st.sampled_from(["token", "sequence", "sum"]),
)
def test_a_recipe_passes_where_it_can_be_prepared_and_nowhere_else(
    base: Recipe,
    terms: list[dict[str, Any]],
    sequences: dict[str, Any],
    reward: dict[str, Any],
    reduction: str,
) -> None:
    values = base.model_dump()
    values["objective"] = {"terms": terms, "reward": reward, "reduction": reduction}
    values["sequences"] = sequences
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError:
        return
    if found := contradictions(recipe):
        with pytest.raises(RecipeError) as refused:
            train(recipe, progress=NoProgress())
        assert all(f"{key} {sentence}" in str(refused.value) for key, sentence in found)
        assert not output_folder(recipe).exists()
        return
    prepared = prepare(recipe)
    assert build_objective(recipe) and build_source(prepared, prepared.train)
