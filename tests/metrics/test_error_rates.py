"""Error rates: held against a naive recursion, and by what must hold of any edit distance."""

from __future__ import annotations

import functools
import random
import typing

import pytest

from seqdistill.metrics.corpus_metrics import CORPUS_METRICS
from seqdistill.metrics.error_rates import edit_distance, sequence_error_rate, token_error_rate
from seqdistill.testing import check_metric


def naive_distance(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """The definition: try all three edits at every place."""

    @functools.cache
    def distance(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        substituted = distance(i - 1, j - 1) + (first[i - 1] != second[j - 1])
        return min(substituted, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(first), len(second))


def random_tokens(draw: random.Random) -> tuple[str, ...]:
    return tuple(draw.choices(["AH", "EY1", "K", "S"], k=draw.randint(0, 7)))


def test_edits_equal_a_naive_recursion() -> None:
    draw = random.Random(1)
    for _ in range(500):
        first, second = random_tokens(draw), random_tokens(draw)
        assert edit_distance(first, second) == naive_distance(first, second), (first, second)


def test_edits_are_a_distance() -> None:
    draw = random.Random(2)
    for _ in range(200):
        first, second, third = (random_tokens(draw) for _ in range(3))
        assert (edit_distance(first, second) == 0) == (first == second)
        assert edit_distance(first, second) == edit_distance(second, first)
        way_round = edit_distance(first, third) + edit_distance(third, second)
        assert edit_distance(first, second) <= way_round


def test_token_errors_are_summed_over_the_corpus_before_the_division() -> None:
    # 1 substitution of 4 tokens, 1 insertion to 1 token: 2 of 5, not the mean of 25 % and 100 %.
    outputs, references = ["a b x d", "q  r"], ["a b c d", "q"]
    assert token_error_rate(outputs, references).score().value == pytest.approx(40.0)


def test_a_silent_system_has_every_token_wrong_and_a_talkative_one_more_than_all() -> None:
    assert token_error_rate(["", ""], ["a b", "c"]).score().value == pytest.approx(100.0)
    assert token_error_rate(["x y z", ""], ["", "c"]).score().value == pytest.approx(400.0)


def test_a_sequence_is_wrong_when_any_token_is_and_white_space_is_no_token() -> None:
    outputs = ["a b", " a  b ", "a c", "ab"]
    assert sequence_error_rate(outputs, ["a b"] * 4).score().value == pytest.approx(50.0)


@pytest.mark.parametrize("statistics", [token_error_rate, sequence_error_rate])
def test_nothing_is_wrong_with_the_references_themselves(statistics: typing.Any) -> None:
    found = statistics(["a b", "c"], ["a b", "c"])
    assert found.score().value == 0.0
    assert found.rows.shape == (2, 2), "a row a segment, so that corpora can be resampled"
    assert "version:" in found.signature


@pytest.mark.parametrize("statistics", [token_error_rate, sequence_error_rate])
def test_sides_of_different_lengths_and_an_empty_corpus_are_refused(
    statistics: typing.Any,
) -> None:
    with pytest.raises(ValueError, match="got 1 hypotheses and 2 references"):
        statistics(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="at least one segment"):
        statistics([], [])


def test_references_without_any_token_have_no_error_rate() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        token_error_rate(["a"], [" "])


@pytest.mark.parametrize("name", CORPUS_METRICS)
def test_a_perfect_output_is_worth_more_than_a_wrong_one_by_every_metric(name: str) -> None:
    metric = CORPUS_METRICS[name]
    references = ["the 2 cats sat on the mat", "we like 3 small models"]
    right, wrong = (
        metric.statistics(outputs, references).score().value
        for outputs in (references, ["no", "no"])
    )
    assert metric.score_key(right) > metric.score_key(wrong)
    assert metric.statistics(references, references).name == name


@pytest.mark.parametrize("name", CORPUS_METRICS)
def test_every_metric_passes_the_suite_of_its_family(name: str) -> None:
    check_metric(name)
