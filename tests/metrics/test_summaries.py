"""ROUGE: rouge-score's numbers, by hand on small texts, and rows that can be resampled."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from seqdistill.metrics.score import SummedStatistics
from seqdistill.metrics.summaries import (
    rouge_1_statistics,
    rouge_2_statistics,
    rouge_f1,
    rouge_l_statistics,
)

Statistics = Callable[[list[str], list[str]], SummedStatistics]
WORDS = ["cat", "dog", "tree", "sun", "sea", "map", "key", "box"]
every_rouge = pytest.mark.parametrize(
    "statistics", [rouge_1_statistics, rouge_2_statistics, rouge_l_statistics]
)


def random_texts(seed: int, count: int = 40) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 9))) for _ in range(count)]


def longest_common(first: list[str], second: list[str]) -> int:
    if not first or not second:
        return 0
    if first[0] == second[0]:
        return 1 + longest_common(first[1:], second[1:])
    return max(longest_common(first[1:], second), longest_common(first, second[1:]))


def f1(shared: int, written: int, expected: int) -> float:
    return 2 * shared / (written + expected) if shared else 0.0


def test_words_pairs_and_subsequences_equal_naive_counts() -> None:
    for output, reference in zip(random_texts(1), random_texts(2), strict=True):
        mine, theirs = output.split(), reference.split()
        shared = (Counter(mine) & Counter(theirs)).total()
        assert rouge_f1("rouge1", output, reference) == pytest.approx(
            f1(shared, len(mine), len(theirs))
        )
        pairs = [Counter(itertools.pairwise(words)) for words in (mine, theirs)]
        assert rouge_f1("rouge2", output, reference) == pytest.approx(
            f1((pairs[0] & pairs[1]).total(), pairs[0].total(), pairs[1].total())
        )
        assert rouge_f1("rougeL", output, reference) == pytest.approx(
            f1(longest_common(mine, theirs), len(mine), len(theirs))
        )


@every_rouge
def test_the_corpus_score_is_the_mean_of_rouge_scores_own_values(statistics: Statistics) -> None:
    outputs, references = random_texts(3), random_texts(4)
    found = statistics(outputs, references)
    kind = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}[found.name]
    scorer = RougeScorer([kind], use_stemmer=True)
    expected = [
        scorer.score(reference, output)[kind].fmeasure
        for output, reference in zip(outputs, references, strict=True)
    ]
    assert found.score().value == pytest.approx(100 * np.mean(expected), rel=1e-12)
    assert "stem:porter" in found.signature
    assert "rouge-score:" in found.signature


@every_rouge
def test_the_score_of_a_part_is_that_of_its_summed_rows(statistics: Statistics) -> None:
    outputs, references = random_texts(5), random_texts(6)
    whole, part = statistics(outputs, references), statistics(outputs[:7], references[:7])
    assert whole.score_of_sums(whole.rows[:7].sum(axis=0)) == part.score().value


def test_words_are_stemmed_and_their_case_does_not_count() -> None:
    assert rouge_f1("rouge1", "Viewing Images", "view image") == pytest.approx(1.0)
    assert rouge_f1("rouge1", "image viewers", "zebra") == 0.0


@every_rouge
def test_an_empty_output_has_zero_and_an_empty_corpus_is_refused(statistics: Statistics) -> None:
    assert statistics([""], ["a word here"]).score().value == 0.0
    with pytest.raises(ValueError, match="at least one segment"):
        statistics([], [])
