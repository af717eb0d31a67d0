"""One system on the test set: quality greedy and by beam, likelihood, mode share, size.

The numbers come with what is needed to compare it with others on the same sentences. Speed is
measured apart, for all systems in turn.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from seqdistill.compression.layers import parameter_count
from seqdistill.compression.pruning import nonzero_count
from seqdistill.data.collating import Collator
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.data.encoding import EncodedExample
from seqdistill.evaluation import analyses
from seqdistill.evaluation.calculator import calculated
from seqdistill.evaluation.likelihood import ReferencePredictions, reference_predictions
from seqdistill.evaluation.on_policy import forced, texts_after_wrong_token
from seqdistill.evaluation.settings import EvaluationSettings
from seqdistill.generation.decoding import Hypothesis, SequenceGenerator
from seqdistill.metrics.bootstrap import paired_approximate_randomization, paired_bootstrap
from seqdistill.metrics.diversity import repetition_rate
from seqdistill.metrics.score import SummedStatistics
from seqdistill.metrics.soundness import faults_of, fraction_kept
from seqdistill.models.adapters import SequenceModel
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.records.results import START, CopyAgreement, Mode, PairedTest, System

_LOG = logging.getLogger(__name__)


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
    agreement: CopyAgreement | None = None
    """Of a copy with the model it was made of."""


@dataclasses.dataclass(frozen=True)
class SystemSource:
    """A system by its name, which is loaded when it is its turn: one at a time is in memory."""

    name: str
    folder: str
    """Of a model of its kind, with its tokenizer."""
    load: Callable[..., SystemUnderTest]
    """May be told the `engine` to take instead of its recipe's."""


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a system wrote for the test set by one way of decoding."""

    texts: tuple[str, ...]
    best: tuple[Hypothesis | None, ...]
    """The hypotheses that the texts are of; None where there was not any."""
    statistics: Mapping[str, SummedStatistics]
    """Of each metric; the first is the main one."""
    seconds: float
    """That decoding took."""


@dataclasses.dataclass(frozen=True)
class SystemResult:
    """The numbers of a system, and what paired tests, samples and comparisons with it need."""

    row: System
    greedy: Outputs
    beam: Outputs
    sampled: tuple[analyses.SampledOutputs, ...] = ()
    """One for each temperature that the settings name."""
    predictions: ReferencePredictions | None = None
    """Of the references; None where the outputs alone were measured."""
    forced_texts: tuple[str, ...] | None = None
    """Greedy outputs after one wrong token; None where the settings do not ask for them."""

    def with_row(self, **fields: object) -> SystemResult:
        """The same with these fields of the row."""
        return dataclasses.replace(self, row=self.row.model_copy(update=fields))


Measured = tuple[SystemSource, SystemResult]


def _outputs(
    system: SystemUnderTest,
    decoding: Decoding,
    references: Sequence[str],
    settings: EvaluationSettings,
) -> Outputs:
    started = time.perf_counter()
    found = system.generator.generate([e.prompt for e in system.examples], decoding)
    seconds = time.perf_counter() - started
    best = tuple(hypotheses[0] if hypotheses else None for hypotheses in found)
    ids = [() if hypothesis is None else hypothesis.content_ids for hypothesis in best]
    decoded = TextDecoder(system.tokenizer).texts(ids)
    texts = tuple(text.strip() for text in decoded)
    statistics = {
        name: settings.metric(name).statistics(texts, references) for name in settings.metrics
    }
    return Outputs(texts, best, statistics, seconds)


def evaluate_outputs(
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
    sampled = analyses.sampled_outputs(
        system.generator, system.examples, system.tokenizer, settings
    )
    main = settings.main_metric.name
    target_ids = [example.target_ids for example in system.examples]
    num_parameters = parameter_count(system.model.module)
    num_nonzero = nonzero_count(system.model.module)
    to_teacher, exact_match, kept = None, None, None
    if teacher is not None:
        to_teacher, exact_match = analyses.agreement_with_outputs(
            beam.texts, teacher.beam.texts, settings
        )
        own, its = (found.statistics[main].score().value for found in (beam, teacher.beam))
        kept = fraction_kept(own, its, higher_is_better=settings.main_metric.higher_is_better)
    unfinished = sum(best is None or not best.finished for best in beam.best)
    empty = sum(not text.strip() for text in beam.texts)
    repetition = repetition_rate(beam.texts).value
    repetition_references = repetition_rate(references).value
    faults = faults_of(
        outputs=len(beam.best),
        unfinished=unfinished,
        empty=empty,
        repetition=repetition,
        repetition_references=repetition_references,
        kept=kept,
    )
    if system.method == START:  # untrained yet
        faults = []
    if faults:
        _LOG.warning("%s is broken: %s", system.name, "; ".join(faults))
    row = System(
        name=system.name,
        method=system.method,
        init=system.init,
        engine=system.engine,
        parameters=num_parameters,
        nonzero=num_nonzero,
        density=num_nonzero / num_parameters,
        bytes=system.bytes,
        greedy=analyses.decoded(greedy.best, greedy.statistics, target_ids, settings),
        beam=analyses.decoded(beam.best, beam.statistics, target_ids, settings),
        greedy_beam_gap=analyses.greedy_beam_gap(
            greedy.statistics[main], beam.statistics[main], settings
        ),
        sampled=analyses.sampled_scores(sampled, references, settings),
        calculator=calculated(
            system.generator,
            system.examples,
            system.tokenizer,
            references,
            settings,
            kind=system.model.kind,
        ),
        mode_share=analyses.mode_share(beam.best, settings),
        outputs=len(beam.best),
        unfinished=unfinished,
        empty=empty,
        repetition=repetition,
        repetition_references=repetition_references,
        faults=tuple(faults),
        to_teacher=to_teacher,
        exact_match_to_teacher=exact_match,
        copy_agreement=system.agreement,
    )
    return SystemResult(row, greedy, beam, tuple(sampled))


def evaluate_system(
    system: SystemUnderTest,
    references: Sequence[str],
    settings: EvaluationSettings,
    *,
    teacher: SystemResult | None,
) -> SystemResult:
    """Everything that one system alone shows but its speed: its outputs, and what it predicts.

    Predictions are the model's own, not its converted copy's.
    """
    result = evaluate_outputs(system, references, settings, teacher=teacher)
    predictions = reference_predictions(system.model, system.examples, system.collator)
    agreement = None
    if teacher is not None and teacher.predictions is not None:
        agreement = analyses.token_agreement(predictions, teacher.predictions, settings)
    result = result.with_row(**analyses.predicted(predictions, settings), agreement_top1=agreement)
    texts = None
    if settings.section.on_policy:
        texts = texts_after_wrong_token(
            system.model, system.tokenizer, system.examples, result.greedy.best, settings
        )
    if texts is not None:
        greedy = result.greedy.statistics[settings.main_metric.name]
        result = result.with_row(forced=forced(texts, greedy, references, settings))
    return dataclasses.replace(result, predictions=predictions, forced_texts=texts)


def compare_systems(
    system: SystemResult, baseline: SystemResult, settings: EvaluationSettings
) -> list[PairedTest]:
    """Paired tests of a system against a baseline: the main metric by beam and greedy.

    The p-value is two-sided, of exchanging outputs between the systems; the interval is a paired
    bootstrap's.
    """
    main = settings.main_metric.name
    modes: tuple[Mode, ...] = ("beam", "greedy")
    tests = []
    for mode in modes:
        own, other = (getattr(result, mode).statistics[main] for result in (system, baseline))
        drawn = settings.resampling(f"paired {main}_{mode}")
        exchanged = paired_approximate_randomization(
            own, other, num_trials=drawn["num_resamples"], generator=drawn["generator"]
        )
        resampled = paired_bootstrap(own, other, **drawn)
        tests.append(
            PairedTest(
                system=system.row.name,
                versus=baseline.row.name,
                metric=main,
                mode=mode,
                delta=exchanged.delta,
                p_value=exchanged.p_value,
                low=resampled.low,
                high=resampled.high,
                confidence=drawn["confidence"],
                test=f"{exchanged.test}, {exchanged.num_samples} trials; interval by paired "
                "bootstrap",
            )
        )
    return tests
