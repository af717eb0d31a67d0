"""Intervals and tests against sacrebleu's own within Monte-Carlo error, and exact identities."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest as SacrebleuPairedTest

from seqdistill.metrics.bootstrap import (
    paired_approximate_randomization,
    paired_bootstrap,
    percentile_interval,
    resampled_sums,
    with_interval,
)
from seqdistill.metrics.likelihood import perplexity_statistics
from seqdistill.metrics.score import SummedStatistics
from seqdistill.metrics.translation import bleu_statistics, chrf_statistics

WORDS = ["the", "a", "file", "opens", "shows", "button", "text", "name", "list", "of", "and", "to"]
NUM_SEGMENTS = 80


def corpus(seed: int, *, num_segments: int = NUM_SEGMENTS) -> list[str]:
    generator = np.random.default_rng(seed)
    return [
        " ".join(generator.choice(WORDS, size=generator.integers(6, 15)))
        for _ in range(num_segments)
    ]


def noisy(texts: list[str], *, error_share: float, seed: int) -> list[str]:
    """The texts with that share of their words replaced: a system of known weakness."""
    generator = np.random.default_rng(seed)
    return [
        " ".join(
            str(generator.choice(WORDS)) if generator.random() < error_share else word
            for word in text.split()
        )
        for text in texts
    ]


REFERENCES = corpus(1)
BETTER = noisy(REFERENCES, error_share=0.30, seed=2)
WORSE = noisy(REFERENCES, error_share=0.33, seed=3)


def mean_statistics(values: list[float]) -> SummedStatistics:
    """The plainest metric: a mean, whose bootstrap distribution is known in closed form."""
    rows = np.column_stack([np.asarray(values), np.ones(len(values))])
    return SummedStatistics("mean", "mean", rows, lambda sums: float(sums[0] / sums[1]))


def sacrebleu_test(kind: str, num_samples: int) -> tuple[float, float, float]:
    """(p-value, resampled mean of the system, half width of its 95 % interval)."""
    test = SacrebleuPairedTest(
        [("worse", WORSE), ("better", BETTER)],
        {"BLEU": BLEU()},
        [REFERENCES],
        test_type=kind,
        n_samples=num_samples,
        n_ar_confidence=num_samples,
    )
    _, scores = test()
    result = scores["BLEU"][1]
    return result.p_value, result.mean, result.ci


def test_the_paired_bootstrap_agrees_with_sacrebleu_within_monte_carlo_error() -> None:
    num_samples = 4000
    expected, _, _ = sacrebleu_test("bs", num_samples)
    found = paired_bootstrap(
        bleu_statistics(BETTER, REFERENCES),
        bleu_statistics(WORSE, REFERENCES),
        num_resamples=num_samples,
        confidence=0.95,
        generator=np.random.default_rng(7),
    )
    assert 0.01 < expected < 0.4, "the example must be neither certain nor hopeless"
    # Four standard errors of the difference of two estimates of a proportion.
    tolerance = 4.0 * math.sqrt(2.0 * expected * (1.0 - expected) / num_samples)
    assert found.p_value == pytest.approx(expected, abs=tolerance)
    assert found.delta == pytest.approx(
        BLEU().corpus_score(BETTER, [REFERENCES]).score
        - BLEU().corpus_score(WORSE, [REFERENCES]).score
    )
    assert found.low < found.delta < found.high


def test_approximate_randomization_agrees_with_sacrebleu_within_monte_carlo_error() -> None:
    num_samples = 4000
    expected, _, _ = sacrebleu_test("ar", num_samples)
    found = paired_approximate_randomization(
        bleu_statistics(BETTER, REFERENCES),
        bleu_statistics(WORSE, REFERENCES),
        num_trials=num_samples,
        generator=np.random.default_rng(7),
    )
    tolerance = 4.0 * math.sqrt(2.0 * expected * (1.0 - expected) / num_samples)
    assert 0.01 < expected < 0.9
    assert found.p_value == pytest.approx(expected, abs=tolerance)


def test_the_interval_agrees_with_sacrebleu_within_monte_carlo_error() -> None:
    _, _, half_width = sacrebleu_test("bs", 4000)
    score = with_interval(
        bleu_statistics(BETTER, REFERENCES),
        num_resamples=4000,
        confidence=0.95,
        generator=np.random.default_rng(5),
    )
    assert score.low is not None and score.high is not None
    assert (score.high - score.low) / 2.0 == pytest.approx(half_width, rel=0.08)
    assert score.low < score.value < score.high
    assert score.confidence == 0.95


def test_the_interval_of_a_mean_has_its_closed_form_width() -> None:
    values = np.random.default_rng(3).normal(size=400)
    score = with_interval(
        mean_statistics(values.tolist()),
        num_resamples=8000,
        confidence=0.95,
        generator=np.random.default_rng(4),
    )
    assert score.low is not None and score.high is not None
    expected_width = 2 * 1.959964 * values.std() / math.sqrt(values.size)
    assert score.high - score.low == pytest.approx(expected_width, rel=0.05)


def test_resampled_sums_equal_a_loop_over_the_same_draws() -> None:
    rows = np.random.default_rng(0).normal(size=(7, 3))
    sums = resampled_sums(rows, num_resamples=5, generator=np.random.default_rng(9))
    drawn = np.random.default_rng(9).integers(7, size=(5, 7))
    np.testing.assert_allclose(sums, [rows[indices].sum(axis=0) for indices in drawn], rtol=1e-12)


def test_more_resamples_than_a_chunk_are_all_drawn() -> None:
    sums = resampled_sums(np.ones((10, 1)), num_resamples=1001, generator=np.random.default_rng(0))
    np.testing.assert_array_equal(sums, np.full((1001, 1), 10.0))


def test_a_system_compared_with_itself_is_never_significant() -> None:
    same = chrf_statistics(BETTER, REFERENCES)
    bootstrap = paired_bootstrap(
        same, same, num_resamples=200, confidence=0.95, generator=np.random.default_rng(1)
    )
    exchanged = paired_approximate_randomization(
        same, same, num_trials=200, generator=np.random.default_rng(1)
    )
    assert (bootstrap.p_value, exchanged.p_value) == (1.0, 1.0)
    assert (bootstrap.delta, bootstrap.low, bootstrap.high, bootstrap.win_share) == (0, 0, 0, 0)


def test_swapping_the_two_systems_mirrors_the_difference_and_keeps_the_p_value() -> None:
    better, worse = bleu_statistics(BETTER, REFERENCES), bleu_statistics(WORSE, REFERENCES)
    one = paired_bootstrap(
        better, worse, num_resamples=300, confidence=0.9, generator=np.random.default_rng(2)
    )
    other = paired_bootstrap(
        worse, better, num_resamples=300, confidence=0.9, generator=np.random.default_rng(2)
    )
    assert one.delta == -other.delta
    assert one.p_value == other.p_value
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one.win_share + other.win_share == pytest.approx(1.0)


def test_a_clear_difference_has_the_smallest_possible_p_value() -> None:
    good = bleu_statistics(REFERENCES, REFERENCES)
    bad = bleu_statistics(noisy(REFERENCES, error_share=0.8, seed=5), REFERENCES)
    bootstrap = paired_bootstrap(
        good, bad, num_resamples=99, confidence=0.95, generator=np.random.default_rng(1)
    )
    exchanged = paired_approximate_randomization(
        good, bad, num_trials=99, generator=np.random.default_rng(1)
    )
    assert bootstrap.p_value == exchanged.p_value == pytest.approx(0.01)
    assert bootstrap.win_share == 1.0


def test_randomization_enumerates_to_the_exact_p_value_of_a_sign_flip_test() -> None:
    # Three segments with differences 1, 2, 3: of the 8 sign patterns only +++ and --- reach 6.
    found = paired_approximate_randomization(
        mean_statistics([1.0, 2.0, 3.0]),
        mean_statistics([0.0, 0.0, 0.0]),
        num_trials=20_000,
        generator=np.random.default_rng(3),
    )
    assert found.p_value == pytest.approx(2 / 8, abs=4 * math.sqrt(0.25 * 0.75 / 20_000))


def test_perplexity_can_be_resampled_too() -> None:
    statistics = perplexity_statistics([3.0, 9.0, 4.0, 8.0], [3, 6, 4, 5])
    score = with_interval(
        statistics, num_resamples=500, confidence=0.8, generator=np.random.default_rng(1)
    )
    assert score.value == pytest.approx(math.exp(24 / 18))
    assert score.low is not None and score.high is not None
    assert math.e <= score.low < score.value < score.high <= math.exp(1.6)


def test_the_same_generator_state_gives_the_same_numbers() -> None:
    statistics = bleu_statistics(BETTER, REFERENCES)
    one, two = (
        with_interval(
            statistics, num_resamples=50, confidence=0.9, generator=np.random.default_rng(11)
        )
        for _ in range(2)
    )
    assert one == two


def test_impossible_confidence_and_unpaired_corpora_are_refused() -> None:
    with pytest.raises(ValueError, match="strictly between 0 and 1, got 95"):
        percentile_interval(np.arange(5.0), confidence=95.0)
    with pytest.raises(ValueError, match=r"80 segments of bleu .* 79 of bleu"):
        paired_approximate_randomization(
            bleu_statistics(BETTER, REFERENCES),
            bleu_statistics(WORSE[1:], REFERENCES[1:]),
            num_trials=10,
            generator=np.random.default_rng(0),
        )
    with pytest.raises(ValueError, match="same metric"):
        paired_bootstrap(
            bleu_statistics(BETTER, REFERENCES),
            chrf_statistics(WORSE, REFERENCES),
            num_resamples=10,
            confidence=0.95,
            generator=np.random.default_rng(0),
        )


def test_sacrebleu_offers_the_same_chrf_rows() -> None:
    statistics = chrf_statistics(BETTER, REFERENCES)
    assert statistics.rows.shape == (NUM_SEGMENTS, 18)
    assert statistics.score().value == pytest.approx(
        CHRF().corpus_score(BETTER, [REFERENCES]).score
    )
