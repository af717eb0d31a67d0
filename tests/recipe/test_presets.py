"""Every preset loads, says what its paper says, and explains itself."""

from __future__ import annotations

import pickle
import re

import pytest

from seqdistill.core.errors import RecipeError
from seqdistill.recipe import list_presets, load_recipe, preset_names, read_recipe, show_preset
from seqdistill.recipe.documents import parse_document
from seqdistill.recipe.objective_schema import read_term
from seqdistill.recipe.sequences_schema import AdaptiveSection

NLL = read_term({"divergence": "negative_log_likelihood"})
HALF_NLL = read_term({"divergence": "negative_log_likelihood", "weight": 0.5})
HALF_CROSS_ENTROPY = read_term({"divergence": "cross_entropy", "weight": 0.5})
YOURS = ["data.train=train.tsv", "student.model=small", "teacher.model=large"]


def only(origin: str) -> dict[str, object]:
    """The token weight that keeps sequences of one origin."""
    return {"kind": "origin", "origins": [origin]}


METHODS = {
    "baseline": ("reference", "none", (NLL,)),
    "word_kd": ("reference", "dense", (HALF_NLL, HALF_CROSS_ENTROPY)),
    "seq_kd": ("teacher", "none", (NLL,)),
    "seq_inter": ("interpolation", "none", (NLL,)),
    "seq_kd_word_kd": ("teacher", "dense", (HALF_NLL, HALF_CROSS_ENTROPY)),
    "prune": ("teacher", "none", (NLL,)),
}
"""Who writes, what the teacher says, how the student is pulled: Kim and Rush 2016, sec. 3 and 4."""


@pytest.mark.parametrize("name", METHODS)
def test_a_method_resolves_to_what_its_paper_says(name: str) -> None:
    recipe = load_recipe(name, YOURS)
    origin, scores, terms = METHODS[name]
    assert recipe.method == recipe.preset == name
    assert recipe.sequences.origin == origin
    assert recipe.teacher.scores == scores
    assert recipe.objective.terms == terms
    assert recipe.objective.loss_temperature == 1.0
    assert recipe.objective.reduction == "token"
    decoding = recipe.sequences.decoding
    if origin == "teacher":
        assert (decoding.mode, decoding.beam_size, decoding.n_best) == ("beam", 5, 1)
    if origin == "interpolation":
        assert (decoding.mode, decoding.beam_size, decoding.n_best) == ("beam", 35, 35)
        assert recipe.sequences.similarity == "smoothed_bleu"


GKD_FAMILY: dict[str, tuple[str, str, list[dict[str, object]]]] = {
    # who writes, the reduction, the terms as one writes them
    "supervised_kd": ("reference", "sequence", [{"divergence": "forward_kl"}]),
    "on_policy_kd": ("student", "sequence", [{"divergence": "forward_kl"}]),
    "gkd": ("mixture", "sequence", [{"divergence": "jensen_shannon", "beta": 0.5}]),
    "imitkd": ("mixture", "token", [{"divergence": "forward_kl"}]),
    "f_distill": ("mixture", "token", [{"divergence": "total_variation"}]),
    "minillm": (
        "mixture",
        "sum",
        [
            {"divergence": "reverse_kl", "token_weights": ["importance", only("teacher_mixed")]},
            {
                "divergence": "negative_log_likelihood",
                "token_weights": [
                    {"kind": "sequence_reverse_kl", "clip": 0.2},
                    only("teacher_mixed"),
                ],
            },
            {"divergence": "negative_log_likelihood", "token_weights": only("reference")},
        ],
    ),
    "distillm": ("replay", "token", [{"divergence": "skew_reverse_kl", "alpha": 0.1}]),
    "distillm_2": (
        "mixture",
        "sequence",
        [
            {"divergence": "skew_forward_kl", "alpha": 0.1, "token_weights": only("teacher")},
            {"divergence": "skew_reverse_kl", "alpha": 0.1, "token_weights": only("student")},
        ],
    ),
    "akl": ("reference", "token", [{"divergence": "adaptive_kl", "head_mass": 0.5}]),
    "taid": (
        "reference",
        "token",
        [{"divergence": "interpolated_forward_kl", "start_fraction": 0.4}],
    ),
    "self_distill": (
        "reference",
        "token",
        [
            {"divergence": "negative_log_likelihood", "weight": 0.5},
            {"divergence": "cross_entropy", "weight": 0.5},
        ],
    ),
    "gkd_rl": (
        "student",
        "sequence",
        [
            {
                "divergence": "negative_log_likelihood",
                "token_weights": "advantages",
                "weight": 0.5,
            },
            {"divergence": "reverse_kl", "weight": 0.5},
        ],
    ),
}


@pytest.mark.parametrize("name", GKD_FAMILY)
def test_a_relative_of_gkd_resolves_to_what_its_paper_says(name: str) -> None:
    recipe = load_recipe(name, [*YOURS, "data.dev=dev.tsv"])
    origin, reduction, terms = GKD_FAMILY[name]
    assert recipe.method == recipe.preset == name
    assert (recipe.sequences.origin, recipe.objective.reduction) == (origin, reduction)
    assert recipe.objective.terms == tuple(map(read_term, terms))
    assert recipe.teacher.scores == "dense" and recipe.objective.loss_temperature == 1.0


@pytest.mark.parametrize("name", ["on_policy_kd", "gkd", "minillm", "distillm", "gkd_rl"])
def test_rollouts_are_samples_of_the_whole_distribution(name: str) -> None:
    rollouts = load_recipe(name, [*YOURS, "data.dev=dev.tsv"]).sequences.rollouts
    assert (rollouts.mode, rollouts.sampling_temperature) == ("sample", 1.0)
    assert (rollouts.top_k, rollouts.top_p) == (0, 1.0)


def test_who_writes_how_much_is_the_papers() -> None:
    found = {name: read_recipe(name).sequences for name in GKD_FAMILY}
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
    distillm = found["distillm"]
    phi = distillm.mixture.student_fraction
    assert isinstance(phi, AdaptiveSection)
    assert (phi.start, phi.step, phi.threshold) == (0.0, 0.1, 0.1)
    assert distillm.replay.capacity == 1000
    assert distillm.replay.fresh_fraction.ends == (1.0, 0.0)
    assert found["gkd_rl"].rollouts.samples_per_prompt == 4


def test_pruning_takes_four_weights_of_five_by_one_threshold_and_trains_gently() -> None:
    recipe = load_recipe("prune", YOURS)
    assert (recipe.pruning.sparsity, recipe.pruning.scheme) == (0.8, "class_blind")
    assert recipe.pruning.exclude == ()
    plain = load_recipe("seq_kd", YOURS)
    assert recipe.training.learning_rate < plain.training.learning_rate
    assert recipe.sequences == plain.sequences and recipe.objective == plain.objective
    assert all(
        read_recipe(name).pruning.sparsity is None
        for name in preset_names()
        if name != "prune"  # chains leave it to that stage
    )


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_explains_its_paper_and_every_value(name: str) -> None:
    text = show_preset(name)
    for heading in ("Paper:", "Loss:|Method:", "Differences from the paper:", "You must set:"):
        assert re.search(f"^# ({heading})", text, re.MULTILINE), f"{name} does not say: {heading}"
    assert max(map(len, text.splitlines())) < 100
    bare = [
        line
        for line in text.splitlines()
        if re.search(r":\s+\S", line.partition("#")[0]) and "#" not in line
    ]
    assert not bare, f"lines of {name} without a comment"
    problems: list[str] = []
    parse_document(text, name, problems)
    assert not problems


def test_the_list_shows_each_preset_with_one_sentence() -> None:
    listed = dict(list_presets())
    assert set(listed) == set(preset_names()) >= {*METHODS, "teacher", "demo"}
    for sentence in listed.values():
        assert sentence.endswith(".") and len(sentence) > 20 and "#" not in sentence


@pytest.mark.parametrize("name", ["tip", "paced", "near_policy", "speculative"])
def test_a_method_that_is_not_offered_is_refused_and_not_ignored(name: str) -> None:
    with pytest.raises(RecipeError, match=rf"preset must be one of .*got '{name}'"):
        show_preset(name)
    for section in ("objective", "sequences"):
        with pytest.raises(RecipeError, match=rf"{section}\.{name} is an unknown key"):
            load_recipe("gkd", [f"{section}.{name}=true"])


@pytest.mark.parametrize(
    ("name", "rate"), [("minillm", 5e-6), ("distillm", 5e-4), ("distillm_2", 5e-5), ("taid", 1e-4)]
)
def test_a_rate_that_the_authors_give_is_taken(name: str, rate: float) -> None:
    assert read_recipe(name).training.learning_rate == rate


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


@pytest.mark.parametrize("name", preset_names())
def test_a_recipe_goes_to_another_process_as_it_is(name: str) -> None:
    recipe = read_recipe(name)
    sent = pickle.loads(pickle.dumps(recipe))
    assert sent == recipe
    assert sent.model_dump(exclude_unset=True) == recipe.model_dump(exclude_unset=True)
