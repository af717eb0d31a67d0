"""Every metric that recipes can name: its rows can be resampled, and it knows which way is up."""

from __future__ import annotations

import numpy as np
import pytest

from seqdistill.metrics.bootstrap import paired_bootstrap, with_interval
from seqdistill.metrics.corpus_metrics import CORPUS_METRICS
from seqdistill.metrics.score import SummedStatistics
from seqdistill.testing import check_metric

REFERENCES = [f"the {n} cats sat on {n + 1} mats #### {n + 2}" for n in range(40)]
GOOD = [text if n % 4 else "no #### 0" for n, text in enumerate(REFERENCES)]
BAD = [text if n % 2 else "no #### 0" for n, text in enumerate(REFERENCES)]


def statistics(name: str, outputs: list[str]) -> SummedStatistics:
    return CORPUS_METRICS[name].statistics(outputs, REFERENCES)


@pytest.mark.parametrize("name", CORPUS_METRICS)
def test_the_interval_of_a_metric_holds_its_value(name: str) -> None:
    score = with_interval(
        statistics(name, GOOD),
        num_resamples=200,
        confidence=0.95,
        generator=np.random.default_rng(1),
    )
    assert score.low is not None
    assert score.high is not None
    assert score.low < score.value < score.high
    assert (score.name, score.signature) == (name, statistics(name, BAD).signature)
    assert "version:" in score.signature or "rouge-score:" in score.signature
    check_metric(name)


@pytest.mark.parametrize("name", CORPUS_METRICS)
def test_paired_tests_find_the_better_system_by_every_metric(name: str) -> None:
    found = paired_bootstrap(
        statistics(name, GOOD),
        statistics(name, BAD),
        num_resamples=200,
        confidence=0.95,
        generator=np.random.default_rng(2),
    )
    assert CORPUS_METRICS[name].score_key(found.delta) > 0
    assert found.low * found.high > 0, "the interval of the difference holds zero"


@pytest.mark.parametrize("name", CORPUS_METRICS)
def test_every_metric_refuses_uneven_sides_and_an_empty_corpus(name: str) -> None:
    for outputs, references in ((["a"], ["a", "b"]), ([], [])):
        with pytest.raises(ValueError, match=r"every hypothesis|at least one segment"):
            CORPUS_METRICS[name].statistics(outputs, references)
