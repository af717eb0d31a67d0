"""Rollouts kept and learned from again: cheaper than fresh ones, and no longer on-policy.

The student that a kept sequence was sampled from is gone; how long ago is logged as staleness. A
batch that is drawn from memory brings its own prompts.
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
from seqdistill.sources.completions import PromptCompletions, metric_sum
from seqdistill.sources.mixture import coin
from seqdistill.sources.source import CompletionSource, Gather, SourcePart, alone


class ReplaySource(CompletionSource):
    """Fresh rollouts with probability `fresh_fraction`, else kept ones.

    One coin an update, the same on every process, so that none waits for another's rollouts. Fresh
    rollouts of all processes are kept by each when the update ends; of more than `capacity` the
    oldest go, and so does what is older than `max_age` updates. As many are drawn as the prompts
    would have got, of those kept by earlier updates, uniformly and without replacement within a
    micro-batch; while they are too few, all are fresh, and the metrics say so.
    A memory that no batch fits in could never be drawn from, so it is refused. n processes draw
    what n micro-batches of one do.

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
        world_size: int = 1,
        gather: Gather = alone,
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
        self._rank, self._world_size, self._gather = rank, world_size, gather
        self._kept: PromptCompletions | None = None  # oldest first, none of this update
        self._written: list[PromptCompletions | None] = []  # of this update's micro-batches
        self._update = 0
        self._fraction, self._is_fresh = 1.0, True
        self._num_fresh, self._num_all, self._ages = 0, 0, 0

    def _parts(self) -> Mapping[str, SourcePart]:
        return {"student": self._student}

    def begin_update(self, update: int, updates: int) -> None:
        """Drops what is too old and throws the coin."""
        self._update, self._written = update, []
        self._num_fresh, self._num_all, self._ages = 0, 0, 0
        if self._kept is not None:
            sampled_at = self._kept.sampled_at_update
            young = [row for row, at in enumerate(sampled_at) if at >= update - self._max_age]
            self._kept = self._kept.select(young)
        self._fraction = self._fresh_fraction.value(update, updates)
        self._is_fresh = coin(self._seed, f"replay/update-{update}") < self._fraction
        super().begin_update(update, updates)

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
        batch = len(self._written) * self._world_size + self._rank
        if self._kept is None or self._is_fresh or len(self._kept) < wanted:
            found = self._student.complete(prompts)
            self._written.append(found)
            self._num_fresh += len(found)
        else:
            self._student.complete([])  # stays in step with the micro-batches
            self._written.append(None)
            name = f"replay/update-{self._update}/batch-{batch}"
            order = torch.randperm(len(self._kept), generator=named_generator(self._seed, name))
            found = self._kept.select(order[:wanted].tolist())
        self._num_all += len(found)
        self._ages += sum(self._update - update for update in found.sampled_at_update)
        return found

    def end_update(self) -> dict[str, TokenSum]:
        """The student's metrics, `staleness` in updates (fresh ones count as 0), `fresh_fraction`
        as the schedule has it and `realized_fresh_fraction` of the sequences that there were, and
        `replay_size`, the number of kept sequences."""
        self._keep()
        return {
            **super().end_update(),
            "staleness": metric_sum(self._ages, self._num_all),
            "fresh_fraction": metric_sum(self._fraction, 1),
            "realized_fresh_fraction": metric_sum(self._num_fresh, self._num_all),
            "replay_size": metric_sum(0 if self._kept is None else len(self._kept), 1),
        }

    def _keep(self) -> None:
        """Puts what all processes wrote into the memory, in the order of the micro-batches."""
        own = [
            found and dataclasses.replace(found, completions=found.completions.cpu())
            for found in self._written
        ]
        by_batch = [one for batch in zip(*self._gather(own), strict=True) for one in batch if one]
        parts = by_batch if self._kept is None else [self._kept, *by_batch]
        if parts:
            kept = PromptCompletions.concatenated(parts)
            self._kept = kept.select(range(max(0, len(kept) - self._capacity), len(kept)))

    def state_dict(self) -> dict[str, Any]:
        """All kept sequences, and the student's state."""
        kept = None if self._kept is None else self._kept.state_dict()
        return {"kept": kept, **super().state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        kept = state["kept"]
        self._kept = None if kept is None else PromptCompletions.from_state_dict(kept)
        super().load_state_dict(state)
