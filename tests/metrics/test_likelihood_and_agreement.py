"""Perplexity, mode share, length ratio, exact match: closed forms on distributions we know."""

from __future__ import annotations

import math

import numpy as np
import pytest

from seqdistill.metrics.agreement import exact_match_share, length_ratio
from seqdistill.metrics.likelihood import (
    mean_by_position,
    mode_share,
    perplexity,
    perplexity_statistics,
)
from seqdistill.metrics.score import mean_statistics


def test_the_perplexity_of_a_uniform_model_is_its_vocabulary_size() -> None:
    assert perplexity(17 * math.log(50), 17) == pytest.approx(50.0)


def test_perplexity_is_one_for_certainty_and_infinite_for_the_impossible() -> None:
    assert perplexity(0.0, 4) == 1.0
    assert perplexity(math.inf, 4) == math.inf
    assert perplexity(1e6, 1) == math.inf


def test_perplexity_of_a_corpus_is_not_the_mean_of_its_sentences() -> None:
    statistics = perplexity_statistics([2.0, 30.0], [2, 10])
    assert statistics.score().value == pytest.approx(math.exp(32 / 12))
    assert statistics.score().value == perplexity(32.0, 12)


def test_mode_share_is_the_mean_probability_not_the_probability_of_the_mean() -> None:
    assert mode_share([math.log(0.5), math.log(0.1)]) == pytest.approx(0.3)


def test_mode_share_lies_between_zero_and_one_at_its_ends() -> None:
    assert mode_share([0.0, 0.0]) == 1.0
    assert mode_share([-1e9]) == 0.0
    assert mode_share([1e-6]) == 1.0, "rounding of float32 sums above zero is forgiven"


@pytest.mark.parametrize("log_probs", [[0.5], [-1.0, math.nan]])
def test_what_is_not_a_log_probability_is_refused(log_probs: list[float]) -> None:
    with pytest.raises(ValueError, match="log-probabilities must be numbers of at most 0"):
        mode_share(log_probs)


def test_nothing_scored_has_no_perplexity_and_no_mode_share() -> None:
    with pytest.raises(ValueError, match="at least one scored token"):
        perplexity(0.0, 0)
    with pytest.raises(ValueError, match="at least one sentence"):
        mode_share([])
    with pytest.raises(ValueError, match="got 1 and 2"):
        perplexity_statistics([1.0], [1, 2])


def test_length_ratio_is_of_the_whole_corpus() -> None:
    assert length_ratio([2, 4], [4, 4]) == pytest.approx(6 / 8)
    assert length_ratio([0, 9], [1, 5]) == pytest.approx(9 / 6)


def test_a_mean_weighs_a_segment_by_its_count() -> None:
    statistics = mean_statistics("x", "s", [2.0, 30.0], [1, 9])
    assert statistics.score().value == pytest.approx(32 / 10)
    assert statistics.rows.tolist() == [[2.0, 1.0], [30.0, 9.0]]


def test_means_by_position_equal_a_loop_over_ragged_rows() -> None:
    draw = np.random.default_rng(3)
    rows = [draw.random(length) for length in (4, 0, 1, 7, 4)]
    means, counts = mean_by_position(rows)
    assert counts.tolist() == [4, 3, 3, 3, 1, 1, 1]
    for position, mean in enumerate(means):
        reached = [row[position] for row in rows if len(row) > position]
        assert mean == pytest.approx(sum(reached) / len(reached))


def test_exact_match_ignores_white_space_only() -> None:
    assert exact_match_share(["a  b ", "A b", "c"], ["a b", "a b", "c"]) == pytest.approx(2 / 3)


def test_agreement_of_nothing_and_of_uneven_sides_is_refused() -> None:
    with pytest.raises(ValueError, match="got 1 and 2 outputs"):
        exact_match_share(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="at least one sentence"):
        exact_match_share([], [])
    with pytest.raises(ValueError, match="references with tokens"):
        length_ratio([1], [0])
    with pytest.raises(ValueError, match="something counted"):
        mean_statistics("x", "s", [1.0], [0])
    with pytest.raises(ValueError, match="at least one value"):
        mean_by_position([np.zeros(0)])
