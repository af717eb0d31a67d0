"""Every preset loads, says what its paper says, and explains itself."""

from __future__ import annotations

import pathlib
import pickle
import re

import pytest
import yaml

from seqdistill.core.errors import RecipeError
from seqdistill.core.schedules import Schedule
from seqdistill.core.terms import FeatureTerm
from seqdistill.recipe import list_presets, load_recipe, preset_names, read_recipe, show_preset
from seqdistill.recipe.documents import parse_document
from seqdistill.recipe.objective_schema import read_term
from seqdistill.recipe.sequences_schema import AdaptiveSection
from seqdistill.recipe.stages import unchained

YOURS = ["data.train=train.tsv", "data.dev=dev.tsv", "student.model=small", "teacher.model=large"]
LINES = pathlib.Path(__file__).with_name("presets.txt").read_text("utf-8").splitlines()[1:]
METHODS = {line.split()[0]: [part.strip() for part in line.split("|")[1:]] for line in LINES}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_resolves_to_what_its_paper_says(name: str) -> None:
    recipe = load_recipe(name, YOURS)
    origin, scores, reduction, terms = METHODS[name]
    assert recipe.method == recipe.preset == name
    assert (recipe.sequences.origin, recipe.teacher.scores) == (origin, scores)
    assert (recipe.objective.reduction, recipe.objective.loss_temperature) == (reduction, 1.0)
    assert recipe.objective.terms == tuple(map(read_term, yaml.safe_load(f"[{terms}]")))
    decoding, rollouts = recipe.sequences.decoding, recipe.sequences.rollouts
    if origin in ("teacher", "interpolation"):
        beam = {
            "teacher": ("beam", 1 if name == "uld" else 5, 1),
            "interpolation": ("beam", 35, 35),
        }[origin]
        assert (decoding.mode, decoding.beam_size, decoding.n_best) == beam
        assert recipe.sequences.similarity == "smoothed_bleu"
    sampling = ("on_policy_kd", "gkd", "minillm", "distillm", "gkd_rl", "tip", "opsd", "paced_self")
    if name in (*sampling, "adaptive_gkd", "distill_spec"):
        whole = (rollouts.mode, rollouts.sampling_temperature, rollouts.top_k, rollouts.top_p)
        assert whole == ("sample", 1.0, 0, 1.0), "rollouts are of the whole distribution"
    rates = {
        "minillm": 5e-6,
        "distillm": 5e-4,
        "distillm_2": 5e-5,
        "taid": 1e-4,
        "tip": 1e-6,
        "opsd": 2e-5,
    }
    if name in rates:
        assert recipe.training.learning_rate == rates[name], "the authors'"


def test_who_writes_how_much_is_the_papers() -> None:
    found = {name: read_recipe(name).sequences for name in METHODS}
    gkd, imitkd = found["gkd"].mixture, found["imitkd"]
    assert gkd.student_fraction is not None and gkd.student_fraction.ends == (0.5,)
    assert (gkd.coin, gkd.others) == ("batch", "reference")
    share = imitkd.mixture.student_fraction
    assert share is not None and (share.shape, share.ends) == ("complement_exponential", (0, 0.995))
    assert (imitkd.mixture.coin, imitkd.rollouts.mode) == ("example", "greedy")
    for name in ("f_distill", "distillm_2"):
        assert (found[name].mixture.coin, found[name].mixture.others) == ("both", "teacher")
        assert found[name].decoding.mode == found[name].rollouts.mode == "sample"
    assert found["distillm_2"].decoding.sampling_temperature == 0.8
    assert found["distillm_2"].rollouts.sampling_temperature == 0.8
    assert found["minillm"].rollouts.teacher_fraction == 0.2
    phi, replay = found["distillm"].mixture.student_fraction, found["distillm"].replay
    assert isinstance(phi, AdaptiveSection)
    assert (phi.start, phi.step, phi.threshold) == (0.0, 0.1, 0.1)
    assert (replay.capacity, replay.fresh_fraction.ends) == (1000, (1.0, 0.0))
    assert found["gkd_rl"].rollouts.samples_per_prompt == 4


def test_features_are_of_the_papers_layers() -> None:
    found = {name: load_recipe(name, YOURS).objective.built_features() for name in METHODS}
    assert {name for name, features in found.items() if features} == {"hidden_states", "minilm"}
    assert found["hidden_states"] == [FeatureTerm.of("hidden_mse", weight=Schedule.constant(1.0))]
    relations = FeatureTerm.of(
        "attention_relations", weight=Schedule.constant(1.0), layers="last", relation_heads=8
    )
    assert found["minilm"] == [relations]


def test_pruning_takes_four_weights_of_five_by_one_threshold_and_trains_gently() -> None:
    recipe, plain = load_recipe("prune", YOURS), load_recipe("seq_kd", YOURS)
    pruning = recipe.pruning
    assert (pruning.sparsity, pruning.scheme, pruning.exclude) == (0.8, "class_blind", ())
    assert recipe.training.learning_rate < plain.training.learning_rate
    assert recipe.sequences == plain.sequences and recipe.objective == plain.objective
    pruned = [name for name in preset_names() if read_recipe(name).pruning.sparsity is not None]
    assert pruned == ["prune"], "chains leave it to that stage"


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_explains_itself_and_goes_to_another_process_as_it_is(name: str) -> None:
    text = show_preset(name)
    for heading in ("Paper:", "Loss:|Method:", "Differences from the paper:", "You must set:"):
        assert re.search(f"^# ({heading})", text, re.MULTILINE), f"{name} does not say: {heading}"
    sentence = dict(list_presets())[name]
    assert sentence.endswith(".") and len(sentence) > 20 and "#" not in sentence
    assert max(map(len, text.splitlines())) < 100
    values = [line for line in text.splitlines() if re.search(r":\s+\S", line.partition("#")[0])]
    assert [line for line in values if "#" not in line] == [], "lines without a comment"
    problems: list[str] = []
    parse_document(text, name, problems)
    assert not problems
    recipe = read_recipe(name)
    sent = pickle.loads(pickle.dumps(recipe))
    assert sent == recipe
    assert sent.model_dump(exclude_unset=True) == recipe.model_dump(exclude_unset=True)


@pytest.mark.parametrize("name", ["speculative", "min_ed"])
def test_a_method_that_is_not_offered_is_refused_and_not_ignored(name: str) -> None:
    with pytest.raises(RecipeError, match=rf"preset must be one of .*got '{name}'"):
        show_preset(name)
    for section in ("objective", "sequences"):
        with pytest.raises(RecipeError, match=rf"{section}\.{name} is an unknown key"):
            load_recipe("gkd", [f"{section}.{name}=true"])


def test_paced_weighs_both_stages_by_the_column_that_it_names() -> None:
    recipe = load_recipe("paced", YOURS)
    assert recipe.data.extra_columns == ("pass_rate",)
    for stage, origin, divergence in zip(
        unchained(recipe), ("teacher", "student"), ("forward_kl", "reverse_kl"), strict=True
    ):
        weight = {"kind": "pass_rate", "alpha": 1.0, "beta": 1.0}
        term = read_term({"divergence": divergence, "token_weights": [weight]})
        assert stage.objective.terms == (term,)
        assert (stage.sequences.origin, stage.objective.reduction) == (origin, "sequence")
    with pytest.raises(RecipeError, match="must name pass_rate, which the token weight pass_rate"):
        load_recipe("paced", [*YOURS, "data.extra_columns=[]"])


def test_the_gradient_of_minillms_released_code_is_three_settings_away() -> None:
    told = " ".join(show_preset("minillm").replace("#", " ").split())
    settings = [
        "objective.terms.0.token_weights.0=uniform",
        "objective.terms.1.token_weights.0.estimator=released",
        "objective.terms.1.token_weights.0.discount=0.95",
    ]
    assert " ".join(settings) in told
    exact, long_range, _ = load_recipe("minillm", [*YOURS, *settings]).objective.terms
    assert exact.token_weights[0].kind == "uniform"
    returns = long_range.built().token_weights[0].parameters
    assert (returns.estimator, returns.discount, returns.clip) == ("released", 0.95, 0.2)
