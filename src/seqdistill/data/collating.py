"""Encoded examples -> padded batches. Targets are shifted here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.errors import DataError
from seqdistill.data.encoding import EncodedExample, Kind


def _pad(rows: Sequence[Sequence[int]], fill: int) -> tuple[Tensor, Tensor]:
    """Right-padded ids and the mask of real ones."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *(fill,) * (width - len(row))] for row in rows], dtype=torch.long)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(width) < lengths[:, None]


class Collator:
    """Makes a SequenceBatch of encoded examples.

    `start_id` is what an encoder-decoder's decoder reads first; None means the last target token
    (mBART's convention). `prefix_ids` is what it reads next: a position each that never counts.
    `pad_id` only fills holes: masks tell what is real.
    """

    def __init__(
        self,
        kind: Kind,
        *,
        pad_id: int,
        start_id: int | None = None,
        prefix_ids: Sequence[int] = (),
    ) -> None:
        self.kind = kind
        self._pad_id = pad_id
        self._start_id = start_id
        self._prefix_ids = tuple(prefix_ids)

    def __call__(self, examples: Sequence[EncodedExample]) -> SequenceBatch:
        """The examples as one batch, in the order given.

        Raises DataError for an example without a target, and for one without a source: a
        decoder-only model would have nothing to predict its first target from.
        """
        for example in examples:
            if not example.target_ids or not example.source_ids:
                side = "source" if example.target_ids else "target"
                raise DataError(
                    f"Examples in a batch must have tokens on both sides, but the {side} of "
                    f"{example.id!r} has none; take it out of the data."
                )
        if self.kind == "seq2seq":
            return self._seq2seq(examples)
        return self._causal(examples)

    def _seq2seq(self, examples: Sequence[EncodedExample]) -> SequenceBatch:
        source_ids, source_mask = _pad([e.source_ids for e in examples], self._pad_id)
        written = [(*self._prefix_ids, *e.target_ids) for e in examples]
        target_ids, decoder_mask = _pad(written, self._pad_id)
        start = [e.target_ids[-1] if self._start_id is None else self._start_id for e in examples]
        inputs, _ = _pad(
            [(first, *ids[:-1]) for first, ids in zip(start, written, strict=True)], self._pad_id
        )
        counted = torch.arange(decoder_mask.shape[1]) >= len(self._prefix_ids)
        return SequenceBatch(
            tuple(e.id for e in examples),
            decoder_input_ids=inputs,
            decoder_mask=decoder_mask,
            target_ids=target_ids,
            target_mask=decoder_mask & counted,
            source_ids=source_ids,
            source_mask=source_mask,
        )

    def _causal(self, examples: Sequence[EncodedExample]) -> SequenceBatch:
        whole = [(*e.source_ids, *e.target_ids) for e in examples]
        inputs, mask = _pad([ids[:-1] for ids in whole], self._pad_id)
        targets, _ = _pad([ids[1:] for ids in whole], self._pad_id)
        # Position t predicts token t + 1, so the first target is predicted at the prompt's end.
        first = torch.tensor([len(e.source_ids) - 1 for e in examples])
        counted = mask & (torch.arange(mask.shape[1])[None, :] >= first[:, None])
        for row, example in enumerate(examples):
            for start, stop in example.counted_spans:
                counted[row, start - 1 : stop - 1] = True
        return SequenceBatch(
            tuple(e.id for e in examples),
            decoder_input_ids=inputs,
            decoder_mask=mask,
            target_ids=targets,
            target_mask=counted,
        )
