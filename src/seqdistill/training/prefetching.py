"""The next batch is collated, and pinned for a GPU, while the present one is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from seqdistill.core.batch import SequenceBatch
from seqdistill.sources.source import SequenceSource


class PrefetchedSource(SequenceSource):
    """The same batches in the same order, read one ahead by a thread.

    Only for sources whose next batch depends on nothing that training does: stored sequences. Its
    state is that of the batches that were handed out, so that none is lost when a run resumes.
    """

    def __init__(self, source: SequenceSource, device: torch.device) -> None:
        self._source = source
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
