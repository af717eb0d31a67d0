"""What is wrong with a system: each sign alone, at its limit and beyond it."""

from __future__ import annotations

import pytest

from seqdistill.metrics.soundness import RULE, faults_of

SOUND = {
    "outputs": 150,
    "unfinished": 0,
    "empty": 0,
    "repetition": 0.05,
    "repetition_references": 0.02,
    "bleu_beam": 25.0,
    "token_error_rate_beam": 20.0,
}
TEACHER = {"bleu_beam": 30.0, "token_error_rate_beam": 10.0}


def faults(
    changed: dict[str, object] | None = None, *, metric: str = "bleu", rising: bool = True
) -> list[str]:
    row = {**SOUND, **(changed or {})}
    return faults_of(row, metric=metric, higher_is_better=rising, teacher=TEACHER)


def test_a_sound_system_has_no_faults_and_nothing_is_said_of_what_was_not_measured() -> None:
    assert faults() == []
    assert faults(metric="token_error_rate", rising=False) == []
    assert faults_of({}, metric="bleu", higher_is_better=True, teacher=None) == []
    assert faults_of({}, metric="bleu", higher_is_better=True, teacher=TEACHER) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"unfinished": 150}, "150 of 150 outputs have no end"),
        ({"unfinished": 16}, "16 of 150 outputs have no end"),
        ({"empty": 40}, "40 of 150 outputs are empty"),
        ({"repetition": 0.7}, "70% of an output’s runs of four words repeat"),
        ({"bleu_beam": 14.9}, "it keeps 50% of the teacher’s score"),
        ({"bleu_beam": 0.0}, "it keeps 0% of the teacher’s score"),
    ],
)
def test_each_sign_alone_is_a_fault(changed: dict[str, object], words: str) -> None:
    (found,) = faults(changed)
    assert words in found


@pytest.mark.parametrize(
    "changed",
    [
        {"unfinished": 15},
        {"empty": 15},
        {"repetition": 0.22},
        {"bleu_beam": 15.0},
        # Texts that repeat themselves may: their references do.
        {"repetition": 0.7, "repetition_references": 0.6},
    ],
)
def test_the_limits_themselves_are_sound(changed: dict[str, object]) -> None:
    assert faults(changed) == []


def test_of_an_error_rate_what_is_right_is_compared() -> None:
    assert faults({"token_error_rate_beam": 55.0}, metric="token_error_rate", rising=False) == []
    (found,) = faults({"token_error_rate_beam": 140.0}, metric="token_error_rate", rising=False)
    assert "keeps 0%" in found


def test_every_limit_is_stated() -> None:
    assert [share for share in ("10%", "20 points", "50%") if share not in RULE] == []
