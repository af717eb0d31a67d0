"""What is wrong with a system: each sign alone, at its limit and beyond it."""

from __future__ import annotations

from typing import Any

import pytest

from seqdistill.metrics.soundness import faults_of, fraction_kept

SOUND: dict[str, Any] = {
    "outputs": 150,
    "unfinished": 0,
    "empty": 0,
    "repetition": 0.05,
    "repetition_references": 0.02,
    "kept": 0.8,
}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"unfinished": 150}, "150 of 150 outputs have no end"),
        ({"unfinished": 16}, "16 of 150 outputs have no end"),
        ({"empty": 40}, "40 of 150 outputs are empty"),
        ({"repetition": 0.7}, "70% of an output’s 4-grams repeat"),
        ({"kept": 0.497}, "it keeps 50% of the teacher’s score"),
        ({"kept": 0.0}, "it keeps 0% of the teacher’s score"),
    ],
)
def test_each_sign_alone_is_a_fault(changed: dict[str, object], words: str) -> None:
    (found,) = faults_of(**{**SOUND, **changed})
    assert words in found


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"unfinished": 15},
        {"empty": 15},
        {"repetition": 0.22},
        {"kept": 0.5},
        {"kept": None},
        # Texts that repeat themselves may: their references do.
        {"repetition": 0.7, "repetition_references": 0.6},
    ],
)
def test_the_limits_themselves_are_sound(changed: dict[str, object]) -> None:
    assert faults_of(**{**SOUND, **changed}) == []


def test_of_an_error_rate_what_is_right_is_compared() -> None:
    assert fraction_kept(15.0, 30.0, higher_is_better=True) == 0.5
    assert fraction_kept(55.0, 10.0, higher_is_better=False) == 0.5
    assert fraction_kept(140.0, 10.0, higher_is_better=False) == 0.0
    assert fraction_kept(1.0, 0.0, higher_is_better=True) is None
