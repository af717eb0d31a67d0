"""How test numbers are measured: what is decided once for all systems, and the interval of each."""

from __future__ import annotations

import dataclasses
import math
from typing import TypedDict

import numpy as np

from seqdistill.core.generators import derived_seed
from seqdistill.metrics.bootstrap import with_interval
from seqdistill.metrics.corpus_metrics import CorpusMetric, corpus_metrics
from seqdistill.metrics.score import SummedStatistics
from seqdistill.metrics.scripts import SPACED, Units
from seqdistill.recipe.schema import EvaluationSection
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.records.results import Metric, Score, Value


class Resampling(TypedDict):
    """How a bootstrap draws."""

    num_resamples: int
    confidence: float
    generator: np.random.Generator


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """How test numbers are measured: as a recipe's section says, and as its data decided."""

    section: EvaluationSection
    metrics: tuple[str, ...]
    """What is measured; the first is the main one."""
    units: Units = SPACED
    """What the metrics count in, the same for all systems."""
    seed: int = 1

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
            beam_size=1,
            length_penalty=self.section.length_penalty,
            max_new_tokens=self.section.max_new_tokens,
        )

    @property
    def beam(self) -> Decoding:
        """Beam search as evaluation does it: the same but for the beam."""
        return self.greedy.model_copy(update={"beam_size": self.section.beam_size})

    def resampling(self, purpose: str) -> Resampling:
        """The same resamples at every call for the same purpose."""
        return {
            "num_resamples": self.section.bootstrap_resamples,
            "confidence": self.section.confidence,
            "generator": np.random.default_rng(derived_seed(self.seed, purpose)),
        }


def described(metric: CorpusMetric) -> Metric:
    """What readers of results know of the metric."""
    title, higher = metric.title or metric.name, metric.higher_is_better
    return Metric(name=metric.name, title=title, higher_is_better=higher)


def measured(statistics: SummedStatistics, settings: EvaluationSettings) -> Value:
    """The score with its interval; all scores see the same resamples of the test set.

    None stands for what JSON has no number for, such as an infinite perplexity and its interval.
    """
    if not math.isfinite(statistics.score().value):
        return Value()
    found = with_interval(statistics, **settings.resampling("bootstrap"))
    return Value(value=found.value, low=found.low, high=found.high)


def scored(statistics: SummedStatistics, settings: EvaluationSettings) -> Score:
    """The same with the signature."""
    found = measured(statistics, settings)
    return Score(value=found.value, low=found.low, high=found.high, signature=statistics.signature)
