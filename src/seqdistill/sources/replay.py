"""Rollouts kept and learned from again: cheaper than fresh ones, and no longer on-policy.

The student that a kept sequence was sampled from is gone; how long ago is logged as staleness. A
batch that is drawn from memory brings its own prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from seqdistill.core.errors import RecipeError
from seqdistill.core.generators import named_generator
from seqdistill.core.schedules import Schedule
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.encoding import EncodedExample
from seqdistill.sources.completions import PromptCompletions, metric_sum
from seqdistill.sources.mixture import coin
from seqdistill.sources.source import CompletionSource, SourcePart


class ReplaySource(CompletionSource):
    """Fresh rollouts with probability `fresh_fraction`, else kept ones.

    One coin an update, the same on every process, so that none waits for another's rollouts. Fresh
    rollouts are kept; of more than `capacity` the oldest go, and so does what is older than
    `max_age` updates. As many are drawn as the prompts would have got, of those kept by earlier
    updates, uniformly and without replacement within a micro-batch; while they are too few, all are
    fresh, and the metrics say so.
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
        """Raises ValueError for a capacity or an age below 1."""
        if min(capacity, max_age) < 1:
            raise ValueError(
                f"capacity and max_age must be at least 1, got {capacity} and {max_age}"
            )
        self._student = student
        self._capacity = capacity
        self._max_age = max_age
        self._fresh_fraction = fresh_fraction
        self._seed = seed
        self._rank = rank
        self._kept: PromptCompletions | None = None  # oldest first
        self._update, self._calls = 0, 0
        self._fraction, self._is_fresh = 1.0, True
        self._num_fresh, self._num_all, self._ages = 0, 0, 0

    def _parts(self) -> Mapping[str, SourcePart]:
        return {"student": self._student}

    def begin_update(self, update: int, updates: int) -> None:
        """Drops what is too old and throws the coin."""
        self._update, self._calls = update, 0
        self._num_fresh, self._num_all, self._ages = 0, 0, 0
        if self._kept is not None:
            self._kept = self._kept.select(self._rows_from(update - self._max_age))
        self._fraction = self._fresh_fraction.value(update, updates)
        self._is_fresh = coin(self._seed, f"replay/update-{update}") < self._fraction
        super().begin_update(update, updates)

    def _rows_from(self, first: int, last: int | None = None) -> list[int]:
        """The kept rows sampled at these updates."""
        updates = () if self._kept is None else self._kept.sampled_at_update
        return [
            row
            for row, update in enumerate(updates)
            if first <= update and (last is None or update <= last)
        ]

    def complete(self, prompts: Sequence[EncodedExample]) -> PromptCompletions:
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
        older = self._rows_from(0, self._update - 1)
        if self._kept is None or self._is_fresh or len(older) < wanted:
            found = self._student.complete(prompts)
            kept = [found] if self._kept is None else [self._kept, found]
            self._kept = PromptCompletions.concatenated(kept)
            excess = max(0, len(self._kept) - self._capacity)
            if excess:
                self._kept = self._kept.select(range(excess, len(self._kept)))
            self._num_fresh += len(found)
        else:
            self._student.complete([])  # stays in step with the micro-batches
            name = f"replay/rank-{self._rank}/update-{self._update}/batch-{self._calls}"
            order = torch.randperm(len(older), generator=named_generator(self._seed, name))
            found = self._kept.select([older[i] for i in order[:wanted].tolist()])
        self._num_all += len(found)
        self._ages += sum(self._update - update for update in found.sampled_at_update)
        return found

    def end_update(self) -> dict[str, TokenSum]:
        """The student's metrics, `staleness` in updates (fresh ones count as 0), `fresh_fraction`
        as the schedule has it and `realized_fresh_fraction` of the sequences that there were, and
        `replay_size`, a process's mean number of kept sequences."""
        return {
            **super().end_update(),
            "staleness": metric_sum(self._ages, self._num_all),
            "fresh_fraction": metric_sum(self._fraction, 1),
            "realized_fresh_fraction": metric_sum(self._num_fresh, self._num_all),
            "replay_size": metric_sum(0 if self._kept is None else len(self._kept), 1),
        }

    def state_dict(self) -> dict[str, Any]:
        """All kept sequences, and the student's state."""
        kept = None if self._kept is None else self._kept.state_dict()
        return {"kept": kept, **super().state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        kept = state["kept"]
        self._kept = None if kept is None else PromptCompletions.from_state_dict(kept)
        super().load_state_dict(state)
