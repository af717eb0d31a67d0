"""Token ids -> padded batches with aligned targets, within a budget of tokens.

The order of the data is a function of the seed and the epoch alone: the place in it is two numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from seqdistill.core.batch import Kind
from seqdistill.core.batches import cut_by_tokens, padded_batches
from seqdistill.core.errors import DataError
from seqdistill.core.generators import named_generator
from seqdistill.data.dataset import EncodedDataset, Integers
from seqdistill.data.encoding import EncodedExample

# Examples are sorted by length inside windows of this many batches: long enough for little
# padding, short enough for random batches. Two sides that vary need longer ones.
_POOL_BATCHES: dict[Kind, int] = {"causal": 50, "seq2seq": 400}


def in_length_order(
    examples: Sequence[EncodedExample], kind: Kind, batch_tokens: int
) -> list[list[int]]:
    """Batches of indices covering every example once, longest first: for scoring and decoding.

    A batch's width is the longer side of an encoder-decoder example, its decoder's prefix not
    counted, and the whole of a decoder-only one.
    """
    widths = EncodedDataset.of(examples).lengths.widest(kind)
    return padded_batches(widths.tolist(), batch_tokens=batch_tokens)


def in_strips(
    sources: Integers, targets: Integers, widths: Integers, batch_tokens: int
) -> Integers:
    """An order for two sides that do not vary together: strips of like targets, and within each the
    sources up and down in turn, so that neighbours are alike on both sides."""
    order = np.lexsort((sources, targets))
    done = widths[order].cumsum()
    num_strips = max(1, round(0.5 * (done[-1] / batch_tokens) ** 0.5))
    strip = np.minimum(done * num_strips // done[-1], num_strips - 1)
    within = np.where(strip % 2 == 0, sources[order], -sources[order])
    return order[np.lexsort((targets[order], within, strip))]


def padded_positions(
    sources: Integers, targets: Integers, order: Integers, cuts: Sequence[int]
) -> int:
    """How many holes the batches have, on both sides."""
    starts, sizes = np.array(cuts[:-1]), np.diff(cuts)
    sides = (side[order] for side in (sources, targets))
    return sum(int((np.maximum.reduceat(s, starts) * sizes).sum() - s.sum()) for s in sides)


def regrouped(
    sources: Integers, targets: Integers, kind: Kind, sizes: Sequence[int]
) -> list[list[int]]:
    """Places of sequences that stood in batches of these sizes, in as many batches of like lengths
    with fewer positions, padding included; none is larger than the largest was.

    They stay as they were where nothing is gained.
    """
    ends = np.cumsum(sizes)
    best = [[*range(end - size, end)] for size, end in zip(sizes, ends.tolist(), strict=True)]
    if len(sizes) == 1:
        return best
    sides = [sources + targets] if kind == "causal" else [sources, targets]
    widest = np.maximum.reduce(sides)
    orders = [np.lexsort((sources, widest))]
    if kind == "seq2seq":
        orders += [np.lexsort((targets, sources)), np.lexsort((sources, targets))]
    largest = max(len(rows) * int(widest[rows].max()) for rows in best)
    fewest = float(sum(len(rows) * int(side[rows].max()) for side in sides for rows in best))
    for order in orders:
        found, cuts = _cut_in([side[order] for side in sides], len(sizes), largest)
        if found < fewest:
            fewest, best = found, [order[i:j].tolist() for i, j in pairwise(cuts)]
    return best


def _cut_in(sides: Sequence[Integers], count: int, largest: int) -> tuple[float, list[int]]:
    """The fewest positions of consecutive sequences in `count` batches, none larger than that, and
    where they are cut; inf where there is no such way."""
    num = len(sides[0])
    # fewest[n, i]: of the first i sequences in n batches, the last of which begins at begins[n, i].
    fewest = np.full((count + 1, num + 1), np.inf)
    begins = np.zeros((count + 1, num + 1), dtype=np.int64)
    fewest[0, 0] = 0.0
    for start in range(num):
        rows = np.arange(1, num - start + 1)
        widths = [np.maximum.accumulate(side[start:]) for side in sides]
        fit = int((rows * np.maximum.reduce(widths)).searchsorted(largest, side="right"))
        positions = (rows * sum(widths))[:fit]
        told, ahead = fewest[:-1, start, None] + positions, np.s_[1:, start + 1 : start + 1 + fit]
        better = told < fewest[ahead]
        fewest[ahead] = np.where(better, told, fewest[ahead])
        begins[ahead] = np.where(better, start, begins[ahead])
    cuts = [num]
    for number in range(count, 0, -1):
        cuts.append(int(begins[number, cuts[-1]]))
    return float(fewest[count, num]), cuts[::-1]


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
        expected_new_tokens: int = 0,
    ) -> None:
        """`expected_new_tokens` is how long the target of an example without one is planned."""
        if not examples:
            raise DataError("Batches need at least one example, but there is none; check the data.")
        lengths = EncodedDataset.of(examples).lengths
        target = np.where(lengths.target == 0, expected_new_tokens, lengths.target)
        self._kind: Kind = kind
        self._sources, self._targets = lengths.source, target
        self._widths = dataclasses.replace(lengths, target=target).widest(kind)
        self._batch_tokens = batch_tokens
        self._seed = seed
        self._rank, self._world_size = rank, world_size
        self.epoch, self._position = 0, 0
        self._plan()

    def _plan(self) -> None:
        """The epoch's order of examples, where it is cut into batches, and the batches' order."""
        generator = named_generator(self._seed, f"batches/epoch-{self.epoch}")
        order = torch.randperm(len(self._widths), generator=generator).numpy()
        mean = int(self._widths.sum()) / len(self._widths)
        pool = max(1, int(_POOL_BATCHES[self._kind] * self._batch_tokens / mean))
        cuts = [0]
        for start in range(0, len(order), pool):
            window, within = self._batched(order[start : start + pool])
            order[start : start + pool] = window
            cuts += [start + cut for cut in within[1:]]
        self._order, self._cuts = order, cuts
        self._shuffled = torch.randperm(len(cuts) - 1, generator=generator).tolist()

    def _batched(self, window: Integers) -> tuple[Integers, list[int]]:
        """The examples in an order that pads little, and where it is cut into batches."""
        sources, targets, widths = (
            every[window] for every in (self._sources, self._targets, self._widths)
        )
        orders = [np.lexsort((sources, widths))]
        if self._kind == "seq2seq":
            orders.append(in_strips(sources, targets, widths, self._batch_tokens))
        found = [(o, cut_by_tokens(widths[o].tolist(), self._batch_tokens)) for o in orders]
        order, cuts = min(found, key=lambda one: padded_positions(sources, targets, *one))
        return window[order], cuts

    @property
    def largest(self) -> int:
        """How many examples the largest batch of this epoch has."""
        return int(np.diff(self._cuts).max())

    def next(self) -> list[int]:
        """Integers of this rank's next batch."""
        everyones = [self._next_of_all() for _ in range(self._world_size)]
        return everyones[self._rank]

    def _next_of_all(self) -> list[int]:
        if self._position >= len(self._shuffled):
            self.epoch, self._position = self.epoch + 1, 0
            self._plan()
        batch = self._shuffled[self._position]
        self._position += 1
        found: list[int] = self._order[self._cuts[batch] : self._cuts[batch + 1]].tolist()
        return found

    def state_dict(self) -> dict[str, int]:
        """The place in the stream: the same on every rank that has read as often."""
        return {"epoch": self.epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a place given by `state_dict` of a stream over the same data and seed."""
        self.epoch, self._position = state["epoch"], state["position"]
        self._plan()
