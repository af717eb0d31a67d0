"""Policy gradients and importance weights: what would bias them is refused, all else passes."""

from __future__ import annotations

import pytest

from seqdistill.recipe import load_recipe, read_recipe
from seqdistill.recipe.systems import all_contradictions

from .test_checks import OWN, WITH_TEACHER, term

BOTH_PARTS = (
    "{divergence: reverse_kl, %s}, "
    "{divergence: negative_log_likelihood, token_weights: [{kind: sequence_reverse_kl}%s]}"
)
LONG_ALONE = (
    "objective={terms: [{divergence: negative_log_likelihood, token_weights: "
    "[{kind: sequence_reverse_kl%s}]}], reduction: sum}"
)
ONLY = "{kind: origin, origins: [%s]}"
WHOLE = [
    *WITH_TEACHER,
    "sequences.origin=student",
    f"objective={{terms: [{BOTH_PARTS % ('weight: 1', '')}], reduction: sum}}",
]
"""The reverse KL between whole sequences: its exact part and its long-range part."""
TEACHER_MIXED = [
    *WHOLE,
    "sequences.rollouts.teacher_fraction=0.2",
    "objective.terms.0.token_weights=[importance]",
]
PAID = [
    *OWN,
    "sequences.origin=student",
    term("divergence: negative_log_likelihood, token_weights: advantages"),
    "objective.reduction=sequence",
    "objective.reward={function: bleu, baseline: moving_average}",
]
BESIDE_REFERENCES = "sequences={origin: mixture, mixture: {student_fraction: 0.5}}"


BIASED: list[tuple[str, list[str], str, str]] = [
    # key, overrides of the empty recipe, what the sentence says, the remedy in it
    (
        "objective.reduction",
        [*WHOLE, "objective.reduction=token"],
        "must be sum with the token weight sequence_reverse_kl",
        "objective.reduction=sum",
    ),
    (
        "objective.reduction",
        [*PAID, "objective.reduction=token"],
        "sequence or sum with the token weight advantages",
        "objective.reduction=sequence",
    ),
    *(
        (key, [*recipe, *overrides], finding, remedy)
        for recipe, divergence in ((PAID, "advantages"), (WHOLE, "sequence_reverse_kl"))
        for key, overrides, finding, remedy in (
            (
                "sequences.origin",
                ["sequences.origin=replay"],
                f"with the token weight {divergence}, whose gradient is that of the student",
                "sequences.origin=student",
            ),
            (
                "objective.terms.1.token_weights"
                if recipe is WHOLE
                else "objective.terms.0.token_weights",
                ["sequences={origin: teacher}", "teacher.model=t"],
                f"leave {divergence} out where no sequence that the term counts is the student's, "
                "got sequences of teacher",
                "sequences.origin=student",
            ),
            (
                "sequences.rollouts.sampling_temperature",
                ["sequences.rollouts.sampling_temperature=0.8"],
                f"with {divergence}, which is the mean over samples of the student's whole "
                "distribution, got 0.8",
                "remove it",
            ),
            ("sequences.rollouts.top_k", ["sequences.rollouts.top_k=50"], "got 50", "remove it"),
            ("sequences.rollouts.top_p", ["sequences.rollouts.top_p=0.9"], "got 0.9", "remove it"),
        )
    ),
    (
        "sequences.rollouts.mode",
        [*WHOLE, "sequences.rollouts.mode=greedy"],
        "with sequence_reverse_kl, which is the mean over samples, got greedy",
        "remove it",
    ),
    (
        "sequences.rollouts.mode",
        [*PAID, "sequences.rollouts.mode=greedy"],
        "with advantages, which is the mean over samples, got greedy",
        "remove it",
    ),
    (
        "sequences.rollouts.teacher_fraction",
        [*PAID, "teacher.model=t", "sequences.rollouts.teacher_fraction=0.2"],
        "advantages, which has no importance weights",
        "remove it",
    ),
    (
        "sequences.rollouts.teacher_fraction",
        [*TEACHER_MIXED, "sequences.rollouts.teacher_fraction=1"],
        "below 1 with sequence_reverse_kl",
        "0.2",
    ),
    (
        "objective.terms.0.token_weights",
        [*TEACHER_MIXED, "objective.terms.0.token_weights=[]"],
        "the samples are not the student's alone, got none",
        "add importance",
    ),
    (
        "objective.terms.1.token_weights",
        [*WHOLE, BESIDE_REFERENCES],
        "the mean over its samples, got student, reference",
        "origins: [student]",
    ),
    (
        "objective.terms.0.token_weights",
        [*WHOLE, LONG_ALONE % ""],
        "what remains of the gradient beside that term, got paper without it",
        "{divergence: reverse_kl}",
    ),
    (
        "objective.terms.1.token_weights",
        [
            *WHOLE,
            BESIDE_REFERENCES,
            "objective.terms=["
            + BOTH_PARTS % (f"token_weights: [{ONLY % 'reference'}]", f", {ONLY % 'student'}")
            + "]",
        ],
        "counts the same sequences",
        "{divergence: reverse_kl}",
    ),
    (
        "objective.loss_temperature",
        [*WHOLE, "objective.loss_temperature=2"],
        "what the models themselves say",
        "remove it",
    ),
    (
        "objective.reduction",
        [*WHOLE, "objective.reduction=sequence"],
        "a mean over tokens would count for less, got sequence",
        "objective.reduction=sum",
    ),
    *(
        (
            "objective.terms.0.token_weights",
            [
                *WITH_TEACHER,
                term("divergence: reverse_kl, token_weights: importance"),
                f"sequences={sequences}",
            ],
            finding,
            remedy,
        )
        for sequences, finding, remedy in (
            ("{origin: reference}", "for those of reference", "remove it"),
            (
                "{origin: mixture, mixture: {student_fraction: 0.5}}",
                "for those of reference",
                "origins: [student]",
            ),
            (
                "{origin: student, rollouts: {mode: greedy}}",
                "got it with mode: greedy",
                "mode: sample",
            ),
            (
                "{origin: student, rollouts: {engine: ctranslate2}}",
                "got it with engine: ctranslate2",
                "engine: transformers",
            ),
        )
    ),
]


@pytest.fixture(scope="module")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("recipes") / "empty.yaml"
    path.write_text("")
    return str(path)


@pytest.mark.parametrize(("key", "overrides", "finding", "remedy"), BIASED)
def test_an_estimator_of_another_gradient_is_refused(
    empty_file: str, key: str, overrides: list[str], finding: str, remedy: str
) -> None:
    (found,) = all_contradictions(read_recipe(empty_file, overrides))
    assert found.key == key
    assert finding in found.sentence and remedy in found.sentence
    assert found.sentence.startswith("must ") and "got " in found.sentence


@pytest.mark.parametrize(
    "overrides",
    [
        PAID,
        WHOLE,
        TEACHER_MIXED,
        [
            *WHOLE,
            BESIDE_REFERENCES,
            f"objective.terms.1.token_weights=[sequence_reverse_kl, {ONLY % 'student'}]",
        ],
        [*PAID, BESIDE_REFERENCES],
        [
            *WHOLE,
            LONG_ALONE % ", estimator: released",
        ],
        [*WHOLE, "objective.terms.0={divergence: jensen_shannon, beta: 1}"],
        [*TEACHER_MIXED, "objective.terms.1.token_weights.0.estimator=released"],
        [
            *TEACHER_MIXED,
            "objective.terms.0.token_weights=[]",
            "objective.terms.1.token_weights.0.estimator=released",
        ],
    ],
)
def test_an_estimator_of_its_own_gradient_passes(empty_file: str, overrides: list[str]) -> None:
    assert load_recipe(empty_file, overrides)
