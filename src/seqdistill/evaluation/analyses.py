"""What explains a system's quality: certainty, search, length and teacher, and its samples.

Fields of a system's results, each with its interval where one makes sense.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from transformers import PreTrainedTokenizerBase

from seqdistill.core.generators import derived_seed
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.data.encoding import EncodedExample
from seqdistill.evaluation.likelihood import ReferencePredictions
from seqdistill.evaluation.settings import EvaluationSettings, measured, scored
from seqdistill.generation.decoding import Hypothesis, SequenceGenerator
from seqdistill.metrics.bootstrap import paired_bootstrap
from seqdistill.metrics.corpus_metrics import CorpusMetric
from seqdistill.metrics.diversity import repetition_rate, self_bleu
from seqdistill.metrics.likelihood import (
    mean_by_position,
    mode_share_statistics,
    perplexity_statistics,
)
from seqdistill.metrics.score import SummedStatistics, mean_statistics
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.records.results import Decoded, EntropyCurve, Sampled, Score, Value


class Predicted(TypedDict):
    """What a model's own predictions of the references give."""

    loss_nats: Value
    perplexity: Value
    entropy_nats: Value


def mode_share(best: Sequence[Hypothesis | None], settings: EvaluationSettings) -> Value:
    """p(t = y-hat), the mean probability of a system's own beam output.

    An output that did not end in time is no whole output and counts as zero, though the mass of its
    beginning is not.

    Source: Kim and Rush 2016, table 1.
    """
    log_probs = [h.log_prob if h is not None and h.finished else float("-inf") for h in best]
    return measured(mode_share_statistics(log_probs), settings)


def greedy_beam_gap(
    greedy: SummedStatistics, beam: SummedStatistics, settings: EvaluationSettings
) -> Value:
    """What beam search gains over greedy decoding, in points of the main metric.

    Positive where beam search is better, also of an error rate. Both are scored on the same
    resamples, so the interval is that of the difference.
    """
    found = paired_bootstrap(beam, greedy, **settings.resampling("greedy-beam gap"))
    score_key = settings.main_metric.score_key
    low, high = sorted((score_key(found.low), score_key(found.high)))
    return Value(value=score_key(found.delta), low=low, high=high)


def decoded(
    best: Sequence[Hypothesis | None],
    statistics: Mapping[str, SummedStatistics],
    target_ids: Sequence[Sequence[int]],
    settings: EvaluationSettings,
) -> Decoded:
    """Quality and length of the outputs of one way of decoding; its speed is measured apart.

    Tokens are those of the system's own vocabulary, the end token included where there is one.
    """
    lengths = [0 if hypothesis is None else len(hypothesis.token_ids) for hypothesis in best]
    return Decoded(
        scores={name: scored(statistics[name], settings) for name in settings.metrics},
        length=sum(lengths) / len(lengths),
        length_ratio=sum(lengths) / sum(map(len, target_ids)),
    )


def predicted(predictions: ReferencePredictions, settings: EvaluationSettings) -> Predicted:
    """Loss, perplexity and entropy over all positions of the references.

    The loss is nats per target token, end token included, and perplexity its exponential: both
    compare only between systems of one vocabulary. The entropy is that of the model's next-token
    distribution.
    """
    counts = [len(nats) for nats in predictions.nats]
    totals = [float(nats.sum()) for nats in predictions.nats]
    entropies = [float(nats.sum()) for nats in predictions.entropy_nats]
    signature = "nats/token|eos:scored"
    loss = mean_statistics("loss_nats", signature, totals, counts)
    entropy = mean_statistics("entropy", signature, entropies, counts)
    return {
        "loss_nats": measured(loss, settings),
        "perplexity": measured(perplexity_statistics(totals, counts), settings),
        "entropy_nats": measured(entropy, settings),
    }


def entropy_curve(predictions: ReferencePredictions) -> EntropyCurve:
    """Mean entropy at each target position."""
    means, counts = mean_by_position(predictions.entropy_nats)
    return EntropyCurve(entropy_nats=tuple(means.tolist()), counts=tuple(counts.tolist()))


def agreement_with_outputs(
    texts: Sequence[str], teacher_texts: Sequence[str], settings: EvaluationSettings
) -> tuple[Score | None, float | None]:
    """The main metric against the teacher's beam outputs, and the fraction that is the same text,
    white space apart.

    None where the teacher wrote nothing at all. A teacher's output that the metric cannot compare
    with, one without an answer, is left out of the first, which is None where that is all of them.
    """
    if not any(text.strip() for text in teacher_texts):
        return None, None
    metric = settings.main_metric
    pairs = [
        (text, theirs)
        for text, theirs in zip(texts, teacher_texts, strict=True)
        if metric.compares_with(theirs)
    ]
    score = None
    if pairs:
        own, others = zip(*pairs, strict=True)
        score = scored(metric.statistics(own, others), settings)
    same = sum(t.split() == o.split() for t, o in zip(texts, teacher_texts, strict=True))
    return score, same / len(texts)


def token_agreement(
    own: ReferencePredictions, teacher: ReferencePredictions, settings: EvaluationSettings
) -> Value | None:
    """The fraction of reference positions at which both find the same token likeliest.

    None where the two read the references as different tokens, as models of different vocabularies
    do: their positions do not correspond.
    """
    if own.target_ids != teacher.target_ids:
        return None
    same = [
        float((ours == theirs).sum())
        for ours, theirs in zip(own.top_ids, teacher.top_ids, strict=True)
    ]
    statistics = mean_statistics(
        "agreement", "top-1|reference prefixes", same, [len(ids) for ids in own.top_ids]
    )
    return measured(statistics, settings)


@dataclasses.dataclass(frozen=True)
class SampledOutputs:
    """Independent samples of a system for each source."""

    temperature: float
    texts: tuple[tuple[str, ...], ...]
    """Of each source, in order."""
    finished_fraction: float
    """How many of them have an end."""


def sampled_outputs(
    generator: SequenceGenerator,
    examples: Sequence[EncodedExample],
    tokenizer: PreTrainedTokenizerBase,
    settings: EvaluationSettings,
) -> list[SampledOutputs]:
    """The samples at each of the settings' temperatures; the same again for the same seed."""
    found = []
    for temperature in settings.section.sampling_temperatures:
        decoding = Decoding(
            mode="sample",
            n_best=settings.section.samples_per_source,
            sampling_temperature=temperature,
            max_new_tokens=settings.section.max_new_tokens,
        )
        seed = derived_seed(settings.seed, f"evaluation/temperature-{temperature:g}")
        hypotheses = generator.generate([e.prompt for e in examples], decoding, seed=seed)
        flat = [hypothesis for group in hypotheses for hypothesis in group]
        decoded = TextDecoder(tokenizer).texts(h.content_ids for h in flat)
        texts = iter(text.strip() for text in decoded)
        groups = tuple(tuple(next(texts) for _ in group) for group in hypotheses)
        finished = sum(h.finished for h in flat) / max(1, len(flat))
        found.append(SampledOutputs(temperature, groups, finished))
    return found


def sampled_scores(
    outputs: Sequence[SampledOutputs], references: Sequence[str], settings: EvaluationSettings
) -> tuple[Sampled, ...]:
    """Every metric over all samples, self-BLEU and repetition, with intervals over sources.

    Samples of one source are resampled together.
    """
    return tuple(
        Sampled(
            temperature=sampled.temperature,
            scores={
                name: scored(_pooled(settings.metric(name), sampled.texts, references), settings)
                for name in settings.metrics
            },
            self_bleu=measured(_self_bleu(sampled.texts, settings), settings),
            repetition=repetition_rate([text for group in sampled.texts for text in group]).value,
            finished_fraction=sampled.finished_fraction,
        )
        for sampled in sorted(outputs, key=lambda each: each.temperature)
    )


def _pooled(
    metric: CorpusMetric, texts: Sequence[Sequence[str]], references: Sequence[str]
) -> SummedStatistics:
    """Statistics of all samples against the reference, those of a source added up."""
    by_place = [
        metric.statistics([group[place] for group in texts], references)
        for place in range(len(texts[0]))
    ]
    rows = np.sum([statistics.rows for statistics in by_place], axis=0)
    return dataclasses.replace(by_place[0], rows=rows)


def _self_bleu(texts: Sequence[Sequence[str]], settings: EvaluationSettings) -> SummedStatistics:
    """The self-BLEU of each source's samples, all weighing alike."""
    tokenize = settings.units.bleu_tokenizer
    scores = [self_bleu([group], tokenize=tokenize) for group in texts]
    signature = scores[0].signature
    return mean_statistics("self_bleu", signature, [s.value for s in scores])
