"""Diversity: extremes by hand, naive counts, and what must not change it."""

from __future__ import annotations

import pytest
from sacrebleu.metrics import BLEU

from seqdistill.metrics.diversity import repetition_rate, self_bleu

SAME = ["the cat sat on the mat"] * 3
APART = ["one two three four five", "six seven eight nine ten", "red green blue black white"]


def test_equal_samples_have_all_of_self_bleu_and_foreign_ones_nothing() -> None:
    assert self_bleu([SAME]).value == pytest.approx(100.0)
    assert self_bleu([APART]).value == pytest.approx(0.0)
    assert self_bleu([SAME, APART]).value == pytest.approx(50.0)


def test_self_bleu_is_each_sample_against_the_others_by_sacrebleu() -> None:
    group = ["a b c d e f", "a b c d x y", "p q c d e f"]
    metric = BLEU(effective_order=True)
    expected = [
        metric.sentence_score(group[0], [group[1], group[2]]).score,
        metric.sentence_score(group[1], [group[0], group[2]]).score,
        metric.sentence_score(group[2], [group[0], group[1]]).score,
    ]
    found = self_bleu([group])
    assert found.value == pytest.approx(sum(expected) / 3)
    assert self_bleu([group[::-1]]).value == pytest.approx(found.value), "blind to their order"
    assert "samples:3" in found.signature
    assert "version:" in found.signature


def test_repetition_is_within_one_output_only() -> None:
    looping = "a b c d " * 5  # 20 words: 17 four-grams, 4 of them distinct
    assert repetition_rate([looping]).value == pytest.approx(1 - 4 / 17)
    assert repetition_rate(["a b c d", "a b c d"]).value == 0.0
    assert repetition_rate(["a a", looping]).value == pytest.approx((1 - 4 / 17) / 2)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="2 samples or more"):
        self_bleu([SAME, ["alone"]])
    with pytest.raises(ValueError, match="0 prompts"):
        self_bleu([])
    with pytest.raises(ValueError, match="at least one output"):
        repetition_rate([])
