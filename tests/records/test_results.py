"""The results schema: there and back, refusals that name the key, flat rows, the best student."""

from __future__ import annotations

import pytest

from seqdistill.core.errors import UserError
from seqdistill.records.results import (
    Decoded,
    Metric,
    Results,
    Sampled,
    Score,
    System,
    Value,
    best_student,
    parsed,
    recommended_student,
)

BLEU = Metric(name="bleu", title="BLEU", higher_is_better=True)
ERRORS = Metric(name="token_error_rate", title="token error rate", higher_is_better=False)


def system(name: str, method: str, bleu: float, errors: float = 0.0, *faults: str) -> System:
    scores = {"bleu": Score(value=bleu), "token_error_rate": Score(value=errors)}
    return System(name=name, method=method, beam=Decoded(scores=scores), faults=faults)


SYSTEMS = [
    system("teacher", "teacher", 40.0, 1.0),
    system("start", "start", 39.0, 2.0),
    system("a", "seq_kd", 30.0, 9.0),
    system("b", "word_kd", 20.0, 5.0),
]


def test_the_best_student_is_the_highest_by_bleu_and_the_lowest_by_an_error_rate() -> None:
    assert best_student(SYSTEMS, BLEU) == recommended_student(SYSTEMS, BLEU) == "a"
    assert best_student(SYSTEMS, ERRORS) == "b"
    assert best_student(SYSTEMS[:2], BLEU) == "teacher", "trained alone it is its own student"
    assert best_student([], BLEU) is None
    assert recommended_student(SYSTEMS[:3], BLEU) is None, "one student is no choice"


def test_a_broken_student_is_never_recommended_while_another_is_sound() -> None:
    broken = system("a", "seq_kd", 30.0, 9.0, "has no end")
    assert best_student([*SYSTEMS[:2], broken, SYSTEMS[3]], BLEU) == "b"
    both = [*SYSTEMS[:2], broken, system("b", "word_kd", 20.0, 5.0, "is empty")]
    assert best_student(both, BLEU) == "a"
    assert recommended_student(both, BLEU) is None


def test_a_system_as_one_flat_row() -> None:
    at = Sampled(temperature=0.5, self_bleu=Value(value=7.0, low=6.0, high=8.0))
    found = system("a", "seq_kd", 30.0).model_copy(
        update={"sampled": (at,), "mode_share": Value(value=0.1), "to_teacher": Score(value=9.0)}
    )
    assert found.columns() == {
        "name": "a",
        "method": "seq_kd",
        "bleu_beam": 30.0,
        "token_error_rate_beam": 0.0,
        "self_bleu_sample_t0.5": 7.0,
        "self_bleu_sample_t0.5_low": 6.0,
        "self_bleu_sample_t0.5_high": 8.0,
        "mode_share": 0.1,
        "bleu_to_teacher": 9.0,
    }


NAMED = {"name": "a", "method": "b"}


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({}, "metrics"),
        ({"metrics": [{"name": "bleu", "title": "BLEU"}]}, "metrics.0.higher_is_better"),
        ({"metrics": [], "systems": [{"name": "a"}]}, "systems.0.method"),
        ({"metrics": [], "systems": [NAMED | {"bleu": 1}]}, "systems.0.bleu"),
        ({"metrics": [], "systems": [NAMED | {"mode_share": {"value": "x"}}]}, "mode_share.value"),
        ({"metrics": [], "systems": [NAMED | {"loss_nats": {"low": 1e999}}]}, "loss_nats.low"),
    ],
)
def test_damaged_results_are_refused_naming_file_and_key(content: object, key: str) -> None:
    with pytest.raises(UserError, match=rf"results\.json: .*{key} is wrong"):
        parsed(Results, content, "results.json")
