"""Perplexity, mode share, means: closed forms on distributions we know."""

from __future__ import annotations

import math

import numpy as np
import pytest

from seqdistill.metrics.likelihood import (
    mean_by_position,
    mode_share_statistics,
    perplexity,
    perplexity_statistics,
)
from seqdistill.metrics.score import mean_statistics


def test_perplexity_is_the_exponential_of_the_mean_over_all_tokens() -> None:
    assert perplexity(17 * math.log(50), 17) == pytest.approx(50.0)
    assert perplexity(0.0, 4) == 1.0
    assert perplexity(math.inf, 4) == perplexity(1e6, 1) == math.inf
    statistics = perplexity_statistics([2.0, 30.0], [2, 10])
    assert statistics.score().value == pytest.approx(math.exp(32 / 12))


@pytest.mark.parametrize(
    ("log_probs", "expected"),
    # Rounding of float32 sums above zero is forgiven.
    [([math.log(0.5), math.log(0.1)], 0.3), ([0.0, 0.0], 1.0), ([-1e9], 0.0), ([1e-6], 1.0)],
)
def test_mode_share_is_the_mean_probability(log_probs: list[float], expected: float) -> None:
    assert mode_share_statistics(log_probs).score().value == pytest.approx(expected)


@pytest.mark.parametrize("log_probs", [[0.5], [-1.0, math.nan]])
def test_what_is_not_a_log_probability_is_refused(log_probs: list[float]) -> None:
    with pytest.raises(ValueError, match="log-probabilities must be numbers of at most 0"):
        mode_share_statistics(log_probs)


def test_means_are_of_the_whole_corpus() -> None:
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
