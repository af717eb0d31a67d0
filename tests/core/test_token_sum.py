"""The only average of the codebase: totals and counts add, and are divided once."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdistill.core.token_sum import TokenSum


def token_sum(total: float, count: float) -> TokenSum:
    return TokenSum(torch.tensor(total, dtype=torch.float64), torch.tensor(float(count)))


@given(st.lists(st.lists(st.floats(-100, 100), min_size=1, max_size=5), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_mean_does_not_depend_on_how_values_were_split(groups: list[list[float]]) -> None:
    parts = [token_sum(sum(group), len(group)) for group in groups]
    values = [value for group in groups for value in group]
    whole = TokenSum.zero()
    for part in parts:
        whole = whole + part
    assert whole.mean == pytest.approx(sum(values) / len(values), rel=1e-9, abs=1e-9)


def test_the_mean_of_nothing_is_not_a_number() -> None:
    assert math.isnan(TokenSum.zero().mean)


def test_addition_keeps_the_graph_and_detached_drops_it() -> None:
    value = torch.tensor(2.0, requires_grad=True)
    added = TokenSum(value * 3, torch.tensor(1.0)) + token_sum(1.0, 1)
    torch.autograd.backward(added.total)
    assert value.grad is not None and float(value.grad) == 3.0
    detached = added.detached()
    assert not detached.total.requires_grad
    assert detached.total.dtype == detached.count.dtype == torch.float64


def test_detached_counts_add_up_beyond_what_fp32_can_count() -> None:
    one = TokenSum(torch.tensor(0.0), torch.tensor(1.0)).detached()
    many = TokenSum(torch.tensor(0.0), torch.tensor(2.0**24)).detached()
    assert float((TokenSum.zero() + many + one).count) == 2**24 + 1
