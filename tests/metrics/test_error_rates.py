"""Error rates: held against a naive recursion, and by what must hold of any edit distance."""

from __future__ import annotations

import functools
import random

import pytest

from seqdistill.metrics.error_rates import edit_distance, sequence_error_rate, token_error_rate


def test_edits_equal_a_naive_recursion() -> None:
    draw = random.Random(1)

    @functools.cache
    def naive(first: tuple[str, ...], second: tuple[str, ...]) -> int:
        if not first or not second:
            return len(first) + len(second)
        substituted = naive(first[1:], second[1:]) + (first[0] != second[0])
        return min(substituted, naive(first[1:], second) + 1, naive(first, second[1:]) + 1)

    for _ in range(500):
        one, other = (tuple(draw.choices("abc", k=draw.randint(0, 7))) for _ in range(2))
        assert edit_distance(one, other) == naive(one, other), (one, other)


def test_token_errors_are_summed_over_the_corpus_before_the_division() -> None:
    # 1 substitution of 4 tokens, 1 insertion to 1 token: 2 of 5, not the mean of 25 % and 100 %.
    outputs, references = ["a b x d", "q  r"], ["a b c d", "q"]
    assert token_error_rate(outputs, references).score().value == pytest.approx(40.0)
    assert token_error_rate(["", ""], ["a b", "c"]).score().value == pytest.approx(100.0)
    assert token_error_rate(["x y z", ""], ["", "c"]).score().value == pytest.approx(400.0)
    statistics = token_error_rate(["x", ""], ["", "c"])
    assert statistics.score_of_sums(statistics.rows[0]) == 100.0, "a resample without a token"
    with pytest.raises(ValueError, match="something counted"):
        token_error_rate(["a"], [" "])


def test_a_sequence_is_wrong_when_any_token_is_and_white_space_is_no_token() -> None:
    outputs = ["a b", " a  b ", "a c", "ab"]
    assert sequence_error_rate(outputs, ["a b"] * 4).score().value == pytest.approx(50.0)
