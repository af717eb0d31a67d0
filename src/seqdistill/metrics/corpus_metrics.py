"""The metrics of a corpus by the names that recipes use, and for each which way is up.

The one place that knows whether more is better; everything that chooses or compares asks here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from seqdistill.metrics.answers import answer_accuracy, exact_match, final_answer
from seqdistill.metrics.error_rates import sequence_error_rate, token_error_rate
from seqdistill.metrics.score import SummedStatistics
from seqdistill.metrics.scripts import SPACED, Units
from seqdistill.metrics.summaries import (
    rouge_1_statistics,
    rouge_2_statistics,
    rouge_l_statistics,
)
from seqdistill.metrics.translation import bleu_statistics, chrf_statistics


@dataclasses.dataclass(frozen=True)
class CorpusMetric:
    """A score of outputs against references, 0 to 100 (an error rate can be more)."""

    name: str
    """The key in CORPUS_METRICS."""
    statistics: Callable[[Sequence[str], Sequence[str]], SummedStatistics]
    """Outputs and references to rows whose sum gives the score."""
    higher_is_better: bool
    compares_with: Callable[[str], bool] = lambda _reference: True
    """Whether a text can be a reference: not every text holds an answer."""
    title: str = ""
    """What people call it, where that is not its name."""

    def score_key(self, value: float) -> float:
        """The value so that more is better: itself, or its negative for an error rate."""
        return value if self.higher_is_better else -value


def corpus_metrics(units: Units) -> Mapping[str, CorpusMetric]:
    """Every metric by its name, counting in these units."""
    bleu = functools.partial(bleu_statistics, tokenize=units.bleu_tokenizer)
    errors = functools.partial(token_error_rate, characters=units.unspaced)
    return MappingProxyType(
        {
            metric.name: metric
            for metric in (
                CorpusMetric("bleu", bleu, True, title="BLEU"),
                CorpusMetric("chrf", chrf_statistics, True, title="chrF"),
                CorpusMetric("token_error_rate", errors, False, title="token error rate"),
                CorpusMetric(
                    "sequence_error_rate", sequence_error_rate, False, title="sequence error rate"
                ),
                CorpusMetric("rouge_1", rouge_1_statistics, True, title="ROUGE-1"),
                CorpusMetric("rouge_2", rouge_2_statistics, True, title="ROUGE-2"),
                CorpusMetric("rouge_l", rouge_l_statistics, True, title="ROUGE-L"),
                CorpusMetric("exact_match", exact_match, True, title="exact match"),
                CorpusMetric(
                    "answer_accuracy",
                    answer_accuracy,
                    True,
                    compares_with=lambda reference: final_answer(reference) is not None,
                    title="answer accuracy",
                ),
            )
        }
    )


CORPUS_METRICS = corpus_metrics(SPACED)
"""The same for languages with spaces, where nothing else is said: names, and which way is up."""

LOSS = "loss_nats"
"""What dev scores call the mean nats a token of the references: it can choose, but is no score of
outputs."""


def score_key_of(name: str) -> Callable[[float], float]:
    """How the values of a metric, or of LOSS, are turned so that more is better."""
    if name == LOSS:
        return lambda nats: -nats
    return CORPUS_METRICS[name].score_key
