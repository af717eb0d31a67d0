"""Rollouts kept and learned from again: cheaper than fresh ones, and no longer on-policy.

The student that wrote a kept sequence is gone; how long ago is logged as staleness. Chooses no
prompts: a batch that is drawn from memory brings its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from seqdistill.core.errors import RecipeError
from seqdistill.core.generators import named_generator
from seqdistill.core.schedules import Schedule
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.encoding import EncodedExample
from seqdistill.sources.completions import Completion, CompletionSource, metric_sum
from seqdistill.sources.mixture import coin


class ReplaySource:
    """A `CompletionSource`: fresh rollouts with probability `fresh_fraction`, else kept ones.

    One coin an update, the same on every process, so that none waits for another's rollouts. Fresh
    rollouts are kept; of more than `capacity` the oldest go, and so does what is older than
    `max_age` updates. As many are drawn as the prompts would have got, of those kept by earlier
    updates, uniformly and without replacement within a micro-batch; while they are too few, all are
    fresh, and the facts say so.
    A memory that no batch fits in could never be drawn from, so it is refused. Every process has a
    memory of its own, so n processes draw other sequences than n micro-batches of one do.

    Source: Ko et al. 2024 (DistiLLM), sec. 3.2; there fresh_fraction falls linearly from 1 to 0,
    with a capacity of 1000 and no limit of age, and its code lets all be fresh until the memory is
    full.
    """

    def __init__(
        self,
        student: CompletionSource,
        *,
        capacity: int,
        max_age: int,
        fresh_fraction: Schedule,
        seed: int,
        rank: int = 0,
    ) -> None:
        """Raises RecipeError for a capacity or an age below 1."""
        for name, value in (("capacity", capacity), ("max_age", max_age)):
            if value < 1:
                raise RecipeError(
                    f"sequences.replay.{name} must be at least 1, got {value}; raise it, or use "
                    "sequences.origin=student"
                )
        self._student = student
        self._capacity = capacity
        self._max_age = max_age
        self._fresh_share = fresh_fraction
        self._seed = seed
        self._rank = rank
        self._kept: list[Completion] = []  # oldest first
        self._update, self._calls = 0, 0
        self._share, self._is_fresh = 1.0, True
        self._num_fresh, self._num_all, self._ages = 0, 0, 0

    @property
    def sequences_per_prompt(self) -> int:
        """As many as the student writes."""
        return self._student.sequences_per_prompt

    def begin_update(self, update: int, updates: int) -> None:
        """Drops what is too old and throws the coin."""
        self._update, self._calls = update, 0
        self._num_fresh, self._num_all, self._ages = 0, 0, 0
        self._kept = [one for one in self._kept if update - one.sampled_at_update <= self._max_age]
        self._share = self._fresh_share.value(update, updates)
        self._is_fresh = coin(self._seed, f"replay/update-{update}") < self._share
        self._student.begin_update(update, updates)

    def write(self, prompts: Sequence[EncodedExample]) -> list[Completion]:
        """Rollouts of these prompts, or kept ones of others, none older than the limit.

        Raises RecipeError for a batch of more sequences than can be kept.
        """
        wanted = len(prompts) * self._student.sequences_per_prompt
        if wanted > self._capacity:
            raise RecipeError(
                "sequences.replay.capacity must be at least the sequences of a micro-batch, since "
                f"one is drawn whole, got {self._capacity} and a micro-batch of {wanted}; raise "
                "it, or lower training.batch_tokens"
            )
        self._calls += 1
        older = [one for one in self._kept if one.sampled_at_update < self._update]
        if self._is_fresh or len(older) < wanted:
            written = self._student.write(prompts)
            self._kept = (self._kept + written)[-self._capacity :]
            self._num_fresh += len(written)
        else:
            self._student.write([])  # stays in step with the micro-batches
            written = self._drawn(older, wanted)
        self._num_all += len(written)
        self._ages += sum(self._update - one.sampled_at_update for one in written)
        return written

    def _drawn(self, older: Sequence[Completion], wanted: int) -> list[Completion]:
        name = f"replay/rank-{self._rank}/update-{self._update}/batch-{self._calls}"
        order = torch.randperm(len(older), generator=named_generator(self._seed, name))
        return [older[i] for i in order[:wanted].tolist()]

    def end_update(self) -> dict[str, TokenSum]:
        """The student's facts, `staleness` in updates (fresh ones count as 0), `fresh_fraction` as
        the schedule has it and `realized_fresh_fraction` of the sequences that there were, and
        `replay_size`, a process's mean number of kept sequences."""
        return {
            **self._student.end_update(),
            "staleness": metric_sum(self._ages, self._num_all),
            "fresh_fraction": metric_sum(self._share, 1),
            "realized_fresh_fraction": metric_sum(self._num_fresh, self._num_all),
            "replay_size": metric_sum(len(self._kept), 1),
        }

    def dev_scored(self, scores: Mapping[str, float]) -> None:
        """Handed on."""
        self._student.dev_scored(scores)

    def state_dict(self) -> dict[str, Any]:
        """All kept sequences, and the student's state."""
        return {
            "kept": [dataclasses.asdict(one) for one in self._kept],
            "student": self._student.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where `state_dict` was taken."""
        self._kept = [_written(fields) for fields in state["kept"]]
        self._student.load_state_dict(state["student"])


def _written(fields: Mapping[str, Any]) -> Completion:
    """A sequence from its fields, whose tuples JSON has made lists."""
    example, log_probs = fields["example"], fields["sampled_log_probs"]
    return Completion(
        EncodedExample(example["id"], tuple(example["source_ids"]), tuple(example["target_ids"])),
        fields["origin"],
        sampled_log_probs=None if log_probs is None else tuple(log_probs),
        advantage=fields["advantage"],
        reward=fields["reward"],
        sampled_at_update=fields["sampled_at_update"],
        finished=fields["finished"],
    )
