"""Every metric that recipes can name: its rows can be resampled, and it knows which way is up."""

from __future__ import annotations

import numpy as np
import pytest

from seqdistill.core.families import METRICS
from seqdistill.metrics.bootstrap import paired_bootstrap, with_interval
from seqdistill.metrics.corpus_metrics import corpus_metrics
from seqdistill.testing import check_metric

REFERENCES = [f"the {n} cats sat on {n + 1} mats #### {n + 2}" for n in range(40)]
GOOD = [text if n % 4 else "no #### 0" for n, text in enumerate(REFERENCES)]
BAD = [text if n % 2 else "no #### 0" for n, text in enumerate(REFERENCES)]


OWN = [name for name, member in METRICS.items() if isinstance(member.target, str)]
"""Without those of plug-ins that other tests import."""


@pytest.mark.parametrize("name", OWN)
def test_intervals_and_paired_tests_work_by_every_metric(name: str) -> None:
    metric, draw = corpus_metrics()[name], np.random.default_rng(1)
    good, bad = (metric.statistics(outputs, REFERENCES) for outputs in (GOOD, BAD))
    score = with_interval(good, num_resamples=200, confidence=0.95, generator=draw)
    assert score.low is not None and score.high is not None
    assert score.low < score.value < score.high
    assert (score.name, score.signature) == (name, bad.signature)
    assert "version:" in score.signature or "rouge-score:" in score.signature
    found = paired_bootstrap(good, bad, num_resamples=200, confidence=0.95, generator=draw)
    assert metric.score_key(found.delta) > 0
    assert found.low * found.high > 0, "the interval of the difference holds zero"
    check_metric(name)
    for outputs, references in ((["a"], ["a", "b"]), ([], [])):
        with pytest.raises(ValueError, match=r"every hypothesis|at least one segment"):
            metric.statistics(outputs, references)
