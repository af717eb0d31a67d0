"""What the training loop asks of whoever writes the sequences. Implements no source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.token_sum import TokenSum


@runtime_checkable
class SequenceSource(Protocol):
    """Writes the next batch. The training step does not know who wrote it.

    Called in this order for every update: `begin_update`, `next_batch` once for each micro-batch,
    `end_update`. Sources on several processes have one seed and stay in step: they are called
    equally often, and what they decide together (a coin for a whole batch) they draw alike.
    """

    def begin_update(self, update: int, updates: int) -> None:
        """Update number `update` of `updates`, counted from 1, is about to ask for batches."""

    def next_batch(self) -> SequenceBatch:
        """The next batch of sequences with aligned targets, on the CPU."""

    def end_update(self) -> dict[str, TokenSum]:
        """What is worth logging of the batches since `begin_update`, by name; the names are the
        same at every update."""

    def dev_scored(self, scores: Mapping[str, float]) -> None:
        """The student's dev scores, whenever there are new ones."""

    def state_dict(self) -> dict[str, Any]:
        """Where this process's source is, as JSON knows it, for a checkpoint."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where `state_dict` was taken."""
