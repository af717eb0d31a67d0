"""BLEU and chrF equal sacrebleu's own public functions, and are functions of summed rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import sacrebleu
from sacrebleu.metrics import BLEU, CHRF

from seqdistill.metrics.score import Score, SummedStatistics
from seqdistill.metrics.translation import (
    bleu_statistics,
    chrf_statistics,
    corpus_bleu,
    corpus_chrf,
)

REFERENCES = [
    "Click the button to open the file .",
    "This package contains the documentation.",
    "",
    "Der Befehl gibt den Namen der Datei aus.",
    "ファイルを開くにはボタンをクリックします。",
]
HYPOTHESES = [
    "Press the button to open a file.",
    "This package has the documentation.",
    "spurious output",
    "",
    "ファイルを開くには、ボタンを押します。",
]


def test_bleu_equals_sacrebleu_and_carries_its_signature() -> None:
    metric = BLEU()
    expected = metric.corpus_score(HYPOTHESES, [REFERENCES]).score
    score = corpus_bleu(HYPOTHESES, REFERENCES)
    assert score.value == pytest.approx(expected, rel=1e-12)
    assert score.signature == str(metric.get_signature())
    assert f"version:{sacrebleu.__version__}" in score.signature
    assert (score.low, score.high, score.confidence) == (None, None, None)


def test_chrf_equals_sacrebleu_and_carries_its_signature() -> None:
    metric = CHRF()
    expected = metric.corpus_score(HYPOTHESES, [REFERENCES]).score
    score = corpus_chrf(HYPOTHESES, REFERENCES)
    assert score.value == pytest.approx(expected, rel=1e-12)
    assert score.signature == str(metric.get_signature())


def test_the_tokenizer_is_part_of_the_signature_and_changes_the_score() -> None:
    words = corpus_bleu(HYPOTHESES, REFERENCES)
    characters = corpus_bleu(HYPOTHESES, REFERENCES, tokenize="char")
    assert "tok:char" in characters.signature
    assert characters.value != words.value


@pytest.mark.parametrize("statistics", [bleu_statistics, chrf_statistics])
def test_the_score_of_a_part_is_the_score_of_its_summed_rows(
    statistics: Callable[[list[str], list[str]], SummedStatistics],
) -> None:
    whole = statistics(HYPOTHESES, REFERENCES)
    part = statistics(HYPOTHESES[:3], REFERENCES[:3])
    np.testing.assert_array_equal(whole.rows[:3], part.rows)
    assert whole.score_of_sums(whole.rows[:3].sum(axis=0)) == part.score().value


@pytest.mark.parametrize("score", [corpus_bleu, corpus_chrf])
def test_a_perfect_corpus_scores_one_hundred_and_an_empty_output_zero(
    score: Callable[[list[str], list[str]], Score],
) -> None:
    texts = ["one two three four five", "six seven eight nine ten"]
    assert score(texts, texts).value == pytest.approx(100.0)
    assert score(["", ""], texts).value == 0.0


@pytest.mark.parametrize("score", [corpus_bleu, corpus_chrf])
def test_sides_of_different_length_and_empty_corpora_are_refused(
    score: Callable[[list[str], list[str]], Score],
) -> None:
    with pytest.raises(ValueError, match="2 hypotheses and 1 references"):
        score(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="at least one segment"):
        score([], [])
