"""The head as data: its logits against a NumPy loop, and what cutting it means."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from seqdistill.core.head import Head

VARIANTS = list(itertools.product((False, True), (1.0, 0.25), (None, 2.0)))


@pytest.mark.parametrize(("bias", "scale", "soft_cap"), VARIANTS)
def test_logits_equal_a_naive_loop_and_a_cut_head_gives_the_first(
    bias: bool, scale: float, soft_cap: float | None
) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    shift = torch.randn(7, generator=generator, dtype=torch.float64) if bias else None
    head = Head(weight, shift, scale, soft_cap)
    hidden = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    found = head.logits(hidden)
    for row, time, symbol in np.ndindex(2, 3, 7):
        parts = (hidden[row, time, i].item() * weight[symbol, i].item() for i in range(5))
        logit = scale * sum(parts) + (0.0 if shift is None else shift[symbol].item())
        if soft_cap is not None:
            logit = soft_cap * math.tanh(logit / soft_cap)
        assert found[row, time, symbol].item() == pytest.approx(logit, abs=1e-12)
    cut = head.cut(4)
    assert cut.vocab_size == 4 and head.cut(7) is head
    torch.testing.assert_close(cut.logits(hidden), found[..., :4])
    with pytest.raises(ValueError, match="at most the head's 7 symbols, got 8"):
        head.cut(8)
    in_half = Head(torch.ones(3, 2), torch.zeros(3), scale, soft_cap)
    assert in_half.logits(torch.ones(1, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
