"""ROUGE: rouge-score's numbers, by hand on small texts, and rows that can be resampled."""

from __future__ import annotations

import random
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


def test_words_are_stemmed_and_their_case_does_not_count() -> None:
    assert rouge_f1("rouge1", "Viewing Images", "view image") == pytest.approx(1.0)
    assert rouge_f1("rouge1", "image viewers", "zebra") == 0.0
    assert rouge_f1("rougeL", "", "a word here") == 0.0
