"""Rollouts of the student, and the batches of what is completed as training goes.

Prompts come in the same seeded order and the same batches whatever completes them, so two runs that
differ in a fraction alone see the same prompts.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.completions import Completions
from seqdistill.core.errors import DataError
from seqdistill.core.generators import derived_seed
from seqdistill.core.origins import Origin
from seqdistill.core.phases import PhaseClock
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.batching import EpochBatches
from seqdistill.data.collating import Collator
from seqdistill.data.encoding import EncodedExample
from seqdistill.generation.sampling import Sampler
from seqdistill.sources.completions import (
    CompletionSource,
    PromptCompletions,
    SequenceSource,
    SourcePart,
    metric_sum,
)

OnCompletions = Callable[[int, PromptCompletions], None]
"""Receives the update and the sequences of one of its micro-batches."""


@dataclasses.dataclass(eq=False)
class RolloutSampler(CompletionSource):
    """Fresh rollouts, `samples_per_prompt` of each prompt, of the update's own weights.

    The sampler takes the student's weights once an update, at its first rollouts. Random numbers
    depend on the seed, the update and the batch's place among those of all processes, so n
    micro-batches of one process are answered as those of n processes are, and a resumed run needs
    no state.

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

    def complete(self, prompts: Sequence[EncodedExample]) -> PromptCompletions:
        """Rollouts, those of one prompt side by side.

        Raises DataError for a prompt that the sampler answers with nothing at all.
        """
        batch = self._calls * self.world_size + self.rank
        self._calls += 1
        asked = [prompt for prompt in prompts for _ in range(self.samples_per_prompt)]
        found = Completions.of_rows([])
        if asked:
            started = time.perf_counter()
            if not self._refresh_seconds:
                self.sampler.refresh()
                self._refresh_seconds.append(time.perf_counter() - started)
                started = time.perf_counter()
            found = self.sampler.sample(
                [prompt.prompt for prompt in asked],
                seed=derived_seed(self.seed, f"rollouts/update-{self._update}/batch-{batch}"),
            )
            _require_tokens(asked, found)  # its answer is awaited, so the time is that of the GPU
            self._seconds += time.perf_counter() - started
            self._sampled.append(found)
        return PromptCompletions(
            tuple(prompt.answered(()) for prompt in asked),
            found,
            (self.origin,) * len(asked),
            (self._update,) * len(asked),
        )

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

    `batch_tokens` bounds the padded rectangle as it is planned: targets as long as those in the
    data, and `expected_new_tokens` where there is none, times the sequences a prompt gets. Real
    completions may be longer or shorter.

    n micro-batches of one process hold the prompts that n processes hold.
    """

    examples: Sequence[EncodedExample]
    completing: CompletionSource
    collator: Collator
    _: dataclasses.KW_ONLY
    batch_tokens: int
    expected_new_tokens: int
    seed: int
    rank: int = 0
    world_size: int = 1
    on_completions: OnCompletions | None = None
    clock: PhaseClock = dataclasses.field(default_factory=PhaseClock)

    def __post_init__(self) -> None:
        self._update = 0
        self._batches = EpochBatches(
            self.examples,
            self.collator.kind,
            batch_tokens=max(1, self.batch_tokens // self.completing.sequences_per_prompt),
            expected_new_tokens=self.expected_new_tokens,
            seed=self.seed,
            rank=self.rank,
            world_size=self.world_size,
        )

    def _parts(self) -> Mapping[str, SourcePart]:
        return {"completions": self.completing}

    def begin_update(self, update: int, updates: int) -> None:
        """Remembers the update for `on_completions`."""
        self._update = update
        super().begin_update(update, updates)

    def next_batch(self) -> SequenceBatch:
        """The next prompts with their completions, on the device of these."""
        prompts = [self.examples[i] for i in self._batches.next()]
        with self.clock.phase("rollout"):
            found = self.completing.complete(prompts)
        if self.on_completions is not None:
            self.on_completions(self._update, found)
        return found.collated(self.collator)

    def state_dict(self) -> dict[str, Any]:
        """The place in the prompts, and the state of what completes them."""
        return {"batches": self._batches.state_dict(), **super().state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._batches.load_state_dict(state["batches"])
        super().load_state_dict(state)
