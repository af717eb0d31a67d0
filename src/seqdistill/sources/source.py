"""What the training loop asks of a source of sequences, and what sources ask of each other."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.encoding import EncodedExample
from seqdistill.sources.completions import PromptCompletions

Gather = Callable[[Any], list[Any]]
"""Every process's value on every process, in their order."""


def alone(own: Any) -> list[Any]:
    """A `Gather` of one process."""
    return [own]


class SourcePart:
    """Something that takes part in every update and may be made of other parts.

    Whatever a part does not do itself, its own parts do: a class that wraps others names them in
    `_parts` and overrides what it adds. The order for every update: `begin_update`, the batches,
    `end_update`. Parts on several processes have one seed and stay in step: they are called equally
    often, and what they decide together (a coin for a whole batch) they draw alike.
    """

    def _parts(self) -> Mapping[str, SourcePart]:
        """The parts that this one is made of, by the names that their states are stored under."""
        return {}

    def begin_update(self, update: int, updates: int) -> None:
        """Update number `update` of `updates`, counted from 1, is about to ask for batches."""
        for part in self._parts().values():
            part.begin_update(update, updates)

    def end_update(self) -> dict[str, TokenSum]:
        """What is worth logging of the batches since `begin_update`, by name; the names are the
        same at every update."""
        return {
            name: value
            for part in self._parts().values()
            for name, value in part.end_update().items()
        }

    def dev_scored(self, scores: Mapping[str, float]) -> None:
        """The student's dev scores, whenever there are new ones."""
        for part in self._parts().values():
            part.dev_scored(scores)

    def state_dict(self) -> dict[str, Any]:
        """Where this process's part is between two updates, as JSON knows it."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where `state_dict` was taken."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])


class SequenceSource(SourcePart, abc.ABC):
    """Where the batches of training come from; the training step does not know."""

    @abc.abstractmethod
    def next_batch(self) -> SequenceBatch:
        """The next batch of sequences with aligned targets: once for each micro-batch."""


class CompletionSource(SourcePart, abc.ABC):
    """Completes prompts: `complete` is called once for each micro-batch of an update."""

    @property
    def sequences_per_prompt(self) -> int:
        """How many sequences `complete` gives for a prompt, at most; by default as its parts do."""
        parts = [part for part in self._parts().values() if isinstance(part, CompletionSource)]
        return max((part.sequences_per_prompt for part in parts), default=1)

    @abc.abstractmethod
    def complete(self, prompts: Sequence[EncodedExample]) -> PromptCompletions:
        """Sequences for the prompts of one micro-batch; none for none."""
