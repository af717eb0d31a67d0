"""Rollouts, mixtures and shares: what is fresh, what is counted, who writes how much, in which
batches."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

import pytest
import torch
from scipy.stats import binomtest
from tests.tiny import EOS, collator

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.completions import Completions
from seqdistill.core.errors import DataError, RecipeError
from seqdistill.core.schedules import Schedule
from seqdistill.core.source import Source
from seqdistill.data.batching import EpochBatches
from seqdistill.data.encoding import EncodedExample
from seqdistill.recipe.sequences_schema import AdaptiveSection, MeasuredSection
from seqdistill.sources.completions import Completion, CompletionSource, metric_sum
from seqdistill.sources.mixture import (
    AdaptiveFraction,
    Coin,
    Fraction,
    MeasuredFraction,
    MixtureSource,
)
from seqdistill.sources.rollouts import OnCompletions, RolloutBatches, RolloutSampler
from seqdistill.sources.stored import StoredCompletions

from .writing import PROMPTS, DiceSampler, batched, prompts_alone


def mixture(
    share: float | Fraction,
    coin: Coin = "example",
    *,
    sampler: DiceSampler | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> MixtureSource:
    if isinstance(share, float):
        share = Schedule.constant(share)
    student = RolloutSampler(sampler or DiceSampler(), seed=3, rank=rank, world_size=world_size)
    return MixtureSource(student, StoredCompletions("teacher"), share, coin=coin, seed=3)


def test_the_sampler_is_refreshed_once_an_update_and_only_when_the_student_writes() -> None:
    sampler = DiceSampler()
    writer = mixture(0.0, sampler=sampler)
    writer.begin_update(1, 3)
    writer.complete(PROMPTS)
    assert sampler.refreshes == 0
    alone = RolloutSampler(sampler, seed=3)
    for update in (1, 2, 3):
        sampler.weights = update  # the sampler refuses to sample with those of another update
        alone.begin_update(update, 3)
        alone.complete(PROMPTS[:3])
        alone.complete(PROMPTS[3:5])
        assert sampler.refreshes == update


def test_the_samples_of_a_prompt_stand_side_by_side_and_differ() -> None:
    writer = RolloutSampler(DiceSampler(), seed=1, samples_per_prompt=3)
    writer.begin_update(7, 9)
    written = writer.complete(prompts_alone(8)).listed()
    assert [one.example.id for one in written] == [f"e{i}" for i in range(8) for _ in range(3)]
    assert len({one.example.target_ids for one in written}) > 12
    assert {one.sampled_at_update for one in written} == {7}
    assert {one.origin for one in written} == {"student"}


def test_facts_of_rollouts_count_tokens_ends_and_cuts() -> None:
    writer = RolloutSampler(DiceSampler(), seed=1)
    writer.begin_update(1, 9)
    written = writer.complete(PROMPTS[:10]).listed() + writer.complete(PROMPTS[10:]).listed()
    facts = writer.end_update()
    ended = sum(one.example.target_ids[-1] == EOS for one in written)
    tokens = sum(len(one.example.target_ids) for one in written)
    assert 0 < ended < 24
    assert facts["rollouts"].mean == 24
    assert facts["eos_rate"].mean == pytest.approx(ended / 24)
    assert facts["cut_fraction"].mean == pytest.approx(1 - ended / 24)
    assert facts["completion_length"].mean == pytest.approx(tokens / 24)
    assert facts["generation_tokens_per_second"].mean > 0
    assert sum(not one.finished for one in written) == 24 - ended


class Listening(DiceSampler):
    """Notes the seeds that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds: list[int] = []

    def sample(self, prompts: Sequence[Source], *, seed: int) -> Completions:
        self.seeds.append(seed)
        return super().sample(prompts, seed=seed)


def test_no_two_calls_of_a_long_run_on_several_processes_share_a_seed() -> None:
    seeds: list[int] = []
    for rank in range(4):
        sampler = Listening()
        writer = RolloutSampler(sampler, seed=5, rank=rank, world_size=4)
        for update in range(1, 101):
            writer.begin_update(update, 100)
            for _ in range(3):
                writer.complete(PROMPTS[:1])
        seeds += sampler.seeds
    assert len(seeds) == 1200 and len({seed & 0x7FFFFFFF for seed in seeds}) > 1195
    assert len(set(seeds)) == 1200


def test_the_prompts_of_an_update_are_sampled_together() -> None:
    """Calls for few prompts each are several times slower than one for all."""
    calls: list[list[int]] = []

    class Counting(DiceSampler):
        def sample_all(
            self, groups: Sequence[Sequence[Source]], *, seeds: Sequence[int]
        ) -> Completions:
            calls.append([len(group) for group in groups])
            return super().sample_all(groups, seeds=seeds)

    found, shown = source(mixture(1.0, sampler=Counting())), list[int]()
    for update in (1, 2):
        found.begin_update(update, 2)
        shown.append(sum(batch.num_sequences for batch in found.batches(3)))
        found.end_update()
    assert [len(groups) for groups in calls] == [3, 3]
    assert [sum(groups) for groups in calls] == shown


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_sequences_of_an_update_are_regrouped_with_all_that_is_known_of_them(kind: str) -> None:
    def facts(update: Sequence[SequenceBatch]) -> list[list[object]]:
        rows: list[list[object]] = []
        for batch in update:
            for row, mask in enumerate(batch.target_mask):
                told: list[object] = [batch.example_ids[row], batch.target_ids[row][mask].tolist()]
                assert batch.origins is not None
                if batch.origins[row] == "student":  # of others nothing is known
                    assert batch.sampled_log_probs is not None
                    told.append(batch.sampled_log_probs[row][mask].tolist())
                rows.append(told)
        return sorted(rows, key=repr)

    def made() -> RolloutBatches:
        make = collator("causal" if kind == "causal" else "seq2seq")
        return dataclasses.replace(source(mixture(0.5)), collator=make)

    together, apart = made(), made()
    padding: list[list[float]] = [[], []]
    for update in (1, 2, 3):
        for one in (together, apart):
            one.begin_update(update, 3)
        both = [[*together.batches(4)], [apart.next_batch() for _ in range(4)]]
        assert facts(both[0]) == facts(both[1]) and len(both[0]) == 4
        for place, found in enumerate(both):
            padding[place].append(sum(float(batch.padding.count) for batch in found))
            (together, apart)[place].end_update()
    assert all(less <= more for less, more in zip(*padding, strict=True))
    assert padding[0] != padding[1]
    assert together.state_dict() == apart.state_dict()


class _Mute(DiceSampler):
    def sample(self, prompts: Sequence[Source], *, seed: int) -> Completions:
        return Completions.of_rows([() for _ in prompts], finished=[False for _ in prompts])


def test_a_prompt_without_an_answer_is_refused_by_name() -> None:
    writer = RolloutSampler(_Mute(), seed=1)
    with pytest.raises(DataError, match=r"'e0'.*engine: transformers"):
        writer.complete(PROMPTS[:2])
    with pytest.raises(DataError, match="of the teacher must be in the data, but 'e0'"):
        StoredCompletions("teacher").complete(prompts_alone(1))
    alone = mixture(1.0)  # nobody asks the data
    alone.begin_update(1, 9)
    assert len(alone.complete(prompts_alone())) == 24


@pytest.mark.parametrize("coin", ["batch", "example"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_student_writes_its_share(coin: Coin, share: float) -> None:
    writer, rolls_out, thrown = mixture(share, coin), 0, 0
    for update in range(1, 201):
        writer.begin_update(update, 200)
        prompts = PROMPTS[:1] if coin == "batch" else PROMPTS[:4]
        written = writer.complete(prompts).listed()
        facts = writer.end_update()
        told = facts["realized_student_share"]
        assert float(told.total) == sum(one.origin == "student" for one in written)
        assert facts["student_fraction"].mean == share
        rolls_out += int(told.total)
        thrown += int(told.count)
    assert binomtest(rolls_out, thrown, share).pvalue > 1e-3


def test_coins_of_examples_do_not_depend_on_the_batch_they_are_in() -> None:
    def rolls_out(batches: list[slice]) -> set[str]:
        writer = mixture(0.5)
        writer.begin_update(3, 9)
        written = [one for batch in batches for one in writer.complete(PROMPTS[batch]).listed()]
        assert len(written) == 24
        return {one.example.id for one in written if one.origin == "student"}

    whole = rolls_out([slice(0, 24)])
    assert 4 < len(whole) < 20
    assert rolls_out([slice(12, 24), slice(0, 12)]) == whole


def test_all_processes_throw_one_coin_for_a_batch() -> None:
    """A coin from a process's own stream lets some generate while others wait, or hang."""
    ranks = [mixture(0.5, "batch", rank=rank, world_size=3) for rank in range(3)]
    decisions = set()
    for update in range(1, 40):
        for writer in ranks:
            writer.begin_update(update, 40)
        # Two micro-batches on each process, of other prompts: still one coin.
        by = {
            one.origin
            for rank, writer in enumerate(ranks)
            for _ in range(2)
            for one in writer.complete(PROMPTS[4 * rank : 4 * rank + 4]).listed()
        }
        assert len(by) == 1
        decisions |= by
    assert decisions == {"student", "teacher"}


def test_both_answer_every_prompt_once() -> None:
    writer = mixture(0.0, "both")
    assert writer.sequences_per_prompt == 2
    writer.begin_update(1, 9)
    written = writer.complete(PROMPTS[:5]).listed()
    for by in ("student", "teacher"):
        ids = [one.example.id for one in written if one.origin == by]
        assert ids == [e.id for e in PROMPTS[:5]]
    facts = writer.end_update()
    assert facts["realized_student_share"].mean == 0.5
    assert facts["student_fraction"].mean == 0.0, "what was asked for, whatever came of it"
    writer.other = RolloutSampler(DiceSampler(), seed=9, origin="teacher")
    writer.begin_update(2, 9)
    assert {one.origin for one in writer.complete(PROMPTS[:4]).listed()} == {"student", "teacher"}
    facts = writer.end_update()
    assert facts["rollouts"].mean == facts["other_rollouts"].mean == 4


def shares_after(share: AdaptiveFraction, losses: Sequence[float]) -> list[float]:
    seen = []
    for loss in losses:
        share.dev_scored({"loss_nats": loss, "bleu": 1.0})
        seen.append(share.value(1, 9))
    return seen


def as_the_authors_do(losses: Sequence[float], *, step: float, threshold: float) -> list[float]:
    """The rule of DistiLLM's training script, whose `before` moves at a raise alone."""
    share, before, seen = 0.0, losses[0], []
    for loss in losses:
        if loss >= before + threshold:
            share, before = min(1.0, share + step), loss
        seen.append(share)
    return seen


@pytest.mark.parametrize("seed", range(5))
def test_an_adaptive_share_follows_the_authors_rule(seed: int) -> None:
    draw = random.Random(seed)
    losses = [2.0 + 0.05 * number + draw.gauss(0.0, 0.2) for number in range(40)]
    share = AdaptiveFraction(AdaptiveSection(shape="adaptive", start=0.0, step=0.1, threshold=0.1))
    found = shares_after(share, losses)
    assert found == pytest.approx(as_the_authors_do(losses, step=0.1, threshold=0.1))
    assert 0.3 < found[-1] <= 1.0 and len(set(found)) > 3


def test_an_adaptive_share_stays_at_its_most_and_needs_a_loss() -> None:
    capped = AdaptiveFraction(
        AdaptiveSection(shape="adaptive", start=0.2, step=0.2, threshold=0.0, end=0.5)
    )
    writer, told = mixture(capped), []
    for update in range(1, 5):
        writer.begin_update(update, 4)
        writer.complete(PROMPTS[:2])
        told.append(writer.end_update()["student_fraction"].mean)
        writer.dev_scored({"loss_nats": float(update)})
    assert told == pytest.approx([0.2, 0.2, 0.4, 0.5])
    with pytest.raises(RecipeError, match="must be told dev's loss, but the dev scores are bleu"):
        capped.dev_scored({"bleu": 20.0})


def test_a_measured_share_follows_the_divergences_by_its_rule() -> None:
    """With a time constant of 4; None where an update had no such sequences."""
    fraction = MeasuredFraction(
        MeasuredSection(shape="measured", within=(0.2, 0.8), time_constant=4.0)
    )
    writer = mixture(fraction)
    told: list[tuple[float | None, float | None, float]] = [
        (3.0, None, 0.5),  # the middle until both are known
        (None, 1.0, 3.0 / (3.0 + 1.0)),
        (7.0, None, 4.0 / (4.0 + 1.0)),  # a quarter of the way from 3 to 7
        (None, 9.0, 4.0 / (4.0 + 3.0)),
        (4.0, 3.0, 4.0 / (4.0 + 3.0)),
        (40.0, None, 0.8),  # 13 / 16
        (0.0, 83.0, 9.75 / (9.75 + 23.0)),
        (0.0, 83.0, 0.2),
    ]
    expected = 0.5
    for update, (own, others, after) in enumerate(told, start=1):
        writer.begin_update(update, 99)
        assert writer.end_update()["student_fraction"].mean == pytest.approx(expected)
        writer.learned(
            {
                f"divergence_{name}": metric_sum(6.0 * (mean or 0.0), 6.0 * (mean is not None))
                for name, mean in (("own", own), ("others", others))
            }
        )
        expected = after
        assert fraction.value(update + 1, 99) == pytest.approx(expected)
    equal = MeasuredFraction(
        MeasuredSection(shape="measured", within=(0.2, 0.6), time_constant=4.0)
    )
    equal.learned({"divergence_own": metric_sum(0, 2), "divergence_others": metric_sum(0, 2)})
    assert equal.value(2, 99) == pytest.approx(0.4), "no divergence is no reason to go anywhere"


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
        EpochBatches(
            examples,
            "seq2seq",
            batch_tokens=48 // writer.sequences_per_prompt,
            expected_new_tokens=12,
            seed=1,
            rank=rank,
            world_size=world_size,
        ),
        on_completions=on_completions,
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
    shown: list[tuple[int, int]] = []
    whole = source(mixture(0.5), on_completions=lambda update, w: shown.append((update, len(w))))
    alone = batches(whole, 6, 3)
    assert shown == [(1 + i // 3, batch.num_sequences) for i, batch in enumerate(alone)]
    for rank in range(3):
        writer = mixture(0.5, rank=rank, world_size=3)
        found = batches(source(writer, rank=rank, world_size=3), 6, 1)
        for expected, batch in zip(alone[rank::3], found, strict=True):
            assert batch.example_ids == expected.example_ids
            assert batch.origins == expected.origins
            assert torch.equal(batch.target_ids, expected.target_ids)


def test_prompts_without_targets_are_planned_with_the_expected_length() -> None:
    for samples in (1, 2):
        sampler = RolloutSampler(DiceSampler(), seed=3, samples_per_prompt=samples)
        for batch in batches(source(sampler, prompts_alone()), 8, 1):
            assert batch.num_sequences <= 48 // 12


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
