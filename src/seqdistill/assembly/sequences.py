"""From a recipe's sequences section to the source that training reads.

what exists before training:  references, or the teacher's outputs
what is written meanwhile:    student -> replay -> mixture with what exists -> reward
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from seqdistill.assembly.corpus import teacher_outputs
from seqdistill.assembly.data import collator_for
from seqdistill.assembly.decoding import made_by_ctranslate2, rollout_engine, verification_pairs
from seqdistill.assembly.preparing import Prepared, check_vocabularies
from seqdistill.core.errors import RecipeError
from seqdistill.core.progress import Progress
from seqdistill.core.schedules import Schedule
from seqdistill.data.dataset import EncodedDataset, leave_out_long, with_placeholder_targets
from seqdistill.data.encoding import EncodedExample
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator, CTranslate2Sampler
from seqdistill.generation.decoding import Decoding
from seqdistill.generation.model_facts import pair_facts
from seqdistill.generation.sampling import Sampler, TeacherMixedSampler, TransformersSampler
from seqdistill.generation.verification import reach_of
from seqdistill.models.vocabulary import num_known_ids
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.sequences_schema import AdaptiveSection, RolloutsSection
from seqdistill.sources.mixture import AdaptiveFraction, Fraction, MixtureSource
from seqdistill.sources.replay import ReplaySource
from seqdistill.sources.rewarded import RewardedSource
from seqdistill.sources.rollout_batches import OnCompletions, RolloutBatches
from seqdistill.sources.rollout_sampler import RolloutSampler
from seqdistill.sources.source import CompletionSource, Gather, SequenceSource, alone
from seqdistill.sources.stored import (
    StoredCompletions,
    StoredSequences,
    with_teacher_targets,
)


def training_sequences(
    prepared: Prepared, progress: Progress
) -> tuple[EncodedDataset, dict[str, object]]:
    """The sequences that exist before training, and facts about their choice.

    They are references or what the teacher wrote; where the student writes all, prompts.
    """
    if not prepared.recipe.sequences.decoded_by_teacher:
        return prepared.train, {}
    if prepared.teacher is None:
        raise RecipeError("The teacher's outputs need teacher.model, but it is not set.")
    outputs, summary = teacher_outputs(
        prepared.recipe, prepared.teacher, prepared.student, prepared.train_examples, progress
    )
    written = with_teacher_targets(prepared.train, outputs)
    data = prepared.recipe.data
    kept = leave_out_long(
        written,
        max_source_tokens=data.max_source_tokens,
        max_target_tokens=data.max_target_tokens,
    )
    if summary is None:
        return kept.examples, {}
    return kept.examples, {"interpolation": dataclasses.asdict(summary)}


def build_source(
    prepared: Prepared,
    examples: Sequence[EncodedExample],
    *,
    rank: int = 0,
    world_size: int = 1,
    gather: Gather = alone,
    on_completions: OnCompletions | None = None,
) -> SequenceSource:
    """The source of the recipe's training batches over `examples`, of `training_sequences`.

    `on_completions` hears of what is written while the student trains. The student's model, and the
    teacher's where both sample together, must be where they are to run.
    """
    recipe, collator = prepared.recipe, collator_for(prepared.student)
    if not recipe.sequences.rolls_out:
        return StoredSequences(
            examples,
            collator,
            batch_tokens=recipe.training.batch_tokens,
            seed=recipe.seed,
            rank=rank,
            world_size=world_size,
        )
    return RolloutBatches(
        examples,
        _completions(prepared, examples, rank, world_size, gather),
        collator,
        batch_tokens=recipe.training.batch_tokens,
        expected_new_tokens=recipe.sequences.rollouts.max_new_tokens,
        seed=recipe.seed,
        rank=rank,
        world_size=world_size,
        on_completions=on_completions,
    )


def try_rollout_engine(prepared: Prepared) -> str | None:
    """What the student writes with, "ctranslate2" or "transformers"; None where it does not write.

    Raises EngineError where it must write through CTranslate2, which cannot run it, and ModelError
    where it cannot write step by step.
    """
    if not prepared.recipe.sequences.rolls_out:
        return None
    sampler = _sampler(prepared, prepared.train)
    return "ctranslate2" if isinstance(sampler, CTranslate2Sampler) else "transformers"


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
        _sampler(prepared, examples),
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
    if sequences.mixture.student_fraction is not None:
        by_teacher = sequences.mixture.others == "teacher"
        source = MixtureSource(
            source,
            StoredCompletions(
                sequences.mixture.others,
                # A sample of the teacher's may have been cut off.
                end_ids=pair_facts(prepared.student).end_ids if by_teacher else None,
            ),
            _student_fraction(sequences.mixture.student_fraction),
            coin=sequences.mixture.coin,
            seed=seed,
        )
    if prepared.reward is not None:
        baseline = recipe.objective.reward.baseline
        source = RewardedSource(source, prepared.reward, baseline=baseline, gather=gather)
    return source


def _student_fraction(asked: Schedule | AdaptiveSection) -> Fraction:
    if isinstance(asked, Schedule):
        return asked
    return AdaptiveFraction(
        start=asked.start, step=asked.step, threshold=asked.threshold, most=asked.end
    )


def _sampler(prepared: Prepared, examples: Sequence[EncodedExample]) -> Sampler:
    recipe, student = prepared.recipe, prepared.student
    section, precision = recipe.sequences.rollouts, prepared.precision
    decoding, vocab_size = _decoding(section, recipe), _written_vocab_size(prepared)
    if section.teacher_fraction > 0.0 and prepared.teacher is not None:
        return TeacherMixedSampler(
            student.model,
            prepared.teacher.model.to(student.model.device),
            student.tokenizer,
            kind=student.kind,
            decoding=decoding,
            vocab_size=vocab_size,
            teacher_fraction=section.teacher_fraction,
            precision=precision,
        )
    # With targets no longer than a rollout, which fit the model where others may not.
    pairs = verification_pairs(with_placeholder_targets(examples))
    longest = max(1, section.max_new_tokens - 1)
    fast = made_by_ctranslate2(
        lambda: CTranslate2Sampler(
            student.model,
            CTranslate2Generator(
                student.model,
                student.tokenizer,
                kind=student.kind,
                verify_on=[(source, target[:longest]) for source, target in pairs],
                reach=reach_of(examples, section.max_new_tokens),
                vocab_size=vocab_size,
                threads=recipe.training.threads,
            ),
            decoding,
        ),
        rollout_engine(recipe),
    )
    return fast or TransformersSampler(
        student.model,
        student.tokenizer,
        kind=student.kind,
        decoding=decoding,
        vocab_size=vocab_size,
        precision=precision,
    )


def _written_vocab_size(prepared: Prepared) -> int:
    """Ids of what the student writes lie below it: it is what the objective cuts both heads to.

    Where no teacher reads what is written, these are the ids that the student's tokenizer knows.
    """
    recipe = prepared.recipe
    if prepared.asks_teacher or recipe.sequences.rollouts.teacher_fraction > 0.0:
        return check_vocabularies(prepared.student, prepared.teacher)
    return num_known_ids(prepared.student.tokenizer)


def _decoding(section: RolloutsSection, recipe: Recipe) -> Decoding:
    """Rollouts of a batch are decoded together: what fits for learning fits for writing."""
    return Decoding(
        mode="sample" if section.mode == "sample" else "beam",
        beam_size=1,
        sampling_temperature=section.sampling_temperature,
        top_k=section.top_k,
        top_p=section.top_p,
        max_new_tokens=section.max_new_tokens,
        batch_tokens=recipe.training.batch_tokens,
    )
