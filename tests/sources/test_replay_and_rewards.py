"""Kept sequences with their age, and rewards with a baseline that leaves the gradient's mean."""

from __future__ import annotations

import collections
import math
import statistics
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from seqdistill.core.errors import RecipeError
from seqdistill.core.schedules import Schedule
from seqdistill.sources.completions import Completion, CompletionSource, Gather, alone
from seqdistill.sources.mixture import MixtureSource, ReplaySource
from seqdistill.sources.rewarded import Baseline, RewardedSource
from seqdistill.sources.rollouts import RolloutSampler
from seqdistill.sources.stored import StoredCompletions

from .writing import PROMPTS, DiceSampler

NEVER = Schedule.constant(0.0)
ALWAYS = Schedule.constant(1.0)


def student(samples_per_prompt: int = 1, *, rank: int = 0, world_size: int = 1) -> RolloutSampler:
    return RolloutSampler(
        DiceSampler(),
        seed=5,
        samples_per_prompt=samples_per_prompt,
        rank=rank,
        world_size=world_size,
    )


def replay(fresh_fraction: Schedule, *, capacity: int = 1000, max_age: int = 1000) -> ReplaySource:
    return ReplaySource(
        student(), capacity=capacity, max_age=max_age, fresh_fraction=fresh_fraction, seed=5
    )


def updates_of(writer: CompletionSource, numbers: range, size: int = 4) -> list[list[Completion]]:
    told = []
    for update in numbers:
        writer.begin_update(update, 100)
        told.append(writer.complete(PROMPTS[:size]).listed())
        writer.end_update()
    return told


def test_until_enough_is_kept_all_is_fresh_and_then_it_is_drawn_without_repetition() -> None:
    first, *later = updates_of(replay(NEVER), range(1, 30))
    assert all(one.sampled_at_update == 1 for one in first)
    for written in later:
        assert sorted(map(repr, written)) == sorted(map(repr, first)), "the same four, each once"
    assert len({tuple(map(repr, written)) for written in later}) > 5, "in any order"


def test_kept_sequences_are_drawn_uniformly() -> None:
    writer = replay(NEVER)
    writer.begin_update(1, 100)
    kept = writer.complete(PROMPTS).listed()  # 24 of them
    writer.end_update()
    drawn = collections.Counter(
        one.example.id for written in updates_of(writer, range(2, 402), 6) for one in written
    )
    counts = [drawn[one.example.id] for one in kept]
    assert sum(counts) == 2400
    assert all(abs(count - 100) < 4.5 * math.sqrt(100) for count in counts)


def test_capacity_keeps_the_newest_and_age_drops_the_oldest() -> None:
    writer = replay(ALWAYS, capacity=10)
    updates_of(writer, range(1, 6))
    kept = writer.state_dict()["kept"]
    assert kept["sampled_at_update"] == [3, 3, 4, 4, 4, 4, 5, 5, 5, 5]
    old = replay(NEVER, max_age=3)
    sampled_at_update = [
        {one.sampled_at_update for one in written} for written in updates_of(old, range(1, 11))
    ]
    assert sampled_at_update == [{1}] * 4 + [{5}] * 4 + [{9}] * 2


def test_a_memory_too_small_for_a_batch_is_refused_and_not_passed_over() -> None:
    writer = replay(NEVER, capacity=3)
    writer.begin_update(1, 9)
    assert len(writer.complete(PROMPTS[:3])) == 3
    with pytest.raises(RecipeError, match=r"capacity must be .* got 3 and a micro-batch of 4"):
        writer.complete(PROMPTS[:4])
    several = ReplaySource(student(3), capacity=5, max_age=9, fresh_fraction=ALWAYS, seed=1)
    several.begin_update(1, 9)
    with pytest.raises(RecipeError, match="got 5 and a micro-batch of 6"):
        several.complete(PROMPTS[:2])


@pytest.mark.parametrize("max_age", [1, 4])
def test_nothing_older_than_the_limit_is_ever_given_and_ages_are_told(max_age: int) -> None:
    writer, seen = replay(Schedule.constant(0.3), max_age=max_age), collections.Counter[int]()
    for update in range(1, 80):
        writer.begin_update(update, 80)
        ages = [
            update - one.sampled_at_update
            for one in writer.complete(PROMPTS[:3]).listed()
            + writer.complete(PROMPTS[3:5]).listed()
        ]
        facts = writer.end_update()
        assert facts["staleness"].mean == pytest.approx(sum(ages) / len(ages))
        assert facts["realized_fresh_fraction"].mean == pytest.approx(ages.count(0) / len(ages))
        assert facts["fresh_fraction"].mean == 0.3, "what the schedule wants"
        assert facts["replay_size"].mean == len(writer.state_dict()["kept"]["origins"])
        seen.update(ages)
    assert set(seen) == set(range(max_age + 1)), "and as old as allowed some are"


def replay_of(rank: int, world_size: int, gather: Gather) -> CompletionSource:
    return ReplaySource(
        student(rank=rank, world_size=world_size),
        capacity=20,
        max_age=9,
        fresh_fraction=Schedule.constant(0.5),
        seed=5,
        rank=rank,
        world_size=world_size,
        gather=gather,
    )


def moving_average_of(rank: int, world_size: int, gather: Gather) -> CompletionSource:
    of = student(rank=rank, world_size=world_size)
    return RewardedSource(of, length, baseline="moving_average", gather=gather)


@pytest.mark.parametrize("make", [replay_of, moving_average_of])
def test_processes_write_what_the_micro_batches_of_one_do(
    make: Callable[[int, int, Gather], CompletionSource],
) -> None:
    groups = [PROMPTS[:3], PROMPTS[3:8]]
    told: list[object] = [None, None]
    barrier = threading.Barrier(2)

    def written(rank: int, world_size: int) -> tuple[list[list[Completion]], object]:
        def gather(own: object) -> list[object]:
            told[rank] = own
            barrier.wait(10)
            everyones = [*told]
            barrier.wait(10)
            return everyones

        writer = make(rank, world_size, alone if world_size == 1 else gather)
        found = []
        for update in range(1, 20):
            writer.begin_update(update, 20)
            found += [writer.complete(group).listed() for group in groups[rank::world_size]]
            writer.end_update()
        return found, writer.state_dict()

    with ThreadPoolExecutor(2) as processes:
        (first, state), (second, other) = processes.map(written, (0, 1), (2, 2))
    one, of_one = written(0, 1)
    assert (first, second) == (one[::2], one[1::2])
    assert state == other == of_one


def length(written: Sequence[Completion]) -> list[float]:
    return [float(len(one.example.target_ids)) for one in written]


def rewarded(baseline: Baseline, samples: int = 4) -> RewardedSource:
    return RewardedSource(student(samples), length, baseline=baseline)


def test_leave_one_out_compares_with_the_other_samples_of_the_prompt() -> None:
    (written,) = updates_of(rewarded("leave_one_out"), range(1, 2))
    for one in written:
        others = [o.reward for o in written if o.example.id == one.example.id and o is not one]
        assert len(others) == 3 and one.reward is not None
        expected = one.reward - sum(reward or 0.0 for reward in others) / 3
        assert one.advantage == pytest.approx(expected)


def test_the_moving_average_is_of_earlier_updates_alone() -> None:
    writer, average = rewarded("moving_average"), None
    for update in range(1, 6):
        writer.begin_update(update, 9)
        micro_batches = [
            writer.complete(PROMPTS[:3]).listed(),
            writer.complete(PROMPTS[3:5]).listed(),
        ]
        rewards = [length(written) for written in micro_batches]
        for written, own in zip(micro_batches, rewards, strict=True):
            for place, (one, reward) in enumerate(zip(written, own, strict=True)):
                others = own[:place] + own[place + 1 :]
                baseline = sum(others) / len(others) if average is None else average
                assert one.reward == reward
                assert one.advantage == pytest.approx(reward - baseline)
        every = [reward for own in rewards for reward in own]
        mean = sum(every) / len(every)
        facts = writer.end_update()
        assert facts["reward"].mean == pytest.approx(mean)
        spreads = [statistics.pstdev(every[i : i + 4]) for i in range(0, len(every), 4)]
        assert facts["reward_std_within_prompt"].mean == pytest.approx(statistics.mean(spreads))
        gained = [abs(one.advantage or 0.0) for written in micro_batches for one in written]
        assert facts["absolute_advantage"].mean == pytest.approx(statistics.mean(gained))
        average = mean if average is None else 0.9 * average + 0.1 * mean


def test_what_the_student_did_not_write_has_nothing_to_gain() -> None:
    asked: list[Completion] = []

    def reward(written: Sequence[Completion]) -> list[float]:
        asked.extend(written)
        return length(written)

    half = Schedule.constant(0.5)
    mixture = MixtureSource(student(), StoredCompletions("reference"), half, coin="example", seed=2)
    (written,) = updates_of(RewardedSource(mixture, reward, baseline="none"), range(1, 2), 24)
    by_data = [one for one in written if one.origin == "reference"]
    assert 0 < len(by_data) < 24
    assert all(one.advantage == 0.0 and one.reward is None for one in by_data)
    assert {one.origin for one in asked} == {"student"}
