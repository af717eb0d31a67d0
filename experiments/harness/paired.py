"""The interval of a difference between two systems that wrote for one test set."""

from __future__ import annotations

import numpy as np

from experiments.harness.statistics import CONFIDENCE
from seqdistill.core.generators import derived_seed
from seqdistill.metrics.bootstrap import paired_bootstrap
from seqdistill.metrics.score import SummedStatistics

NUM_RESAMPLES = 1000


def difference_interval(
    own: SummedStatistics, other: SummedStatistics, *, num_resamples: int = NUM_RESAMPLES
) -> list[float]:
    """The ends of the interval of own - other, both on the same resampled test sets."""
    found = paired_bootstrap(
        own,
        other,
        num_resamples=num_resamples,
        confidence=CONFIDENCE,
        generator=np.random.default_rng(derived_seed(1, "paired rows")),
    )
    return [found.low, found.high]
