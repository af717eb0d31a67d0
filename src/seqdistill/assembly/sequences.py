"""From a recipe's sequences section to the source that training reads.

what exists before training:  references, or the teacher's outputs
what is written meanwhile:    student -> replay -> mixture with what exists -> reward -> pass rate
                              or by a process ahead of training (near-policy)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import torch

from seqdistill.assembly.data import collator_for, epoch_batches, within_limits
from seqdistill.assembly.decoding import (
    EngineChoice,
    converted,
    rollout_engine,
    verification_pairs,
)
from seqdistill.assembly.preparing import Prepared
from seqdistill.assembly.servers import rollout_vocabulary, vllm_sampler
from seqdistill.assembly.teacher_outputs import teacher_outputs
from seqdistill.core.errors import RecipeError
from seqdistill.core.phases import PhaseClock
from seqdistill.core.progress import Progress
from seqdistill.core.schedules import Schedule
from seqdistill.data.dataset import EncodedDataset, with_placeholder_targets
from seqdistill.data.encoding import EncodedExample
from seqdistill.generation.ctranslate2_engine import CTranslate2Sampler
from seqdistill.generation.model_facts import pair_facts
from seqdistill.generation.rollout_process import RolloutProcess, Writer
from seqdistill.generation.sampling import Sampler, TeacherMixedSampler, TransformersSampler
from seqdistill.generation.scoring import IdPair
from seqdistill.generation.verification import Reach, reach_of
from seqdistill.generation.vllm_sampler import VllmSampler
from seqdistill.models.loading import LoadedModel
from seqdistill.models.placement import Precision
from seqdistill.recipe.sequences_schema import (
    AdaptiveSection,
    Decoding,
    MeasuredSection,
    RolloutDecoding,
)
from seqdistill.sources.completions import CompletionSource, Gather, SequenceSource, alone
from seqdistill.sources.mixture import (
    AdaptiveFraction,
    Fraction,
    MeasuredFraction,
    MixtureSource,
    ReplaySource,
)
from seqdistill.sources.near_policy import NearPolicyBatches
from seqdistill.sources.pass_rates import PassRatedSource
from seqdistill.sources.rewarded import RewardedSource
from seqdistill.sources.rollouts import OnCompletions, RolloutBatches, RolloutSampler
from seqdistill.sources.stored import (
    StoredCompletions,
    StoredSequences,
    with_teacher_targets,
)

_HELD_TO_LEARNED = 8
"""Tokens that are written at once, for each of a micro-batch: of a layer a written token keeps its
key and value, and a learned one at least eight times as much, unless it is computed again."""


def training_sequences(
    prepared: Prepared, progress: Progress
) -> tuple[EncodedDataset, dict[str, object]]:
    """The sequences that exist before training, and facts about their choice.

    They are references or what the teacher wrote; where the student writes all, prompts.
    """
    if not prepared.recipe.sequences.decoded_by_teacher:
        return prepared.train, {}
    served = prepared.recipe.sequences.decoding.engine == "server"
    outputs, facts = teacher_outputs(
        prepared.recipe,
        None if served else prepared.teacher,
        prepared.student,
        prepared.train_examples,
        progress,
    )
    written = with_teacher_targets(prepared.train, outputs)
    kept = within_limits(written, prepared.student, prepared.recipe.data)
    return kept.examples, facts


def build_source(
    prepared: Prepared,
    examples: Sequence[EncodedExample],
    *,
    rank: int = 0,
    world_size: int = 1,
    gather: Gather = alone,
    on_completions: OnCompletions | None = None,
    clock: PhaseClock | None = None,
) -> SequenceSource:
    """The source of the recipe's training batches over `examples`, of `training_sequences`.

    `on_completions` hears of what is written while the student trains. The student's model, and the
    teacher's where both sample together, must be where they are to run.
    """
    recipe, collator = prepared.recipe, collator_for(prepared.student)
    places = epoch_batches(
        recipe, EncodedDataset.of(examples), collator.kind, rank=rank, world_size=world_size
    )
    if not recipe.sequences.rolls_out:
        return StoredSequences(examples, collator, places)
    if recipe.sequences.rollouts.engine == "vllm" and world_size > 1:
        raise RecipeError(
            "sequences.rollouts.engine must not be vllm where several processes train, which would "
            f"each refresh the server at another moment, got vllm and {world_size} processes; "
            "train in one, or use transformers"
        )
    if recipe.sequences.origin == "near_policy":
        ahead = recipe.sequences.near_policy
        return NearPolicyBatches(
            examples,
            prepared.student.model,
            _rollout_process(prepared, examples),
            collator,
            places,
            sync_every=ahead.sync_every,
            micro_batches=recipe.training.gradient_accumulation_steps,
            samples_per_prompt=recipe.sequences.rollouts.samples_per_prompt,
            keep_quantiles=ahead.keep_quantiles,
            seed=recipe.seed,
            rank=rank,
            world_size=world_size,
            on_completions=on_completions,
            clock=clock or PhaseClock(),
        )
    return RolloutBatches(
        examples,
        _completions(prepared, examples, rank, world_size, gather),
        collator,
        places,
        on_completions=on_completions,
        clock=clock or PhaseClock(),
    )


def _rollout_process(prepared: Prepared, examples: Sequence[EncodedExample]) -> RolloutProcess:
    recipe, plan = prepared.recipe, _plan(prepared, examples)
    ahead, teacher = recipe.sequences.near_policy, prepared.teacher
    if ahead.keep_quantiles is not None and not pair_facts(prepared.student).reads_text:
        raise RecipeError(
            "sequences.near_policy.keep_quantiles must be null for recordings, since no model "
            f"hears nothing as it reads nothing, got {list(ahead.keep_quantiles)}; set it to null"
        )
    return RolloutProcess(
        Writer(
            prepared.student,
            functools.partial(_planned_sampler, plan),
            device=ahead.device or str(prepared.student.model.device),
            teacher=teacher if ahead.keep_quantiles is not None else None,
            vocab_size=plan.vocab_size,
        ),
        threads=recipe.training.threads or torch.get_num_threads(),
    )


def rollout_samplers(prepared: Prepared) -> dict[str, Sampler]:
    """What the student may write with, by engine: none where it does not write, and two where the
    recipe leaves open which.

    Raises EngineError where it must write through CTranslate2, which cannot run it, and ModelError
    where it cannot write step by step.
    """
    sequences = prepared.recipe.sequences
    if not sequences.rolls_out:
        return {}
    sampler = build_sampler(prepared, prepared.train)
    if isinstance(sampler, VllmSampler):
        return {"vllm": sampler}
    if not isinstance(sampler, CTranslate2Sampler):
        return {"transformers": sampler}
    found: dict[str, Sampler] = {"ctranslate2": sampler}
    if sequences.rollouts.engine == "auto":
        other = with_rollout_engine(prepared, "transformers")
        found["transformers"] = build_sampler(other, prepared.train)
    return found


def with_rollout_engine(prepared: Prepared, engine: str) -> Prepared:
    """The same, whose student writes with that engine."""
    sequences = prepared.recipe.sequences
    rollouts = sequences.rollouts.model_copy(update={"engine": engine})
    changed = {"sequences": sequences.model_copy(update={"rollouts": rollouts})}
    return dataclasses.replace(prepared, recipe=prepared.recipe.model_copy(update=changed))


def _completions(
    prepared: Prepared,
    examples: Sequence[EncodedExample],
    rank: int,
    world_size: int,
    gather: Gather,
) -> CompletionSource:
    recipe = prepared.recipe
    sequences, seed = recipe.sequences, recipe.seed
    source: CompletionSource = RolloutSampler(
        build_sampler(prepared, examples),
        seed=seed,
        rank=rank,
        world_size=world_size,
        samples_per_prompt=sequences.rollouts.samples_per_prompt,
        origin="teacher_mixed" if sequences.rollouts.teacher_fraction > 0.0 else "student",
    )
    if sequences.origin == "replay":
        source = ReplaySource(
            source,
            capacity=sequences.replay.capacity,
            max_age=sequences.replay.max_age,
            fresh_fraction=sequences.replay.fresh_fraction,
            seed=seed,
            rank=rank,
            world_size=world_size,
            gather=gather,
        )
    if (asked := sequences.mixture.student_fraction) is not None:
        by_teacher = sequences.mixture.others == "teacher"
        source = MixtureSource(
            source,
            StoredCompletions(
                sequences.mixture.others,
                # A sample of the teacher's may have been cut off.
                end_ids=pair_facts(prepared.student).end_ids if by_teacher else None,
            ),
            _fraction(asked),
            coin=sequences.mixture.coin,
            seed=seed,
        )
    if prepared.reward is not None:
        baseline = recipe.objective.reward.baseline
        source = RewardedSource(source, prepared.reward, baseline=baseline, gather=gather)
    if any(term.rates_rollouts for term in recipe.objective.built_terms()):
        source = PassRatedSource(source, recipe.objective.reward.pass_threshold)
    return source


def _fraction(asked: Schedule | AdaptiveSection | MeasuredSection) -> Fraction:
    """What gives the student's share at each update."""
    if isinstance(asked, AdaptiveSection):
        return AdaptiveFraction(asked)
    return MeasuredFraction(asked) if isinstance(asked, MeasuredSection) else asked


@dataclasses.dataclass(frozen=True)
class _SamplerPlan:
    """What a sampler of the student's own is made of, in this process or another."""

    decoding: Decoding
    engine: EngineChoice
    verify_on: list[IdPair]
    reach: Reach
    vocab_size: int
    precision: Precision


def _plan(prepared: Prepared, examples: Sequence[EncodedExample]) -> _SamplerPlan:
    recipe = prepared.recipe
    section = recipe.sequences.rollouts
    decoding = RolloutDecoding(
        mode="sample" if section.mode == "sample" else "beam",
        beam_size=1,
        sampling_temperature=section.sampling_temperature,
        top_k=section.top_k,
        top_p=section.top_p,
        max_new_tokens=section.max_new_tokens,
        batch_tokens=_HELD_TO_LEARNED * recipe.training.batch_tokens,
    )
    # With targets no longer than a rollout, which fit the model where others may not.
    pairs = verification_pairs(with_placeholder_targets(examples))
    longest = max(1, section.max_new_tokens - 1)
    return _SamplerPlan(
        decoding,
        rollout_engine(recipe),
        [(source, target[:longest]) for source, target in pairs],
        reach_of(examples, section.max_new_tokens),
        rollout_vocabulary(prepared),
        prepared.precision,
    )


def build_sampler(prepared: Prepared, examples: Sequence[EncodedExample]) -> Sampler:
    """What the student writes with while it trains; all its outputs have ids that both know."""
    plan, student = _plan(prepared, examples), prepared.student
    fraction = prepared.recipe.sequences.rollouts.teacher_fraction
    if fraction > 0.0 and prepared.teacher is not None:
        return TeacherMixedSampler(
            student.model,
            student.tokenizer,
            teacher=prepared.teacher.model.to(student.model.device),
            kind=student.kind,
            decoding=plan.decoding,
            vocab_size=plan.vocab_size,
            teacher_fraction=fraction,
            precision=plan.precision,
        )
    if plan.engine.name == "vllm":
        return vllm_sampler(prepared, examples, plan.decoding, plan.vocab_size)
    return _planned_sampler(plan, student)


def _planned_sampler(plan: _SamplerPlan, student: LoadedModel) -> Sampler:
    fast = converted(
        student,
        plan.engine,
        verify_on=plan.verify_on,
        reach=plan.reach,
        vocab_size=plan.vocab_size,
    )
    if fast is not None:
        return CTranslate2Sampler(student.model, fast, plan.decoding)
    return TransformersSampler(
        student.model,
        student.tokenizer,
        kind=student.kind,
        decoding=plan.decoding,
        vocab_size=plan.vocab_size,
        precision=plan.precision,
    )
