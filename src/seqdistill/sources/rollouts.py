"""Rollouts of the student, and the batches of what is completed as training goes.

Prompts come in the same seeded order and the same batches whatever completes them, so two runs that
differ in a fraction alone see the same prompts.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.completions import Completions
from seqdistill.core.errors import DataError
from seqdistill.core.generators import derived_seed
from seqdistill.core.origins import Origin
from seqdistill.core.phases import PhaseClock
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.batching import EpochBatches, regrouped
from seqdistill.data.collating import Collator
from seqdistill.data.encoding import EncodedExample
from seqdistill.generation.sampling import Sampler
from seqdistill.sources.completions import (
    CompletionSource,
    PromptCompletions,
    Prompts,
    SequenceSource,
    metric_sum,
)

OnCompletions = Callable[[int, PromptCompletions], None]
"""Receives the update and the sequences of one of its batches of prompts."""


@dataclasses.dataclass(eq=False)
class RolloutSampler(CompletionSource):
    """Fresh rollouts, `samples_per_prompt` of each prompt, of the update's own weights.

    The sampler takes the student's weights once an update, at its first rollouts. Random numbers
    depend on the seed, the update and the batch's place among those of all processes, so a resumed
    run needs no state, and n micro-batches of one process are answered as those of n processes are
    by a sampler that draws each batch's numbers by themselves: see `Sampler.sample_all`.

    `origin` is `student`, or `teacher_mixed` or `teacher` for a sampler of these.
    """

    sampler: Sampler
    _: dataclasses.KW_ONLY
    seed: int
    rank: int = 0
    world_size: int = 1
    samples_per_prompt: int = 1
    origin: Origin = "student"

    def __post_init__(self) -> None:
        self.begin_update(0, 0)

    @property
    def sequences_per_prompt(self) -> int:
        """As many as were asked for."""
        return self.samples_per_prompt

    def begin_update(self, update: int, updates: int) -> None:
        """The weights have moved: earlier rollouts are no longer on-policy."""
        self._update, self._calls = update, 0
        self._sampled: list[Completions] = []
        self._seconds, self._refresh_seconds = 0.0, list[float]()

    def complete_all(self, batches: Sequence[Prompts]) -> list[PromptCompletions]:
        """Rollouts, sampled together; those of one prompt stand side by side.

        Raises DataError for a prompt that the sampler answers with nothing at all.
        """
        asked = [
            [one for one in prompts for _ in range(self.samples_per_prompt)] for prompts in batches
        ]
        seeds = [self._seed(self._calls + place) for place in range(len(batches))]
        self._calls += len(batches)
        every = [prompt for of_batch in asked for prompt in of_batch]
        found = Completions.of_rows([])
        if every:
            started = time.perf_counter()
            if not self._refresh_seconds:
                self.sampler.refresh()
                self._refresh_seconds.append(time.perf_counter() - started)
                started = time.perf_counter()
            groups = [[prompt.prompt for prompt in of_batch] for of_batch in asked]
            found = self.sampler.sample_all(groups, seeds=seeds)
            _require_tokens(every, found)  # its answer is awaited, so the time is that of the GPU
            self._seconds += time.perf_counter() - started
            self._sampled.append(found)
        return [
            PromptCompletions(
                tuple(prompt.answered(()) for prompt in of_batch),
                written,
                (self.origin,) * len(of_batch),
                (self._update,) * len(of_batch),
            )
            for of_batch, written in zip(asked, found.split([*map(len, asked)]), strict=True)
        ]

    def _seed(self, call: int) -> int:
        """Of this process's micro-batch at that place of the update."""
        batch = call * self.world_size + self.rank
        return derived_seed(self.seed, f"rollouts/update-{self._update}/batch-{batch}")

    def end_update(self) -> dict[str, TokenSum]:
        """Lengths in tokens, fractions of sequences, speed; `rollouts` is a process's mean."""
        zero = torch.zeros((), dtype=torch.long)
        sequences = sum(map(len, self._sampled))
        tokens = sum((found.lengths.sum() for found in self._sampled), zero)
        finished = sum((found.finished.sum() for found in self._sampled), zero)
        return {
            "rollouts": metric_sum(sequences, 1),
            "completion_length": metric_sum(tokens, sequences),
            "eos_rate": metric_sum(finished, sequences),
            "cut_fraction": metric_sum(sequences - finished, sequences),
            "generation_tokens_per_second": metric_sum(tokens, self._seconds),
            "refresh_seconds": metric_sum(sum(self._refresh_seconds), len(self._refresh_seconds)),
        }


def _require_tokens(prompts: Sequence[EncodedExample], found: Completions) -> None:
    if bool((found.lengths > 0).all()):
        return
    prompt = prompts[int((found.lengths == 0).nonzero()[0])]
    raise DataError(
        f"Every prompt must be answered with a token at least, but that of {prompt.id!r} is not: "
        "CTranslate2 skips sources of special tokens alone; take it out of the data, or use "
        "engine: transformers for the rollouts."
    )


@dataclasses.dataclass(eq=False)
class RolloutBatches(SequenceSource):
    """A source over prompts and what completes them.

    `places` are batches of the prompts, with targets as long as those in the data, or as is
    expected where there is none. Real completions may be longer or shorter, so those of an update
    are then regrouped by length, in as many micro-batches.

    n micro-batches of one process hold together the prompts that n processes hold.
    """

    examples: Sequence[EncodedExample]
    completing: CompletionSource
    collator: Collator
    places: EpochBatches
    _: dataclasses.KW_ONLY
    on_completions: OnCompletions | None = None
    clock: PhaseClock = dataclasses.field(default_factory=PhaseClock)

    def __post_init__(self) -> None:
        self._update = 0

    def begin_update(self, update: int, updates: int) -> None:
        """Remembers the update for `on_completions`."""
        self._update = update
        super().begin_update(update, updates)

    def next_batch(self) -> SequenceBatch:
        """The next prompts with their completions, on the device of these."""
        return next(self.batches(1))

    def batches(self, count: int) -> Iterator[SequenceBatch]:
        """The same of so many batches of prompts, which are completed together and regrouped."""
        prompts = [[self.examples[i] for i in self.places.next()] for _ in range(count)]
        with self.clock.phase("rollout"):
            found = self.completing.complete_all(prompts)
        if self.on_completions is not None:
            for one in found:
                self.on_completions(self._update, one)
        yield from (one.collated(self.collator) for one in self._regrouped(found))

    def _regrouped(self, found: list[PromptCompletions]) -> list[PromptCompletions]:
        """The sequences of the update in as many batches of like lengths, which are known now."""
        if len(found) == 1:
            return found
        every = PromptCompletions.concatenated(found)
        sources = np.array([prompt.num_source for prompt in every.prompts])
        targets = every.completions.lengths.cpu().numpy()
        places = regrouped(sources, targets, self.collator.kind, [*map(len, found)])
        return [every.select(rows) for rows in places]

    def state_dict(self) -> dict[str, Any]:
        """The place in the prompts, and the state of what completes them."""
        return {"batches": self.places.state_dict(), **super().state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.places.load_state_dict(state["batches"])
        super().load_state_dict(state)
