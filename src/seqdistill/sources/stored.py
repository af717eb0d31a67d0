"""Sequences that exist before training starts: the references, or a teacher's stored outputs."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.completions import Completions
from seqdistill.core.errors import DataError
from seqdistill.core.origins import Origin
from seqdistill.data.batching import EpochBatches
from seqdistill.data.collating import Collator
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.encoding import EncodedExample
from seqdistill.sources.completions import (
    CompletionSource,
    PromptCompletions,
    Prompts,
    SequenceSource,
)
from seqdistill.sources.teacher_corpus import in_step

_LOG = logging.getLogger(__name__)
Targets = Sequence[tuple[int, ...]]
"""The token ids of outputs for one example, best first."""


@dataclasses.dataclass(eq=False)
class StoredSequences(SequenceSource):
    """A source over encoded examples, batch after batch, epoch after epoch."""

    examples: Sequence[EncodedExample]
    collator: Collator
    places: EpochBatches
    """Of the examples."""

    def next_batch(self) -> SequenceBatch:
        """The next batch, on the CPU."""
        return self.collator([self.examples[i] for i in self.places.next()])

    def state_dict(self) -> dict[str, Any]:
        """The place in the data."""
        return self.places.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.places.load_state_dict(dict(state))


class PrefetchedSource(SequenceSource):
    """The same batches in the same order, read one ahead by a thread.

    Only for sources whose next batch depends on nothing that training does: stored sequences. Its
    state is that of the batches that were handed out, so that none is lost when a run resumes.
    `on_batch` hears of each as soon as it is read.
    """

    def __init__(
        self,
        source: SequenceSource,
        device: torch.device,
        on_batch: Callable[[SequenceBatch], None] = lambda _: None,
    ) -> None:
        self._source, self._on_batch = source, on_batch
        self._pins = device.type == "cuda"
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._ahead: Future[tuple[SequenceBatch, dict[str, Any]]] | None = None
        self._state = source.state_dict()

    def next_batch(self) -> SequenceBatch:
        """The next batch, on the CPU."""
        ahead = self._ahead or self._thread.submit(self._read)
        batch, self._state = ahead.result()
        self._ahead = self._thread.submit(self._read)
        return batch

    def _read(self) -> tuple[SequenceBatch, dict[str, Any]]:
        batch = self._source.next_batch()
        self._on_batch(batch)
        return batch.pin_memory() if self._pins else batch, self._source.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """The place after the last batch that was handed out."""
        return self._state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._ahead is not None:
            self._ahead.result()
        self._ahead = None
        self._source.load_state_dict(state)
        self._state = self._source.state_dict()


@dataclasses.dataclass(eq=False)
class StoredCompletions(CompletionSource):
    """The targets that the prompts already have: the references, or a teacher's."""

    origin: Origin
    end_ids: Sequence[int] | None = None
    """Sequences with none of these count as cut off; None says that none is."""

    def complete_all(self, batches: Sequence[Prompts]) -> list[PromptCompletions]:
        """The prompts as they are. Raises DataError for one without a target."""
        return [self._targets_of(prompts) for prompts in batches]

    def _targets_of(self, prompts: Prompts) -> PromptCompletions:
        for prompt in prompts:
            if not prompt.target_ids:
                raise DataError(
                    f"Sequences of the {self.origin} must be in the data, but {prompt.id!r} has a "
                    "prompt alone; add its target, or let the student write all sequences."
                )
        ends = self.end_ids
        targets = [prompt.target_ids for prompt in prompts]
        finished = [ends is None or not set(ends).isdisjoint(ids) for ids in targets]
        return PromptCompletions(
            tuple(prompts),
            Completions.of_rows(targets, finished=finished),
            (self.origin,) * len(prompts),
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
            "left out %d examples without an output of the teacher's to learn from", num_left_out
        )
    return written
