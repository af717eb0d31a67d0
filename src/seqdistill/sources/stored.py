"""Sequences that exist before training starts: the references, or a teacher's stored outputs.

Each `next_batch` reads on in a seeded, resumable order. Nothing is generated here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.errors import DataError
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.batching import Collator, EpochBatches
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.encoding import EncodedExample

_LOG = logging.getLogger(__name__)


class StoredSequences:
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

    def begin_update(self, update: int, updates: int) -> None:
        """Nothing changes from update to update."""

    def end_update(self) -> dict[str, TokenSum]:
        """Nothing to tell: these sequences were there before."""
        return {}

    def dev_scored(self, scores: Mapping[str, float]) -> None:
        """Nothing here depends on dev scores."""

    def state_dict(self) -> dict[str, Any]:
        """The place in the data."""
        return self._batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the place given by `state_dict`."""
        self._batches.load_state_dict(dict(state))


def with_teacher_targets(
    examples: Sequence[EncodedExample],
    outputs: Mapping[str, Sequence[tuple[int, ...]]],
) -> EncodedDataset:
    """The examples with the teacher's outputs as targets: sequence-level distillation's data.

    An example with several outputs appears once for each; one without any is left out. An output
    is taken as it is: a sample that was cut off has no end token and gets none, like a rollout of
    the student. Raises DataError when none has an output.

    Source: Kim and Rush 2016, sec. 3.2.
    """
    dataset = EncodedDataset.of(examples)
    written = EncodedDataset.of(
        example.answered(target) for example in dataset for target in outputs.get(example.id, ())
    )
    if not written:
        raise DataError(
            "The teacher's corpus must hold outputs for the training data, but for none of its "
            f"{len(examples)} examples an output was found; raise "
            "sequences.decoding.max_new_tokens or check that the teacher fits the data."
        )
    num_left_out = sum(not outputs.get(name) for name in dataset.ids)
    if num_left_out:
        _LOG.warning(
            "left out %d examples for which the teacher's corpus holds no output", num_left_out
        )
    return written
