"""The head as data: its logits against a NumPy loop, and what cutting it means."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from seqdistill.core.head import Head

VARIANTS = list(itertools.product((False, True), (1.0, 0.25), (None, 2.0)))


def head(bias: bool, scale: float, soft_cap: float | None) -> Head:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    shift = torch.randn(7, generator=generator, dtype=torch.float64) if bias else None
    return Head(weight, shift, scale, soft_cap)


@pytest.mark.parametrize(("bias", "scale", "soft_cap"), VARIANTS)
def test_logits_equal_a_naive_loop(bias: bool, scale: float, soft_cap: float | None) -> None:
    described = head(bias, scale, soft_cap)
    hidden = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = described.logits(hidden).numpy()
    weight = described.weight.numpy()
    for row, time, symbol in np.ndindex(2, 3, 7):
        logit = scale * sum(hidden[row, time, i].item() * weight[symbol, i] for i in range(5))
        if described.bias is not None:
            logit += described.bias[symbol].item()
        if soft_cap is not None:
            logit = soft_cap * math.tanh(logit / soft_cap)
        assert found[row, time, symbol] == pytest.approx(logit, abs=1e-12)


@pytest.mark.parametrize(("bias", "scale", "soft_cap"), VARIANTS)
def test_a_cut_head_gives_the_first_logits(
    bias: bool, scale: float, soft_cap: float | None
) -> None:
    described = head(bias, scale, soft_cap)
    hidden = torch.randn(4, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    cut = described.cut(4)
    assert cut.vocab_size == 4
    torch.testing.assert_close(cut.logits(hidden), described.logits(hidden)[:, :4])


def test_cutting_nothing_gives_the_very_head_and_cutting_more_is_refused() -> None:
    described = head(True, 1.0, None)
    assert described.cut(7) is described
    with pytest.raises(ValueError, match="at most the head's 7 symbols, got 8"):
        described.cut(8)


def test_logits_come_in_the_dtype_of_the_hidden_states() -> None:
    described = Head(torch.ones(3, 2), torch.zeros(3), 0.5, 1.0)
    assert described.logits(torch.ones(1, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
