"""Batches whose sequences are written as training goes: prompts -> writer -> collator.

The prompts come in the same seeded order and the same batches whoever writes, so two runs that
differ in a share alone see the same prompts. Writes nothing itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.batching import Collator, EpochBatches
from seqdistill.data.encoding import EncodedExample
from seqdistill.sources.completions import Completion, CompletionSource

OnCompletions = Callable[[int, Sequence[Completion]], None]
"""Receives the update and what was written for one of its micro-batches."""


class RolloutBatches:
    """A `SequenceSource` over prompts and a writer.

    `batch_tokens` bounds the padded rectangle as it is planned: targets as long as those in the
    data, and `expected_new_tokens` where there is none, times the sequences a prompt gets. What is
    really written may be longer or shorter.

    n micro-batches of one process hold the prompts that n processes hold.
    """

    def __init__(
        self,
        examples: Sequence[EncodedExample],
        writer: CompletionSource,
        collator: Collator,
        *,
        batch_tokens: int,
        expected_new_tokens: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        on_completions: OnCompletions | None = None,
    ) -> None:
        self._examples = examples
        self._writer = writer
        self._collator = collator
        self._on_written = on_completions
        self._update = 0
        self._batches = EpochBatches(
            examples,
            collator.kind,
            batch_tokens=max(1, batch_tokens // writer.sequences_per_prompt),
            expected_new_tokens=expected_new_tokens,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )

    def begin_update(self, update: int, updates: int) -> None:
        """Handed on to the writer."""
        self._update = update
        self._writer.begin_update(update, updates)

    def next_batch(self) -> SequenceBatch:
        """The next prompts with what was written for them, on the CPU."""
        written = self._writer.write([self._examples[i] for i in self._batches.next()])
        if self._on_written is not None:
            self._on_written(self._update, written)
        return collated(written, self._collator)

    def end_update(self) -> dict[str, TokenSum]:
        """The writer's facts."""
        return self._writer.end_update()

    def dev_scored(self, scores: Mapping[str, float]) -> None:
        """Handed on to the writer."""
        self._writer.dev_scored(scores)

    def state_dict(self) -> dict[str, Any]:
        """The place in the prompts, and the writer's state."""
        return {"batches": self._batches.state_dict(), "writer": self._writer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where `state_dict` was taken."""
        self._batches.load_state_dict(state["batches"])
        self._writer.load_state_dict(state["writer"])


def collated(written: Sequence[Completion], collator: Collator) -> SequenceBatch:
    """The sequences as one batch that says who wrote them and what is known of them.

    `sampled_log_probs` lie where their targets do and are 0 where nothing counts. They and the
    advantages are None where no sequence has any; where some have, those of the others are NaN:
    unknown is not zero, and a loss that reads them stops instead of going wrong.
    """
    batch = collator([one.example for one in written])
    return dataclasses.replace(
        batch,
        origin=tuple(one.origin for one in written),
        sampled_log_probs=_sampled_log_probs(written, batch.target_mask),
        advantages=_advantages(written),
    )


def _sampled_log_probs(
    written: Sequence[Completion], target_mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch time"] | None:
    if all(one.sampled_log_probs is None for one in written):
        return None
    aligned = torch.zeros(target_mask.shape)
    # The targets of a row stand in order, so those of all rows are the mask's True, row by row.
    aligned[target_mask] = torch.tensor(
        [
            value
            for one in written
            for value in one.sampled_log_probs or (float("nan"),) * one.example.num_counted
        ]
    )
    return aligned


def _advantages(written: Sequence[Completion]) -> Float[Tensor, " batch"] | None:
    if all(one.advantage is None for one in written):
        return None
    unknown = float("nan")
    return torch.tensor([unknown if a is None else a for a in (one.advantage for one in written)])
