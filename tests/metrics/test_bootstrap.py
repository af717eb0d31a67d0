"""Intervals and tests against sacrebleu's own within Monte-Carlo error, and exact identities."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest as SacrebleuPairedTest

from seqdistill.metrics import bootstrap
from seqdistill.metrics.bootstrap import (
    PairedBootstrap,
    PairedTest,
    paired_approximate_randomization,
    paired_bootstrap,
    percentile_interval,
    resampled_sums,
    with_interval,
)
from seqdistill.metrics.score import Score, SummedStatistics, mean_statistics
from seqdistill.metrics.translation import bleu_statistics, chrf_statistics

WORDS = ["the", "a", "file", "opens", "shows", "button", "text", "name", "list", "of", "and", "to"]


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


DRAW = np.random.default_rng(1)
REFERENCES = [" ".join(DRAW.choice(WORDS, size=DRAW.integers(6, 15))) for _ in range(80)]
BETTER = noisy(REFERENCES, error_share=0.30, seed=2)
WORSE = noisy(REFERENCES, error_share=0.33, seed=3)


def sacrebleu_test(kind: str, num_samples: int) -> tuple[float, float]:
    """(p-value, half width of the system's 95 % interval)."""
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
    return result.p_value, result.ci


def with_ci(statistics: SummedStatistics, num_resamples: int, seed: int) -> Score:
    return with_interval(
        statistics,
        num_resamples=num_resamples,
        confidence=0.95,
        generator=np.random.default_rng(seed),
    )


def resampled(one: SummedStatistics, other: SummedStatistics, num: int = 200) -> PairedBootstrap:
    draw = np.random.default_rng(7)
    return paired_bootstrap(one, other, num_resamples=num, confidence=0.95, generator=draw)


def exchanged(one: SummedStatistics, other: SummedStatistics, num: int = 200) -> PairedTest:
    draw = np.random.default_rng(7)
    return paired_approximate_randomization(one, other, num_trials=num, generator=draw)


GOOD_BLEU, BAD_BLEU = (bleu_statistics(texts, REFERENCES) for texts in (BETTER, WORSE))


def test_tests_and_intervals_agree_with_sacrebleu_within_monte_carlo_error() -> None:
    num = 4000
    for kind, found in (
        ("bs", resampled(GOOD_BLEU, BAD_BLEU, num)),
        ("ar", exchanged(GOOD_BLEU, BAD_BLEU, num)),
    ):
        expected, half_width = sacrebleu_test(kind, num)
        assert 0.01 < expected < 0.9, "the example must be neither certain nor hopeless"
        # Four standard errors of the difference of two estimates of a proportion.
        tolerance = 4.0 * math.sqrt(2.0 * expected * (1.0 - expected) / num)
        assert found.p_value == pytest.approx(expected, abs=tolerance)
        assert found.delta == pytest.approx(
            BLEU().corpus_score(BETTER, [REFERENCES]).score
            - BLEU().corpus_score(WORSE, [REFERENCES]).score
        )
        if isinstance(found, PairedBootstrap):
            assert found.low < found.delta < found.high
            score = with_ci(GOOD_BLEU, num, 5)
            assert score.low is not None and score.high is not None
            assert (score.high - score.low) / 2.0 == pytest.approx(half_width, rel=0.08)
            assert score.low < score.value < score.high


def test_the_interval_of_a_mean_has_its_closed_form_width() -> None:
    values = np.random.default_rng(3).normal(size=400)
    score = with_ci(mean_statistics("mean", "", values.tolist()), 8000, 4)
    assert score.low is not None and score.high is not None
    expected_width = 2 * 1.959964 * values.std() / math.sqrt(values.size)
    assert score.high - score.low == pytest.approx(expected_width, rel=0.05)


def test_resampled_sums_equal_a_loop_over_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "CHUNK", 2)
    rows = np.random.default_rng(0).normal(size=(7, 3))
    sums = resampled_sums(rows, num_resamples=5, generator=np.random.default_rng(9))
    drawn = np.random.default_rng(9).integers(7, size=(5, 7))
    np.testing.assert_allclose(sums, [rows[indices].sum(axis=0) for indices in drawn], rtol=1e-12)


def test_the_ends_of_a_paired_test() -> None:
    same = resampled(GOOD_BLEU, GOOD_BLEU)
    assert (same.p_value, exchanged(GOOD_BLEU, GOOD_BLEU).p_value) == (1.0, 1.0)
    assert (same.delta, same.low, same.high, same.win_share) == (0, 0, 0, 0)
    one, other = resampled(GOOD_BLEU, BAD_BLEU), resampled(BAD_BLEU, GOOD_BLEU)
    assert (one.delta, one.p_value) == (-other.delta, other.p_value)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one.win_share + other.win_share == pytest.approx(1.0)
    good = bleu_statistics(REFERENCES, REFERENCES)
    bad = bleu_statistics(noisy(REFERENCES, error_share=0.8, seed=5), REFERENCES)
    found = resampled(good, bad, 99)
    assert found.p_value == exchanged(good, bad, 99).p_value == pytest.approx(0.01)
    assert found.win_share == 1.0


def test_randomization_enumerates_to_the_exact_p_value_of_a_sign_flip_test() -> None:
    # Three segments with differences 1, 2, 3: of the 8 sign patterns only +++ and --- reach 6.
    one, other = (mean_statistics("m", "", v) for v in ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]))
    found = exchanged(one, other, 20_000)
    assert found.p_value == pytest.approx(2 / 8, abs=4 * math.sqrt(0.25 * 0.75 / 20_000))


def test_impossible_confidence_and_unpaired_corpora_are_refused() -> None:
    with pytest.raises(ValueError, match="strictly between 0 and 1, got 95"):
        percentile_interval(np.arange(5.0), confidence=95.0)
    with pytest.raises(ValueError, match=r"80 segments of bleu .* 79 of bleu"):
        exchanged(GOOD_BLEU, bleu_statistics(WORSE[1:], REFERENCES[1:]))
    with pytest.raises(ValueError, match="same metric"):
        resampled(GOOD_BLEU, chrf_statistics(WORSE, REFERENCES))
