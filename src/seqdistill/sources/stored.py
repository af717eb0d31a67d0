"""Sequences that exist before training starts: the references, or a teacher's stored outputs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.completions import Completions
from seqdistill.core.errors import DataError
from seqdistill.core.origins import Origin
from seqdistill.data.batching import EpochBatches
from seqdistill.data.collating import Collator
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.encoding import EncodedExample
from seqdistill.sources.completions import PromptCompletions
from seqdistill.sources.source import CompletionSource, SequenceSource
from seqdistill.sources.teacher_corpus import in_step

_LOG = logging.getLogger(__name__)
Targets = Sequence[tuple[int, ...]]
"""The token ids of outputs for one example, best first."""


class StoredSequences(SequenceSource):
    """A source over encoded examples, batch after batch, epoch after epoch."""

    def __init__(
        self,
        examples: Sequence[EncodedExample],
        collator: Collator,
        *,
        batch_tokens: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._examples = examples
        self._collator = collator
        self._batches = EpochBatches(
            examples,
            collator.kind,
            batch_tokens=batch_tokens,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )

    def next_batch(self) -> SequenceBatch:
        """The next batch, on the CPU."""
        return self._collator([self._examples[i] for i in self._batches.next()])

    def state_dict(self) -> dict[str, Any]:
        """The place in the data."""
        return self._batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._batches.load_state_dict(dict(state))


class StoredCompletions(CompletionSource):
    """The targets that the prompts already have: the references, or a teacher's."""

    def __init__(self, origin: Origin, *, end_ids: Sequence[int] | None = None) -> None:
        """Sequences with none of `end_ids` count as cut off; None says that none is."""
        self._origin: Origin = origin
        self._end_ids = end_ids

    def complete(self, prompts: Sequence[EncodedExample]) -> PromptCompletions:
        """The prompts as they are. Raises DataError for one without a target."""
        for prompt in prompts:
            if not prompt.target_ids:
                raise DataError(
                    f"Sequences of the {self._origin} must be in the data, but {prompt.id!r} has a "
                    "prompt alone; add its target, or let the student write all sequences."
                )
        ends = self._end_ids
        targets = [prompt.target_ids for prompt in prompts]
        finished = [ends is None or not set(ends).isdisjoint(ids) for ids in targets]
        return PromptCompletions(
            tuple(prompts),
            Completions.of_rows(targets, finished=finished),
            (self._origin,) * len(prompts),
            (0,) * len(prompts),
        )


def with_teacher_targets(
    examples: Sequence[EncodedExample], outputs: Iterable[tuple[str, Targets]]
) -> EncodedDataset:
    """The examples with the teacher's outputs as targets: sequence-level distillation's data.

    `outputs` are each example's id with the token ids of its outputs, in the order of the examples
    and read once. An example with several appears once for each; one without any is left out. One
    is taken as it is: a sample that was cut off has no end token and gets none, like a rollout of
    the student. Raises DataError when none has an output.

    Source: Kim and Rush 2016, sec. 3.2.
    """
    num_left_out = 0

    def answered() -> Iterator[EncodedExample]:
        nonlocal num_left_out
        for example, targets in in_step(((e.id, e) for e in examples), outputs):
            num_left_out += not targets
            yield from (example.answered(target) for target in targets)

    written = EncodedDataset.of(answered())
    if not written:
        raise DataError(
            "The teacher's corpus must hold outputs for the training data, but for none of its "
            f"{len(examples)} examples an output was found; raise "
            "sequences.decoding.max_new_tokens or check that the teacher fits the data."
        )
    if num_left_out:
        _LOG.warning(
            "left out %d examples for which the teacher's corpus holds no output", num_left_out
        )
    return written
