"""Prompts with their completions, which sources hand on, and what is asked of a source."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.completions import Completions
from seqdistill.core.origins import STUDENT_ORIGINS, Origin
from seqdistill.core.source import SourceInputs
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.collating import Collator
from seqdistill.data.encoding import EncodedExample

Prompts = Sequence[EncodedExample]
"""What one micro-batch asks for."""
Gather = Callable[[Any], list[Any]]
"""Every process's value on every process, in their order."""


def alone(own: Any) -> list[Any]:
    """A `Gather` of one process."""
    return [own]


@dataclasses.dataclass(frozen=True)
class Completion:
    """One sequence as Python values: for rewards, logs and people."""

    example: EncodedExample
    """The prompt with its completion as target."""
    origin: Origin
    sampled_log_probs: tuple[float, ...] | None = None
    advantage: float | None = None
    reward: float | None = None
    sampled_at_update: int = 0
    finished: bool = True

    @property
    def content_ids(self) -> tuple[int, ...]:
        """The target less its end: what is text."""
        ids = self.example.target_ids
        return ids[:-1] if self.finished else ids


@dataclasses.dataclass(frozen=True, eq=False)
class PromptCompletions:
    """Several sequences, a row each; what is known of the rows before training is on the host.

    `prompts` are what was read, `completions` what was written for them; targets of the prompts
    themselves are not read any more. Rewards and advantages are NaN in rows that have none.
    """

    prompts: tuple[EncodedExample, ...]
    completions: Completions
    origins: tuple[Origin, ...]
    sampled_at_update: tuple[int, ...]
    """The update that each was sampled at; 0 for what was there before training."""
    rewards: Float[Tensor, " sequences"] | None = None
    advantages: Float[Tensor, " sequences"] | None = None
    """Each reward less its baseline."""

    def __len__(self) -> int:
        """How many sequences these are."""
        return len(self.prompts)

    @property
    def students_rows(self) -> list[int]:
        """The rows that the student had a part in."""
        return [row for row, origin in enumerate(self.origins) if origin in STUDENT_ORIGINS]

    def select(self, rows: Sequence[int]) -> PromptCompletions:
        """These rows, in this order."""
        return PromptCompletions(
            tuple(self.prompts[row] for row in rows),
            self.completions.select(rows),
            tuple(self.origins[row] for row in rows),
            tuple(self.sampled_at_update[row] for row in rows),
            None if self.rewards is None else self.rewards[list(rows)],
            None if self.advantages is None else self.advantages[list(rows)],
        )

    @classmethod
    def concatenated(cls, parts: Sequence[PromptCompletions]) -> PromptCompletions:
        """The rows of all parts, one part after another."""
        parts = [part for part in parts if len(part)] or parts[:1]
        if len(parts) == 1:
            return parts[0]
        return cls(
            tuple(prompt for part in parts for prompt in part.prompts),
            Completions.concatenated([part.completions for part in parts]),
            tuple(origin for part in parts for origin in part.origins),
            tuple(update for part in parts for update in part.sampled_at_update),
            _joined([part.rewards for part in parts], [len(part) for part in parts]),
            _joined([part.advantages for part in parts], [len(part) for part in parts]),
        )

    def collated(self, collator: Collator) -> SequenceBatch:
        """The rows as a batch, on the completions' device.

        Log-probabilities and advantages are None where no row has any; where some have, those of
        the others are NaN: unknown is not zero, and a loss that reads them stops instead of going
        wrong.
        """
        batch = collator.joined(self.prompts, self.completions)
        advantages = self.advantages
        if advantages is not None:
            advantages = advantages.to(batch.target_ids.device, torch.float32)
        return dataclasses.replace(batch, origins=self.origins, advantages=advantages)

    def listed(self) -> list[Completion]:
        """The rows one by one, brought to the host."""
        found = self.completions
        rows, finished = found.rows(), found.finished.tolist()
        nats = None if found.log_probs is None else found.log_probs.tolist()
        rewards, advantages = _optional(self.rewards), _optional(self.advantages)
        return [
            Completion(
                self.prompts[i].answered(rows[i]),
                self.origins[i],
                None if nats is None or math.isnan(nats[i][0]) else tuple(nats[i][: len(rows[i])]),
                advantages[i] if advantages else None,
                rewards[i] if rewards else None,
                self.sampled_at_update[i],
                finished[i],
            )
            for i in range(len(self))
        ]

    def state_dict(self) -> dict[str, Any]:
        """The rows as JSON knows them."""
        completions = self.completions
        return {
            "prompts": [
                [
                    p.id,
                    [*p.source_ids],
                    None if p.source is None else p.source.state_dict(),
                    dict(p.extras),
                    None if p.teacher_source_ids is None else [*p.teacher_source_ids],
                ]
                for p in self.prompts
            ],
            "token_ids": [[*row] for row in completions.rows()],
            "finished": completions.finished.tolist(),
            "log_probs": None
            if completions.log_probs is None
            else [
                row[:length]
                for row, length in zip(
                    completions.log_probs.tolist(), completions.lengths.tolist(), strict=True
                )
            ],
            "origins": [*self.origins],
            "sampled_at_update": [*self.sampled_at_update],
            "rewards": None if self.rewards is None else self.rewards.tolist(),
            "advantages": None if self.advantages is None else self.advantages.tolist(),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> PromptCompletions:
        """The rows whose `state_dict` this is."""
        return cls(
            tuple(
                EncodedExample(
                    name,
                    tuple(ids),
                    (),
                    source=None if source is None else SourceInputs.from_state_dict(source),
                    extras=extras,
                    teacher_source_ids=None if teacher is None else tuple(teacher),
                )
                for name, ids, source, extras, teacher in state["prompts"]
            ),
            Completions.of_rows(
                state["token_ids"], finished=state["finished"], log_probs=state["log_probs"]
            ),
            tuple(state["origins"]),
            tuple(state["sampled_at_update"]),
            *(
                None if state[name] is None else torch.tensor(state[name], dtype=torch.float64)
                for name in ("rewards", "advantages")
            ),
        )


def _joined(values: Sequence[Tensor | None], lengths: Sequence[int]) -> Tensor | None:
    if all(value is None for value in values):
        return None
    return torch.cat(
        [
            torch.full((length,), torch.nan, dtype=torch.float64) if value is None else value
            for value, length in zip(values, lengths, strict=True)
        ]
    )


def _optional(values: Tensor | None) -> list[float | None]:
    """Numbers with None for NaN; nothing for None."""
    return [] if values is None else [None if v != v else v for v in values.tolist()]


def metric_sum(total: float | int | Tensor, count: float | int | Tensor) -> TokenSum:
    """`total` over `count`, as the loop adds them over processes."""
    return TokenSum(
        torch.as_tensor(total, dtype=torch.float64, device="cpu"),
        torch.as_tensor(count, dtype=torch.float64, device="cpu"),
    )


class SourcePart:
    """Something that takes part in every update and may be made of other parts.

    Whatever a part does not do itself, its own parts do: those among its attributes. A class that
    wraps others overrides what it adds. The order for every update: `begin_update`, the batches,
    `end_update`, `learned`. Parts on several processes have one seed and stay in step: they are
    called equally often, and what they decide together (a coin for a whole batch) they draw alike.
    """

    def _parts(self) -> Mapping[str, SourcePart]:
        """The parts that this one is made of, by the names that their states are stored under."""
        return {name: each for name, each in vars(self).items() if isinstance(each, SourcePart)}

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

    def learned(self, parts: Mapping[str, TokenSum]) -> None:
        """What the update's loss was made of, by name, over all batches of all processes."""
        for part in self._parts().values():
            part.learned(parts)

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
        """The next batch of sequences with aligned targets."""

    def batches(self, count: int) -> Iterator[SequenceBatch]:
        """The next so many, one for each micro-batch of an update: the sequences that `next_batch`
        would give, which may be shared out among them in another way."""
        return (self.next_batch() for _ in range(count))


class CompletionSource(SourcePart, abc.ABC):
    """Completes the prompts of an update: those of all its micro-batches at once, or in turn."""

    @property
    def sequences_per_prompt(self) -> int:
        """How many sequences `complete` gives for a prompt, at most; by default as its parts do."""
        parts = [part for part in self._parts().values() if isinstance(part, CompletionSource)]
        return max((part.sequences_per_prompt for part in parts), default=1)

    @abc.abstractmethod
    def complete_all(self, batches: Sequence[Prompts]) -> list[PromptCompletions]:
        """Sequences for the prompts of each micro-batch; none for none."""

    def complete(self, prompts: Prompts) -> PromptCompletions:
        """Those of one micro-batch."""
        return self.complete_all([prompts])[0]
