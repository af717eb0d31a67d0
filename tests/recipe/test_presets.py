"""Every preset loads, says what its paper says, and explains itself."""

from __future__ import annotations

import re

import pytest

from seqdistill.core.errors import RecipeError
from seqdistill.recipe import list_presets, load_recipe, preset_names, read_recipe, show_preset
from seqdistill.recipe.documents import parse_document
from seqdistill.recipe.objective_schema import Term

NLL = Term(divergence="negative_log_likelihood")
HALF_NLL = Term(divergence="negative_log_likelihood", weight=0.5)
HALF_CROSS_ENTROPY = Term(divergence="cross_entropy", weight=0.5)
YOURS = ["data.train=train.tsv", "student.model=small", "teacher.model=large"]
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
    written_by, scores, terms = METHODS[name]
    assert recipe.method == recipe.preset == name
    assert recipe.sequences.written_by == written_by
    assert recipe.teacher.scores == scores
    assert recipe.objective.terms == terms
    assert recipe.objective.loss_temperature == 1.0
    assert recipe.objective.reduction == "token"
    decoding = recipe.sequences.decoding
    if written_by == "teacher":
        assert (decoding.mode, decoding.beam_size, decoding.n_best) == ("beam", 5, 1)
    if written_by == "interpolation":
        assert (decoding.mode, decoding.beam_size, decoding.n_best) == ("beam", 35, 35)
        assert recipe.sequences.similarity == "smoothed_bleu"


def test_pruning_takes_four_weights_of_five_by_one_threshold_and_trains_gently() -> None:
    recipe = load_recipe("prune", YOURS)
    assert (recipe.pruning.share, recipe.pruning.scheme) == (0.8, "class_blind")
    assert recipe.pruning.exclude == ()
    plain = load_recipe("seq_kd", YOURS)
    assert recipe.training.learning_rate < plain.training.learning_rate
    assert recipe.sequences == plain.sequences and recipe.objective == plain.objective
    assert all(
        read_recipe(name).pruning.share is None
        for name in preset_names()
        if name != "prune"  # chains leave it to that stage
    )


def test_weights_of_interpolated_terms_sum_to_one() -> None:
    for name in METHODS:
        assert sum(term.weight.start for term in read_recipe(name).objective.terms) == 1.0


def test_the_teacher_and_the_demonstration_need_nothing_else() -> None:
    teacher = load_recipe("teacher")
    assert teacher.student.init == "scratch" and teacher.teacher.model is None
    assert teacher.student.architecture is not None
    assert teacher.student.architecture["model_type"] == "mbart"
    demo = load_recipe("demo")
    assert demo.compare == ("baseline", "word_kd", "seq_kd")
    assert demo.student.init == "teacher_layers"
    assert {demo.data.train, demo.data.dev, demo.data.test} == {"bundled:en-de"}
    assert demo.output_dir == "runs/demo"


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_explains_its_paper_and_every_value(name: str) -> None:
    text = show_preset(name)
    for heading in ("Paper:", "Equals:", "Differs:", "You add:"):
        assert heading in text, f"{name} does not say: {heading}"
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


def test_an_unknown_preset_is_refused_with_the_closest_name() -> None:
    with pytest.raises(RecipeError, match=r"got 'word-kd'\. Did you mean 'word_kd'\?"):
        show_preset("word-kd")
