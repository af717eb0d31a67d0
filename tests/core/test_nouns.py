"""What all packages share: batches, completions, token sums, named generators, hints."""

from __future__ import annotations

import dataclasses
import hashlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import collator, random_examples

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.batches import equal_length_batches, padded_batches
from seqdistill.core.completions import Completions
from seqdistill.core.errors import did_you_mean
from seqdistill.core.generators import derived_seed, named_generator
from seqdistill.core.token_sum import TokenSum


def test_moving_a_batch_keeps_every_field() -> None:
    examples = [dataclasses.replace(e, extras={"pass_rate": 0.25}) for e in random_examples(3)]
    batch = collator("seq2seq")(examples)
    moved = batch.to(torch.device("meta"))
    assert batch.source is not None and moved.source is not None
    assert moved.source.tensors["input_ids"].device.type == moved.source.mask.device.type == "meta"
    assert moved.extras["pass_rate"].device.type == "meta"
    assert batch.extras["pass_rate"].tolist() == [0.25] * 3
    for field in dataclasses.fields(SequenceBatch):
        before, after = getattr(batch, field.name), getattr(moved, field.name)
        if isinstance(before, torch.Tensor):
            assert (after.device.type, after.shape) == ("meta", before.shape), field.name
        elif field.name not in ("source", "extras"):
            assert after == before
    assert collator("causal")(examples).to(torch.device("cpu")).source is None


@pytest.mark.parametrize("max_rows", [None, 2])
@pytest.mark.parametrize("budget", [1, 7, 20, 1000])
def test_batches_hold_every_row_once_and_are_as_full_as_the_budget_allows(
    budget: int, max_rows: int | None
) -> None:
    lengths = [3, 9, 1, 4, 4, 4, 30, 9, 2]
    for make in (padded_batches, equal_length_batches):
        batches = make(lengths, batch_tokens=budget, max_rows=max_rows)
        order = [index for batch in batches for index in batch]
        assert sorted(order) == list(range(len(lengths)))
        assert sorted(order, key=lambda i: (-lengths[i], i)) == order, "longest first"
        for batch, after in zip(batches, [*batches[1:], []], strict=True):
            widest = lengths[batch[0]]
            most = max_rows or len(lengths)
            assert len(batch) == 1 or (len(batch) * widest <= budget and len(batch) <= most)
            may_grow = after and (make is padded_batches or lengths[after[0]] == widest)
            assert (len(batch) + 1) * widest > budget or len(batch) == most or not may_grow
            assert make is padded_batches or {lengths[index] for index in batch} == {widest}
    assert padded_batches([], batch_tokens=budget) == []


ROWS = [(5, 6, 2), (7,), (8, 9)]
SOME = Completions.of_rows(
    ROWS, finished=[True, False, False], log_probs=[(-1.0, -2.0, -3.0), (-4.0,), (-5.0, -6.0)]
)


def test_completions_selected_and_joined_are_the_rows_that_went_in() -> None:
    assert SOME.rows() == ROWS
    part = SOME.select([2, 0, 2])
    assert part.rows() == [ROWS[2], ROWS[0], ROWS[2]]
    assert part.finished.tolist() == [False, True, False]
    whole = Completions.concatenated([SOME.select([1]), part])
    assert whole.rows() == [ROWS[1], *part.rows()]
    assert whole.log_probs is not None
    expected = [[-4.0, 0, 0], [-5.0, -6.0, 0], [-1.0, -2.0, -3.0], [-5.0, -6.0, 0]]
    assert whole.log_probs.tolist() == expected
    assert len(Completions.of_rows([])) == len(SOME.select([])) == 0
    unknown = Completions.of_rows([(4, 4, 4, 2)])
    joined = Completions.concatenated([SOME, unknown])
    assert joined.log_probs is not None and joined.token_ids.shape == (4, 4)
    assert joined.log_probs[3].isnan().all() and not joined.log_probs[:3].isnan().any()
    assert Completions.concatenated([unknown, unknown]).log_probs is None
    assert joined.finished.tolist() == [True, False, False, True]


def token_sum(total: float, count: float) -> TokenSum:
    return TokenSum(torch.tensor(total, dtype=torch.float64), torch.tensor(float(count)))


@given(st.lists(st.lists(st.floats(-100, 100), min_size=1, max_size=5), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_the_mean_does_not_depend_on_how_values_were_split(groups: list[list[float]]) -> None:
    values = [value for group in groups for value in group]
    whole = TokenSum.zero()
    for group in groups:
        whole = whole + token_sum(sum(group), len(group))
    assert whole.mean == pytest.approx(sum(values) / len(values), rel=1e-9, abs=1e-9)


def test_addition_keeps_the_graph_and_detached_drops_it() -> None:
    assert math.isnan(TokenSum.zero().mean)
    value = torch.tensor(2.0, requires_grad=True)
    added = TokenSum(value * 3, torch.tensor(1.0)) + token_sum(1.0, 1)
    torch.autograd.backward(added.total)
    assert value.grad is not None and float(value.grad) == 3.0
    assert not added.detached().total.requires_grad
    one, many = (TokenSum(torch.tensor(0.0), torch.tensor(n)).detached() for n in (1.0, 2.0**24))
    assert float((TokenSum.zero() + many + one).count) == 2**24 + 1, "more than fp32 can count"


@pytest.mark.parametrize(("seed", "name"), [(1, "dropout"), (2, "batches"), (1, "batches ")])
def test_another_seed_or_name_gives_an_unrelated_stream(seed: int, name: str) -> None:
    streams = ((1, "batches"), (seed, name))
    pair = torch.stack([torch.randn(4000, generator=named_generator(*one)) for one in streams])
    # 4,000 independent pairs: a correlation of 0.1 is more than six standard deviations.
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.1
    digest = hashlib.sha256(b"5:dropout/rank-0").hexdigest()
    assert derived_seed(5, "dropout/rank-0") == int(digest[:16], 16) // 2


def test_the_closest_known_name_is_suggested() -> None:
    known = ["forward_kl", "reverse_kl"]
    hints = [did_you_mean(typed, known) for typed in ("revers_kl", "forwardkl", "banana")]
    assert hints == [" Did you mean 'reverse_kl'?", " Did you mean 'forward_kl'?", ""]
