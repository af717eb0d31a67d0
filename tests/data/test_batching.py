"""Padded batches with aligned targets, and the order in which they come."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tests.tiny import EOS, PAD, collator, random_examples

from seqdistill.core.batch import Kind
from seqdistill.core.completions import Completions
from seqdistill.core.errors import DataError
from seqdistill.core.generators import named_generator
from seqdistill.data.batching import EpochBatches, in_length_order, regrouped
from seqdistill.data.collating import Collator
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.encoding import EncodedExample

KINDS: tuple[Kind, ...] = ("seq2seq", "causal")
EXAMPLES = random_examples(200)
ONE = EncodedExample("one", (10, 11, 12), (20, 21, EOS))
TWO = EncodedExample("two", (13,), (22, EOS))


def width(example: EncodedExample, kind: Kind) -> int:
    sizes = (len(example.source_ids), len(example.target_ids))
    return max(sizes) if kind == "seq2seq" else sum(sizes)


def test_a_decoder_only_batch_by_hand() -> None:
    batch = Collator("causal", pad_id=PAD)([ONE, TWO])
    assert batch.decoder_input_ids.tolist() == [[10, 11, 12, 20, 21], [13, 22, PAD, PAD, PAD]]
    assert batch.decoder_mask.tolist() == [[True] * 5, [True, True, False, False, False]]
    assert batch.target_mask.tolist() == [
        [False, False, True, True, True],
        [True, True, False, False, False],
    ]
    assert batch.target_ids[batch.target_mask].tolist() == [20, 21, EOS, 22, EOS]
    assert batch.example_ids == ("one", "two")
    assert batch.source is None


def test_an_encoder_decoder_batch_by_hand() -> None:
    plain = Collator("seq2seq", pad_id=PAD, start_id=5)([ONE, TWO])
    assert plain.source is not None
    assert plain.source.tensors["input_ids"].tolist() == [[10, 11, 12], [13, 0, 0]]
    assert plain.source.mask.tolist() == [[True] * 3, [True, False, False]]
    assert plain.decoder_input_ids.tolist() == [[5, 20, 21], [5, 22, PAD]]
    assert plain.target_ids.tolist() == [[20, 21, EOS], [22, EOS, PAD]]
    assert plain.target_mask.tolist() == plain.decoder_mask.tolist()
    assert plain.target_mask.tolist() == [[True] * 3, [True, True, False]]
    batch = Collator("seq2seq", pad_id=PAD, start_id=5, prefix_ids=(7, 8))([ONE, TWO])
    assert batch.decoder_input_ids.tolist() == [[5, 7, 8, 20, 21], [5, 7, 8, 22, PAD]]
    assert batch.decoder_mask.tolist() == [[True] * 5, [True] * 4 + [False]]
    unlearned = [[False, False, *row] for row in plain.target_mask.tolist()]
    assert batch.target_mask.tolist() == unlearned, "a decoder's prefix is read and never counts"
    assert torch.equal(batch.target_ids[batch.target_mask], plain.target_ids[plain.target_mask])
    coded = EncodedExample("mbart", (10, EOS, 30), (20, EOS, 31))
    batch = Collator("seq2seq", pad_id=PAD)([coded])
    assert batch.decoder_input_ids.tolist() == [[31, 20, EOS]], "no start: the last target first"


@pytest.mark.parametrize("kind", KINDS)
def test_exactly_the_response_with_its_end_counts(kind: Kind) -> None:
    one, other = (collator(kind, pad_id=pad)(EXAMPLES) for pad in (PAD, EOS))
    for batch in (one, other):
        for row, example in enumerate(EXAMPLES):
            mask = batch.target_mask[row]
            assert batch.target_ids[row][mask].tolist() == list(example.target_ids)
            read = batch.decoder_input_ids[row][mask].tolist()
            before = EOS if kind == "seq2seq" else example.source_ids[-1]
            assert read == [before, *example.target_ids[:-1]], "each reads the one before"
    assert torch.equal(one.decoder_mask, other.decoder_mask)
    differs = one.decoder_input_ids != other.decoder_input_ids
    assert bool(differs.any()) and not bool((differs & one.decoder_mask).any())


@pytest.mark.parametrize("kind", KINDS)
def test_empty_sides_are_refused(kind: Kind) -> None:
    with pytest.raises(DataError, match="target of 'prompt only' has none"):
        collator(kind)([ONE, EncodedExample("prompt only", (5,), ())])
    with pytest.raises(DataError, match="source of 'no prompt' has none"):
        collator(kind)([EncodedExample("no prompt", (), (5, EOS))])


@pytest.mark.parametrize("kind", KINDS)
def test_rollouts_bring_the_extras_of_their_prompts(kind: Kind) -> None:
    prompts = [
        dataclasses.replace(ONE, extras={"hard": 2}),
        dataclasses.replace(TWO, extras={"hard": 0.5}),
    ]
    batch = collator(kind).joined(prompts, Completions.of_rows([(20, EOS), (EOS,)]))
    assert {name: column.tolist() for name, column in batch.extras.items()} == {"hard": [2.0, 0.5]}


@pytest.mark.parametrize("kind", KINDS)
def test_batches_in_length_order_hold_the_widths_of_their_kind(kind: Kind) -> None:
    for batch in in_length_order(EXAMPLES, kind, 40):
        widest = max(width(EXAMPLES[index], kind) for index in batch)
        assert len(batch) * widest <= 40 or len(batch) == 1
        assert width(EXAMPLES[batch[0]], kind) == widest
        made = collator(kind)([EXAMPLES[index] for index in batch])
        assert made.decoder_input_ids.numel() <= len(batch) * widest


def planned_one_by_one(
    examples: Sequence[EncodedExample], kind: Kind, batch_tokens: int, seed: int, epoch: int
) -> list[list[int]]:
    """An epoch's batches by Python's sort and a loop over examples."""
    generator = named_generator(seed, f"batches/epoch-{epoch}")
    order = torch.randperm(len(examples), generator=generator).tolist()
    mean = sum(width(e, kind) for e in examples) / len(examples)
    pool = max(1, int((400 if kind == "seq2seq" else 50) * batch_tokens / mean))
    sides = [(len(e.source_ids), len(e.target_ids)) for e in examples]
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        window = order[start : start + pool]
        widest_last = sorted(window, key=lambda i: (width(examples[i], kind), sides[i][0]))
        orders = [widest_last]
        if kind == "seq2seq":
            total, done = sum(max(sides[i]) for i in window), 0
            count = max(1, round(0.5 * (total / batch_tokens) ** 0.5))
            keys: dict[int, tuple[int, int, int]] = {}
            for i in sorted(window, key=lambda i: sides[i][::-1]):
                done += max(sides[i])
                strip = min(done * count // total, count - 1)
                keys[i] = (strip, sides[i][0] * (-1) ** strip, sides[i][1])
            orders.append(sorted(keys, key=keys.__getitem__))
        cut = [cut_one_by_one(each, examples, kind, batch_tokens) for each in orders]
        batches += min(cut, key=lambda found: sum(holes(batch, sides) for batch in found))
    shuffled = torch.randperm(len(batches), generator=generator).tolist()
    return [batches[place] for place in shuffled]


def cut_one_by_one(
    order: Sequence[int], examples: Sequence[EncodedExample], kind: Kind, batch_tokens: int
) -> list[list[int]]:
    batches: list[list[int]] = [[]]
    for index in order:
        grown = [*batches[-1], index]
        widest = max(width(examples[i], kind) for i in grown)
        if len(grown) > 1 and len(grown) * widest > batch_tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


def holes(batch: Sequence[int], sides: Sequence[tuple[int, int]]) -> int:
    """How many positions of a batch are padding, on both sides."""
    each = [[sides[i][side] for i in batch] for side in (0, 1)]
    return sum(max(lengths) * len(lengths) - sum(lengths) for lengths in each)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_tokens", [1, 9, 30, 5000])
def test_planning_on_arrays_gives_the_batches_of_planning_one_by_one(
    kind: Kind, batch_tokens: int
) -> None:
    examples = [
        EncodedExample(f"{i}", (5,) * (1 + i * 7919 % 31), (6,) * (1 + i * 104729 % 17))
        for i in range(500)
    ]
    batches = EpochBatches(EncodedDataset.of(examples), kind, batch_tokens=batch_tokens, seed=3)
    for epoch in range(3):
        expected = planned_one_by_one(examples, kind, batch_tokens, 3, epoch)
        assert [batches.next() for _ in expected] == expected
        assert batches.largest == max(map(len, expected))


def test_a_missing_target_is_planned_as_long_as_expected() -> None:
    prompts = [EncodedExample(f"{i}", (5,) * (1 + i % 4), (6,) * (i % 3)) for i in range(60)]
    filled = [dataclasses.replace(e, target_ids=e.target_ids or (6,) * 9) for e in prompts]
    planned = EpochBatches(prompts, "causal", batch_tokens=40, seed=1, expected_new_tokens=9)
    expected = EpochBatches(filled, "causal", batch_tokens=40, seed=1)
    assert [planned.next() for _ in range(30)] == [expected.next() for _ in range(30)]
    nothing = planned_one_by_one(prompts, "causal", 40, 1, 0)
    planned = EpochBatches(prompts, "causal", batch_tokens=40, seed=1)
    assert [planned.next() for _ in nothing] == nothing, "nothing is expected unless it is said"
    with pytest.raises(DataError, match="at least one example"):
        EpochBatches([], "causal", batch_tokens=40, seed=1)


@pytest.mark.parametrize("alike", [True, False], ids=["alike", "unlike"])
def test_fewer_than_one_position_in_twenty_is_padded(alike: bool) -> None:
    """Of translations, whose sides are about as long, and of summaries, whose sides are not."""
    draw = np.random.default_rng(5)
    sources = draw.gamma(4.0, 5.0 if alike else 16.0, size=4000).astype(int) + 2
    others = sources * draw.normal(1.1, 0.15, size=4000) if alike else draw.gamma(8.0, 1.4, 4000)
    targets = others.clip(2).astype(int)
    ids = tuple(range(int(max(sources.max(), targets.max()))))
    examples = [
        EncodedExample(f"e{i}", ids[:source], ids[:target])
        for i, (source, target) in enumerate(zip(sources, targets, strict=True))
    ]
    batches = EpochBatches(EncodedDataset.of(examples), "seq2seq", batch_tokens=400, seed=1)
    padded = positions = 0
    while batches.epoch == 0:
        batch = batches.next()
        for side in (sources[batch], targets[batch]):
            positions += len(batch) * int(side.max())
            padded += len(batch) * int(side.max()) - int(side.sum())
    assert padded / positions < 0.05


def stream(*, rank: int = 0, world_size: int = 1, size: int = 200) -> EpochBatches:
    return EpochBatches(
        EXAMPLES[:size], "seq2seq", batch_tokens=30, seed=1, rank=rank, world_size=world_size
    )


@pytest.mark.parametrize(("done", "world_size"), [(13, 1), (60, 3)])
def test_a_resumed_stream_reads_on_exactly(done: int, world_size: int) -> None:
    for rank in range(world_size):
        main, batches = (stream(rank=r, world_size=world_size) for r in (0, rank))
        for _ in range(done):
            main.next(), batches.next()
        place = main.state_dict()
        assert place == batches.state_dict(), "the main process's place must serve every rank"
        resumed = stream(rank=rank, world_size=world_size)
        resumed.next()
        resumed.load_state_dict(place)
        assert [resumed.next() for _ in range(40)] == [batches.next() for _ in range(40)]


@pytest.mark.parametrize(("world_size", "size"), [(3, 200), (7, 2)])  # fewer batches than ranks
def test_ranks_share_one_stream_in_turns(world_size: int, size: int) -> None:
    whole = stream(size=size)
    ranks = [stream(rank=r, world_size=world_size, size=size) for r in range(world_size)]
    for _ in range(50):
        assert [rank.next() for rank in ranks] == [whole.next() for _ in range(world_size)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_sequences_are_regrouped_in_the_fewest_positions_that_their_order_allows(
    kind: Kind, seed: int
) -> None:
    dice = np.random.default_rng(seed)
    sources, targets = dice.integers(1, 20, 9), dice.integers(1, 20, 9)
    sides = [sources + targets] if kind == "causal" else [sources, targets]
    longer = np.maximum.reduce(sides)
    before = [[0, 1, 2, 3], [4, 5], [6, 7, 8]]

    def positions(batches: Sequence[Sequence[int]]) -> int:
        return sum(len(rows) * int(side[rows].max()) for rows in batches for side in sides)

    def largest(batches: Sequence[Sequence[int]]) -> int:
        return max(len(rows) * int(longer[rows].max()) for rows in batches)

    found = regrouped(sources, targets, kind, [4, 2, 3])
    assert len(found) == 3 and sorted(i for rows in found for i in rows) == [*range(9)]
    assert positions(found) <= positions(before) and largest(found) <= largest(before)
    order = sorted(range(9), key=lambda i: (longer[i], sources[i]))
    tried = [
        [order[:i], order[i:j], order[j:]]
        for i in range(1, 8)
        for j in range(i + 1, 9)
        if largest([order[:i], order[i:j], order[j:]]) <= largest(before)
    ]
    best = min([positions(before), *map(positions, tried)])
    assert positions(found) == best if kind == "causal" else positions(found) <= best
    if positions(found) == positions(before):
        assert found == before
