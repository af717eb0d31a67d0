"""Token ids -> padded batches with aligned targets, within a budget of tokens.

The order of the data is a function of the seed and the epoch alone, so the place in it is two
numbers, and a resumed run reads on exactly where it stopped. Targets are shifted here and nowhere
else.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.errors import DataError
from seqdistill.core.generators import named_generator
from seqdistill.data.encoding import EncodedExample, Kind

# Examples are sorted by length inside windows of this many batches: long enough for little
# padding, short enough for random batches.
_POOL_BATCHES = 50


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
        return SequenceBatch(
            tuple(e.id for e in examples),
            decoder_input_ids=inputs,
            decoder_mask=mask,
            target_ids=targets,
            target_mask=counted,
        )


def _width(example: EncodedExample, kind: Kind) -> int:
    if kind == "seq2seq":
        return max(len(example.target_ids), len(example.source_ids))
    return len(example.target_ids) + len(example.source_ids)


def cut_by_tokens(
    order: Sequence[int], examples: Sequence[EncodedExample], kind: Kind, batch_tokens: int
) -> list[list[int]]:
    """Consecutive indices grouped so that no group's padded rectangle exceeds `batch_tokens`.

    The rectangle's width is the longer side of an encoder-decoder example, its decoder's prefix not
    counted, the whole of a decoder-only one. An example longer than the budget stands alone.
    """
    batches: list[list[int]] = []
    current: list[int] = []
    widest = 0
    for index in order:
        width = _width(examples[index], kind)
        if current and max(widest, width) * (len(current) + 1) > batch_tokens:
            batches.append(current)
            current, widest = [], 0
        current.append(index)
        widest = max(widest, width)
    if current:
        batches.append(current)
    return batches


def in_length_order(
    examples: Sequence[EncodedExample], kind: Kind, batch_tokens: int
) -> list[list[int]]:
    """Batches of indices covering every example once, longest first: for scoring and decoding."""
    order = sorted(range(len(examples)), key=lambda i: (-_width(examples[i], kind), i))
    return cut_by_tokens(order, examples, kind, batch_tokens)


class EpochBatches:
    """An endless, seeded, resumable stream of batches of indices.

    Every epoch visits each example once. Ranks of a distributed run read one stream in turns: of
    every `world_size` batches, rank r gets the r-th. So n processes see in one update what one
    process sees in n micro-batches.
    """

    def __init__(
        self,
        examples: Sequence[EncodedExample],
        kind: Kind,
        *,
        batch_tokens: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not examples:
            raise DataError("Batches need at least one example, but there is none; check the data.")
        self._examples = examples
        self._kind = kind
        self._batch_tokens = batch_tokens
        self._seed = seed
        self._rank, self._world_size = rank, world_size
        self.epoch, self._position = 0, 0
        self._batches = self._plan()

    def _plan(self) -> list[list[int]]:
        generator = named_generator(self._seed, f"batches/epoch-{self.epoch}")
        order = torch.randperm(len(self._examples), generator=generator).tolist()
        mean = sum(_width(e, self._kind) for e in self._examples) / len(self._examples)
        pool = max(1, int(_POOL_BATCHES * self._batch_tokens / mean))
        batches: list[list[int]] = []
        for start in range(0, len(order), pool):
            window = order[start : start + pool]
            window.sort(
                key=lambda i: (
                    _width(self._examples[i], self._kind),
                    len(self._examples[i].source_ids),
                )
            )
            batches += cut_by_tokens(window, self._examples, self._kind, self._batch_tokens)
        shuffled = torch.randperm(len(batches), generator=generator).tolist()
        return [batches[i] for i in shuffled]

    def next(self) -> list[int]:
        """Indices of this rank's next batch."""
        everyones = [self._next_of_all() for _ in range(self._world_size)]
        return everyones[self._rank]

    def _next_of_all(self) -> list[int]:
        if self._position >= len(self._batches):
            self.epoch, self._position = self.epoch + 1, 0
            self._batches = self._plan()
        batch = self._batches[self._position]
        self._position += 1
        return batch

    def state_dict(self) -> dict[str, int]:
        """The place in the stream: the same on every rank that has read as often."""
        return {"epoch": self.epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a place given by `state_dict` of a stream over the same data and seed."""
        self.epoch, self._position = state["epoch"], state["position"]
        self._batches = self._plan()
