"""Each contradiction is found, by its key, with what to do; what is right passes."""

from __future__ import annotations

import re

import pytest

from seqdistill.core.errors import RecipeError
from seqdistill.recipe import load_recipe, preset_names, read_recipe
from seqdistill.recipe.checks import contradictions
from seqdistill.recipe.schema import Recipe, TrainingSection
from seqdistill.recipe.systems import all_contradictions
from seqdistill.training.optimization import learning_rate

OWN = ["data.train=a.tsv", "student.model=small"]
WITH_TEACHER = [*OWN, "teacher.model=large", "teacher.scores=dense"]
SCRATCH = ["data.train=a", "student.init=scratch", "student.architecture={model_type: t5}"]


def term(text: str) -> str:
    return f"objective.terms=[{{{text}}}]"


ON_POLICY = [*WITH_TEACHER, term("divergence: reverse_kl"), "sequences.origin=student"]
MIXED = [
    *WITH_TEACHER,
    term("divergence: forward_kl"),
    "sequences={origin: mixture, mixture: {student_fraction: 0.5}}",
]
REWARDED = [
    *OWN,
    "sequences={origin: student, rollouts: {samples_per_prompt: 2}}",
    "objective={terms: [{divergence: negative_log_likelihood, token_weights: advantages}], "
    "reduction: sequence}",
]


# The key that is named, and overrides of the empty recipe.
CONTRADICTORY: list[tuple[str, list[str]]] = [
    ("data.train", ["student.model=s"]),
    ("data.dev", [*OWN, "data.dev=a.tsv"]),
    ("data.test", [*OWN, "data.test=a.tsv"]),
    ("data.target_column", [*OWN, "data.source_column=x", "data.target_column=x"]),
    ("data.target_language", [*OWN, "data.source_language=en"]),
    ("data.source_language", [*OWN, "data.target_language=de"]),
    ("data.target_language", [*OWN, "data.source_language=de", "data.target_language=de"]),
    ("data.test", ["data.train=a.gz", "student.model=s", "data.test=a.gz"]),
    ("method", [*OWN, "method=a/b"]),
    ("output_dir", [*OWN, "output_dir='runs/{name}'"]),
    ("teacher.model", [*OWN, "teacher.scores=dense", term("divergence: forward_kl")]),
    ("teacher.model", [*OWN, "sequences.origin=teacher"]),
    ("teacher.model", ["data.train=a", "student.init=teacher_layers"]),
    ("teacher.scores", [*OWN, "teacher.model=large", term("divergence: reverse_kl")]),
    ("teacher.scores", WITH_TEACHER),
    ("teacher.cache_hidden_states", [*OWN, "teacher.cache_hidden_states=fp16"]),
    ("teacher.states", [*OWN, "teacher.states=s"]),
    (
        "teacher.cache_hidden_states",
        [*OWN, "teacher={model: t, cache_hidden_states: fp32}", "compare=[baseline, seq_kd]"],
    ),
    (
        "teacher.states",
        [
            *OWN,
            "teacher={model: t, cache_hidden_states: fp32, states: s}",
            "compare=[word_kd, seq_kd_word_kd]",
        ],
    ),
    ("student.model", ["data.train=a"]),
    ("student.model", [*OWN, "teacher.model=large", "student.init=teacher_layers"]),
    ("student.encoder_layers", [*OWN, "student.encoder_layers=2"]),
    ("student.decoder_layers", [*SCRATCH, "student.vocab_size=9", "student.decoder_layers=2"]),
    ("student.vocab_size", [*OWN, "student.vocab_size=9"]),
    ("student.architecture", [*OWN, "student.architecture={model_type: t5}"]),
    ("student.architecture", ["data.train=a", "teacher.model=t", "student.init=scratch"]),
    (
        "student.architecture",
        [*OWN, "student.init=scratch", "student.architecture={model_type: t5}"],
    ),
    (
        "student.architecture",
        [*OWN[:1], "student.init=scratch", "student.vocab_size=9", "student.architecture={d: 1}"],
    ),
    (
        "student.architecture.vocab_size",
        [*SCRATCH, "student.vocab_size=9", "student.architecture.vocab_size=7"],
    ),
    ("student.vocab_size", [*SCRATCH, "student.vocab_size=9", "teacher.model=large"]),
    ("student.vocab_size", SCRATCH),
    ("sequences.decoding.n_best", [*OWN, "sequences.decoding.n_best=6"]),
    *(
        (f"sequences.decoding.{name}", [*OWN, f"sequences.decoding.{name}={value}"])
        for name, value in (("sampling_temperature", "0.5"), ("top_k", "5"), ("top_p", "0.9"))
    ),
    *(
        (
            f"sequences.decoding.{name}",
            [*OWN, "sequences.decoding.mode=sample", f"sequences.decoding.{name}={value}"],
        )
        for name, value in (("beam_size", "3"), ("length_penalty", "0.5"))
    ),
    (
        "sequences.decoding.compute_type",
        [*OWN, "sequences.decoding={engine: transformers, compute_type: int8}"],
    ),
    ("sequences.corpus", [*OWN, "sequences.corpus=c"]),
    ("sequences.similarity", [*OWN, "sequences.similarity=sentence_chrf"]),
    ("sequences.decoding.n_best", [*OWN, "teacher.model=t", "sequences.origin=interpolation"]),
    (
        "student.init",
        [
            "data.train=t",
            "teacher.model=t",
            "preset=seq_inter",
            "student.init=scratch",
            "student.model=m",
        ],
    ),
    ("objective.loss_temperature", [*OWN, "objective.loss_temperature=2"]),
    ("training.warmup_steps", [*OWN, "training={steps: 50, warmup_steps: 51}"]),
    ("output_dir", [*OWN, 'output_dir="a\\0b"']),
    ("data.dev", [*OWN, 'data.dev="a\\uD800.tsv"']),
    ("seed", [*OWN, f"seed={10**18}"]),
    (
        "training.final_rate_fraction",
        [*OWN, "training={schedule: constant, final_rate_fraction: 0.1}"],
    ),
    ("data.dev", [*OWN, "training.eval_every=10"]),
    ("training.keep_best", [*OWN, "training.keep_best=3"]),
    ("training.patience", [*OWN, "training.patience=3"]),
    ("training.average_best", [*OWN, "training.average_best=true"]),
    (
        "training.average_best",
        [*OWN, "data.dev=d", "training.eval_every=10", "training.average_best=true"],
    ),
    ("evaluation.compute_type", [*OWN, "evaluation={engine: transformers, compute_type: int8}"]),
    ("evaluation.metrics", [*OWN, "evaluation.metrics=[chrf, bleu, chrf]"]),
    ("compare.0", [*OWN, "compare=[wordkd]"]),
    ("compare.0", [*OWN, "compare=[demo]"]),
    ("compare.0", [*OWN, "compare=[teacher]"]),
    ("compare.1", [*OWN, "compare=[baseline, baseline]"]),
    (
        "sequences.origin",
        [*OWN, "teacher.model=t", "compare=[baseline]", "sequences.origin=teacher"],
    ),
    ("teacher.scores", [*WITH_TEACHER, "compare=[baseline]"]),
    ("objective", [*OWN, "compare=[baseline]", "objective.reduction=sum"]),
    ("teacher.model", [*OWN, "compare=[baseline, seq_kd]"]),
    ("teacher.cache_hidden_states", [*ON_POLICY, "teacher.cache_hidden_states=fp32"]),
    ("sequences.rollouts.top_k", [*OWN, "sequences.rollouts.top_k=50"]),
    ("sequences.mixture.student_fraction", [*ON_POLICY, "sequences.mixture.student_fraction=0.5"]),
    ("sequences.replay.capacity", [*MIXED, "sequences.replay.capacity=5"]),
    (
        "sequences.mixture.student_fraction",
        [*WITH_TEACHER, term("divergence: forward_kl"), "sequences.origin=mixture"],
    ),
    (
        "sequences.mixture.student_fraction",
        [*MIXED, "sequences.mixture.student_fraction={start: 0, end: 2}"],
    ),
    (
        "sequences.mixture.student_fraction",
        [*MIXED, "sequences.mixture.student_fraction={start: 0, end: 1, shape: exponential}"],
    ),
    (
        "sequences.mixture.student_fraction.step",
        [*MIXED, "sequences.mixture.student_fraction={start: 0, step: 0.2}"],
    ),
    (
        "training.eval_every",
        [*MIXED, "sequences.mixture.student_fraction={start: 0, shape: adaptive}"],
    ),
    (
        "sequences.rollouts.sampling_temperature",
        [*ON_POLICY, "sequences.rollouts={mode: greedy, sampling_temperature: 0.5}"],
    ),
    (
        "sequences.rollouts.engine",
        [*ON_POLICY, "sequences.rollouts={engine: ctranslate2, teacher_fraction: 0.2}"],
    ),
    (
        "sequences.rollouts.teacher_fraction",
        [*ON_POLICY, "sequences={origin: replay, rollouts: {teacher_fraction: 0.2}}"],
    ),
    ("objective.reward.function", REWARDED),
    ("objective.reward.function", [*ON_POLICY, "objective.reward.function=bleu"]),
    ("objective.reward.classifier", [*REWARDED, "objective.reward.function=entailment"]),
    (
        "sequences.rollouts.samples_per_prompt",
        [*REWARDED, "objective.reward.function=bleu", "sequences.rollouts.samples_per_prompt=1"],
    ),
    (
        "sequences.mixture.student_fraction",
        [*MIXED, "sequences.mixture={student_fraction: 1, coin: both}"],
    ),
    (
        "sequences.replay.capacity",
        [
            *ON_POLICY,
            "sequences={origin: replay, replay: {capacity: 3}}",
            "sequences.rollouts.samples_per_prompt=4",
        ],
    ),
    *(
        ("training.steps", [*OWN, f"training={{steps: 1, warmup_steps: 0, schedule: {schedule}}}"])
        for schedule in ("linear", "cosine")
    ),
    ("objective.monitors", [*OWN, "teacher.model=t", "objective.monitors=[teacher_reverse_kl]"]),
    (
        "objective.terms.0.weight",
        [*WITH_TEACHER, term("divergence: forward_kl, weight: {start: 1, end: -1}")],
    ),
    ("objective.terms.0.divergence", [*OWN, "sequences.origin=student"]),
    (
        "objective.terms.0.divergence",
        [*MIXED, term("divergence: negative_log_likelihood"), "teacher.scores=none"],
    ),
    (
        "objective.terms.0.token_weights",
        [*MIXED, term("divergence: forward_kl, token_weights: {kind: origin, origins: [teacher]}")],
    ),
    (
        "objective.terms.0.token_weights",
        [
            *WITH_TEACHER,
            term("divergence: negative_log_likelihood, token_weights: sequence_reverse_kl"),
            "objective.reduction=sum",
        ],
    ),
    (
        "objective.terms.0.token_weights",
        [
            *OWN,
            term(
                "divergence: negative_log_likelihood, "
                "token_weights: {kind: origin, origins: [reference]}"
            ),
        ],
    ),
]


@pytest.fixture(scope="module")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("recipes") / "empty.yaml"
    path.write_text("")
    return str(path)


@pytest.mark.parametrize(("key", "overrides"), CONTRADICTORY)
def test_a_contradiction_is_found_alone_with_finding_and_remedy(
    empty_file: str, key: str, overrides: list[str]
) -> None:
    (found,) = all_contradictions(read_recipe(empty_file, overrides))
    assert found.key == key
    assert re.fullmatch(r"must .+[,:] got .+[;.] ?.+", found.sentence), found.sentence


@pytest.mark.parametrize(
    "overrides",
    [
        OWN,
        [*OWN, "data.dev=d", "training={eval_every: 10, keep_best: 3, average_best: true}"],
        [*WITH_TEACHER, term("divergence: jensen_shannon, beta: 0")],
        [*WITH_TEACHER, term("divergence: jensen_shannon, beta: 1, scale: gradient")],
        [*WITH_TEACHER, term("divergence: skew_reverse_kl, alpha: 0.1")],
        [*WITH_TEACHER, term("divergence: total_variation"), "objective.loss_temperature=2"],
        [
            *WITH_TEACHER,
            term("divergence: forward_kl"),
            "teacher={cache_hidden_states: fp16, states: s}",
        ],
        [
            *OWN,
            "teacher={model: t, cache_hidden_states: fp32, states: s}",
            "compare=[baseline, word_kd]",
        ],
        [*OWN, "teacher.model=t", "sequences={origin: teacher, corpus: c}"],
        [*OWN, "sequences.decoding={mode: sample, n_best: 9, top_k: 5, sampling_temperature: 0.5}"],
        [*OWN, "sequences.decoding={n_best: 5}"],
        [*SCRATCH, "student.vocab_size=100"],
        [*SCRATCH, "teacher.model=large"],
        [*OWN, "student.init=scratch"],
        ["data.train=a", "teacher.model=t", "student={init: teacher_layers, encoder_layers: 2}"],
        [*OWN, "teacher.model=t", "compare=[baseline, word_kd, seq_kd, seq_kd_word_kd]"],
        ["data={train: bundled:en-de, dev: bundled:en-de}", "student.model=s"],
        [*OWN, "training={steps: 5, warmup_steps: 5}"],
        [*OWN, "output_dir='runs/{method}-{seed}'"],
        ["data={train: folder, dev: folder, test: folder}", "student.model=s"],
        ON_POLICY,
        [*ON_POLICY, "objective.monitors=[student_entropy, teacher_reverse_kl]"],
        [*MIXED, "sequences.mixture.student_fraction={start: 0, end: 1}"],
        [*MIXED, "sequences.mixture={others: teacher}", "sequences.corpus=c"],
        [*ON_POLICY, "sequences={origin: replay, replay: {capacity: 9}}"],
        [*REWARDED, "objective.reward.function=bleu"],
        [*OWN, "training={steps: 1, warmup_steps: 1}"],
        [*OWN, "training={steps: 1, warmup_steps: 0, final_rate_fraction: 0.1}"],
        [*OWN, "training={steps: 2, warmup_steps: 0}"],
    ],
)
def test_what_goes_together_passes(empty_file: str, overrides: list[str]) -> None:
    assert load_recipe(empty_file, overrides)


def test_an_empty_recipe_lacks_data_and_student_only() -> None:
    assert [found.key for found in contradictions(Recipe())] == ["data.train", "student.model"]


@pytest.mark.parametrize("final_share", [0.0, 0.5])
@pytest.mark.parametrize("schedule", ["inverse_sqrt", "linear", "cosine", "constant"])
def test_exactly_the_schedules_whose_every_rate_is_zero_are_refused(
    schedule: str, final_share: float
) -> None:
    share = 0.0 if schedule in ("inverse_sqrt", "constant") else final_share
    for updates in (1, 2, 3):
        for warmup in range(updates + 1):
            training = TrainingSection.model_validate(
                {
                    "steps": updates,
                    "warmup_steps": warmup,
                    "schedule": schedule,
                    "final_rate_fraction": share,
                }
            )
            learns = any(learning_rate(training, update) > 0.0 for update in range(1, updates + 1))
            found = [c.key for c in contradictions(Recipe(training=training))]
            assert ("training.steps" not in found) == learns, (updates, warmup)


@pytest.mark.parametrize("setting", ["capacity", "max_age"])
def test_a_memory_of_nothing_is_out_of_range(empty_file: str, setting: str) -> None:
    given = [*ON_POLICY, f"sequences={{origin: replay, replay: {{{setting}: 0}}}}"]
    with pytest.raises(RecipeError, match=rf"sequences.replay.{setting} must be at least 1, got 0"):
        read_recipe(empty_file, given)


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_contradicts_nothing_once_its_models_and_data_are_given(name: str) -> None:
    missing = {"data.train", "student.model", "teacher.model"}
    if name == "distillm":
        missing.add("data.dev")  # its share of the student follows the dev loss
    if name == "self_distill":
        # Until student.model names the shape, it might be an architecture or a vocabulary instead.
        missing |= {"student.architecture", "student.vocab_size"}
    assert {found.key for found in all_contradictions(read_recipe(name))} <= missing
