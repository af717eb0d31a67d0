"""One system on the test set: quality greedy and by beam, likelihood, mode share, size.

Its numbers come with what is needed to compare it with others on the same sentences. Speed is
measured apart, for all systems in turn.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from seqdistill.compression.layers import parameter_count
from seqdistill.core.generators import derived_seed
from seqdistill.data.batching import Collator
from seqdistill.data.encoding import EncodedExample
from seqdistill.evaluation.likelihood import reference_likelihood
from seqdistill.generation.decoding import Decoding, Hypothesis, SequenceGenerator
from seqdistill.metrics.bootstrap import (
    paired_approximate_randomization,
    paired_bootstrap,
    with_interval,
)
from seqdistill.metrics.corpus_metrics import CORPUS_METRICS
from seqdistill.metrics.likelihood import mode_share, perplexity
from seqdistill.metrics.score import Score, SummedStatistics
from seqdistill.models.adapters import SequenceModel


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


@dataclasses.dataclass(frozen=True)
class SystemUnderTest:
    """A model, how it decodes, and the test set in its own token ids."""

    name: str
    method: str
    init: str
    bytes: int
    model: SequenceModel
    tokenizer: PreTrainedTokenizerBase
    generator: SequenceGenerator
    examples: Sequence[EncodedExample]
    collator: Collator


@dataclasses.dataclass(frozen=True)
class SystemResult:
    """The row of a system and what paired tests and samples need."""

    row: dict[str, object]
    beam_texts: tuple[str, ...]
    greedy_texts: tuple[str, ...]
    beam: Mapping[str, SummedStatistics]
    """Each metric's statistics of the beam outputs; the first metric is the main one."""
    greedy: Mapping[str, SummedStatistics]
    """The same of the greedy outputs."""


def decodings(settings: EvaluationSettings) -> tuple[Decoding, Decoding]:
    """Greedy and beam decoding as evaluation does them."""
    greedy = Decoding(
        beam_size=1,
        length_penalty=settings.length_penalty,
        max_new_tokens=settings.max_new_tokens,
    )
    return greedy, dataclasses.replace(greedy, beam_size=settings.beam_size)


def _texts(
    system: SystemUnderTest, decoding: Decoding
) -> tuple[tuple[str, ...], tuple[Hypothesis | None, ...]]:
    found = system.generator.generate([e.source_ids for e in system.examples], decoding)
    best = tuple(hypotheses[0] if hypotheses else None for hypotheses in found)
    ids = [() if hypothesis is None else hypothesis.token_ids for hypothesis in best]
    texts = system.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return tuple(text.strip() for text in texts), best


def _whole_log_prob(hypothesis: Hypothesis | None) -> float:
    if hypothesis is None or not hypothesis.finished:
        return float("-inf")
    return hypothesis.log_prob


def evaluate_translations(
    system: SystemUnderTest, references: Sequence[str], settings: EvaluationSettings
) -> SystemResult:
    """Everything that decoding the test set tells of one system.

    `mode_share` is p(t = y-hat), the mean probability mass of the system's own best hypothesis
    (Kim and Rush 2016, table 1); one that did not end in time is no whole output and counts as
    zero, though the mass of its beginning is not.
    """
    greedy, beam = decodings(settings)
    greedy_texts, _ = _texts(system, greedy)
    beam_texts, best = _texts(system, beam)
    greedy_statistics = _statistics(greedy_texts, references, settings)
    beam_statistics = _statistics(beam_texts, references, settings)
    row: dict[str, object] = {
        "name": system.name,
        "method": system.method,
        "init": system.init,
        "parameters": parameter_count(system.model.module),
        "bytes": system.bytes,
        **_quality(greedy_statistics, beam_statistics, settings),
        "mode_share": mode_share([_whole_log_prob(hypothesis) for hypothesis in best]),
        "unfinished": sum(1 for h in best if h is None or not h.finished),
    }
    return SystemResult(row, beam_texts, greedy_texts, beam_statistics, greedy_statistics)


def _statistics(
    texts: Sequence[str], references: Sequence[str], settings: EvaluationSettings
) -> dict[str, SummedStatistics]:
    return {name: CORPUS_METRICS[name].statistics(texts, references) for name in settings.metrics}


def _quality(
    greedy: Mapping[str, SummedStatistics],
    beam: Mapping[str, SummedStatistics],
    settings: EvaluationSettings,
) -> dict[str, object]:
    """The columns of every metric X: `X_greedy` and `X_beam`, each with `_low` and `_high`.

    `signature` is the main metric's, `X_signature` another's; `chrf` is chrF by beam search.
    """
    columns: dict[str, object] = {}
    for name in settings.metrics:
        for mode, statistics in (("greedy", greedy[name]), ("beam", beam[name])):
            score = scored(statistics, settings)
            columns |= {
                f"{name}_{mode}": score.value,
                f"{name}_{mode}_low": score.low,
                f"{name}_{mode}_high": score.high,
            }
        key = "signature" if name == settings.metrics[0] else f"{name}_signature"
        columns[key] = beam[name].signature
    if "chrf" in settings.metrics:
        columns["chrf"] = columns["chrf_beam"]
    return columns


def scored(statistics: SummedStatistics, settings: EvaluationSettings) -> Score:
    """The score with its interval; all scores see the same resamples of the test set."""
    return with_interval(
        statistics,
        num_resamples=settings.bootstrap_resamples,
        confidence=settings.confidence,
        generator=np.random.default_rng(derived_seed(settings.seed, "bootstrap")),
    )


def evaluate_system(
    system: SystemUnderTest, references: Sequence[str], settings: EvaluationSettings
) -> SystemResult:
    """Everything about one system but its speed: its translations, and `perplexity`.

    That is per target token, end token included, of the model itself (not of its converted copy),
    and compares only between systems of one vocabulary.
    """
    result = evaluate_translations(system, references, settings)
    likelihood = reference_likelihood(system.model, system.examples, system.collator)
    value = perplexity(sum(likelihood.nats), sum(likelihood.num_targets))
    return dataclasses.replace(result, row={**result.row, "perplexity": _finite(value)})


def _finite(value: float) -> float | None:
    """The value, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None


def compare_systems(
    system: SystemResult, baseline: SystemResult, settings: EvaluationSettings
) -> list[dict[str, object]]:
    """Paired tests of a system against a baseline: the main metric by beam and greedy.

    The p-value is two-sided, of exchanging outputs between the systems; the interval is a paired
    bootstrap's.
    """
    rows: list[dict[str, object]] = []
    main = settings.metrics[0]
    for metric, own, other in (
        (f"{main}_beam", system.beam[main], baseline.beam[main]),
        (f"{main}_greedy", system.greedy[main], baseline.greedy[main]),
    ):
        generator = np.random.default_rng(derived_seed(settings.seed, f"paired {metric}"))
        exchanged = paired_approximate_randomization(
            own, other, num_trials=settings.bootstrap_resamples, generator=generator
        )
        resampled = paired_bootstrap(
            own,
            other,
            num_resamples=settings.bootstrap_resamples,
            confidence=settings.confidence,
            generator=generator,
        )
        rows.append(
            {
                "system": system.row["name"],
                "versus": baseline.row["name"],
                "metric": metric,
                "delta": exchanged.delta,
                "p_value": exchanged.p_value,
                "low": resampled.low,
                "high": resampled.high,
                "confidence": settings.confidence,
                "test": f"{exchanged.test}, {exchanged.num_samples} trials; interval by paired "
                "bootstrap",
            }
        )
    return rows
