"""Which examples make a batch, within a budget of tokens.

The order of the data is a function of the seed and the epoch alone, so the place in it is two
numbers, and a resumed run reads on exactly where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from seqdistill.core.batches import padded_batches
from seqdistill.core.errors import DataError
from seqdistill.core.generators import named_generator
from seqdistill.data.encoding import EncodedExample, Kind

# Examples are sorted by length inside windows of this many batches: long enough for little
# padding, short enough for random batches.
_POOL_BATCHES = 50


def _width(example: EncodedExample, kind: Kind) -> int:
    if kind == "seq2seq":
        return max(len(example.target_ids), example.num_source)
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
    return padded_batches([_width(e, kind) for e in examples], batch_tokens=batch_tokens)


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
                    self._examples[i].num_source,
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
