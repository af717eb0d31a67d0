"""What every writer owes the source above it. A new writer cannot skip this file."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.tiny import collator

import seqdistill.sources
from seqdistill.core.schedules import Schedule
from seqdistill.data.batching import EpochBatches
from seqdistill.recipe.sequences_schema import AdaptiveSection, MeasuredSection
from seqdistill.sources.completions import Completion, CompletionSource, metric_sum
from seqdistill.sources.mixture import (
    AdaptiveFraction,
    Coin,
    Fraction,
    MeasuredFraction,
    MixtureSource,
    ReplaySource,
)
from seqdistill.sources.pass_rates import PassRatedSource
from seqdistill.sources.rewarded import Baseline, RewardedSource
from seqdistill.sources.rollouts import RolloutBatches, RolloutSampler
from seqdistill.sources.stored import StoredCompletions

from .writing import PROMPTS, DiceSampler

UPDATES = 12
ONE = metric_sum(1, 1)


def student(samples_per_prompt: int = 1) -> RolloutSampler:
    return RolloutSampler(DiceSampler(), seed=5, samples_per_prompt=samples_per_prompt)


def mixture(coin: Coin, share: Fraction | None = None) -> MixtureSource:
    rising = Schedule(0.2, 0.9)
    return MixtureSource(
        student(), StoredCompletions("teacher"), share or rising, coin=coin, seed=5
    )


def replay(of: CompletionSource | None = None) -> ReplaySource:
    return ReplaySource(
        of or student(2), capacity=40, max_age=5, fresh_fraction=Schedule(1.0, 0.0), seed=5
    )


def rewarded(baseline: Baseline, of: CompletionSource | None = None) -> RewardedSource:
    def short(written: Sequence[Completion]) -> list[float]:
        return [-float(len(one.example.target_ids)) for one in written]

    return RewardedSource(of or student(2), short, baseline=baseline)


WRITERS: dict[str, Callable[[], CompletionSource]] = {
    "stored": lambda: StoredCompletions("reference"),
    "student": student,
    "student, three samples": lambda: student(3),
    "mixture by batch": lambda: mixture("batch"),
    "mixture by example": lambda: mixture("example"),
    "mixture of both": lambda: mixture("both"),
    "adaptive mixture": lambda: mixture(
        "example", AdaptiveFraction(AdaptiveSection(shape="adaptive"))
    ),
    "measured mixture": lambda: mixture(
        "example",
        MeasuredFraction(MeasuredSection(shape="measured", within=(0.1, 0.9), time_constant=2.0)),
    ),
    "replay": replay,
    "rewarded, leave one out": lambda: rewarded("leave_one_out"),
    "rewarded, moving average": lambda: rewarded("moving_average"),
    "rewarded, no baseline": lambda: rewarded("none"),
    "rewarded mixture": lambda: rewarded("moving_average", mixture("example")),
    "rewarded with pass rates, three samples": lambda: PassRatedSource(
        rewarded("none", student(3)), -4.0
    ),
    "replay of rewarded": lambda: replay(rewarded("leave_one_out")),
    "adaptive mixture of replay": lambda: MixtureSource(
        replay(),
        StoredCompletions("reference"),
        AdaptiveFraction(AdaptiveSection(shape="adaptive", step=0.3)),
        coin="batch",
        seed=5,
    ),
}
every_writer = pytest.mark.parametrize("name", WRITERS)


def updates_of(writer: CompletionSource, numbers: range) -> list[list[list[Completion]]]:
    """What is written in these updates, two micro-batches each; dev gets worse all the time, and so
    does what the student writes."""
    told = []
    for update in numbers:
        writer.begin_update(update, UPDATES)
        told.append([writer.complete(PROMPTS[:4]).listed(), writer.complete(PROMPTS[4:9]).listed()])
        writer.end_update()
        writer.learned({"divergence_own": metric_sum(update, 1), "divergence_others": ONE})
        if update % 3 == 0:
            writer.dev_scored({"loss_nats": 1.0 + update, "bleu": 0.0})
    return told


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(json.dumps(state))
    return loaded


def test_every_class_that_writes_is_in_this_suite() -> None:
    found = set()
    for module in pkgutil.iter_modules(seqdistill.sources.__path__):
        loaded = importlib.import_module(f"seqdistill.sources.{module.name}")
        for _, member in inspect.getmembers(loaded, inspect.isclass):
            if issubclass(member, CompletionSource) and member is not CompletionSource:
                found.add(member)
    assert found == {type(make()) for make in WRITERS.values()}


@every_writer
@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_resumed_writer_writes_what_an_uninterrupted_one_does(name: str, stop: int) -> None:
    whole = updates_of(WRITERS[name](), range(1, UPDATES + 1))
    first, second = WRITERS[name](), WRITERS[name]()
    before = updates_of(first, range(1, stop + 1))
    second.load_state_dict(through_json(first.state_dict()))
    assert before + updates_of(second, range(stop + 1, UPDATES + 1)) == whole


@every_writer
def test_an_update_asked_for_at_once_is_the_one_asked_for_in_turn(name: str) -> None:
    batches = [PROMPTS[:4], PROMPTS[4:9], [], PROMPTS[9:11]]
    at_once, in_turn = WRITERS[name](), WRITERS[name]()
    for update in range(1, UPDATES + 1):
        at_once.begin_update(update, UPDATES)
        in_turn.begin_update(update, UPDATES)
        found = [one.listed() for one in at_once.complete_all(batches)]
        assert found == [in_turn.complete(prompts).listed() for prompts in batches]
        facts, expected = (
            {name: (one.total, one.count) for name, one in writer.end_update().items()}
            for writer in (at_once, in_turn)
        )
        for clocked in ("generation_tokens_per_second", "refresh_seconds"):
            facts.pop(clocked, None)
            expected.pop(clocked, None)
        assert facts == expected


@every_writer
def test_facts_have_the_same_names_in_the_same_order_at_every_update(name: str) -> None:
    """Processes add their facts by place: other names on one of them would mix them up."""
    writer = WRITERS[name]()
    seen = set()
    for update in range(1, UPDATES + 1):
        writer.begin_update(update, UPDATES)
        if update % 4:
            writer.complete(PROMPTS[:3])
        seen.add(tuple(writer.end_update()))
    assert len(seen) == 1


@every_writer
def test_prompts_are_answered_in_full_and_no_prompt_with_nothing(name: str) -> None:
    writer = WRITERS[name]()
    writer = WRITERS[name]()
    budget = 60 // writer.sequences_per_prompt
    places = EpochBatches(PROMPTS, "seq2seq", batch_tokens=budget, expected_new_tokens=4, seed=1)
    source = RolloutBatches(PROMPTS, writer, collator("seq2seq"), places)
    source.begin_update(1, UPDATES)
    batch = source.next_batch()
    assert batch.origins is not None and len(batch.origins) == batch.num_sequences
    by_id = {example.id: example.source_ids for example in PROMPTS}
    for update in range(1, UPDATES + 1):
        writer.begin_update(update, UPDATES)
        assert len(writer.complete([])) == 0
        written = writer.complete(PROMPTS[:6]).listed()
        assert 6 <= len(written) <= 6 * writer.sequences_per_prompt
        for one in written:
            assert one.example.source_ids == by_id[one.example.id]
            assert one.example.target_ids
            assert one.sampled_at_update <= update
            logged = one.sampled_log_probs
            assert logged is None or len(logged) == len(one.example.target_ids)
            assert (one.advantage is None) == (not name.count("reward"))
