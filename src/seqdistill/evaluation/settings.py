"""How test numbers are measured: what is decided once for all systems, and the interval of each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from seqdistill.core.generators import derived_seed
from seqdistill.generation.decoding import Decoding
from seqdistill.metrics.bootstrap import with_interval
from seqdistill.metrics.corpus_metrics import CorpusMetric, corpus_metrics
from seqdistill.metrics.score import SummedStatistics
from seqdistill.metrics.scripts import SPACED, Units
from seqdistill.records.results import Metric, Score, Value


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """How test numbers are measured. The recipe's `evaluation` section explains each."""

    metrics: Sequence[str]
    beam_size: int
    length_penalty: float
    max_new_tokens: int
    bootstrap_resamples: int
    confidence: float
    seed: int
    sampling_temperatures: Sequence[float] = ()
    samples_per_source: int = 4
    calculator: bool = False
    units: Units = SPACED
    """What the metrics count in, the same for all systems."""

    def metric(self, name: str) -> CorpusMetric:
        """The metric of that name in these units."""
        return corpus_metrics(self.units)[name]

    @property
    def main_metric(self) -> CorpusMetric:
        """What chooses and is tested."""
        return self.metric(self.metrics[0])

    @property
    def greedy(self) -> Decoding:
        """Greedy decoding as evaluation does it."""
        return Decoding(
            beam_size=1, length_penalty=self.length_penalty, max_new_tokens=self.max_new_tokens
        )

    @property
    def beam(self) -> Decoding:
        """Beam search as evaluation does it: the same but for the beam."""
        return dataclasses.replace(self.greedy, beam_size=self.beam_size)


def described(metric: CorpusMetric) -> Metric:
    """What readers of results know of the metric."""
    return Metric(
        name=metric.name,
        title=metric.title or metric.name,
        higher_is_better=metric.higher_is_better,
    )


def measured(statistics: SummedStatistics, settings: EvaluationSettings) -> Value:
    """The score with its interval; all scores see the same resamples of the test set.

    None stands for what JSON has no number for, such as an infinite perplexity and its interval.
    """
    if not math.isfinite(statistics.score().value):
        return Value()
    found = with_interval(
        statistics,
        num_resamples=settings.bootstrap_resamples,
        confidence=settings.confidence,
        generator=np.random.default_rng(derived_seed(settings.seed, "bootstrap")),
    )
    return Value(value=found.value, low=found.low, high=found.high)


def scored(statistics: SummedStatistics, settings: EvaluationSettings) -> Score:
    """The same with the signature."""
    found = measured(statistics, settings)
    return Score(value=found.value, low=found.low, high=found.high, signature=statistics.signature)
