"""What explains a system's quality, after Kim and Rush: certainty, search, length, teacher.

Columns of a row, each a number with its interval where one makes sense, and curves over positions.
Runs no model: outputs and predictions come ready.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from seqdistill.core.generators import derived_seed
from seqdistill.evaluation.likelihood import ReferencePredictions
from seqdistill.evaluation.settings import EvaluationSettings, interval_columns
from seqdistill.generation.decoding import Hypothesis
from seqdistill.metrics.agreement import exact_match_share, length_ratio
from seqdistill.metrics.bootstrap import paired_bootstrap
from seqdistill.metrics.diversity import repetition_rate
from seqdistill.metrics.likelihood import (
    mean_by_position,
    mode_share_statistics,
    perplexity_statistics,
)
from seqdistill.metrics.score import SummedStatistics, mean_statistics

Row = dict[str, object]


def mode_share_columns(best: Sequence[Hypothesis | None], settings: EvaluationSettings) -> Row:
    """`mode_share` is p(t = y-hat), the mean probability mass of a system's own beam output.

    One that did not end in time is no whole output and counts as zero, though the mass of its
    beginning is not; `unfinished` says how many there were.

    Source: Kim and Rush 2016, table 1.
    """
    finished = [h if h is not None and h.finished else None for h in best]
    statistics = mode_share_statistics(
        [float("-inf") if h is None else h.log_prob for h in finished]
    )
    return {
        **interval_columns("mode_share", statistics, settings),
        "unfinished": finished.count(None),
    }


def greedy_beam_gap_columns(
    greedy: SummedStatistics, beam: SummedStatistics, settings: EvaluationSettings
) -> Row:
    """`greedy_beam_gap`: what beam search gains over greedy decoding, in points of the main metric.

    Positive where beam search is better, also of an error rate. Both are scored on the same
    resamples, so the interval is that of the difference.
    """
    found = paired_bootstrap(
        beam,
        greedy,
        num_resamples=settings.bootstrap_resamples,
        confidence=settings.confidence,
        generator=np.random.default_rng(derived_seed(settings.seed, "greedy-beam gap")),
    )
    score_key = settings.main_metric.score_key
    low, high = sorted((score_key(found.low), score_key(found.high)))
    return {
        "greedy_beam_gap": score_key(found.delta),
        "greedy_beam_gap_low": low,
        "greedy_beam_gap_high": high,
    }


def length_columns(
    mode: str, best: Sequence[Hypothesis | None], target_ids: Sequence[Sequence[int]]
) -> Row:
    """`length_<mode>`: mean tokens of the outputs; `length_ratio_<mode>`: tokens / the references'.

    Tokens are those of the system's own vocabulary, the end token included where there is one.
    """
    written = [0 if hypothesis is None else len(hypothesis.token_ids) for hypothesis in best]
    return {
        f"length_{mode}": sum(written) / len(written),
        f"length_ratio_{mode}": length_ratio(written, [len(ids) for ids in target_ids]),
    }


def prediction_columns(predictions: ReferencePredictions, settings: EvaluationSettings) -> Row:
    """`loss_nats`, `perplexity` and `entropy_nats` of the references, over all their positions.

    The loss is nats per target token, end token included, and perplexity its exponential: both
    compare only between systems of one vocabulary. The entropy is that of the model's next-token
    distribution.
    """
    counts = [len(nats) for nats in predictions.nats]
    totals = [float(nats.sum()) for nats in predictions.nats]
    loss = mean_statistics("loss_nats", "nats/token|eos:scored", totals, counts)
    perplexity = perplexity_statistics(totals, counts)
    entropy = mean_statistics(
        "entropy",
        "nats/token|eos:scored",
        [float(nats.sum()) for nats in predictions.entropy_nats],
        counts,
    )
    return {
        **interval_columns("loss_nats", loss, settings),
        **interval_columns("perplexity", perplexity, settings),
        **interval_columns("entropy_nats", entropy, settings),
    }


def entropy_curve(predictions: ReferencePredictions) -> dict[str, list[float]]:
    """Mean entropy in nats at target positions 1, 2, 3, ..., and how many references reach each."""
    means, counts = mean_by_position(predictions.entropy_nats)
    return {"entropy_nats": means.tolist(), "counts": counts.tolist()}


def output_agreement_columns(
    texts: Sequence[str], teacher_texts: Sequence[str], settings: EvaluationSettings
) -> Row:
    """How like the teacher's beam outputs a system's are: the main metric against them.

    `<metric>_to_teacher` with its interval, and `exact_match_to_teacher`, the share of sentences
    on which both wrote the same. None where the teacher wrote nothing at all. Sentences whose
    teacher's output the metric cannot compare with, one without an answer, are left out of the
    first; it is None where that is all of them.
    """
    metric = settings.main_metric
    key = f"{metric.name}_to_teacher"
    if not any(text.strip() for text in teacher_texts):
        return {key: None, "exact_match_to_teacher": None}
    pairs = [
        (text, theirs)
        for text, theirs in zip(texts, teacher_texts, strict=True)
        if metric.compares_with(theirs)
    ]
    compared: Row = {key: None}
    if pairs:
        statistics = metric.statistics([text for text, _ in pairs], [theirs for _, theirs in pairs])
        compared = interval_columns(key, statistics, settings)
    return {
        **compared,
        "exact_match_to_teacher": exact_match_share(texts, teacher_texts),
    }


def token_agreement_columns(
    own: ReferencePredictions, teacher: ReferencePredictions, settings: EvaluationSettings
) -> Row:
    """`agreement_top1`: at how many positions of the references both find the same token likeliest.

    A share in [0, 1]. None where the two read the references as different tokens, as models of
    different vocabularies do: their positions do not correspond.
    """
    if own.target_ids != teacher.target_ids:
        return {"agreement_top1": None}
    same = [
        float((ours == theirs).sum())
        for ours, theirs in zip(own.top_ids, teacher.top_ids, strict=True)
    ]
    statistics = mean_statistics(
        "agreement", "top-1|reference prefixes", same, [len(ids) for ids in own.top_ids]
    )
    return interval_columns("agreement_top1", statistics, settings)


def soundness_columns(
    beam: Sequence[Hypothesis | None], texts: Sequence[str], references: Sequence[str]
) -> Row:
    """Signs of a system that is broken, whatever its score: see `metrics.soundness`.

    `outputs`, how many there are; `empty`, how many of them hold no text; `repetition`, the mean
    share of an output's runs of four words that it has had before, and `repetition_references`, the
    same of the references. Of beam search; `unfinished` is `mode_share_columns`'.
    """
    return {
        "outputs": len(beam),
        "empty": sum(not text.strip() for text in texts),
        "repetition": repetition_rate(texts).value,
        "repetition_references": repetition_rate(references).value,
    }


def quality_columns(
    greedy: Mapping[str, SummedStatistics],
    beam: Mapping[str, SummedStatistics],
    settings: EvaluationSettings,
) -> Row:
    """The columns of every metric X: `X_greedy` and `X_beam`, each with `_low` and `_high`.

    `signature` is the main metric's, `X_signature` another's; `chrf` is chrF by beam search.
    """
    columns: Row = {}
    for name in settings.metrics:
        columns |= interval_columns(f"{name}_greedy", greedy[name], settings)
        columns |= interval_columns(f"{name}_beam", beam[name], settings)
        key = "signature" if name == settings.metrics[0] else f"{name}_signature"
        columns[key] = beam[name].signature
    if "chrf" in settings.metrics:
        columns["chrf"] = columns["chrf_beam"]
    return columns
