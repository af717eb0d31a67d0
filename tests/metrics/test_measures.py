"""Small measures: error rates, perplexity, diversity and soundness, by hand and by naive loops."""

from __future__ import annotations

import functools
import math
import random
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from transformers.models.whisper.english_normalizer import BasicTextNormalizer

from seqdistill.metrics.diversity import repetition_rate, self_bleu
from seqdistill.metrics.error_rates import (
    edit_distance,
    sequence_error_rate,
    spoken_words,
    token_error_rate,
    word_error_rate,
)
from seqdistill.metrics.likelihood import (
    mean_by_position,
    mode_share_statistics,
    perplexity,
    perplexity_statistics,
)
from seqdistill.metrics.soundness import faults_of, fraction_kept


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


def test_spoken_words_are_those_of_whispers_basic_normalizer() -> None:
    texts = [
        "Hello, World!",
        "(laughs) It's 3.14 [noise] <unk> — Straße, ÉTÉ e\u0301 ﬁ",
        "a(b c)d [e (f] g) ((h) i)",
        " \u0130stanbul, don\u2019t ... ",
    ]
    for text in texts:
        assert spoken_words(text) == BasicTextNormalizer()(text).split()
    found = word_error_rate(["HELLO world!", "a b"], ["hello, world", "a c."])
    assert found.score().value == 25.0


def test_errors_are_summed_over_the_corpus_before_the_division() -> None:
    def rate(outputs: list[str], references: list[str]) -> float:
        return token_error_rate(outputs, references).score().value

    # 1 substitution of 4 tokens, 1 insertion to 1 token: 2 of 5, not the mean of 25 % and 100 %.
    assert rate(["a b x d", "q  r"], ["a b c d", "q"]) == pytest.approx(40.0)
    assert rate(["", ""], ["a b", "c"]) == pytest.approx(100.0)
    assert rate(["x y z", ""], ["", "c"]) == pytest.approx(400.0)
    statistics = token_error_rate(["x", ""], ["", "c"])
    assert statistics.score_of_sums(statistics.rows[0]) == 100.0, "a resample without a token"
    with pytest.raises(ValueError, match="something counted"):
        token_error_rate(["a"], [" "])
    wrong = sequence_error_rate(["a b", " a  b ", "a c", "ab"], ["a b"] * 4)
    assert wrong.score().value == pytest.approx(50.0), "white space is no token"


def test_perplexity_is_the_exponential_of_the_mean_over_all_tokens() -> None:
    assert perplexity(17 * math.log(50), 17) == pytest.approx(50.0)
    assert perplexity(math.inf, 4) == perplexity(1e6, 1) == math.inf
    statistics = perplexity_statistics([2.0, 30.0], [2, 10])
    assert statistics.score().value == pytest.approx(math.exp(32 / 12))


@pytest.mark.parametrize(
    ("log_probs", "expected"),
    # Rounding of float32 sums above zero is forgiven.
    [([math.log(0.5), math.log(0.1)], 0.3), ([-1e9], 0.0), ([0.0, 1e-6], 1.0), ([0.5], None),
     ([-1.0, math.nan], None)],
)  # fmt: skip
def test_mode_share_is_the_mean_probability(log_probs: list[float], expected: float | None) -> None:
    if expected is not None:
        assert mode_share_statistics(log_probs).score().value == pytest.approx(expected)
        return
    with pytest.raises(ValueError, match="log-probabilities must be numbers of at most 0"):
        mode_share_statistics(log_probs)


def test_means_by_position_equal_a_loop_over_ragged_rows() -> None:
    draw = np.random.default_rng(3)
    rows = [draw.random(length) for length in (4, 0, 1, 7, 4)]
    means, counts = mean_by_position(rows)
    assert counts.tolist() == [4, 3, 3, 3, 1, 1, 1]
    for position, mean in enumerate(means):
        reached = [row[position] for row in rows if len(row) > position]
        assert mean == pytest.approx(sum(reached) / len(reached))


def test_self_bleu_is_each_sample_against_the_others_by_sacrebleu() -> None:
    same = ["the cat sat on the mat"] * 3
    apart = ["one two three four five", "six seven eight nine ten", "red green blue black white"]
    assert self_bleu([same[:2], apart]).value == pytest.approx(50.0)
    group = ["a b c d e f", "a b c d x y", "p q c d e f"]
    metric = BLEU(effective_order=True)
    expected = [
        metric.sentence_score(one, [other for other in group if other is not one]).score
        for one in group
    ]
    found = self_bleu([group])
    assert found.value == pytest.approx(sum(expected) / 3)
    assert "samples:3" in found.signature and "version:" in found.signature
    with pytest.raises(ValueError, match="2 samples or more"):
        self_bleu([same, ["alone"]])
    with pytest.raises(ValueError, match="0 prompts"):
        self_bleu([])


def test_repetition_is_within_one_output_only() -> None:
    looping = "a b c d " * 5  # 20 words: 17 four-grams, 4 of them distinct
    assert repetition_rate(["a b c d", "a b c d"]).value == 0.0
    assert repetition_rate(["a a", looping]).value == pytest.approx((1 - 4 / 17) / 2)
    with pytest.raises(ValueError, match="at least one output"):
        repetition_rate([])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, None),
        ({"unfinished": 15}, None),
        ({"unfinished": 16}, "16 of 150 outputs have no end"),
        ({"empty": 15}, None),
        ({"empty": 16}, "16 of 150 outputs are empty"),
        ({"repetition": 0.22}, None),
        ({"repetition": 0.7}, "70% of an output’s 4-grams repeat"),
        # Texts that repeat themselves may: their references do.
        ({"repetition": 0.7, "repetition_references": 0.6}, None),
        ({"kept": None}, None),
        ({"kept": 0.5}, None),
        ({"kept": 0.497}, "it keeps 50% of the teacher’s score"),
        ({"kept": 0.0}, "it keeps 0% of the teacher’s score"),
    ],
)
def test_each_sign_beyond_its_limit_is_a_fault(changed: dict[str, Any], words: str | None) -> None:
    sound = {"repetition": 0.05, "repetition_references": 0.02, "kept": 0.8}
    faults = faults_of(**{"outputs": 150, "unfinished": 0, "empty": 0, **sound, **changed})
    assert len(faults) == (words is not None) and all(str(words) in fault for fault in faults)


def test_of_an_error_rate_what_is_right_is_compared() -> None:
    assert fraction_kept(15.0, 30.0, higher_is_better=True) == 0.5
    assert fraction_kept(55.0, 10.0, higher_is_better=False) == 0.5
    assert fraction_kept(140.0, 10.0, higher_is_better=False) == 0.0
    assert fraction_kept(1.0, 0.0, higher_is_better=True) is None
