"""The three named reductions against hand-made arithmetic."""

from __future__ import annotations

import math

import pytest
import torch

from seqdistill.core.terms import Reduction
from seqdistill.objectives.reduction import reduce, reduction_count, reduction_weights

VALUES = torch.tensor([[1.0, 2.0, 3.0], [10.0, 99.0, 99.0], [99.0, 99.0, 99.0]])
MASK = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])


@pytest.mark.parametrize(
    ("reduction", "mean"),
    [
        ("token", (1 + 2 + 3 + 10) / 4),
        ("sequence", ((1 + 2 + 3) / 3 + 10) / 2),
        ("sum", (1 + 2 + 3 + 10) / 2),
    ],
)
def test_each_reduction_is_what_its_name_says(reduction: Reduction, mean: float) -> None:
    assert reduce(VALUES, MASK, reduction).mean == pytest.approx(mean)


@pytest.mark.parametrize("reduction", ["token", "sequence", "sum"])
def test_total_is_the_weighted_sum(reduction: Reduction) -> None:
    weights = reduction_weights(MASK, reduction)
    result = reduce(VALUES, MASK, reduction)
    torch.testing.assert_close(result.total, (weights * VALUES).sum())
    assert result.count == reduction_count(MASK, reduction)
    assert (weights[~MASK] == 0.0).all()


@pytest.mark.parametrize("reduction", ["token", "sequence", "sum"])
def test_what_is_masked_is_never_read(reduction: Reduction) -> None:
    poisoned = torch.where(MASK, VALUES, math.nan).requires_grad_()
    result = reduce(poisoned, MASK, reduction)
    assert result.detached().mean == reduce(VALUES, MASK, reduction).mean
    (gradient,) = torch.autograd.grad(result.total, poisoned)
    torch.testing.assert_close(gradient, reduction_weights(MASK, reduction))


@pytest.mark.parametrize("reduction", ["token", "sequence", "sum"])
def test_nothing_counted_is_nothing_over_nothing(reduction: Reduction) -> None:
    result = reduce(VALUES, torch.zeros_like(MASK), reduction)
    assert result.total == 0.0
    assert result.count == 0.0
