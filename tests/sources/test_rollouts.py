"""Rollouts, mixtures and shares: what is fresh, what is counted, who writes how much."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from scipy.stats import binomtest
from tests.tiny import EOS

from seqdistill.core.completions import Completions
from seqdistill.core.errors import DataError, RecipeError
from seqdistill.core.schedules import Schedule
from seqdistill.core.source import Source
from seqdistill.sources.mixture import AdaptiveFraction, Coin, Fraction, MixtureSource
from seqdistill.sources.rollout_sampler import RolloutSampler
from seqdistill.sources.stored import StoredCompletions

from .writing import PROMPTS, DiceSampler, prompts_alone


def mixture(
    share: float | Fraction, coin: Coin = "example", *, sampler: DiceSampler | None = None
) -> MixtureSource:
    if isinstance(share, float):
        share = Schedule.constant(share)
    student = RolloutSampler(sampler or DiceSampler(), seed=3)
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


class _Mute(DiceSampler):
    def sample(self, prompts: Sequence[Source], *, seed: int) -> Completions:
        return Completions.of_rows([() for _ in prompts], finished=[False for _ in prompts])


def test_a_prompt_answered_with_nothing_is_refused_by_name() -> None:
    writer = RolloutSampler(_Mute(), seed=1)
    writer.begin_update(1, 9)
    with pytest.raises(DataError, match=r"'e0'.*engine: transformers"):
        writer.complete(PROMPTS[:2])


def test_a_prompt_without_a_target_cannot_be_written_by_the_data() -> None:
    with pytest.raises(DataError, match="of the teacher must be in the data, but 'e0'"):
        StoredCompletions("teacher").complete(prompts_alone(1))
    writer = mixture(1.0)  # nobody asks the data
    writer.begin_update(1, 9)
    assert len(writer.complete(prompts_alone())) == 24


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


def test_an_adaptive_share_is_told_as_it_stands() -> None:
    writer, told = mixture(AdaptiveFraction(start=0.2, step=0.3, threshold=0.0)), []
    for update in range(1, 4):
        writer.begin_update(update, 3)
        writer.complete(PROMPTS[:2])
        told.append(writer.end_update()["student_fraction"].mean)
        writer.dev_scored({"loss_nats": float(update)})
    assert told == pytest.approx([0.2, 0.2, 0.5])


def test_facts_of_the_other_writer_do_not_hide_the_students() -> None:
    teacher = RolloutSampler(DiceSampler(), seed=9, origin="teacher")
    writer = MixtureSource(
        RolloutSampler(DiceSampler(), seed=3),
        teacher,
        Schedule.constant(0.5),
        coin="both",
        seed=1,
    )
    writer.begin_update(1, 9)
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
    share = AdaptiveFraction(start=0.0, step=0.1, threshold=0.1)
    found = shares_after(share, losses)
    assert found == pytest.approx(as_the_authors_do(losses, step=0.1, threshold=0.1))
    assert 0.3 < found[-1] <= 1.0 and len(set(found)) > 3


def test_an_adaptive_share_stays_at_its_most_and_needs_a_loss() -> None:
    share = AdaptiveFraction()
    capped = AdaptiveFraction(start=0.2, step=0.4, threshold=0.0, most=0.5)
    for _ in range(2):
        capped.dev_scored({"loss_nats": 1.0})
    assert capped.value(1, 9) == 0.5
    with pytest.raises(RecipeError, match="must be told dev's loss, but the dev scores are bleu"):
        share.dev_scored({"bleu": 20.0})
