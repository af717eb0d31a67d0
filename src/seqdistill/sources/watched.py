"""A source whose batches are looked at now and then: do the student's own outputs collapse?"""

from __future__ import annotations

from collections.abc import Iterator

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.origins import STUDENT_ORIGINS
from seqdistill.core.token_sum import TokenSum
from seqdistill.metrics.diversity import token_sums
from seqdistill.sources.completions import SequenceSource, metric_sum


class WatchedSource(SequenceSource):
    """The same batches in the same order.

    At every `every`-th update and the last one it says how much the student's own sequences repeat
    themselves, and how much those of different prompts in a micro-batch are alike.
    """

    def __init__(self, source: SequenceSource, *, every: int) -> None:
        self._source, self._every = source, every
        self._seen: list[dict[str, tuple[float, float]]] = []
        self._looks = False

    def begin_update(self, update: int, updates: int) -> None:
        """Decides whether this one is looked at."""
        self._seen, self._looks = [], update % self._every == 0 or update == updates
        super().begin_update(update, updates)

    def next_batch(self) -> SequenceBatch:
        """The next batch of the source."""
        return next(self.batches(1))

    def batches(self, count: int) -> Iterator[SequenceBatch]:
        """The next batches of the source."""
        for batch in self._source.batches(count):
            if self._looks:
                self._look(batch)
            yield batch

    def _look(self, batch: SequenceBatch) -> None:
        ids, mask = batch.target_ids.tolist(), batch.target_mask.tolist()
        outputs: dict[str, list[list[int]]] = {}
        for row, origin in enumerate(batch.origins or ()):
            if origin in STUDENT_ORIGINS:
                own = [i for i, counts in zip(ids[row], mask[row], strict=True) if counts]
                outputs.setdefault(batch.example_ids[row], []).append(own)
        self._seen.append(token_sums(outputs))

    def end_update(self) -> dict[str, TokenSum]:
        """The source's own, and `distinct_2` and `repetition_4` of `token_sums`."""
        found = {
            name: metric_sum(*(sum(one[name][i] for one in self._seen) for i in range(2)))
            for name in token_sums({})
        }
        return {**super().end_update(), **found}
