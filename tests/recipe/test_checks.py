"""Each contradiction is found, by its key, with what to do; what is right passes."""

from __future__ import annotations

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
    "objective={terms: [{divergence: reward}], reduction: sequence}",
]


CONTRADICTORY: list[tuple[str, list[str], str, str]] = [
    # key, overrides of the empty recipe, what the sentence says, the remedy in it
    ("data.train", ["student.model=s"], "got none", "data.train=..."),
    ("data.dev", [*OWN, "data.dev=a.tsv"], "must be held out", "another file"),
    ("data.test", [*OWN, "data.test=a.tsv"], "must be held out", "another file"),
    (
        "data.target_column",
        [*OWN, "data.source_column=x", "data.target_column=x"],
        "another column",
        "name the column",
    ),
    ("data.target_language", [*OWN, "data.source_language=en"], "together", "add it"),
    ("data.source_language", [*OWN, "data.target_language=de"], "together", "add it"),
    (
        "data.target_language",
        [*OWN, "data.source_language=de", "data.target_language=de"],
        "another language",
        "name the language",
    ),
    ("data.test", ["data.train=a.gz", "student.model=s", "data.test=a.gz"], "held out", "another"),
    ("method", [*OWN, "method=a/b"], "got 'a/b'", "rename"),
    ("output_dir", [*OWN, "output_dir='runs/{name}'"], "got {name}", "write it out"),
    (
        "teacher.model",
        [*OWN, "teacher.scores=dense", term("divergence: forward_kl")],
        "for the objective's forward_kl",
        "teacher.model=...",
    ),
    (
        "teacher.model",
        [*OWN, "sequences.origin=teacher"],
        "for sequences.origin: teacher",
        "teacher.model=...",
    ),
    (
        "teacher.model",
        ["data.train=a", "student.init=teacher_layers"],
        "for student.init: teacher_layers",
        "teacher.model=...",
    ),
    (
        "teacher.scores",
        [*OWN, "teacher.model=large", term("divergence: reverse_kl")],
        "must be dense for the objective's reverse_kl, got none",
        "teacher.scores=dense",
    ),
    ("teacher.scores", WITH_TEACHER, "must be none when no term", "forward_kl"),
    (
        "teacher.cache_hidden_states",
        [*OWN, "teacher.cache_hidden_states=fp16"],
        "got fp16",
        "teacher.scores=dense",
    ),
    ("teacher.states", [*OWN, "teacher.states=s"], "got 's'", "teacher.cache_hidden_states=fp32"),
    (
        "teacher.cache_hidden_states",
        [*OWN, "teacher={model: t, cache_hidden_states: fp32}", "compare=[baseline, seq_kd]"],
        "would not be read",
        "remove it",
    ),
    (
        "teacher.states",
        [
            *OWN,
            "teacher={model: t, cache_hidden_states: fp32, states: s}",
            "compare=[word_kd, seq_kd_word_kd]",
        ],
        "for word_kd and for seq_kd_word_kd",
        "remove it",
    ),
    ("student.model", ["data.train=a"], "student.init: pretrained, got none", "student.model=..."),
    (
        "student.model",
        [*OWN, "teacher.model=large", "student.init=teacher_layers"],
        "must be left out",
        "remove one",
    ),
    (
        "student.encoder_layers",
        [*OWN, "student.encoder_layers=2"],
        "got 2 with pretrained",
        "remove",
    ),
    (
        "student.decoder_layers",
        [*SCRATCH, "student.vocab_size=9", "student.decoder_layers=2"],
        "got 2 with scratch",
        "student.init=teacher_layers",
    ),
    ("student.vocab_size", [*OWN, "student.vocab_size=9"], "with pretrained", "init=scratch"),
    (
        "student.architecture",
        [*OWN, "student.architecture={model_type: t5}"],
        "with pretrained",
        "student.init=scratch",
    ),
    (
        "student.architecture",
        ["data.train=a", "teacher.model=t", "student.init=scratch"],
        "got neither",
        "add one",
    ),
    (
        "student.architecture",
        [*OWN, "student.init=scratch", "student.architecture={model_type: t5}"],
        "got both",
        "remove one",
    ),
    (
        "student.architecture",
        [*OWN[:1], "student.init=scratch", "student.vocab_size=9", "student.architecture={d: 1}"],
        "model_type",
        "model_type: mbart",
    ),
    (
        "student.architecture.vocab_size",
        [*SCRATCH, "student.vocab_size=9", "student.architecture.vocab_size=7"],
        "got 7",
        "remove it",
    ),
    (
        "student.vocab_size",
        [*SCRATCH, "student.vocab_size=9", "teacher.model=large"],
        "got 9 with 'large'",
        "remove one",
    ),
    ("student.vocab_size", SCRATCH, "brings a vocabulary, got none", "student.vocab_size=8000"),
    (
        "sequences.decoding.n_best",
        [*OWN, "sequences.decoding.n_best=6"],
        "got 6 with a beam of 5",
        "raise the beam",
    ),
    *(
        (
            f"sequences.decoding.{name}",
            [*OWN, f"sequences.decoding.{name}={value}"],
            f"unless mode is sample, got {value}",
            "mode=sample",
        )
        for name, value in (("sampling_temperature", "0.5"), ("top_k", "5"), ("top_p", "0.9"))
    ),
    *(
        (
            f"sequences.decoding.{name}",
            [*OWN, "sequences.decoding.mode=sample", f"sequences.decoding.{name}={value}"],
            f"unless mode is beam, got {value}",
            "mode=beam",
        )
        for name, value in (("beam_size", "3"), ("length_penalty", "0.5"))
    ),
    (
        "sequences.decoding.compute_type",
        [*OWN, "sequences.decoding={engine: transformers, compute_type: int8}"],
        "unless engine is ctranslate2",
        "engine=ctranslate2",
    ),
    ("sequences.corpus", [*OWN, "sequences.corpus=c"], "got 'c'", "origin=teacher"),
    (
        "sequences.similarity",
        [*OWN, "sequences.similarity=sentence_chrf"],
        "got sentence_chrf",
        "origin=interpolation",
    ),
    (
        "sequences.decoding.n_best",
        [*OWN, "teacher.model=t", "sequences.origin=interpolation"],
        "got 1",
        "35",
    ),
    (
        "student.init",
        [
            "data.train=t",
            "teacher.model=t",
            "preset=seq_inter",
            "student.init=scratch",
            "student.model=m",
        ],
        "got scratch",
        "student.model",
    ),
    (
        "objective.terms.0.beta",
        [*WITH_TEACHER, term("divergence: jensen_shannon")],
        "got none",
        "0.5",
    ),
    (
        "objective.terms.0.beta",
        [*WITH_TEACHER, term("divergence: forward_kl, beta: 0.5")],
        "got 0.5 with forward_kl",
        "remove",
    ),
    (
        "objective.terms.0.scale",
        [*WITH_TEACHER, term("divergence: forward_kl, scale: gradient")],
        "got gradient with forward_kl",
        "remove",
    ),
    (
        "objective.terms.0.alpha",
        [*WITH_TEACHER, term("divergence: jensen_shannon, beta: 0.5, alpha: 0.1")],
        "got 0.1 with jensen_shannon",
        "weight",
    ),
    (
        "objective.terms.0.alpha",
        [*WITH_TEACHER, term("divergence: skew_forward_kl")],
        "got none",
        "0.1",
    ),
    (
        "objective.terms.0.alpha",
        [*WITH_TEACHER, term("divergence: skew_reverse_kl, alpha: 0")],
        "strictly between 0 and 1, got 0",
        "reverse_kl",
    ),
    (
        "objective.terms.0.alpha",
        [*WITH_TEACHER, term("divergence: skew_forward_kl, alpha: 1")],
        "strictly between 0 and 1, got 1",
        "forward_kl",
    ),
    ("objective.loss_temperature", [*OWN, "objective.loss_temperature=2"], "got 2", "forward_kl"),
    (
        "training.warmup_steps",
        [*OWN, "training={updates: 50, warmup_steps: 51}"],
        "got 51 of 50",
        "lower",
    ),
    ("output_dir", [*OWN, 'output_dir="a\\0b"'], "one with '\\x00' in it", "remove"),
    ("data.dev", [*OWN, 'data.dev="a\\uD800.tsv"'], "one with '\\ud800' in it", "remove"),
    ("seed", [*OWN, f"seed={10**18}"], "at most 18 digits", "lower it"),
    (
        "training.final_rate_fraction",
        [*OWN, "training={schedule: constant, final_rate_fraction: 0.1}"],
        "got 0.1 with constant",
        "remove",
    ),
    ("training.adam_beta1", [*OWN, "training.adam_beta1=1"], "below 1", "lower it"),
    ("training.adam_beta2", [*OWN, "training.adam_beta2=1.0"], "below 1", "lower it"),
    ("training.dropout", [*OWN, "training.dropout=1"], "below 1", "lower it"),
    ("data.dev", [*OWN, "training.eval_every=10"], "got none with 10", "data.dev=..."),
    ("training.keep_best", [*OWN, "training.keep_best=3"], "got 3", "training.eval_every=..."),
    ("training.patience", [*OWN, "training.patience=3"], "got 3", "training.eval_every=..."),
    (
        "training.average_best",
        [*OWN, "training.average_best=true"],
        "got True",
        "training.eval_every=...",
    ),
    (
        "training.average_best",
        [*OWN, "data.dev=d", "training.eval_every=10", "training.average_best=true"],
        "at least 2",
        "raise training.keep_best",
    ),
    (
        "evaluation.compute_type",
        [*OWN, "evaluation={engine: transformers, compute_type: int8}"],
        "got int8",
        "evaluation.engine=ctranslate2",
    ),
    (
        "evaluation.metrics",
        [*OWN, "evaluation.metrics=[chrf, bleu, chrf]"],
        "got chrf 2 times",
        "leave the repeats out",
    ),
    ("compare.0", [*OWN, "compare=[wordkd]"], "got 'wordkd'", "Did you mean 'word_kd'?"),
    ("compare.0", [*OWN, "compare=[demo]"], "got 'demo'", "take one"),
    ("compare.0", [*OWN, "compare=[teacher]"], "got 'teacher'", "take one"),
    ("compare.1", [*OWN, "compare=[baseline, baseline]"], "twice", "remove"),
    (
        "sequences.origin",
        [*OWN, "teacher.model=t", "compare=[baseline]", "sequences.origin=teacher"],
        "each compared preset",
        "remove it",
    ),
    ("teacher.scores", [*WITH_TEACHER, "compare=[baseline]"], "each compared preset", "remove it"),
    (
        "objective",
        [*OWN, "compare=[baseline]", "objective.reduction=sum"],
        "each compared preset",
        "remove it",
    ),
    (
        "teacher.model",
        [*OWN, "compare=[baseline, seq_kd]"],
        "origin: teacher",
        "teacher.model=",
    ),
    (
        "teacher.cache_hidden_states",
        [*ON_POLICY, "teacher.cache_hidden_states=fp32"],
        "by student",
        "remove it",
    ),
    (
        "objective.terms.0.origin",
        [*OWN, "sequences.origin=student"],
        "its own samples",
        "divergence from the teacher",
    ),
    (
        "objective.terms.0.origin",
        [*MIXED, term("divergence: negative_log_likelihood"), "teacher.scores=none"],
        "its own samples",
        "origin: [reference]",
    ),
    (
        "objective.terms.0.origin",
        [*MIXED, term("divergence: forward_kl, origin: [teacher]")],
        "(student, reference), got teacher",
        "take one",
    ),
    (
        "sequences.rollouts.top_k",
        [*OWN, "sequences.rollouts.top_k=50"],
        "got 50 with reference",
        "remove it",
    ),
    (
        "sequences.mixture.student_fraction",
        [*ON_POLICY, "sequences.mixture.student_fraction=0.5"],
        "got 0.5 with student",
        "remove it",
    ),
    (
        "sequences.replay.capacity",
        [*MIXED, "sequences.replay.capacity=5"],
        "got 5 with mixture",
        "remove it",
    ),
    (
        "sequences.mixture.student_fraction",
        [*WITH_TEACHER, term("divergence: forward_kl"), "sequences.origin=mixture"],
        "got none",
        "0.5",
    ),
    (
        "sequences.mixture.student_fraction",
        [*MIXED, "sequences.mixture.student_fraction={start: 0, end: 2}"],
        "got 0 to 2 (linear)",
        "in that range",
    ),
    (
        "sequences.mixture.student_fraction",
        [*MIXED, "sequences.mixture.student_fraction={start: 0, end: 1, shape: exponential}"],
        "positive ends",
        "shape: linear",
    ),
    (
        "objective.terms.0.weight",
        [*MIXED, term("divergence: forward_kl, weight: {start: 1, end: 2, shape: adaptive}")],
        "got 1 to 2 (adaptive)",
        "linear",
    ),
    (
        "sequences.mixture.student_fraction.step",
        [*MIXED, "sequences.mixture.student_fraction={start: 0, step: 0.2}"],
        "got 0.2 with linear",
        "remove it",
    ),
    (
        "training.eval_every",
        [*MIXED, "sequences.mixture.student_fraction={start: 0, shape: adaptive}"],
        "follows the dev loss",
        "add training.eval_every",
    ),
    (
        "sequences.rollouts.sampling_temperature",
        [*ON_POLICY, "sequences.rollouts={mode: greedy, sampling_temperature: 0.5}"],
        "got 0.5",
        "mode=sample",
    ),
    (
        "sequences.rollouts.engine",
        [*ON_POLICY, "sequences.rollouts={engine: ctranslate2, teacher_fraction: 0.2}"],
        "two models",
        "remove it",
    ),
    (
        "sequences.rollouts.teacher_fraction",
        [*ON_POLICY, "sequences={origin: replay, rollouts: {teacher_fraction: 0.2}}"],
        "got 0.2",
        "origin=student",
    ),
    (
        "objective.terms.0.divergence",
        [*WITH_TEACHER, "objective={terms: [{divergence: sequence_reverse_kl}], reduction: sum}"],
        "where the student writes nothing that it counts, got sequences of reference",
        "sequences.origin=student",
    ),
    ("objective.reward.function", REWARDED, "got none", "exact_answer"),
    (
        "objective.reward.function",
        [*ON_POLICY, "objective.reward.function=bleu"],
        "got 'bleu'",
        "add the term",
    ),
    (
        "objective.reward.classifier",
        [*REWARDED, "objective.reward.function=entailment"],
        "got None with 'entailment'",
        "add it",
    ),
    (
        "sequences.rollouts.samples_per_prompt",
        [*REWARDED, "objective.reward.function=bleu", "sequences.rollouts.samples_per_prompt=1"],
        "got 1",
        "moving_average",
    ),
    (
        "objective.terms.0.origin",
        [*OWN, term("divergence: negative_log_likelihood, origin: [reference]")],
        "where reference is the only writer",
        "remove it",
    ),
    (
        "sequences.mixture.student_fraction",
        [*MIXED, "sequences.mixture={student_fraction: 1, coin: both}"],
        "answered by both, got 1",
        "coin=batch",
    ),
    (
        "sequences.replay.capacity",
        [
            *ON_POLICY,
            "sequences={origin: replay, replay: {capacity: 3}}",
            "sequences.rollouts.samples_per_prompt=4",
        ],
        "at least the 4 sequences that a single prompt gets",
        "raise it",
    ),
    *(
        (
            "training.steps",
            [*OWN, f"training={{updates: 1, warmup_steps: 0, schedule: {schedule}}}"],
            "nothing would be learned",
            "training.schedule=constant",
        )
        for schedule in ("linear", "cosine")
    ),
    (
        "objective.monitors",
        [*OWN, "teacher.model=t", "objective.monitors=[teacher_reverse_kl]"],
        "got teacher.scores none",
        "teacher.scores=dense",
    ),
    (
        "objective.terms.0.clip",
        [*ON_POLICY, term("divergence: reverse_kl, clip: 0.2")],
        "got 0.2 with reverse_kl",
        "remove it",
    ),
    (
        "objective.terms.0.weight",
        [*WITH_TEACHER, term("divergence: forward_kl, weight: {start: 1, end: -1}")],
        "at least 0, got 1 to -1 (linear)",
        "in that range",
    ),
]


@pytest.fixture(scope="module")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("recipes") / "empty.yaml"
    path.write_text("")
    return str(path)


@pytest.mark.parametrize(("key", "overrides", "finding", "remedy"), CONTRADICTORY)
def test_a_contradiction_is_found_alone_with_finding_and_remedy(
    empty_file: str, key: str, overrides: list[str], finding: str, remedy: str
) -> None:
    (found,) = all_contradictions(read_recipe(empty_file, overrides))
    assert found.key == key
    assert finding in found.sentence and remedy in found.sentence
    assert found.sentence.startswith("must ") and "got " in found.sentence


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
        [*OWN, "training={updates: 5, warmup_steps: 5}"],
        [*OWN, "output_dir='runs/{method}-{seed}'"],
        ["data={train: folder, dev: folder, test: folder}", "student.model=s"],
        ON_POLICY,
        [*ON_POLICY, "objective.monitors=[student_entropy, teacher_reverse_kl]"],
        [*MIXED, "sequences.mixture.student_fraction={start: 0, end: 1}"],
        [*MIXED, "sequences.mixture={others: teacher}", "sequences.corpus=c"],
        [*ON_POLICY, "sequences={origin: replay, replay: {capacity: 9}}"],
        [*REWARDED, "objective.reward.function=bleu"],
        [*OWN, "training={updates: 1, warmup_steps: 1}"],
        [*OWN, "training={updates: 1, warmup_steps: 0, final_rate_fraction: 0.1}"],
        [*OWN, "training={updates: 2, warmup_steps: 0}"],
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
