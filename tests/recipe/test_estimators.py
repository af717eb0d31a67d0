"""Policy gradients and importance weights: what would bias them is refused, all else passes."""

from __future__ import annotations

import pytest

from seqdistill.recipe import load_recipe, read_recipe
from seqdistill.recipe.systems import all_contradictions

from .test_checks import OWN, WITH_TEACHER, term

BOTH_PARTS = "{divergence: reverse_kl, %s}, {divergence: sequence_reverse_kl, %s}"
WHOLE = [
    *WITH_TEACHER,
    "sequences.origin=student",
    f"objective={{terms: [{BOTH_PARTS % ('weight: 1', 'weight: 1')}], reduction: sum}}",
]
"""The reverse KL between whole sequences: its exact part and its long-range part."""
TEACHER_MIXED = [
    *WHOLE,
    "sequences.rollouts.teacher_fraction=0.2",
    "objective.terms.0.importance_weighted=true",
]
PAID = [
    *OWN,
    "sequences.origin=student",
    "objective={terms: [{divergence: reward}], reduction: sequence}",
    "objective.reward={function: bleu, baseline: moving_average}",
]
BESIDE_REFERENCES = "sequences={origin: mixture, mixture: {student_fraction: 0.5}}"


BIASED: list[tuple[str, list[str], str, str]] = [
    # key, overrides of the empty recipe, what the sentence says, the remedy in it
    (
        "objective.reduction",
        [*WHOLE, "objective.reduction=token"],
        "must be sum with sequence_reverse_kl",
        "objective.reduction=sum",
    ),
    (
        "objective.reduction",
        [*PAID, "objective.reduction=token"],
        "sequence or sum with reward",
        "objective.reduction=sequence",
    ),
    *(
        (key, [*recipe, *overrides], finding, remedy)
        for recipe, divergence in ((PAID, "reward"), (WHOLE, "sequence_reverse_kl"))
        for key, overrides, finding, remedy in (
            (
                "sequences.origin",
                ["sequences.origin=replay"],
                f"with the term {divergence}, whose gradient is that of the student who wrote",
                "sequences.origin=student",
            ),
            (
                "objective.terms.1.divergence"
                if recipe is WHOLE
                else "objective.terms.0.divergence",
                ["sequences={origin: teacher}", "teacher.model=t"],
                f"another than {divergence} where the student writes nothing that it counts, got "
                "sequences of teacher",
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
        "with reward, which is the mean over samples, got greedy",
        "remove it",
    ),
    (
        "sequences.rollouts.teacher_fraction",
        [*PAID, "teacher.model=t", "sequences.rollouts.teacher_fraction=0.2"],
        "reward, which has no importance weights",
        "remove it",
    ),
    (
        "sequences.rollouts.teacher_fraction",
        [*TEACHER_MIXED, "sequences.rollouts.teacher_fraction=1"],
        "below 1 with sequence_reverse_kl",
        "0.2",
    ),
    (
        "objective.terms.0.importance_weighted",
        [*TEACHER_MIXED, "objective.terms.0.importance_weighted=false"],
        "the samples are not the student's alone, got false",
        "set it to true",
    ),
    (
        "objective.terms.1.origin",
        [*WHOLE, BESIDE_REFERENCES],
        "the mean over its samples, got student, reference",
        "origin: [student]",
    ),
    (
        "objective.terms.0.estimator",
        [*WHOLE, "objective={terms: [{divergence: sequence_reverse_kl}], reduction: sum}"],
        "what remains of the gradient beside that term, got paper without it",
        "{divergence: reverse_kl}",
    ),
    (
        "objective.terms.1.estimator",
        [
            *WHOLE,
            BESIDE_REFERENCES,
            "objective.terms=[" + BOTH_PARTS % ("origin: [reference]", "origin: [student]") + "]",
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
            "objective.terms.0.importance_weighted",
            [
                *WITH_TEACHER,
                term("divergence: reverse_kl, importance_weighted: true"),
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
                "origin: [student]",
            ),
            (
                "{origin: student, rollouts: {mode: greedy}}",
                "got true with mode: greedy",
                "mode: sample",
            ),
            (
                "{origin: student, rollouts: {engine: ctranslate2}}",
                "got true with engine: ctranslate2",
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
        [*WHOLE, BESIDE_REFERENCES, "objective.terms.1.origin=[student]"],
        [*PAID, BESIDE_REFERENCES],
        [
            *WHOLE,
            "objective={terms: [{divergence: sequence_reverse_kl, estimator: released}], "
            "reduction: sum}",
        ],
        [*WHOLE, "objective.terms.0={divergence: jensen_shannon, beta: 1}"],
        [*TEACHER_MIXED, "objective.terms.1.estimator=released"],
        [
            *TEACHER_MIXED,
            "objective.terms.0.importance_weighted=false",
            "objective.terms.1.estimator=released",
        ],
    ],
)
def test_an_estimator_of_its_own_gradient_passes(empty_file: str, overrides: list[str]) -> None:
    assert load_recipe(empty_file, overrides)
