"""Batches whose sequences are completed as training goes: prompts -> completions -> collator.

The prompts come in the same seeded order and the same batches whatever completes them, so two runs
that differ in a fraction alone see the same prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from seqdistill.core.batch import SequenceBatch
from seqdistill.data.batching import EpochBatches
from seqdistill.data.collating import Collator
from seqdistill.data.encoding import EncodedExample
from seqdistill.sources.completions import PromptCompletions
from seqdistill.sources.source import CompletionSource, SequenceSource, SourcePart

OnCompletions = Callable[[int, PromptCompletions], None]
"""Receives the update and the sequences of one of its micro-batches."""


class RolloutBatches(SequenceSource):
    """A source over prompts and what completes them.

    `batch_tokens` bounds the padded rectangle as it is planned: targets as long as those in the
    data, and `expected_new_tokens` where there is none, times the sequences a prompt gets. Real
    completions may be longer or shorter.

    n micro-batches of one process hold the prompts that n processes hold.
    """

    def __init__(
        self,
        examples: Sequence[EncodedExample],
        completing: CompletionSource,
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
        self._completing = completing
        self._collator = collator
        self._on_completions = on_completions
        self._update = 0
        self._batches = EpochBatches(
            examples,
            collator.kind,
            batch_tokens=max(1, batch_tokens // completing.sequences_per_prompt),
            expected_new_tokens=expected_new_tokens,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )

    def _parts(self) -> Mapping[str, SourcePart]:
        return {"completions": self._completing}

    def begin_update(self, update: int, updates: int) -> None:
        """Remembers the update for `on_completions`."""
        self._update = update
        super().begin_update(update, updates)

    def next_batch(self) -> SequenceBatch:
        """The next prompts with their completions, on the device of these."""
        found = self._completing.complete([self._examples[i] for i in self._batches.next()])
        if self._on_completions is not None:
            self._on_completions(self._update, found)
        return found.collated(self._collator)

    def state_dict(self) -> dict[str, Any]:
        """The place in the prompts, and the state of what completes them."""
        return {"batches": self._batches.state_dict(), **super().state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._batches.load_state_dict(state["batches"])
        super().load_state_dict(state)
