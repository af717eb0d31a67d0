"""BLEU and chrF equal sacrebleu's own public functions, and are functions of summed rows."""

from __future__ import annotations

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from seqdistill.metrics.translation import bleu_statistics, chrf_statistics

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
both = pytest.mark.parametrize(
    ("statistics", "metric"), [(bleu_statistics, BLEU()), (chrf_statistics, CHRF())]
)


@both
def test_scores_and_signatures_are_sacrebleus(statistics, metric) -> None:  # type: ignore
    score = statistics(HYPOTHESES, REFERENCES).score()
    expected = metric.corpus_score(HYPOTHESES, [REFERENCES]).score
    assert score.value == pytest.approx(expected, rel=1e-12)
    assert score.signature == str(metric.get_signature())
    texts = ["one two three four five", "six seven eight nine ten"]
    assert statistics(texts, texts).score().value == pytest.approx(100.0)
    assert statistics(["", ""], texts).score().value == 0.0


def test_the_tokenizer_is_part_of_the_signature_and_changes_the_score() -> None:
    words = bleu_statistics(HYPOTHESES, REFERENCES).score()
    characters = bleu_statistics(HYPOTHESES, REFERENCES, tokenize="char").score()
    assert "tok:char" in characters.signature
    assert characters.value != words.value


@both
def test_the_score_of_a_part_is_the_score_of_its_summed_rows(statistics, metric) -> None:  # type: ignore
    whole = statistics(HYPOTHESES, REFERENCES)
    part = statistics(HYPOTHESES[:3], REFERENCES[:3])
    np.testing.assert_array_equal(whole.rows[:3], part.rows)
    assert whole.score_of_sums(whole.rows[:3].sum(axis=0)) == part.score().value
