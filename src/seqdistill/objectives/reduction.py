"""How values per position become one number: three named reductions.

The only file that multiplies by a mask or counts tokens. It divides only inside a sequence: the
last division is TokenSum's, once, over micro-batches, accumulated steps and ranks.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seqdistill.core.terms import Reduction
from seqdistill.core.token_sum import TokenSum


def reduction_weights(
    target_mask: Bool[Tensor, "batch time"],
    reduction: Reduction,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "batch time"]:
    """The weight of every position in the total, in `dtype`; zero where the mask is False.

    `token` and `sum` weigh every token 1 and differ in what the total is divided by; `sequence`
    weighs a token 1 / (tokens of its sequence), so that every sequence weighs 1.

    Source: `sequence` is Agarwal et al. 2024 (GKD), sec. 3; `sum` is the released code of Kim and
    Rush 2016.
    """
    weights = target_mask.to(dtype)
    if reduction == "sequence":
        return weights / weights.sum(dim=1, keepdim=True).clamp(min=1.0)
    return weights


def reduction_count(
    target_mask: Bool[Tensor, "batch time"], reduction: Reduction
) -> Float[Tensor, ""]:
    """What the total is divided by, in fp32: tokens for `token`, sequences for the other two.

    A sequence without a single counting token is no sequence: masking all of it equals deleting it.
    """
    counted = target_mask if reduction == "token" else target_mask.any(dim=1)
    return counted.sum().to(torch.float32)


def source_weights(
    source_mask: Bool[Tensor, "batch source"], target_weights: Float[Tensor, "batch time"]
) -> Float[Tensor, "batch source"]:
    """The weight of every token of an encoder's source: what all targets of its sequence weigh,
    shared out evenly. So the mean over its real tokens counts as its targets do."""
    shared = target_weights.sum(dim=1, keepdim=True)
    return source_mask * (shared / source_mask.sum(dim=1, keepdim=True).clamp(min=1))


def weighted_total(
    values: Float[Tensor, "batch time"], weights: Float[Tensor, "batch time"]
) -> Float[Tensor, ""]:
    """sum(weights * values), differentiable; values of weight 0 are never read."""
    return (torch.where(weights != 0.0, values, torch.zeros_like(values)) * weights).sum()


def reduce(
    values: Float[Tensor, "batch time"],
    target_mask: Bool[Tensor, "batch time"],
    reduction: Reduction,
) -> TokenSum:
    """Values per position as a total over a count, differentiable in the total.

    Values under a False mask are never read, so they may be infinite or NaN. Nothing counted
    gives 0 over 0.
    """
    exact = torch.float64 if values.dtype == torch.float64 else torch.float32
    total = weighted_total(values, reduction_weights(target_mask, reduction, exact))
    return TokenSum(total, reduction_count(target_mask, reduction))
