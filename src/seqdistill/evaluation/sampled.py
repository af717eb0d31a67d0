"""What a system writes when it samples: quality and diversity at each temperature.

Sampled from the whole distribution divided by the temperature: no top-k, no top-p. Greedy and beam
outputs are measured elsewhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from seqdistill.core.generators import derived_seed
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.data.encoding import EncodedExample
from seqdistill.evaluation.settings import EvaluationSettings, measured, scored
from seqdistill.generation.decoding import Decoding, SequenceGenerator
from seqdistill.metrics.corpus_metrics import CorpusMetric
from seqdistill.metrics.diversity import repetition_rate, self_bleu
from seqdistill.metrics.score import SummedStatistics, mean_statistics
from seqdistill.records.results import Sampled


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
