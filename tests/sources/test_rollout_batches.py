"""The source above the writers: the same prompts whoever writes, within a planned budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from tests.tiny import EOS, collator

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.schedules import Schedule
from seqdistill.data.encoding import EncodedExample
from seqdistill.sources.completions import Completion
from seqdistill.sources.mixture import MixtureSource
from seqdistill.sources.rollout_batches import OnCompletions, RolloutBatches
from seqdistill.sources.rollout_sampler import RolloutSampler
from seqdistill.sources.source import CompletionSource
from seqdistill.sources.stored import StoredCompletions

from .writing import PROMPTS, DiceSampler, batched, prompts_alone


def source(
    writer: CompletionSource,
    examples: Sequence[EncodedExample] = PROMPTS,
    *,
    rank: int = 0,
    world_size: int = 1,
    on_completions: OnCompletions | None = None,
) -> RolloutBatches:
    return RolloutBatches(
        examples,
        writer,
        collator("seq2seq"),
        batch_tokens=48,
        expected_new_tokens=12,
        seed=1,
        rank=rank,
        world_size=world_size,
        on_completions=on_completions,
    )


def mixture(share: float, *, rank: int = 0, world_size: int = 1) -> MixtureSource:
    return MixtureSource(
        RolloutSampler(DiceSampler(), seed=3, rank=rank, world_size=world_size),
        StoredCompletions("reference"),
        Schedule.constant(share),
        coin="example",
        seed=3,
    )


def batches(
    found: RolloutBatches, updates: int, gradient_accumulation_steps: int
) -> list[SequenceBatch]:
    told = []
    for update in range(1, updates + 1):
        found.begin_update(update, updates)
        told += [found.next_batch() for _ in range(gradient_accumulation_steps)]
        found.end_update()
    return told


def test_at_any_share_the_same_seed_sees_the_same_prompts_in_the_same_batches() -> None:
    def seen(share: float) -> list[list[str]]:
        return [sorted(batch.example_ids) for batch in batches(source(mixture(share)), 9, 2)]

    assert seen(0.0) == seen(0.4) == seen(1.0)


def test_one_process_with_three_micro_batches_sees_what_three_processes_see() -> None:
    alone = batches(source(mixture(0.5)), 6, 3)
    for rank in range(3):
        writer = mixture(0.5, rank=rank, world_size=3)
        found = batches(source(writer, rank=rank, world_size=3), 6, 1)
        for expected, batch in zip(alone[rank::3], found, strict=True):
            assert batch.example_ids == expected.example_ids
            assert batch.origins == expected.origins
            assert torch.equal(batch.target_ids, expected.target_ids)


def test_prompts_without_targets_are_planned_with_the_expected_length() -> None:
    found = source(RolloutSampler(DiceSampler(), seed=3), prompts_alone())
    for batch in batches(found, 8, 1):
        assert batch.num_sequences <= 48 // 12
    twice = source(RolloutSampler(DiceSampler(), seed=3, samples_per_prompt=2), prompts_alone())
    for batch in batches(twice, 8, 1):
        assert batch.num_sequences <= 48 // 12


def test_what_is_written_is_shown_with_its_update() -> None:
    shown: list[tuple[int, int]] = []
    found = source(mixture(0.5), on_completions=lambda update, w: shown.append((update, len(w))))
    told = batches(found, 3, 2)
    expected = [(1 + i // 2, batch.num_sequences) for i, batch in enumerate(told)]
    assert shown == expected


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_unknown_log_probs_and_advantages_are_not_zero(kind: str) -> None:
    known = Completion(
        EncodedExample("a", (5, 6, EOS), (7, 8, EOS)),
        "student",
        sampled_log_probs=(-1.0, -2.0, -3.0),
        advantage=0.5,
    )
    earlier_turn = ((1, 2),) if kind == "causal" else ()
    unknown = Completion(EncodedExample("b", (5, 9, EOS), (7, EOS), earlier_turn), "reference")
    make = collator("causal" if kind == "causal" else "seq2seq")
    batch = batched([known, unknown]).collated(make)
    assert batch.sampled_log_probs is not None and batch.advantages is not None
    first, second = batch.target_mask
    assert batch.sampled_log_probs[0][first].tolist() == [-1.0, -2.0, -3.0]
    assert bool((batch.sampled_log_probs[~batch.target_mask] == 0.0).all())
    assert batch.sampled_log_probs[1][second].isnan().all()
    assert batch.advantages[0] == 0.5 and batch.advantages[1].isnan()
    assert batch.origins == ("student", "reference")
    nobody = batched([unknown, dataclasses.replace(unknown)]).collated(collator("seq2seq"))
    assert nobody.sampled_log_probs is None and nobody.advantages is None
