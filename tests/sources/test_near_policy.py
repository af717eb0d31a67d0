"""Blocks of sequences written ahead: which prompts, how old, how batched, what the filter takes."""

from __future__ import annotations

import collections
import itertools
import json
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from tests.tiny import collator, tiny_model

from seqdistill.core.completions import Completions
from seqdistill.core.errors import RecipeError
from seqdistill.core.source import Source
from seqdistill.data.batching import EpochBatches
from seqdistill.generation.rollout_process import RolloutProcess, Written
from seqdistill.sources.completions import PromptCompletions
from seqdistill.sources.near_policy import NearPolicyBatches

from .writing import DiceSampler, prompts_alone

MODEL = tiny_model("mbart")
UPDATES = 12


class AtOnce:
    """Stands for the process: writes when asked, with the weights of the last `sync`."""

    def __init__(self, *, gaps: bool = False) -> None:
        self.dice, self.gaps, self.restarts, self.synced, self.closed = DiceSampler(), gaps, 0, 0, 0
        self.written: Written | None = None

    def sync(self, model: object) -> None:
        assert self.written is None
        self.synced += 1
        self.dice.weights = self.dice.weights + 1
        self.dice.refresh()

    def ask(self, prompts: Sequence[Source], *, seed: int) -> None:
        assert self.written is None, "asked twice"
        found = self.dice.sample(prompts, seed=seed)
        gaps = tuple(np.random.default_rng(seed).normal(size=len(prompts))) if self.gaps else None
        self.written = Written(found, gaps, 0.5)

    def answer(self) -> Written:
        assert self.written is not None
        found, self.written = self.written, None
        return found

    def close(self) -> None:
        self.closed += 1


class Heard:
    """A source and what it handed out: of each update its batches."""

    def __init__(self, process: AtOnce | None = None, **given: Any) -> None:
        self.process = process or AtOnce()
        self.told: dict[int, list[PromptCompletions]] = collections.defaultdict(list)
        self.facts: list[dict[str, float | None]] = []
        settings: dict[str, Any] = {
            "sync_every": 3,
            "micro_batches": 2,
            "samples_per_prompt": 1,
            "keep_quantiles": None,
            "seed": 5,
            **given,
        }
        place = {name: given[name] for name in ("rank", "world_size") if name in given}
        budget = settings.pop("batch_tokens", 30) // settings["samples_per_prompt"]
        self.source = NearPolicyBatches(
            prompts_alone(),
            MODEL,
            cast("RolloutProcess", self.process),
            collator("seq2seq"),
            EpochBatches(
                prompts_alone(),
                "seq2seq",
                batch_tokens=budget,
                expected_new_tokens=4,
                seed=settings["seed"],
                **place,
            ),
            **settings,
            on_completions=lambda update, found: self.told[update].append(found),
        )

    def run(self, updates: range) -> Heard:
        for update in updates:
            self.source.begin_update(update, UPDATES)
            for _ in range(self.source.micro_batches):
                self.source.next_batch()
            told = self.source.end_update().items()
            self.facts.append(
                {
                    name: one.mean if float(one.count) else None
                    for name, one in told
                    if name != "wait_seconds"
                }
            )
        return self

    @property
    def ids(self) -> list[str]:
        return [one.id for found in self.listed for one in found.prompts]

    @property
    def listed(self) -> list[PromptCompletions]:
        return [found for update in sorted(self.told) for found in self.told[update]]


def test_the_age_of_sequences_is_bounded_and_told() -> None:
    heard = Heard().run(range(1, UPDATES + 1))
    ages = {
        update: {update - at for one in found for at in one.sampled_at_update}
        for update, found in heard.told.items()
    }
    assert [*ages.values()] == [{age} for age in (0, 1, 2, *[3, 4, 5] * 3)]
    assert [facts["staleness"] for facts in heard.facts] == [*itertools.chain(*ages.values())]
    assert (heard.process.synced, heard.process.closed) == (3, 1)  # none for a block after the last


def test_every_prompt_of_an_epoch_is_answered_once() -> None:
    heard = Heard(sync_every=2, micro_batches=1).run(range(1, UPDATES + 1))
    counts = collections.Counter(heard.ids)
    assert len(counts) == 24 and max(counts.values()) - min(counts.values()) <= 1


def test_batches_hold_sequences_of_like_length_about_as_much_each() -> None:
    heard = Heard(sync_every=4, batch_tokens=60).run(range(1, 5))
    widths = [
        [
            max(prompt.num_source, length)
            for prompt, length in zip(one.prompts, one.completions.lengths.tolist(), strict=True)
        ]
        for one in heard.listed
    ]
    assert len(widths) == 8 and max(map(sum, widths)) <= 1.6 * min(map(sum, widths))
    spans = sorted((min(batch), max(batch)) for batch in widths)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_the_filter_keeps_what_lies_between_the_quantiles_and_tells_what_it_took() -> None:
    heard = Heard(AtOnce(gaps=True), keep_quantiles=(0.25, 0.75)).run(range(1, 4))
    plain = Heard(AtOnce(gaps=True)).run(range(1, 4))
    assert 0 < len(heard.ids) < len(plain.ids) and {*heard.ids} < {*plain.ids}
    num_left_out = len(plain.ids) - len(heard.ids)
    assert heard.facts[0]["filtered_fraction"] == num_left_out / len(plain.ids)
    tokens = [sum(int(f.completions.lengths.sum()) for f in one.listed) for one in (plain, heard)]
    assert heard.facts[0]["filtered_tokens"] == tokens[0] - tokens[1]
    # An oracle: the same prompts in the order asked, and numpy's quantiles of the same gaps.
    process = AtOnce(gaps=True)
    again = Heard(process, keep_quantiles=None)
    asked: list[tuple[Written, list[str]]] = []
    ask = process.ask

    def heard_ask(prompts: Sequence[Source], *, seed: int) -> None:
        ask(prompts, seed=seed)
        assert process.written is not None
        asked.append((process.written, []))

    process.ask = heard_ask  # type: ignore[method-assign]
    again.run(range(1, 4))
    gaps = np.array(asked[0][0].difficulty_gaps)
    low, high = np.quantile(gaps, (0.25, 0.75))
    assert len(heard.ids) == int(((gaps >= low) & (gaps <= high)).sum())


def test_too_few_sequences_for_the_batches_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"keep_quantiles; widen them"):
        Heard(AtOnce(gaps=True), keep_quantiles=(0.5, 0.51), batch_tokens=8).run(range(1, 2))


@pytest.mark.parametrize(("stop", "sync_every"), [(1, 3), (3, 3), (4, 3), (8, 3), (2, 1)])
def test_a_resumed_source_hands_out_what_an_uninterrupted_one_does(
    stop: int, sync_every: int
) -> None:
    whole = Heard(sync_every=sync_every).run(range(1, UPDATES + 1))
    first = Heard(sync_every=sync_every).run(range(1, stop + 1))
    state = json.loads(json.dumps(first.source.state_dict()))
    process = AtOnce()
    # The weights that this stand-in has depend on how often they were copied.
    process.dice.weights = first.process.dice.weights
    second = Heard(process, sync_every=sync_every)
    second.source.load_state_dict(state)
    second.run(range(stop + 1, UPDATES + 1))
    assert first.facts + second.facts == whole.facts
    assert _tokens(first.listed + second.listed) == _tokens(whole.listed)


def test_a_run_is_resumed_by_as_many_processes() -> None:
    state = Heard(world_size=2).run(range(1, 3)).source.state_dict()
    with pytest.raises(RecipeError, match=r"resumed by as many processes.* got 1 and .* of 2"):
        Heard().source.load_state_dict(state)


def test_processes_share_the_prompts_of_one() -> None:
    alone = Heard(micro_batches=2).run(range(1, 4))
    shared = [Heard(micro_batches=1, rank=rank, world_size=2).run(range(1, 4)) for rank in (0, 1)]
    assert sorted(alone.ids) == sorted(shared[0].ids + shared[1].ids)


def _tokens(listed: Sequence[PromptCompletions]) -> list[tuple[str, tuple[int, ...]]]:
    rows: list[tuple[str, tuple[int, ...]]] = []
    for found in listed:
        completions: Completions = found.completions
        rows += zip((p.id for p in found.prompts), completions.rows(), strict=True)
    return rows
