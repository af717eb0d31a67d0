"""One system on the test set: quality greedy and by beam, likelihood, mode share, size.

Its numbers come with what is needed to compare it with others on the same sentences. Speed is
measured apart, for all systems in turn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from seqdistill.compression.layers import parameter_count
from seqdistill.compression.pruning_mask import nonzero_count
from seqdistill.core.generators import derived_seed
from seqdistill.data.collating import Collator
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.data.encoding import EncodedExample
from seqdistill.evaluation import analyses
from seqdistill.evaluation.calculated import calculated_columns
from seqdistill.evaluation.likelihood import ReferencePredictions, reference_predictions
from seqdistill.evaluation.sampled import SampledOutputs, sampled_columns, sampled_outputs
from seqdistill.evaluation.settings import EvaluationSettings
from seqdistill.generation.decoding import Decoding, Hypothesis, SequenceGenerator
from seqdistill.metrics.bootstrap import paired_approximate_randomization, paired_bootstrap
from seqdistill.metrics.score import SummedStatistics
from seqdistill.models.adapters import SequenceModel


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
    engine: str
    """What decodes and its arithmetic, such as "ctranslate2 float32"."""
    examples: Sequence[EncodedExample]
    collator: Collator
    agreement: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Of a copy with the model it was made of."""


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a system wrote for the test set by one way of decoding."""

    texts: tuple[str, ...]
    best: tuple[Hypothesis | None, ...]
    """The hypotheses that the texts are of; None where there was not any."""
    statistics: Mapping[str, SummedStatistics]
    """Of each metric; the first is the main one."""


@dataclasses.dataclass(frozen=True)
class SystemResult:
    """The row of a system and what paired tests, samples and comparisons with it need."""

    row: dict[str, object]
    greedy: Outputs
    beam: Outputs
    sampled: tuple[SampledOutputs, ...] = ()
    """One for each temperature that the settings name."""
    predictions: ReferencePredictions | None = None
    """Of the references; None where the outputs alone were measured."""


def _outputs(
    system: SystemUnderTest,
    decoding: Decoding,
    references: Sequence[str],
    settings: EvaluationSettings,
) -> Outputs:
    found = system.generator.generate([e.prompt for e in system.examples], decoding)
    best = tuple(hypotheses[0] if hypotheses else None for hypotheses in found)
    ids = [() if hypothesis is None else hypothesis.content_ids for hypothesis in best]
    decoded = TextDecoder(system.tokenizer).texts(ids)
    texts = tuple(text.strip() for text in decoded)
    statistics = {
        name: settings.metric(name).statistics(texts, references) for name in settings.metrics
    }
    return Outputs(texts, best, statistics)


def evaluate_translations(
    system: SystemUnderTest,
    references: Sequence[str],
    settings: EvaluationSettings,
    *,
    teacher: SystemResult | None,
) -> SystemResult:
    """Everything that decoding the test set tells of one system.

    With a `teacher`, also how like its outputs the system's are.
    """
    greedy = _outputs(system, settings.greedy, references, settings)
    beam = _outputs(system, settings.beam, references, settings)
    sampled = sampled_outputs(system.generator, system.examples, system.tokenizer, settings)
    main = settings.main_metric.name
    target_ids = [example.target_ids for example in system.examples]
    num_parameters = parameter_count(system.model.module)
    num_nonzero = nonzero_count(system.model.module)
    row: dict[str, object] = {
        "name": system.name,
        "method": system.method,
        "init": system.init,
        "engine": system.engine,
        "parameters": num_parameters,
        "nonzero": num_nonzero,
        "density": num_nonzero / num_parameters,
        "bytes": system.bytes,
        **analyses.quality_columns(greedy.statistics, beam.statistics, settings),
        **sampled_columns(sampled, references, settings),
        **calculated_columns(
            system.generator,
            system.examples,
            system.tokenizer,
            references,
            settings,
            kind=system.model.kind,
        ),
        **analyses.mode_share_columns(beam.best, settings),
        **analyses.soundness_columns(beam.best, beam.texts, references),
        **analyses.greedy_beam_gap_columns(
            greedy.statistics[main], beam.statistics[main], settings
        ),
        **analyses.length_columns("greedy", greedy.best, target_ids),
        **analyses.length_columns("beam", beam.best, target_ids),
    }
    if system.agreement:
        row["agreement_with_model"] = dict(system.agreement)
    if teacher is not None:
        row |= analyses.output_agreement_columns(beam.texts, teacher.beam.texts, settings)
    return SystemResult(row, greedy, beam, tuple(sampled))


def evaluate_system(
    system: SystemUnderTest,
    references: Sequence[str],
    settings: EvaluationSettings,
    *,
    teacher: SystemResult | None,
) -> SystemResult:
    """Everything about one system but its speed: its translations, and what it predicts.

    Predictions are the model's own, not its converted copy's.
    """
    result = evaluate_translations(system, references, settings, teacher=teacher)
    predictions = reference_predictions(system.model, system.examples, system.collator)
    row = result.row | analyses.prediction_columns(predictions, settings)
    if teacher is not None and teacher.predictions is not None:
        row |= analyses.token_agreement_columns(predictions, teacher.predictions, settings)
    return dataclasses.replace(result, row=row, predictions=predictions)


def curves(results: Sequence[SystemResult]) -> dict[str, object]:
    """The analyses that are curves, each by the name of the system."""
    return {
        "entropy_by_position": {
            str(result.row["name"]): analyses.entropy_curve(result.predictions)
            for result in results
            if result.predictions is not None
        }
    }


def compare_systems(
    system: SystemResult, baseline: SystemResult, settings: EvaluationSettings
) -> list[dict[str, object]]:
    """Paired tests of a system against a baseline: the main metric by beam and greedy.

    The p-value is two-sided, of exchanging outputs between the systems; the interval is a paired
    bootstrap's.
    """
    rows: list[dict[str, object]] = []
    main = settings.main_metric.name
    for mode, own, other in (
        ("beam", system.beam.statistics[main], baseline.beam.statistics[main]),
        ("greedy", system.greedy.statistics[main], baseline.greedy.statistics[main]),
    ):
        metric = f"{main}_{mode}"
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
