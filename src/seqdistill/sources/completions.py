"""Who writes the sequences of an update, given its prompts: the common form, and the simplest one.

A writer turns prompts into prompts with targets, and says of each who wrote it, when, and what is
known of it. It does not choose prompts, make tensors or know a loss; `written_batches` does the
first two. A writer may wrap others: a reward, a mixture, a memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from seqdistill.core.errors import DataError
from seqdistill.core.origins import Origin
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.encoding import EncodedExample


@dataclasses.dataclass(frozen=True)
class Completion:
    """One sequence and what is known of it; what nobody asked for is None."""

    example: EncodedExample
    """The prompt with what was written as its target."""
    origin: Origin
    sampled_log_probs: tuple[float, ...] | None = None
    """Nats of each target token under the distribution that it was drawn from."""
    advantage: float | None = None
    """The reward less its baseline."""
    reward: float | None = None
    sampled_at_update: int = 0
    """The update that it was sampled at; 0 for what was there before training."""
    finished: bool = True
    """False for a sequence that the length limit cut off: it has no end token."""

    @property
    def content_ids(self) -> tuple[int, ...]:
        """The target less its end: what is text."""
        ids = self.example.target_ids
        return ids[:-1] if self.finished else ids


@runtime_checkable
class CompletionSource(Protocol):
    """Writes targets. Called in this order for every update: `begin_update`, `write` once for each
    micro-batch, `end_update`. What processes must decide alike they draw alike."""

    @property
    def sequences_per_prompt(self) -> int:
        """How many sequences `write` gives for a prompt, at most."""

    def begin_update(self, update: int, updates: int) -> None:
        """Update number `update` of `updates`, counted from 1, is about to ask for sequences."""

    def write(self, prompts: Sequence[EncodedExample]) -> list[Completion]:
        """Sequences for the prompts of one micro-batch; none for none."""

    def end_update(self) -> dict[str, TokenSum]:
        """What is worth logging since `begin_update`; the names are the same at every update."""

    def dev_scored(self, scores: Mapping[str, float]) -> None:
        """The student's dev scores, whenever there are new ones."""

    def state_dict(self) -> dict[str, Any]:
        """Where this writer is, as JSON knows it; asked for between updates."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where `state_dict` was taken."""


def metric_sum(total: float | int, count: float | int) -> TokenSum:
    """`total` over `count`, as the loop adds them over processes."""
    return TokenSum(
        torch.tensor(total, dtype=torch.float64), torch.tensor(count, dtype=torch.float64)
    )


class StoredCompletions:
    """A writer of the targets that the prompts already have: the references, or a teacher's."""

    def __init__(self, origin: Origin, *, end_ids: Sequence[int] | None = None) -> None:
        """Sequences with none of `end_ids` count as cut off; None says that none is."""
        self._written_by: Origin = origin
        self._end_ids = end_ids

    @property
    def sequences_per_prompt(self) -> int:
        """One."""
        return 1

    def begin_update(self, update: int, updates: int) -> None:
        """Nothing changes from update to update."""

    def write(self, prompts: Sequence[EncodedExample]) -> list[Completion]:
        """The prompts as they are. Raises DataError for one without a target."""
        for prompt in prompts:
            if not prompt.target_ids:
                raise DataError(
                    f"Sequences written by the {self._written_by} must be in the data, but "
                    f"{prompt.id!r} has a prompt alone; add its target, or let the student write "
                    "all sequences."
                )
        return [
            Completion(
                prompt,
                self._written_by,
                finished=self._end_ids is None
                or not set(self._end_ids).isdisjoint(prompt.target_ids),
            )
            for prompt in prompts
        ]

    def end_update(self) -> dict[str, TokenSum]:
        """Nothing to tell: these sequences were there before."""
        return {}

    def dev_scored(self, scores: Mapping[str, float]) -> None:
        """Nothing here depends on dev scores."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up."""
